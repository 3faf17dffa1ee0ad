"""Plans of several edits through the pipeline: each at its own place, on the result of the one before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evlm.boxes import Box
from evlm.edit import Edited, EditSettings
from evlm.pipeline import STEPS, Changes, Event, Pipeline
from evlm.plan.trace import Plan, Trace, parse, render
from evlm.reason.reasoner import Reasoned
from evlm.request import Request
from evlm.segment.segmenter import Segmentation

SIZE = 40
HAT = Plan("darken the hat", ("hat",), "box 0 0 500 500 full")
COAT = Plan("darken the coat", ("coat",), "box 250 250 1000 1000 full")
RAIN = Plan("darken everything", (), None, "global")
NOTHING = Plan("no change needed", (), None, "global")
AT = {"hat": (2, 2, 18, 18), "coat": (12, 12, 38, 38)}


class Says:
    def __init__(self, *steps: Plan) -> None:
        self.text = render(Trace("", "", "", Plan.of_steps(steps)))

    def reason(self, request: Request, *_: Any, **__: Any) -> Reasoned:
        return Reasoned(self.text, 1, 0.0, trace=parse(self.text))


class Finds:
    """A detector that knows where things are, and counts how often it looks."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def ground(self, frames: Tensor, labels: Any, threshold: float | None = None) -> list[Box]:
        assert torch.equal(frames, ORIGINAL)  # never a picture that was edited
        self.asked.append(tuple(labels))
        return [Box(label, 0.9, *AT[label]) for label in labels if label in AT]


class Fills:
    """A segmenter whose silhouettes are the boxes."""

    def segment(self, frames: Tensor, boxes: Any = None) -> Segmentation:
        masks = torch.zeros(len(boxes), len(frames), SIZE, SIZE)
        for number, box in enumerate(boxes):
            masks[number, :, int(box.y0) : int(box.y1), int(box.x0) : int(box.x1)] = 1
        return Segmentation(masks, torch.ones(len(boxes)))


class Darkens:
    """An editor that halves what lies inside the mask, in two steps."""

    defaults = EditSettings(steps=2)
    steps = True

    def __init__(self) -> None:
        self.told: list[str] = []

    def edit(
        self, frames: Tensor, instruction: str, mask: Any = None, settings: Any = None, on_step: Any = None
    ) -> Edited:
        self.told.append(instruction)
        for done in (1, 2):
            on_step(done, 2, None)
        where = torch.ones(frames.shape[:3]) if mask is None else mask
        return Edited(torch.where(where[..., None] > 0, frames / 2, frames), frames, notes=("darkened",))


class AllAtOnce(Darkens):
    steps = False


ORIGINAL = torch.rand(1, SIZE, SIZE, 3, generator=torch.Generator().manual_seed(0)) + 0.1
REQUEST = Request(ORIGINAL.clamp(0, 1), "both")
ORIGINAL = REQUEST.original


def inside(*labels: str) -> Tensor:
    mask = torch.zeros(1, SIZE, SIZE)
    for label in labels:
        x0, y0, x1, y1 = AT[label]
        mask[:, y0:y1, x0:x1] = 1
    return mask


def test_each_step_is_painted_at_its_own_place_on_the_result_of_the_one_before() -> None:
    editor, detector = Darkens(), Finds()
    result = Pipeline(Says(HAT, COAT), detector, Fills(), editor).run(REQUEST)
    assert editor.told == ["darken the hat", "darken the coat"] and detector.asked == [("hat",), ("coat",)]
    rectangles = [torch.zeros(1, SIZE, SIZE), torch.zeros(1, SIZE, SIZE)]
    rectangles[0][:, :20, :20] = rectangles[1][:, 10:, 10:] = 1  # the plans ask for rectangles
    by_hand = ORIGINAL.clone()
    for mask in rectangles:
        by_hand = torch.where(mask[..., None] > 0, by_hand / 2, by_hand)
    assert torch.equal(result.edited, by_hand)
    assert [step.boxes[0].label for step in result.steps] == ["hat", "coat"]
    assert [step.boxes[0].step for step in result.steps] == [1, 2]
    assert [step.boxes[0].corners for step in result.steps] == [AT["hat"], AT["coat"]]


def test_outside_the_union_nothing_changes() -> None:
    result = Pipeline(Says(HAT, COAT), Finds(), Fills(), Darkens()).run(REQUEST)
    assert result.mask is not None
    outside = result.mask == 0
    assert 0.1 < float(outside.float().mean()) < 0.9
    assert torch.equal(result.edited[outside], ORIGINAL[outside])
    assert not bool((result.edited[~outside] == ORIGINAL[~outside]).any())


@pytest.mark.parametrize("segmenter", [Fills(), None])
def test_silhouettes_without_a_plans_place(segmenter: Any) -> None:
    steps = (HAT.as_one(mask_text=None), COAT.as_one(mask_text=None))
    result = Pipeline(Says(*steps), Finds(), segmenter, Darkens()).run(REQUEST, grow=0.0)
    assert [step.mask is not None for step in result.steps] == [segmenter is not None] * 2
    if segmenter is not None:
        assert result.object_masks is not None and result.object_masks.shape == (2, 1, SIZE, SIZE)
        assert bool((result.steps[0].mask >= inside("hat")).all())  # type: ignore[operator]


def test_an_editor_that_takes_all_at_once_gets_one_sentence_and_the_union() -> None:
    editor = AllAtOnce()
    result = Pipeline(Says(HAT, COAT), Finds(), Fills(), editor).run(REQUEST)
    assert editor.told == ["darken the hat ; then darken the coat"]
    assert torch.equal(result.edited, torch.where(result.mask[..., None] > 0, ORIGINAL / 2, ORIGINAL))


def test_a_global_step_takes_the_whole_frame_and_says_so() -> None:
    result = Pipeline(Says(HAT, RAIN), Finds(), Fills(), Darkens()).run(REQUEST)
    assert result.mask is None and result.steps[0].mask is not None and result.steps[1].mask is None
    assert "step 2: the scope is global: the whole frame is edited" in result.notes
    assert bool((result.edited < ORIGINAL).all())


def test_a_step_without_a_change_is_left_out() -> None:
    editor = Darkens()
    result = Pipeline(Says(NOTHING, HAT), Finds(), Fills(), editor).run(REQUEST)
    assert editor.told == ["darken the hat"]
    assert result.mask is not None and float(result.mask.mean()) == 0.25


def test_a_step_that_would_repaint_everything_unasked_holds_all_back() -> None:
    lost = Plan("darken the dog", ("dog",), None, "local")
    pipe = Pipeline(Says(HAT, lost), Finds(), Fills(), Darkens())
    result = pipe.run(REQUEST)
    assert result.held_back.startswith("step 2: no dog was found") and torch.equal(result.edited, ORIGINAL)
    assert not torch.equal(pipe.run(REQUEST, anyway=True).edited, ORIGINAL)


def test_events_tell_of_several_steps_as_of_one_edit() -> None:
    events: list[Event] = []
    Pipeline(Says(HAT, COAT), Finds(), Fills(), Darkens()).run(REQUEST, on_event=events.append)
    assert [e.step for e in events if e.kind == "start"] == list(STEPS)
    assert [(e.done, e.total) for e in events if e.kind == "progress"] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [e.text for e in events if e.kind == "end"][1] == "hat 0.90, coat 0.90"


def test_boxes_by_hand_leave_the_steps_of_a_plan() -> None:
    """(B7) They made one local edit of hat, coat and rain."""
    editor = Darkens()
    pipe = Pipeline(Says(HAT, COAT, RAIN), Finds(), None, editor)
    answer = pipe.reason(REQUEST)

    def plan(*boxes: Box) -> Any:
        return pipe.plan(REQUEST, answer, changes=Changes(boxes=boxes))

    drawn = plan(Box("hat", 1, 30, 0, 40, 10, step=0), Box("", 1, 0, 30, 10, 40, step=2))
    assert [step.plan.instruction for step in drawn.steps] == [each.instruction for each in (HAT, COAT, RAIN)]
    hat, coat, rain = (step.mask for step in drawn.steps)
    assert hat[0, 5, 35] and not hat[0, 5, 5] and coat[0, 35, 5] and not coat[0, 35, 35]
    assert rain is None and drawn.trace.plan.steps[2] == RAIN
    one = plan(Box("hat", 1, 30, 0, 40, 10, step=1))
    assert one.steps[0].mask[0, 5, 35] and one.steps[1].mask[0, 35, 35], "the coat's place is the plan's"
    pipe.paint(REQUEST, drawn)
    assert editor.told == [each.instruction for each in (HAT, COAT, RAIN)]
    everywhere = Pipeline(Says(RAIN, RAIN.as_one(instruction="blur it")), Finds(), None, editor)
    reasoned = everywhere.reason(REQUEST)
    boxes = Changes(boxes=(Box("", 1, 0, 0, 10, 10, step=0),))
    shown = everywhere.plan(REQUEST, reasoned, changes=boxes)
    assert [step.plan.scope for step in shown.steps] == ["local", "local"]


def test_a_mask_by_hand_is_for_every_step_and_words_by_hand_make_it_one_edit() -> None:
    editor = Darkens()
    pipe = Pipeline(Says(HAT, COAT), Finds(), Fills(), editor)
    answer = pipe.reason(REQUEST)
    place = torch.zeros(1, SIZE, SIZE)
    place[:, :5] = 1
    result = pipe.paint(REQUEST, pipe.plan(REQUEST, answer, mask=place))
    assert torch.equal(result.edited[:, :5], ORIGINAL[:, :5] / 4) and torch.equal(
        result.edited[:, 5:], ORIGINAL[:, 5:]
    )
    editor.told.clear()
    pipe.paint(REQUEST, pipe.plan(REQUEST, answer, changes=Changes("darken it", ("hat",))))
    assert editor.told == ["darken it"]
