"""Who decides the place: what the detector found or what the plan says, under each trust, and why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from evlm.boxes import Box
from evlm.pipeline import ground_plan, segment_plan
from evlm.plan.trace import Plan, Trust
from evlm.segment.segmenter import Segmentation

SIZE = 100
FRAMES = torch.zeros(1, SIZE, SIZE, 3)
LEFT = Box("hat", 0.9, 10, 10, 40, 40)
RIGHT = Box("hat", 0.95, 60, 60, 90, 90)
UNSURE = Box("hat", 0.3, 60, 10, 90, 40)
AT_LEFT, ELSEWHERE = "box 100 100 400 400 full", "box 100 550 400 850 full"


class Finds:
    """A detector of given boxes, which keeps what a real one would."""

    def __init__(self, *boxes: Box) -> None:
        self.boxes = boxes

    def ground(self, frames: Tensor, labels: Any, threshold: Any = None, keep: str = "best") -> list[Box]:
        best: dict[tuple[str, int], Box] = {}
        for box in self.boxes:
            key = box.label, box.frame
            best[key] = max(best.get(key, box), box, key=lambda each: each.score)
        return list(self.boxes if keep == "all" else best.values())


class Cuts:
    """A segmenter that sees a thing one pixel smaller than each box; nothing where `blind`."""

    def __init__(self, blind: bool = False) -> None:
        self.blind, self.asked = blind, []  # type: ignore[var-annotated]

    def segment(self, frames: Tensor, boxes: Any = None) -> Segmentation:
        self.asked = list(boxes)
        masks = torch.zeros(len(boxes), len(frames), SIZE, SIZE)
        for number, box in enumerate(boxes):
            if not self.blind:
                x0, y0, x1, y1 = (round(each) for each in box.grown(-1, -1))
                masks[number, box.frame, y0:y1, x0:x1] = 1
        return Segmentation(masks, torch.ones(len(boxes)))


def extent(mask: Tensor | None) -> tuple[int, ...] | None:
    """The corners of what is on, or None for the whole frame."""
    if mask is None:
        return None
    rows, columns = mask[0].any(1).nonzero(), mask[0].any(0).nonzero()
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def region(
    plan: Plan, detector: Finds | None, segmenter: Cuts | None = None
) -> tuple[tuple[int, ...] | None, str]:
    """(corners of the final mask, all notes)."""
    grounded = ground_plan(detector, FRAMES, plan)
    decided, _ = segment_plan(segmenter or Cuts(), FRAMES, plan, grounded.boxes, 0.03, grounded.region)
    return extent(decided.mask), " | ".join([*grounded.notes, *decided.notes])


def hat(place: str | None, trust: Trust, instruction: str = "make the hat red") -> Plan:
    return Plan(instruction, ("hat",), place, trust=trust)


IN_LEFT, IN_RIGHT = (11, 11, 39, 39), (61, 61, 89, 89)
GROWN_LEFT, GROWN_RIGHT = (8, 8, 42, 42), (58, 58, 92, 92)
BOX_LEFT, BOX_ELSEWHERE, IN_ELSEWHERE = (10, 10, 40, 40), (10, 55, 40, 85), (11, 56, 39, 84)


@pytest.mark.parametrize(
    ("found", "place", "trust", "expected", "reason"),
    [
        # one thing of that name
        ((LEFT,), AT_LEFT, "base", IN_LEFT, "what was found decides"),
        ((LEFT,), AT_LEFT, "tuned", BOX_LEFT, "asks for a rectangle"),
        ((LEFT,), ELSEWHERE, "base", IN_LEFT, "(IoU 0.00 with the plan's own)"),
        ((LEFT,), ELSEWHERE, "tuned", (7, 7, 43, 43), "lies elsewhere than the 'hat' (0.90) it names"),
        ((LEFT,), None, "base", GROWN_LEFT, "grown by 3 px"),
        ((LEFT,), None, "tuned", GROWN_LEFT, "grown by 3 px"),
        # one that the detector is not sure of
        ((UNSURE,), AT_LEFT, "base", (61, 11, 89, 39), "what was found decides"),
        ((UNSURE,), AT_LEFT, "tuned", BOX_LEFT, "not where the plan says"),
        # several
        ((LEFT, RIGHT), AT_LEFT, "base", IN_LEFT, "2 boxes of 'hat' were found: the plan's own box chooses"),
        ((LEFT, RIGHT), AT_LEFT, "tuned", (57, 57, 93, 93), "lies elsewhere"),
        ((LEFT, RIGHT), ELSEWHERE, "base", IN_LEFT, "score 0.90 (IoU 0.00)"),
        ((LEFT, RIGHT), None, "base", GROWN_RIGHT, "grown by 3 px"),
        ((LEFT, RIGHT), None, "tuned", GROWN_RIGHT, "grown by 3 px"),
        ((LEFT, UNSURE), "box 600 100 900 400 full", "base", IN_LEFT, "score 0.90"),
        # none
        ((), AT_LEFT, "base", IN_LEFT, "what SAM 2 sees in the plan's own box"),
        ((), AT_LEFT, "tuned", BOX_LEFT, "asks for a rectangle"),
        ((), ELSEWHERE, "base", IN_ELSEWHERE, "the detector found no hat |"),
        ((), ELSEWHERE, "tuned", BOX_ELSEWHERE, "the detector found no hat that the plan means"),
        ((), None, "base", None, "nothing was found for hat, and the plan has no mask"),
        ((), None, "tuned", None, "nothing was found for hat, and the plan has no mask"),
    ],
)
def test_who_decides_the_place(
    found: tuple[Box, ...],
    place: str | None,
    trust: Trust,
    expected: tuple[int, ...] | None,
    reason: str,
) -> None:
    where, why = region(hat(place, trust), Finds(*found))
    assert where == expected, why
    assert reason in why


def test_without_a_detector_the_plans_own_box_is_the_prompt() -> None:
    segmenter = Cuts()
    where, why = region(hat(AT_LEFT, "base"), None, segmenter)
    assert where == IN_LEFT and segmenter.asked[0].by_plan and "own box" in why


def test_where_nothing_fills_the_box_it_is_taken_as_it_is() -> None:
    class Sees(Cuts):
        def segment(self, frames: Tensor, boxes: Any = None) -> Segmentation:
            masks = torch.zeros(1, 1, SIZE, SIZE)
            masks[0, 0, 20:24, 20:24] = 1
            return Segmentation(masks, torch.ones(1))

    where, why = region(hat(AT_LEFT, "base"), None, Sees())
    assert where == BOX_LEFT and "nothing fills the plan's own box" in why


def test_where_the_segmenter_sees_nothing_what_was_found_stays_the_place() -> None:
    where, why = region(hat(ELSEWHERE, "base"), Finds(LEFT), Cuts(blind=True))
    assert where == BOX_LEFT and "what was found decides" in why


def test_something_new_has_the_room_that_the_plan_gives_it() -> None:
    """No detector finds what is not there; one that finds another hat must not choose it."""
    plan = hat(ELSEWHERE, "base", "Add a red hat to the dog")
    where, why = region(plan, Finds(LEFT))
    assert where == BOX_ELSEWHERE and "something new" in why


def test_a_global_plan_and_one_that_changes_nothing_are_as_ever() -> None:
    where, why = region(Plan("make it night", trust="base", scope="global"), Finds(LEFT))
    assert where is None and "global" in why
    decided, _ = segment_plan(Cuts(), FRAMES, Plan("no change needed", ("hat",), AT_LEFT, trust="base"), [])
    assert decided.mask is not None and not decided.mask.any()


def test_all_boxes_are_kept_where_all_are_asked_for() -> None:
    grounded = ground_plan(Finds(LEFT, RIGHT), FRAMES, hat(AT_LEFT, "base"), keep="all")
    assert grounded.boxes == [LEFT, RIGHT]


def test_in_a_clip_the_chosen_thing_is_followed() -> None:
    moving = [Box("hat", 0.8, 10 + 15 * f, 10, 40 + 15 * f, 40, frame=f) for f in range(3)]
    others = [Box("hat", 0.9, 60, 60, 90, 90, frame=f) for f in range(3)]
    grounded = ground_plan(Finds(*others, *moving), FRAMES.expand(3, -1, -1, -1), hat(AT_LEFT, "base"))
    assert grounded.boxes == moving
    assert len(grounded.notes) == 1
