"""The nodes in a row give what the engine gives, on the stand-in for ComfyUI."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from standin import call, part


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    names = ("EVLM_LoadModel", "EVLM_LoadDetector", "EVLM_LoadSegmenter", "EVLM_LoadEditor")
    return {name: call(name).args[0] for name in names}


@pytest.fixture(scope="module", params=["1-reference", pytest.param("3-removal", marks=pytest.mark.slow)])
def chain(request: pytest.FixtureRequest, models: dict[str, Any]) -> dict[str, Any]:
    image, references, prompt, _ = call("EVLM_Example", which=request.param).args
    reasoned = call(
        "EVLM_Reason", model=models["EVLM_LoadModel"], image=image, prompt=prompt, references=references
    )
    plan = reasoned.args[0][0]
    ground = call("EVLM_Ground", image=image, detector=models["EVLM_LoadDetector"], plan=plan)
    segment = call(
        "EVLM_Segment",
        segmenter=models["EVLM_LoadSegmenter"],
        image=image,
        boxes=ground.args[0],
        plan=plan,
        fill_holes=False,
    )
    edit = call("EVLM_Edit", editor=models["EVLM_LoadEditor"], image=image, plan=plan, mask=segment.args[0])
    return {
        "image": image,
        "references": references,
        "prompt": prompt,
        "reasoned": reasoned,
        "ground": ground,
        "segment": segment,
        "edit": edit,
    }


def test_the_chain_of_nodes_gives_what_the_pipeline_gives(chain: dict[str, Any]) -> None:
    pipeline = part("evlm.pipeline").Pipeline.load(part("evlm.models.zoo").choose(["bundled"]), device="cpu")
    request = part("evlm.request").Request(chain["image"], chain["prompt"], chain["references"])
    result = pipeline.run(request)
    plans, instructions, targets, _, texts, pictures = chain["reasoned"].args
    assert plans == [result.trace] and texts == [result.text]
    assert instructions == [result.plan.instruction] and targets == ["; ".join(result.plan.targets)]
    assert torch.equal(pictures[0], chain["image"])
    sides = [(b["label"], b["x"], b["y"], b["x"] + b["width"]) for b in chain["ground"].args[0]]
    assert sides == [(b.label, b.x0, b.y0, pytest.approx(b.x1)) for b in result.boxes]
    assert chain["ground"].args[1] == [b.score for b in result.boxes]
    assert torch.equal(chain["segment"].args[0], result.mask)
    assert torch.equal(chain["edit"].args[0], result.edited)
    outside = chain["segment"].args[0] < 0.5
    assert torch.equal(chain["edit"].args[0][outside], chain["image"][outside])


def test_what_the_browser_gets(chain: dict[str, Any]) -> None:
    plan = chain["reasoned"].args[0][0]
    trace = call("EVLM_ShowTrace", plan=plan)
    assert trace.args[0] is plan
    drawn = trace.ui["evlm_trace"][0]
    assert drawn["instruction"] == plan.plan.instruction and drawn["thinking"] == plan.thinking
    json.dumps(trace.ui), json.dumps(chain["reasoned"].ui)


@pytest.mark.slow  # test_node_quick asks for a batch, of the bundle and of an endpoint
def test_a_batch_gives_lists(models: dict[str, Any]) -> None:
    image, references, prompt, _ = call("EVLM_Example", which="1-reference").args
    batch = torch.cat([image, image.flip(2)])
    model = models["EVLM_LoadModel"]
    both = call("EVLM_Reason", model=model, image=batch, prompt=prompt, references=references)
    assert [len(each) for each in both.args] == [2] * 6
    alone = call("EVLM_Reason", model=model, image=batch[1:], prompt=prompt, references=references)
    assert both.args[4][1] == alone.args[4][0]
    video = call("EVLM_Reason", model=model, image=batch, prompt=prompt, references=references, batch="video")
    assert [len(each) for each in video.args] == [1] * 6 and video.args[3][0].shape == (2, 64, 64)


def test_an_all_on_mask_is_no_mask_and_an_empty_one_changes_nothing(models: dict[str, Any]) -> None:
    image = call("EVLM_Example", which="2-words").args[0]
    editor, how = models["EVLM_LoadEditor"], {"instruction": "make it snow", "steps": 2}
    whole = call("EVLM_Edit", editor=editor, image=image, **how).args[0]
    everywhere = call("EVLM_Edit", editor=editor, image=image, mask=torch.ones(1, 64, 64), **how).args[0]
    assert torch.equal(everywhere, whole)
    kept, crop = call("EVLM_Edit", editor=editor, image=image, mask=torch.zeros(1, 64, 64), **how).args
    assert torch.equal(kept, image) and torch.equal(crop, image)


def test_the_editor_reports_steps_and_pictures(
    models: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, bool]] = []
    host = part("nodes.host")

    def hook(value: int, total: int, preview: Any, node_id: str | None = None) -> None:
        seen.append((value, total, preview is not None))

    import comfy.utils

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(host, "MESSAGE_EVERY", 0.0)
    image = call("EVLM_Example", which="2-words").args[0]
    call("EVLM_Edit", editor=models["EVLM_LoadEditor"], image=image, instruction="make it snow", steps=3)
    assert [each[:2] for each in seen] == [(1, 3), (2, 3), (3, 3), (3, 3)] and all(each[2] for each in seen)


def test_points_and_masks_prompt_too(models: dict[str, Any]) -> None:
    image, segmenter = torch.zeros(1, 64, 64, 3) + 0.5, models["EVLM_LoadSegmenter"]
    image[:, 20:40, 24:44] = torch.tensor([0.9, 0.1, 0.1])
    points = json.dumps([{"x": 34, "y": 30}, {"x": 2, "y": 2, "on": False}])
    clicked = call("EVLM_Segment", segmenter=segmenter, image=image, points=points)
    assert clicked.args[0].shape == (1, 64, 64) and clicked.args[1].shape == (1, 64, 64)
    rough = torch.zeros(1, 32, 32)
    rough[:, 10:20, 12:22] = 1
    assert call("EVLM_Segment", segmenter=segmenter, image=image, rough_mask=rough).args[0].shape == (
        1,
        64,
        64,
    )
    wrong = part("evlm.errors").RequestError
    for text in ("{", "[]", '[{"x": 1}]', '[{"x": 1e999, "y": 1}]', "[1]", "9" * 5000):
        with pytest.raises(wrong, match="points"):
            call("EVLM_Segment", segmenter=segmenter, image=image, points=text)


def test_nothing_found_is_no_crash(models: dict[str, Any]) -> None:
    image = torch.full((1, 48, 80, 3), 0.5)
    boxes, scores, preview = call(
        "EVLM_Ground", image=image, detector=models["EVLM_LoadDetector"], targets="elephant", threshold=1.0
    ).args
    assert boxes == [] and scores == [] and preview.shape[0] == 1
    mask, objects, *_ = call(
        "EVLM_Segment", segmenter=models["EVLM_LoadSegmenter"], image=image, boxes=boxes
    ).args
    assert mask.shape == objects.shape == (1, 48, 80) and not mask.any()
