"""Load All and Quick Edit: the pipeline in two nodes, and going on from a plan without reasoning again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import server
import torch
from comfy_execution.utils import CurrentNodeContext
from standin import call, part


@pytest.fixture(scope="module")
def pipe() -> Any:
    return call("EVLM_LoadAll").args[0]


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    image, references, prompt, _ = call("EVLM_Example", which="1-reference").args
    return {"image": image, "references": references, "prompt": prompt}


@pytest.fixture(scope="module")
def edited(pipe: Any, example: dict[str, Any]) -> Any:
    return call("EVLM_QuickEdit", pipe=pipe, **example)


@pytest.fixture
def asked(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the reasoner is asked from now on."""
    prompts: list[str] = []
    reasoner = type(pipe.reasoner._need())
    reason = reasoner.reason

    def counted(self: Any, request: Any, *rest: Any, **more: Any) -> Any:
        prompts.append(request.prompt)
        return reason(self, request, *rest, **more)

    monkeypatch.setattr(reasoner, "reason", counted)
    return prompts


def test_two_nodes_give_what_the_pipeline_gives(edited: Any, example: dict[str, Any]) -> None:
    pipeline = part("evlm.pipeline").Pipeline.load(part("evlm.models.zoo").choose(["bundled"]), device="cpu")
    request = part("evlm.request").Request(example["image"], example["prompt"], example["references"])
    result = pipeline.run(request)
    image, mask, plans, preview, step_masks = edited.args
    assert torch.equal(image, result.edited) and torch.equal(mask, result.mask)
    assert plans == [result.trace] and preview.shape[0] == 1
    assert len(step_masks) == 1 and torch.equal(step_masks[0], mask), "a plan of one edit"
    assert torch.equal(image[mask == 0], example["image"][mask == 0])
    assert edited.ui["evlm_trace"][0]["instruction"] == result.plan.instruction
    own = pipeline.editor.defaults
    assert edited.ui["evlm_own_values"] == [
        {"steps": own.steps, "guidance": own.guidance, "image_guidance": own.image_guidance}
    ]


def test_it_stops_at_the_plan_and_goes_on_without_reasoning_again(
    pipe: Any, example: dict[str, Any], edited: Any, asked: list[str]
) -> None:
    pipe.answers.clear()
    stopped = call("EVLM_QuickEdit", pipe=pipe, stop="stop at the plan", **example)
    assert torch.equal(stopped.args[0], example["image"]), "nothing is painted yet"
    assert torch.equal(stopped.args[1], edited.args[1]) and asked == [example["prompt"]]
    painted = call("EVLM_QuickEdit", pipe=pipe, **example)
    assert torch.equal(painted.args[0], edited.args[0]) and len(asked) == 1
    worded = call("EVLM_QuickEdit", pipe=pipe, instruction="make it green", steps=2, **example)
    assert worded.args[2][0].plan.instruction == "make it green" and len(asked) == 1
    call("EVLM_QuickEdit", pipe=pipe, steps=2, **{**example, "prompt": "remove it"})
    assert asked[1:] == ["remove it"], "another question is asked"


def test_a_remembered_plan_shows_its_trace_before_it_is_painted(
    pipe: Any, example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    reasoned = call("EVLM_QuickEdit", pipe=pipe, stop="stop at the plan", **example)
    said: list[str] = []

    def send(self: Any, event: str, data: Any, client: Any) -> None:
        said.extend([data["text"]] if event == "evlm.trace" and data["done"] else [])

    def paint(self: Any, *rest: Any, **more: Any) -> Any:
        said.append("painted")
        return edit(self, *rest, **more)

    quiet = {"send_progress_text": lambda *said: None}
    made = type("Server", (), {"client_id": "me", "send_sync": send, **quiet})()
    monkeypatch.setattr(server.PromptServer, "instance", made)
    editor = type(pipe.editor._need())
    edit = editor.edit
    monkeypatch.setattr(editor, "edit", paint)
    with CurrentNodeContext("quick-1", "5"):
        call("EVLM_QuickEdit", pipe=pipe, steps=2, **example)
    assert said == [part("evlm.plan.trace").render(reasoned.args[2][0]), "painted"]
    pipe.answers.clear()
    with CurrentNodeContext("quick-2", "5"):
        call("EVLM_QuickEdit", pipe=pipe, stop="stop at the plan", **example)
    assert len(said) == 3, "what was written just now is not said twice"


def test_by_a_doubtful_plan_nothing_is_painted_unless_it_is_asked(
    pipe: Any, example: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    request: dict[str, Any] = {"image": example["image"], "prompt": "remove it"}
    reasoned = call("EVLM_QuickEdit", pipe=pipe, stop="stop at the plan", **request)
    (key,) = [key for key, each in pipe.answers.items() if each.trace == reasoned.args[2][0]]
    answer, parse = pipe.answers[key], part("evlm.plan.trace").parse
    pipe.answers[key] = replace(answer, trace=parse("instruction: make everything heroic"))
    with caplog.at_level("INFO", "evlm"):
        held = call("EVLM_QuickEdit", pipe=pipe, steps=2, **request).args[0]
    assert torch.equal(held, example["image"]) and "nothing was painted" in caplog.text
    assert "'paint anyway' in `stop`" in caplog.text, "and what to do"
    painted = call("EVLM_QuickEdit", pipe=pipe, stop="paint anyway", steps=2, **request).args[0]
    assert not torch.equal(painted, example["image"])
    pipe.answers.clear()


def test_variations_are_the_pictures_of_their_seeds(pipe: Any, example: dict[str, Any]) -> None:
    three = call("EVLM_QuickEdit", pipe=pipe, seed=4, variations=3, steps=1, **example).args[0]
    alone = call("EVLM_QuickEdit", pipe=pipe, seed=5, steps=1, **example).args[0]
    assert three.shape[0] == 3 and torch.equal(three[1:2], alone) and not torch.equal(three[0], three[1])


def test_a_given_mask_and_given_boxes_are_where_the_edit_is(pipe: Any, example: dict[str, Any]) -> None:
    mask = torch.zeros(1, 64, 64)
    mask[:, 4:20, 8:30] = 1
    image, used, *_ = call("EVLM_QuickEdit", pipe=pipe, mask=mask, steps=2, **example).args
    assert torch.equal(used, mask) and torch.equal(image[mask == 0], example["image"][mask == 0])
    assert not torch.equal(image, example["image"])
    box = {"x": 6, "y": 6, "width": 20, "height": 24}
    bare = call("EVLM_LoadAll", detector="none", segmenter="none").args[0]
    _, used, plans, *_ = call(
        "EVLM_QuickEdit", pipe=bare, boxes=[box], stop="stop at the plan", **example
    ).args
    rows, columns = used[0].any(1).nonzero().flatten(), used[0].any(0).nonzero().flatten()
    assert plans[0].plan.scope == "local"
    assert abs(int(rows[0]) - 6) <= 3 and abs(int(columns[-1]) - 25) <= 3, "the box, grown a little"


def test_a_batch_has_a_plan_each(pipe: Any, example: dict[str, Any]) -> None:
    both = torch.cat([example["image"], example["image"].flip(2)])
    image, mask, plans, preview, step_masks = call(
        "EVLM_QuickEdit", pipe=pipe, steps=2, **{**example, "image": both}
    ).args
    assert len(image) == len(mask) == len(plans) == len(preview) == 2
    assert torch.equal(torch.cat(step_masks), mask), "one for each picture"
    assert [plan.planned_for for plan in plans] == [(1, 2), (1, 2)]
    wrong = part("evlm.errors").RequestError
    with pytest.raises(wrong, match="3 masks for 2 pictures"):
        call("EVLM_QuickEdit", pipe=pipe, mask=torch.ones(3, 64, 64), **{**example, "image": both})


def test_a_role_can_be_chosen_or_connected(example: dict[str, Any]) -> None:
    segmenter = call("EVLM_LoadSegmenter").args[0]
    pipe = call("EVLM_LoadAll", detector="none", custom_segmenter=segmenter).args[0]
    assert pipe.detector is None and pipe.segmenter is segmenter
    with pytest.raises(part("evlm.errors").ModelError, match="qwen2-vl-2b is not on this machine"):
        call("EVLM_LoadAll", models="photo-8gb")
    with pytest.raises(part("evlm.errors").RequestError, match="models 'photo': expected one of bundled"):
        call("EVLM_LoadAll", models="photo")
    with pytest.raises(part("evlm.errors").RequestError, match="pipe: expected a link to EVLM Load All"):
        call("EVLM_QuickEdit", pipe="a word", **example)


def test_each_set_names_a_model_for_each_role() -> None:
    sets, zoo = part("evlm.models.sets"), part("evlm.models.zoo")
    for each in sets.SETS:
        assert [zoo.find(name).role for name in each.models] == list(zoo.ROLES)
    assert sets.expand(["bundled", "photo-8gb"]) == ["bundled", *sets.SETS[0].models]


class Endpoint:
    """Three requests must be there before one is answered."""

    at_once = 8

    def __init__(self) -> None:
        self.together = threading.Barrier(3, timeout=20)
        self.asked = 0

    def reason(self, request: Any, sampling: Any, on_token: Any, repair: bool, calls: Any) -> Any:
        self.asked += 1
        self.together.wait()
        shade = round(float(request.original.mean()), 1)
        plan = f"<output>\ninstruction: make it {shade}\ntargets: none\nscope: global\n</output>"
        text = "<thinking>a</thinking><intermediate>b</intermediate><reflection>c</reflection>" + plan
        on_token(text)
        reasoner = part("evlm.reason.reasoner")
        return reasoner.understood(reasoner.Generated(text, 9, 0.1), repair)


SHADES = torch.stack([torch.full((16, 16, 3), shade) for shade in (0.1, 0.5, 0.9)])
PLANS = ["make it 0.1", "make it 0.5", "make it 0.9"]


def test_an_endpoint_reasons_about_a_batch_at_once(pipe: Any) -> None:
    endpoint = Endpoint()
    asking = replace(pipe, reasoner=endpoint, answers=OrderedDict())
    stopped = call("EVLM_QuickEdit", pipe=asking, image=SHADES, prompt="x", stop="stop at the plan")
    assert [plan.plan.instruction for plan in stopped.args[2]] == PLANS
    call("EVLM_QuickEdit", pipe=asking, image=SHADES, prompt="x", stop="stop at the plan")
    assert endpoint.asked == 3, "all three are remembered"
    reasoned = call("EVLM_Reason", model=Endpoint(), image=SHADES, prompt="x")
    assert reasoned.args[1] == PLANS


def test_masks_that_do_not_fit_are_refused_before_anybody_is_asked(pipe: Any) -> None:
    endpoint = Endpoint()
    asking = replace(pipe, reasoner=endpoint, answers=OrderedDict())
    with pytest.raises(ValueError, match="2 masks for 3 pictures"):
        call("EVLM_QuickEdit", pipe=asking, image=SHADES, prompt="x", mask=torch.ones(2, 16, 16))
    assert endpoint.asked == 0


def test_boxes_of_a_batch_belong_to_their_pictures(pipe: Any) -> None:
    """(B8) Each picture got those of all."""
    bare = call("EVLM_LoadAll", detector="none", segmenter="none").args[0]

    def used(*boxes: dict[str, int]) -> torch.Tensor:
        asking = replace(bare, reasoner=Endpoint(), answers=OrderedDict())
        stop = {"stop": "stop at the plan", "boxes": [{"width": 6, "height": 6, **box} for box in boxes]}
        return call("EVLM_QuickEdit", pipe=asking, image=SHADES, prompt="x", **stop).args[1] > 0.5

    first, second, third = used({"x": 0, "y": 0}, {"x": 9, "y": 9, "frame": 1}, {"x": 0, "y": 9, "frame": 2})
    assert first[3, 3] and not first[12, 12] and second[12, 12] and not second[3, 3] and third[12, 3]
    assert used({"x": 0, "y": 0})[:, 3, 3].all(), "all of the first are for all"
    boxes = [part("evlm.boxes").Box("", 1.0, 0, 0, 6, 6, frame=frame) for frame in (0, 2)]
    given = part("nodes.quick")._by_picture(boxes, 3)
    assert given[1] is None and given[0] and given[2], "one without boxes is looked for as without"
    with pytest.raises(ValueError, match="boxes: one is of picture 4, and there are 3"):
        used({"x": 0, "y": 0}, {"x": 9, "y": 9, "frame": 3})


@pytest.mark.slow  # test_node_values has such a mask
def test_the_empty_mask_of_a_picture_without_alpha_counts_as_none(pipe: Any, example: dict[str, Any]) -> None:
    """(B12) It raised, after the reasoner had been asked."""
    large = torch.nn.functional.interpolate(example["image"].movedim(-1, 1), (80, 96)).movedim(1, -1)
    given = {**example, "image": large, "stop": "stop at the plan"}
    masked = call("EVLM_QuickEdit", pipe=pipe, mask=torch.zeros(1, 64, 64), **given).args[1]
    assert torch.equal(masked, call("EVLM_QuickEdit", pipe=pipe, **given).args[1])


@pytest.mark.parametrize(("quantize", "said"), [("none", True), ("4bit", False)])
def test_load_all_says_what_does_not_fit_the_card(
    quantize: str, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(part("nodes.host"), "card_memory", lambda: 8.3)
    monkeypatch.setattr(part("nodes.load_all"), "_check_here", lambda names: None)
    for loader in ("LoadModel", "LoadDetector", "LoadSegmenter", "LoadEditor"):
        kind = getattr(part("nodes.load"), loader)
        monkeypatch.setattr(kind, "execute", classmethod(lambda cls, **how: SimpleNamespace(args=(how,))))
    call("EVLM_LoadAll", models="photo-24gb", quantize=quantize)
    notes = [record.message for record in caplog.records if "wants about" in record.message]
    assert len(notes) == said and all("qwen2.5-vl-7b wants about 19 GB" in note for note in notes)
