"""The mask policy: what the plan asked for, what was found, and which of them decides."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from evlm.boxes import Box, bounding_box
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan
from evlm.segment.region import agreeing, agreeing_in_frames, clip_to_boxes, corrected, decide, plan_region

SIZE = 64


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Tensor:
    mask = torch.zeros(SIZE, SIZE)
    mask[y0:y1, x0:x1] = 1
    return mask


def disc(x: int, y: int, radius: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return (((columns - x) ** 2 + (rows - y) ** 2) <= radius**2).float()


def plan(mask: Tensor | None, **fields: object) -> Plan:
    text = None if mask is None else BoxSpans().encode(mask)
    return Plan("make it blue", ("red circle",), text, **fields)  # type: ignore[arg-type]


def decided(of: Plan, objects: Tensor | None, frames: int = 1) -> tuple[Tensor | None, str]:
    region = decide(of, plan_region(of, SIZE, SIZE), objects, (frames, SIZE, SIZE), 0.05)
    return region.mask, " ".join(region.notes)


def test_a_rectangle_is_room_and_stays_a_rectangle() -> None:
    asked = rectangle(16, 16, 48, 40)
    mask, why = decided(plan(asked), disc(32, 28, 10)[None, None])
    assert mask is not None and torch.equal(mask[0], asked)
    assert "rectangle" in why


def test_a_silhouette_is_sharpened_by_the_segmenter() -> None:
    true = disc(30, 30, 14)
    mask, why = decided(plan(true), true[None, None])
    assert mask is not None and torch.equal(mask[0], true)
    assert "sharpened" in why


def test_several_objects_are_one_region() -> None:
    left, right = disc(16, 30, 9), disc(46, 30, 9)
    mask, _ = decided(plan((left + right).clamp(max=1)), torch.stack([left, right])[:, None])
    assert mask is not None and torch.equal(mask[0], torch.maximum(left, right))


def test_a_silhouette_somewhere_else_does_not_win_against_the_plan() -> None:
    mask, why = decided(plan(disc(16, 16, 10)), disc(50, 50, 10)[None, None])
    assert mask is not None and bool(mask[0, 16, 16]) and not bool(mask[0, 50, 50])
    assert "not the plan's" in why


def test_without_a_segmenter_the_plans_mask_is_taken_for_every_frame() -> None:
    mask, why = decided(plan(disc(30, 30, 14)), None, frames=3)
    assert mask is not None and mask.shape == (3, SIZE, SIZE) and torch.equal(mask[0], mask[2])
    assert "own mask" in why


def test_without_a_plan_mask_what_was_found_is_grown_a_little() -> None:
    found = disc(30, 30, 10)
    mask, why = decided(plan(None), found[None, None])
    assert mask is not None and bool((mask[0] >= found).all()) and 1 < mask.sum() / found.sum() < 2.2
    assert "grown by 3 px" in why


def test_nothing_found_and_no_plan_mask_is_the_whole_frame_and_says_so() -> None:
    for objects in (None, torch.zeros(0, 1, SIZE, SIZE)):
        mask, why = decided(plan(None), objects)
        assert mask is None and "nothing was found for red circle" in why


def test_a_global_plan_has_no_mask_whatever_else_it_says() -> None:
    mask, why = decided(plan(disc(30, 30, 10), scope="global"), disc(30, 30, 10)[None, None])
    assert mask is None and "global" in why


def test_an_empty_plan_mask_edits_nothing() -> None:
    mask, why = decided(plan(torch.zeros(SIZE, SIZE)), None)
    assert mask is not None and not mask.any() and "empty" in why


def test_a_malformed_mask_text_leaves_the_decision_to_what_was_found() -> None:
    broken = Plan("make it blue", ("red circle",), "box 5 5 900 rows")
    mask, why = decided(broken, disc(30, 30, 10)[None, None])
    assert mask is not None and "cannot be read" in why


def test_a_detected_box_that_disagrees_with_the_plan_is_dropped_and_noted() -> None:
    region = plan_region(plan(rectangle(10, 10, 30, 30)), SIZE, SIZE)
    clip_to_boxes, far = Box("red circle", 0.9, 11, 9, 31, 29), Box("red circle", 0.8, 40, 40, 60, 60)
    kept, notes = agreeing([clip_to_boxes, far], region, 1)
    assert kept == [clip_to_boxes] and len(notes) == 1 and "0.80" in notes[0]


def test_of_several_targets_each_box_need_only_lie_inside() -> None:
    region = plan_region(plan(rectangle(0, 0, 60, 60)), SIZE, SIZE)
    small = Box("dot", 0.9, 4, 4, 14, 14)
    assert agreeing([small], region, 1)[0] == []
    assert agreeing([small], region, 2)[0] == [small]


def test_without_a_plan_mask_every_box_counts() -> None:
    box = Box("dot", 0.9, 4, 4, 14, 14)
    assert agreeing([box], plan_region(plan(None), SIZE, SIZE), 1) == ([box], [])


def test_a_silhouette_that_runs_over_its_box_is_cut_off_there() -> None:
    both = (disc(16, 16, 8) + disc(48, 48, 8)).clamp(max=1)[None, None]
    cut, notes = clip_to_boxes(both, [Box("dot", 0.9, 7, 7, 25, 25)])
    assert torch.equal(cut[0, 0], disc(16, 16, 8)) and "ran 50% over" in notes[0]
    assert clip_to_boxes(both, [Box("dot", 0.9, 7, 7, 25, 25), Box("dot", 0.9, 39, 39, 57, 57)])[1] == []
    assert clip_to_boxes(torch.zeros(1, 1, SIZE, SIZE), [Box("dot", 0.9, 1, 1, 5, 5)])[1] == []


def test_a_sure_detector_moves_the_region_and_an_unsure_or_inner_box_does_not() -> None:
    asked = plan_region(plan(rectangle(2, 2, 22, 22)), SIZE, SIZE)
    sure, unsure = Box("dot", 0.9, 40, 40, 60, 60), Box("dot", 0.5, 40, 40, 60, 60)
    moved = corrected([sure], asked, 1)
    assert (
        moved.rectangle
        and moved.mask is not None
        and bool(moved.mask[50, 50])
        and not bool(moved.mask[10, 10])
    )
    assert "it names" in moved.notes[0]
    shaped = corrected([sure], plan_region(plan(disc(12, 12, 9)), SIZE, SIZE), 1)
    silhouette = disc(50, 50, 7)
    decided = decide(plan(disc(12, 12, 9)), shaped, silhouette[None, None], (1, SIZE, SIZE), 0.03).mask
    assert decided is not None and torch.equal(decided[0], silhouette), "the silhouette decides, as it is"
    for nothing in (None, torch.zeros(1, 1, SIZE, SIZE)):
        box = decide(plan(disc(12, 12, 9)), shaped, nothing, (1, SIZE, SIZE), 0.03).mask
        assert box is not None and bounding_box(box[0]) == (38, 38, 62, 62), "without one the box, no more"
    assert corrected([unsure], asked, 1) is asked and corrected([sure], asked, 2) is asked
    inner = Box("dot", 0.9, 3, 3, 8, 8)
    assert corrected([inner], asked, 1) is asked


def test_a_thing_that_was_where_the_plan_says_is_followed_through_the_frames() -> None:
    region = plan_region(plan(rectangle(10, 10, 30, 30)), SIZE, SIZE)
    begins, other = Box("dot", 0.9, 11, 9, 31, 29), Box("dot", 0.8, 40, 40, 60, 60)
    away, wrong = Box("dot", 0.9, 18, 28, 38, 48, frame=1), Box("dot", 0.9, 0, 50, 14, 64, frame=1)
    far = Box("dot", 0.7, 30, 40, 50, 60, frame=3)
    kept, notes = agreeing_in_frames([begins, other, away, wrong, far], region, 1)
    assert kept == [begins, away, far]
    assert sum("is followed" in note for note in notes) == 1 and sum("dropped" in note for note in notes) == 2
    assert agreeing_in_frames([other, replace(far, frame=1)], region, 1)[0] == [], "it was never there"
    assert agreeing_in_frames([begins, other], region, 1) == agreeing([begins, other], region, 1)
