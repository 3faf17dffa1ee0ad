"""A plan of several edits through the single nodes: boxes, a mask for each step, and the painting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from standin import call, nodes, part

RECOLOUR = "instruction: make the cyan dotted ring orange\ntargets: cyan dotted ring\nscope: local"
REMOVE = "instruction: remove the blue star\ntargets: blue star\nscope: local\nmask: box 345 40 560 220 full"
TRACE = (
    "<thinking>\na\n</thinking>\n<intermediate>\nb\n</intermediate>\n<reflection>\nc\n</reflection>\n"
    f"<output>\n{RECOLOUR}\n{REMOVE}\n</output>"
)
SAID = ["make the cyan dotted ring orange", "remove the blue star"]
ONE_MASK = "each step may paint in all of the mask"


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    names = {"detector": "EVLM_LoadDetector", "segmenter": "EVLM_LoadSegmenter", "editor": "EVLM_LoadEditor"}
    return {role: call(name).args[0] for role, name in names.items()}


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return call("EVLM_Example", which="2-words").args[0]


@pytest.fixture(scope="module")
def plan() -> Any:
    return call("EVLM_PlanFromText", text=TRACE).args[0]


@pytest.fixture(scope="module")
def pipeline() -> Any:
    chosen = part("evlm.models.zoo").choose(["bundled"])
    return part("evlm.pipeline").Pipeline.load(chosen, reasoner=object(), device="cpu")


@pytest.fixture()
def texts_shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nodes show as text."""
    texts: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", texts.append)
    return texts


def by_pipeline(pipeline: Any, image: torch.Tensor, plan: Any) -> Any:
    """What `Pipeline.run` and Quick Edit make of the plan."""
    request = part("evlm.request").Request(image, "both")
    reasoned = part("evlm.reason.reasoner").Reasoned("", 1, 0.0, trace=plan)
    return pipeline.paint(request, pipeline.plan(request, reasoned), quick(pipeline))


def quick(pipeline: Any) -> Any:
    """Two steps; by the model's own the nodes and the pipeline paint alike in test_node_chain."""
    return pipeline.editor.defaults.with_kwargs(steps=2)


def segmented(models: dict[str, Any], image: torch.Tensor, plan: Any, **how: Any) -> Any:
    ground = call("EVLM_Ground", image=image, detector=models["detector"], plan=plan)
    how = {"boxes": ground.args[0], "fill_holes": False, **how}
    return call("EVLM_Segment", segmenter=models["segmenter"], image=image, plan=plan, **how)


def edited(
    models: dict[str, Any], image: torch.Tensor, plan: Any, steps: int = 2, **how: Any
) -> torch.Tensor:
    return call("EVLM_Edit", editor=models["editor"], image=image, plan=plan, steps=steps, **how).args[0]


def test_the_nodes_give_bit_for_bit_what_quick_edit_gives(
    models: dict[str, Any], image: torch.Tensor, plan: Any, pipeline: Any
) -> None:
    result = by_pipeline(pipeline, image, plan)
    boxes = call("EVLM_Ground", image=image, detector=models["detector"], plan=plan).args[0]
    assert [(box["label"], box["step"]) for box in boxes] == [(box.label, box.step) for box in result.boxes]
    assert {box["step"] for box in boxes} == {1, 2}
    mask, objects, _, step_masks = segmented(models, image, plan).args
    assert torch.equal(mask, result.mask) and torch.equal(objects, result.object_masks.flatten(0, 1))
    assert torch.equal(step_masks, torch.cat([step.mask for step in result.steps]))
    painted = edited(models, image, plan, mask=step_masks)
    assert torch.equal(painted, result.edited)
    assert torch.equal(painted[mask == 0], image[mask == 0]) and not torch.equal(painted, image)


def test_frames_keep_their_own_places_in_each_step(
    models: dict[str, Any], image: torch.Tensor, plan: Any
) -> None:
    clip = torch.cat([image, image.roll(8, 1)])
    boxes = call("EVLM_Ground", image=clip, detector=models["detector"], plan=plan).args[0]
    assert {(box["step"], box["frame"]) for box in boxes} == {(1, 0), (1, 1), (2, 0), (2, 1)}
    mask, _, _, step_masks = segmented(models, clip, plan).args
    assert torch.equal(mask, step_masks.reshape(2, *mask.shape).amax(0))
    ring = step_masks[:2]  # 8 rows further down in the second frame
    assert bool(ring[0].any()) and bool(ring[1].any()) and not torch.equal(*ring)
    star = step_masks[2:]  # the step's rectangle goes along
    rows = [each.any(1).nonzero().flatten() for each in star]
    assert len(rows[0]) == len(rows[1]) and 6 <= int(rows[1][0] - rows[0][0]) <= 9
    painted = edited(models, clip, plan, mask=step_masks)
    first = edited(models, clip, plan, mask=step_masks, step=1)
    assert torch.equal(painted, edited(models, first, plan, mask=step_masks, step=2))
    assert torch.equal(painted[mask == 0], clip[mask == 0])


def test_one_step_alone_and_the_other_on_its_result_are_both(
    models: dict[str, Any], image: torch.Tensor, plan: Any
) -> None:
    masks = segmented(models, image, plan).args[3]
    first = edited(models, image, plan, mask=masks, step=1)
    outside = masks[:1] == 0
    assert torch.equal(first[outside], image[outside]) and not torch.equal(first, image)
    both = edited(models, first, plan, mask=masks, step=2)
    assert torch.equal(both, edited(models, image, plan, mask=masks))
    wrong = part("evlm.errors").RequestError
    with pytest.raises(wrong, match="step 3: the plan has 2 steps"):
        edited(models, image, plan, mask=masks, step=3)
    with pytest.raises(wrong, match="no plan is connected"):
        edited(models, image, None, instruction="make it blue", step=1)
    with pytest.raises(part("evlm.errors").PictureError, match="3 masks for 1 frames and 2 steps"):
        edited(models, image, plan, mask=torch.ones(3, 64, 64))


def test_a_mask_by_hand_is_for_every_step(
    models: dict[str, Any], image: torch.Tensor, plan: Any, pipeline: Any, texts_shown: list[str]
) -> None:
    hand = torch.zeros(1, 64, 64)
    hand[:, 4:44, 20:50] = 1
    request = part("evlm.request").Request(image, "both")
    reasoned = part("evlm.reason.reasoner").Reasoned("", 1, 0.0, trace=plan)
    result = pipeline.paint(request, pipeline.plan(request, reasoned, mask=hand), quick(pipeline))
    assert torch.equal(edited(models, image, plan, mask=hand), result.edited)
    assert any(ONE_MASK in text for text in texts_shown)
    clicked = segmented(models, image, plan, boxes=None, rough_mask=hand).args
    assert torch.equal(clicked[3], clicked[0].expand(2, -1, -1))


def test_an_instruction_by_hand_is_one_edit_within_the_union(
    models: dict[str, Any], image: torch.Tensor, plan: Any
) -> None:
    mask, _, _, masks = segmented(models, image, plan).args
    own = edited(models, image, plan, mask=masks, instruction="make it snow")
    assert torch.equal(own, edited(models, image, None, mask=mask, instruction="make it snow"))


def test_an_editor_that_takes_all_at_once_gets_one_sentence_and_the_union(
    models: dict[str, Any], image: torch.Tensor, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with models["editor"].use() as engine:
        kind = type(engine)
    told: list[tuple[str, Any]] = []
    edit = kind.edit

    def heard(self: Any, frames: Any, instruction: str, mask: Any = None, **how: Any) -> Any:
        told.append((instruction, mask))
        return edit(self, frames, instruction, mask, **how)

    monkeypatch.setattr(kind, "edit", heard)
    mask, _, _, masks = segmented(models, image, plan).args
    edited(models, image, plan, mask=masks)
    monkeypatch.setattr(kind, "steps", False)
    edited(models, image, plan, mask=masks)
    assert [sentence for sentence, _ in told] == [*SAID, " ; then ".join(SAID)]
    assert torch.equal(told[2][1], mask)


def test_a_step_that_nobody_placed_holds_all_back(
    models: dict[str, Any], image: torch.Tensor, texts_shown: list[str]
) -> None:
    lost = TRACE.replace(REMOVE, "instruction: remove the dog\ntargets: dog\nscope: local")
    plan = call("EVLM_PlanFromText", text=lost).args[0]
    masks = torch.ones(2, 64, 64)
    masks[0, 30:] = 0
    assert torch.equal(edited(models, image, plan, mask=masks), image)
    assert "nothing was painted: step 2: no dog was found" in texts_shown[-1]
    assert not torch.equal(edited(models, image, plan, mask=masks, step=1), image)


def test_boxes_of_other_packs_find_their_step_by_their_label(plan: Any) -> None:
    place, sockets = part("evlm.place"), part("nodes.sockets")
    box = {"x": 1, "y": 2, "width": 3, "height": 4}

    def steps(**more: Any) -> list[int]:
        return [each.step for each in place.for_steps(plan.plan, sockets.to_boxes([{**box, **more}]))]

    assert steps(label="Blue Star") == [2] and steps(label="cyan dotted ring") == [1]
    assert steps() == steps(label="dog") == steps(label="dog", step=7) == [1, 2]
    assert steps(label="blue star", step=1) == [1]
    one = part("evlm.plan.trace").Plan("paint it", ("car",))
    assert [each.step for each in place.for_steps(one, sockets.to_boxes([{**box, "step": 2}]))] == [1]
    with pytest.raises(part("evlm.errors").RequestError, match="box"):
        sockets.to_boxes([{**box, "step": "two"}])


def test_words_for_other_editors(plan: Any) -> None:
    def text(**how: Any) -> str:
        said: str = call("EVLM_PlanToText", plan=plan, **how).args[0]
        return said

    assert text(form="instruction") == " ; then ".join(SAID)
    assert [text(form="instruction", step=step) for step in (1, 2)] == SAID
    for form in ("json", "trace"):
        back = [call("EVLM_PlanFromText", text=text(form=form, step=step)).args[0] for step in (0, 1, 2)]
        assert [each.plan for each in back] == [plan.plan, *plan.plan.steps]


def test_a_mask_by_hand_becomes_the_place_of_each_step() -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, 16:48, 16:48] = 1
    steps = call("EVLM_PlanFromText", text=TRACE, mask=mask).args[0].plan.steps
    assert [step.mask_text for step in steps] == ["box 250 250 750 750 full"] * 2


def test_reason_gives_the_place_of_all_steps(image: torch.Tensor, plan: Any) -> None:
    mask = part("nodes.reason")._mask
    assert bool(mask(plan, image).all()), "the first step names no place"
    both = call(
        "EVLM_PlanFromText",
        text=TRACE.replace("\ninstruction: remove", "\nmask: box 0 500 500 1000 full\ninstruction: remove"),
    )
    found = mask(both.args[0], image)
    assert bool(found[0, 40, 10]) and bool(found[0, 8, 29]) and not bool(found[0, 40, 50])


def test_a_rated_row_keeps_the_place_of_each_step(
    models: dict[str, Any], image: torch.Tensor, plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path))
    masks = segmented(models, image, plan).args[3]
    asked = {"plan": plan, "original": image, "edited": image.flip(2), "prompt": "both", "verdict": "good"}
    folder = call("EVLM_RateEdit", mask=masks, **asked).args[0]
    pictures, records = part("evlm.files.pictures"), part("evlm.records")
    (row,) = records.read_rows(folder)
    read = [pictures.load_mask(Path(folder) / step["mask"]) for step in row.steps]
    assert torch.equal(torch.cat(read), (masks >= 0.5).float())
    assert torch.equal(row.true_mask(folder), torch.cat(read).amax(0, keepdim=True))
    assert row.trace().plan == plan.plan
    call("EVLM_RateEdit", mask=masks[:1], **{**asked, "verdict": "bad"})
    (bad,) = records.read_rows(folder)  # in place of the other verdict
    assert bad.mask and not bad.label
    assert not any("mask" in step for step in bad.steps), "one mask for all is none of theirs"


def test_a_plan_of_one_edit_is_as_before(models: dict[str, Any], image: torch.Tensor) -> None:
    plan = call("EVLM_PlanFromText", text=TRACE.replace(f"\n{REMOVE}", "")).args[0]
    boxes = call("EVLM_Ground", image=image, detector=models["detector"], plan=plan).args[0]
    assert boxes and not any("step" in box for box in boxes)
    mask, _, _, step_masks = segmented(models, image, plan).args
    assert torch.equal(mask, step_masks)
    painted = edited(models, image, plan, mask=mask)
    assert torch.equal(painted, edited(models, image, plan, mask=step_masks, step=1))


def test_the_new_inputs_and_outputs_are_the_last_ones() -> None:
    """Values and slots of a saved workflow are positional."""
    known = nodes()
    for node, since in (("EVLM_Edit", ["seamless"]), ("EVLM_PlanToText", [])):
        step, *behind = known[node].GET_SCHEMA().inputs[-1 - len(since) :]
        assert (step.id, step.optional, step.default) == ("step", True, 0)
        assert [each.id for each in behind] == since and all(each.optional for each in behind)
    for node in ("EVLM_Segment", "EVLM_QuickEdit"):
        assert known[node].GET_SCHEMA().outputs[-1].id == "step_masks"
