"""Where an edit goes in a clip: targets followed, the plan's one mask held against them, roomy boxes that go
along."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evlm.boxes import Box, bounding_box
from evlm.edit.protocol import Edited, unchanged
from evlm.pipeline import Pipeline
from evlm.place import ground_plan, segment_plan
from evlm.place_clip import Look, place_clip, place_clip_steps, place_long
from evlm.place_each import place_each
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan, Trace
from evlm.reason.reasoner import Reasoned
from evlm.request import Request
from evlm.segment.clip_region import Way, _drawn, along, decide_clip
from evlm.segment.region import PlanRegion, clip_to_boxes, plan_region
from evlm.segment.segmenter import Segmentation
from evlm.segment.tracker import can_track
from evlm.segment.tracks import Tracks
from evlm.video.clip import ClipEditor
from evlm.video.settings import VideoSettings

SIZE, COUNT = 48, 6


def path(step: int, y: int = 10, side: int = 12, notch: int = 3) -> Tensor:
    """A square without a corner that goes right by `step` pixels a frame, float [COUNT, SIZE, SIZE]."""
    on = torch.zeros(COUNT, SIZE, SIZE)
    for frame in range(COUNT):
        on[frame, y : y + side, 2 + step * frame : 2 + step * frame + side] = 1
        on[frame, y : y + notch, 2 + step * frame : 2 + step * frame + notch] = 0
    return on


def plan(mask: Tensor, targets: tuple[str, ...] = ("cup",)) -> Plan:
    return Plan("make it red", targets, BoxSpans().encode(mask), "local")


def boxes_of(mask: Tensor, label: str = "cup", frames: Any = None) -> list[Box]:
    found = []
    for frame in range(COUNT) if frames is None else frames:
        corners = bounding_box(mask[frame])
        if corners is not None:
            found.append(Box(label, 0.9, *map(float, corners), frame=frame))
    return found


class Finds:
    """A detector that knows where things are; a frame says which one it is by its brightness."""

    def __init__(self, boxes: list[Box]) -> None:
        self.boxes = boxes

    def ground(self, frames: Tensor, labels: Any, threshold: Any = None, **_: Any) -> list[Box]:
        numbers = [round(float(frame.mean()) * COUNT) for frame in frames]
        return [
            Box(box.label, box.score, *box.corners, frame=at)
            for at, number in enumerate(numbers)
            for box in self.boxes
            if box.frame == number and box.label in labels
        ]


class Cuts:
    """A segmenter that cuts the true silhouettes out, in the frames that have a box."""

    def __init__(self, truth: Tensor) -> None:
        self.truth = truth

    def segment(self, frames: Tensor, boxes: Any = None) -> Segmentation:
        masks = torch.zeros(1, *frames.shape[:3])
        for box in boxes:
            masks[0, box.frame] = self.truth[box.frame]
        return Segmentation(masks, torch.ones(1))


class Follows:
    """A tracker that follows the truth from the first frame in which it is shown."""

    def __init__(self, truth: Tensor) -> None:
        self.truth, self.asked = truth, list[int]()

    def track(self, frames: Tensor, prompts: Any = None, find: Any = None, **_: Any) -> Tracks:
        tracks = Tracks(*frames.shape[:3])
        shown = dict(prompts or {})
        if find is not None:
            self.asked.append(0)
            shown = {0: boxes} if (boxes := find(0)) else {}
        if shown:
            number = tracks.add("cup")
            for frame in range(len(frames)):
                tracks.put(number, frame, self.truth[frame] > 0, 1.0)
        return tracks


FRAMES = (torch.arange(COUNT) / COUNT)[:, None, None, None].expand(-1, SIZE, SIZE, 3).contiguous()


@pytest.mark.parametrize("by", ["tracker", "segmenter"])
def test_what_moves_is_followed_though_the_plan_has_one_mask_for_all_frames(by: str) -> None:
    truth = path(6)
    tracker: Any = Follows(truth) if by == "tracker" else None
    place = place_clip(plan(truth.amax(0)), FRAMES, Finds(boxes_of(truth)), tracker, Cuts(truth))
    assert place.mask is not None and torch.equal(place.mask, truth)
    assert torch.equal(place.objects[0], truth)
    assert {box.frame for box in place.boxes} == ({0} if by == "tracker" else set(range(COUNT)))


def test_a_plan_of_one_frame_is_followed_too() -> None:
    truth = path(6)
    place = place_clip(plan(truth[0]), FRAMES, Finds(boxes_of(truth)), Follows(truth), None)  # type: ignore
    assert place.mask is not None and torch.equal(place.mask, truth)


def test_frames_without_a_detection_are_not_emptied_when_they_were_followed() -> None:
    truth = path(2)
    kept, notes = clip_to_boxes(truth[None], boxes_of(truth, frames=[0]))
    assert torch.equal(kept[0], truth) and not notes
    far = boxes_of(path(2, y=36), frames=[0])
    kept, notes = clip_to_boxes(truth[None], far)
    assert not kept[0, 0].any() and torch.equal(kept[0, 1:], truth[1:])


@pytest.mark.parametrize("by", ["tracker", "segmenter", "each", "long", "nodes"])
@pytest.mark.parametrize("step", [0, 3])
def test_a_sure_detection_takes_the_place_that_the_plan_has_wrong(by: str, step: int, tmp_path: Path) -> None:
    """Of a reasoner that names a thing rightly and places it wrongly: the plan's own mask was painted, though
    the note said that the thing was taken."""
    truth, wrong = path(step), path(0, y=34)[0]
    models: Any = Finds(boxes_of(truth)), Follows(truth), Cuts(truth)
    if by == "each":
        long = place_each(plan(wrong), FRAMES, tmp_path, "one", COUNT, models[0], models[2])
    elif by == "long":
        long = place_long(plan(wrong), FRAMES, tmp_path, "one", *models[:2])
    elif by == "nodes":
        found = ground_plan(models[0], FRAMES, plan(wrong))
        mask = segment_plan(models[2], FRAMES, plan(wrong), found.boxes)[0].mask
    else:
        place = place_clip(plan(wrong), FRAMES, models[0], models[1] if by == "tracker" else None, models[2])
        mask, notes = place.mask, place.notes
        assert any("elsewhere than the 'cup'" in note for note in notes)
    if by in ("each", "long"):
        assert long.masks is not None
        mask = long.masks(0, COUNT)
        again = Look(plan(wrong), plan_region(plan(wrong), SIZE, SIZE), None, None)
        kept = Look(plan(wrong), again.region, models[0], None)
        kept.at(FRAMES, [0])
        again.take(json.loads(json.dumps(kept.said())))
        assert again.place.moved and torch.equal(again.place.mask, kept.place.mask)  # type: ignore[arg-type]
    assert mask is not None and torch.equal(mask, truth)


def test_an_unsure_detection_elsewhere_does_not() -> None:
    truth, wrong = path(0), path(0, y=34)[0]
    unsure = [replace(box, score=0.4) for box in boxes_of(truth)]
    place = place_clip(plan(wrong), FRAMES, Finds(unsure), Follows(truth), None)  # type: ignore
    assert place.mask is not None and not bool((place.mask * truth).any())


def test_a_place_rests_while_something_passes() -> None:
    """The motion of what came by was taken for the place's own."""
    frames = torch.full((COUNT, SIZE, SIZE, 3), 0.3)
    for at in range(COUNT):
        frames[at, 16:44, 4 * at : 4 * at + 14] = torch.tensor([0.9, 0.2, 0.1])
    under = torch.zeros(SIZE, SIZE)
    under[20:40, 24:44] = 1
    new = replace(plan(under, ("hat",)), instruction="add a small hat")
    place = place_clip(new, frames, None, None, None)
    asked = plan_region(new, SIZE, SIZE).mask
    assert place.mask is not None and asked is not None
    for at, mask in enumerate(place.mask):  # of what is hidden no more is lost than what hides it
        seen = asked * (frames[at, ..., 0] < 0.5)
        assert float((mask * seen).sum()) > 0.8 * float(seen.sum()) > 0
        assert not bool((mask * (1 - asked)).any())


def test_what_was_followed_elsewhere_does_not_take_the_plans_place() -> None:
    asked, other = path(0)[0], path(0, y=34)
    region = decide_clip(plan(asked), PlanRegion(asked), other[None], [0], True, other.shape, 0.03)  # type: ignore
    assert region.mask is not None and torch.equal(region.mask, asked.expand_as(other))
    assert "is not the plan's" in region.notes[-1]


@pytest.mark.parametrize("step, found, follows", [(3, True, True), (3, False, False), (0, True, False)])
def test_what_a_detector_found_and_what_leaves_its_place_is_not_held_to_the_plans_mask(
    step: int, found: bool, follows: bool
) -> None:
    """The plan's mask is of one place: it lies beside the thing, which the detector was sure of."""
    asked, truth = path(0, y=34)[0], path(step)
    region = decide_clip(plan(asked), PlanRegion(asked), truth[None], [0], found, truth.shape, 0.03)  # type: ignore
    assert region.mask is not None
    assert torch.equal(region.mask, truth if follows else asked.expand_as(truth))
    assert ("leaves its place" in region.notes[-1]) == follows


def test_what_is_hidden_for_a_while_has_not_left_its_place() -> None:
    asked, truth = path(0, y=34)[0], path(0)
    truth[2, :18] = 0
    region = decide_clip(plan(asked), PlanRegion(asked), truth[None], [0], True, truth.shape, 0.03)  # type: ignore
    assert region.mask is not None and torch.equal(region.mask, asked.expand_as(truth))


@pytest.mark.parametrize("shift, follows", [(4, True), (9, False)])
def test_the_plans_own_box_is_followed_from_where_it_overlaps(shift: int, follows: bool) -> None:
    truth = path(5, notch=0)
    asked = truth[0].roll(shift, 0)  # IoU 8 / 16, then 3 / 21
    asked[0, 0] = 1  # and a little less
    region = decide_clip(plan(asked), PlanRegion(asked), truth[None], [0], False, truth.shape, 0.03)  # type: ignore
    assert region.mask is not None
    assert torch.equal(region.mask, truth if follows else asked.expand_as(truth))


def test_without_a_detector_the_plans_own_box_is_followed() -> None:
    truth = path(1)
    place = place_clip(plan(truth[0]), FRAMES, None, Follows(truth), None)  # type: ignore[arg-type]
    assert place.mask is not None and torch.equal(place.mask, truth)
    assert [box.by_plan for box in place.boxes] == [True]


def test_without_any_model_the_plans_mask_is_taken() -> None:
    asked = path(0)[0]
    for still in (True, False):  # a frame of nothing but one colour says nothing of a motion
        place = place_clip(plan(asked), FRAMES, None, None, None, still=still)
        assert place.mask is not None and torch.equal(place.mask, asked.expand(COUNT, -1, -1))
        assert len(place.objects) == 0 and any("plan's own mask" in note for note in place.notes)


def moving(truth: Tensor) -> Tensor:
    """Frames in which a picture of chance goes where the truth is, over another one."""
    draw = torch.Generator().manual_seed(3)
    thing, ground = torch.rand(2, SIZE // 4, SIZE // 4, 3, generator=draw).unbind()
    thing, ground = (
        torch.nn.functional.interpolate(each.movedim(-1, 0)[None], (SIZE, SIZE), mode="bilinear")[0]
        for each in (thing, ground * 0.4)
    )
    frames = []
    for on in truth:
        x0, y0, _, _ = bounding_box(on) or (0, 0, 0, 0)
        frames.append(torch.where(on > 0, thing.roll((y0, x0), (1, 2)), ground))
    return torch.stack(frames).movedim(1, -1)


def iou(found: Tensor | None, truth: Tensor) -> float:
    assert found is not None
    both = [(a > 0.5, b > 0.5) for a, b in zip(found, truth, strict=True)]
    return min(float((a & b).sum() / (a | b).sum()) for a, b in both)


def test_where_nobody_follows_it_the_plans_mask_goes_along_the_motion() -> None:
    truth = path(3)
    asked = plan_region(plan(truth[0]), SIZE, SIZE).mask
    assert asked is not None
    place = place_clip(plan(truth[0]), moving(truth), None, None, None)
    assert iou(place.mask, torch.stack([asked.roll(3 * at, 1) for at in range(COUNT)])) > 0.85
    assert [(box.frame, box.by_plan) for box in place.boxes] == [(0, True)]
    assert any("carried along the motion" in note for note in place.notes)
    still = place_clip(plan(truth[0]), moving(truth), None, None, None, still=True)
    assert still.mask is not None and torch.equal(still.mask, asked.expand(COUNT, -1, -1))
    nobody = place_clip(plan(truth[0]), moving(truth), Finds([]), None, None)
    assert nobody.mask is not None and place.mask is not None and torch.equal(nobody.mask, place.mask)
    assert "the detector found no cup" in nobody.notes[0]


def test_what_is_not_there_yet_is_neither_looked_for_nor_followed(tmp_path: Path) -> None:
    """Something new goes where the plan says and along with what lies there, whatever else a detector would
    call so; by a plan that names what it is put on, that is followed."""
    under, other = path(3), path(3, y=34)
    tracker: Any = Follows(other)
    models: Any = Finds(boxes_of(other, "hat")), tracker, Cuts(other)
    new = replace(plan(under[0], ("hat",)), instruction="add a small hat")
    frames = moving(under)
    place = place_clip(new, frames, *models)
    assert iou(place.mask, under) > 0.85 and tracker.asked == []
    assert place.mask is not None and not bool((place.mask * other).any()) and len(place.objects) == 0
    for long in (
        place_long(new, frames, tmp_path, "one", *models[:2]),
        place_each(new, frames, tmp_path, "two", 4, models[0], models[2]),
    ):
        assert long.masks is not None and torch.equal(long.masks(0, COUNT), place.mask)
    lying = torch.zeros(COUNT, SIZE, SIZE, 3)
    stays = place_clip(new, lying, *models)
    assert stays.mask is not None and iou(stays.mask, under[:1].expand_as(under)) == 1
    place_clip(replace(new, trust="base"), frames, *models)
    assert tracker.asked == [0]


def test_the_segmenter_sharpens_the_mask_that_goes_along() -> None:
    truth = path(3, notch=5)
    coarse = truth[0].clone()
    coarse[10:16, 2:8] = 1
    coarse[10:12, 2:4] = 0
    place = place_clip(plan(coarse), moving(truth), None, None, Cuts(truth))
    assert iou(place.mask, truth) > 0.9 and "sharpened" in place.notes[0]


def test_a_rectangle_goes_along_and_stays_one() -> None:
    truth, roomy = path(3), path(3, y=8, side=16, notch=0)
    place = place_clip(plan(roomy[0]), moving(truth), None, None, None)
    assert place.mask is not None and iou(place.mask, roomy) > 0.75
    for mask in place.mask:
        x0, y0, x1, y1 = bounding_box(mask) or (0, 0, 0, 0)
        assert bool((mask[y0:y1, x0:x1] == 1).all()) and int(mask.sum()) == (y1 - y0) * (x1 - x0)


def test_the_way_of_something_does_not_go_along() -> None:
    """A mask of all places that a thing comes to holds more than the thing."""
    truth = path(6)
    place = place_clip(plan(truth.amax(0)), moving(truth), None, None, None)
    own = plan_region(plan(truth.amax(0)), SIZE, SIZE).mask
    assert own is not None and place.mask is not None
    assert torch.equal(place.mask, own.expand(COUNT, -1, -1))
    assert any("does not move as one thing" in note for note in place.notes)


def test_a_plan_that_asks_for_room_gets_it_where_the_thing_is() -> None:
    truth, roomy = path(4), path(4, y=8, side=16, notch=0)
    place = place_clip(plan(roomy[0]), FRAMES, Finds(boxes_of(truth)), None, Cuts(truth))
    assert place.mask is not None and torch.equal(place.mask, roomy)


def moved(rectangle: Tensor, silhouette: Tensor, prompted: list[int]) -> Tensor:
    shape = (len(silhouette), *rectangle.shape)
    places = along(rectangle, Way.of(silhouette.__getitem__, shape), prompted)  # type: ignore[arg-type]
    return _drawn(places, 0, *shape)


def test_a_roomy_box_goes_along() -> None:
    truth, roomy = path(4), path(4, y=8, side=16, notch=0)
    of_frame = moved(roomy[0], truth, [0])
    assert torch.equal(of_frame[:, 8:24], roomy[:, 8:24])
    of_clip = moved(roomy.amax(0), truth, [0])  # a union in, the frames' own boxes out
    assert torch.equal(of_clip, roomy)
    gone = truth.clone()
    gone[3] = 0
    assert not moved(roomy[0], gone, [0])[3].any()
    still = path(0)
    assert torch.equal(moved(roomy[0], still, [0]), roomy[0].expand_as(still))


@pytest.mark.parametrize("edge", ["top", "bottom", "left", "right"])
def test_a_roomy_box_leaves_the_picture_with_its_thing(edge: str) -> None:
    """Of a thing that is half outside, what is seen lies within its first box in every frame: that box is no
    place of the whole clip, and goes as far as the thing's inner side."""
    silhouettes, boxes = torch.zeros(4, SIZE, SIZE), torch.zeros(4, SIZE, SIZE)
    for frame, top in enumerate((3, -1, -5, -8)):
        silhouettes[frame, max(0, top) : top + 10, 10:20] = 1
        boxes[frame, max(0, top - 3) : top + 13, 7:23] = 1
    turn = {"top": lambda m: m, "bottom": lambda m: m.flip(-2), "left": lambda m: m.mT,
            "right": lambda m: m.mT.flip(-1)}[edge]  # fmt: skip
    assert torch.equal(moved(turn(boxes[0]), turn(silhouettes), [0]), turn(boxes))


def test_a_roomy_box_keeps_its_room_around_what_grows_and_its_size_around_what_is_hidden() -> None:
    silhouettes, boxes = torch.zeros(3, SIZE, SIZE), torch.zeros(3, SIZE, SIZE)
    for frame, (low, high) in enumerate(((12, 20), (10, 24), (12, 16))):
        silhouettes[frame, low:high, low:high] = 1
        boxes[frame, low - 3 : high + 3, low - 3 : high + 3] = 1
    boxes[2] = boxes[0].roll((-2, -2), (0, 1))  # by its middle, as large as it was
    assert torch.equal(moved(boxes[0], silhouettes, [0]), boxes)


def test_the_pipeline_follows_as_it_is_told() -> None:
    truth = path(6)
    follows: Any = Follows(truth)
    pipe = Pipeline(None, Finds(boxes_of(truth)), Cuts(truth), None)  # type: ignore[arg-type]
    pipe._load_tracker = lambda: follows
    request = Request(FRAMES, "make it red")
    reasoned: Any = Reasoned("", 0, 0.0, trace=Trace("a cup", "red", "no", plan(truth.amax(0))))
    for how, asked in (("every-frame", 0), ("auto", 1)):
        planned = pipe.plan(request, reasoned, video=VideoSettings(track=how))  # type: ignore[arg-type]
        assert planned.mask is not None and torch.equal(planned.mask, truth)
        assert len(follows.asked) == asked
    planned = pipe.plan(request, reasoned, video=VideoSettings(track="plan"))
    own = plan_region(plan(truth.amax(0)), SIZE, SIZE).mask
    assert own is not None and planned.mask is not None
    assert torch.equal(planned.mask, own.expand(COUNT, -1, -1)) and bool(own.any())


def test_an_editor_that_is_lent_is_asked_while_it_is() -> None:
    lent: list[bool] = []

    class Inner:
        def edit(self, frames: Tensor, *_: Any, **__: Any) -> Edited:
            assert lent == [True]
            return unchanged(frames, ("painted",))

    class Lender:
        @contextmanager
        def use(self) -> Any:
            lent.append(True)
            yield Inner()
            lent.clear()

    edited = ClipEditor(Lender(), VideoSettings("anchors")).edit(FRAMES, "make it red", path(0))
    assert not lent and edited.notes[0] == "painted" and "by itself" in edited.notes[1]


def test_what_can_track_is_told_without_loading_it(tmp_path: Path) -> None:
    for kind in ("sam2_video", "sam2"):
        (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
        assert can_track(tmp_path) == (kind == "sam2_video")
    assert not can_track(tmp_path / "nothing.pt")


def test_steps_have_their_own_places_and_say_so() -> None:
    one, two = path(3), path(0, y=30)
    cup, ball = plan(one.amax(0)), plan(two[0], targets=("ball",))
    both = Plan.of_steps([cup, ball])
    boxes = [*boxes_of(one), *boxes_of(two, "ball")]
    placed = place_clip_steps(both, FRAMES, grounder=Finds(boxes), tracker=None, segmenter=Cuts(one + two))
    assert [box.step for each in placed for box in each.boxes] == [1] * COUNT + [2] * COUNT
    assert placed[1].mask is not None and torch.equal(placed[1].mask[:, 26:], two[:, 26:])
