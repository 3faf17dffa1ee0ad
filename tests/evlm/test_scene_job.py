"""A scene from a request to an edited scene, with small steps of known behaviour."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from test_pipeline import Says
from torch import Tensor

from evlm.boxes import Box
from evlm.edit import Edited, EditSettings
from evlm.errors import Cancelled, SceneError
from evlm.pipeline import Pipeline
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan, Trace, render
from evlm.scene import Camera, Gaussians, SplatScene
from evlm.scene.camera import looking_at, pinhole
from evlm.scene.edit import SceneEdit
from evlm.scene.gaussians import SH_C0, joined
from evlm.scene.raster import rasterize
from evlm.scene_job import SceneJob
from evlm.segment.segmenter import Segmentation

SIZE, RED, BLUE = 32, (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)
QUICK = SceneEdit(views=4, longest=SIZE, strengths=(1.0,), steps=2)


def ball(x: float, colour: tuple[float, float, float], n: int = 40) -> Gaussians:
    draw = torch.Generator().manual_seed(n)
    way = torch.nn.functional.normalize(torch.randn(n, 3, generator=draw), dim=1)
    return Gaussians(
        means=torch.tensor([x, 0.0, 0.0]) + 0.4 * way,
        log_scales=torch.full((n, 3), math.log(0.12)),
        quats=torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        logits=torch.full((n,), 4.0),
        sh=((torch.tensor(colour) - 0.5) / SH_C0).expand(n, 1, 3).clone(),
    )


@cache
def scene() -> SplatScene:
    """A red ball and a blue one, side by side; the first of four cameras sees both."""
    up, eyes = torch.tensor([0.0, 0.0, 1.0]), []
    for turn in (0.0, 0.9, 1.57, 2.4):
        eyes.append(torch.tensor([3 * math.sin(turn), -3 * math.cos(turn), 1.0]))
    cameras = [
        Camera(looking_at(eye, torch.zeros(3), up), pinhole(34, SIZE, SIZE), SIZE, SIZE, name=f"{n}")
        for n, eye in enumerate(eyes)
    ]
    return SplatScene(joined([ball(-0.6, RED), ball(0.6, BLUE)]), tuple(cameras), background=(0.5, 0.5, 0.5))


def colour_mask(frame: Tensor, colour: tuple[float, float, float]) -> Tensor:
    return ((frame - torch.tensor(colour)).abs().amax(-1) < 0.25).float()


class Looks:
    """Finds what has the colour of the label; a view in `lies` gets the other ball's box."""

    def __init__(self, lies: int | None = None) -> None:
        self.lies, self.asked = lies, 0

    def ground(self, frames: Tensor, labels: Any, threshold: float | None = None) -> list[Box]:
        self.asked += 1
        found = []
        for label in labels:
            colour = RED if "red" in label else BLUE
            if self.asked == self.lies:
                colour = BLUE if colour == RED else RED
            rows, columns = torch.nonzero(colour_mask(frames[0], colour)).unbind(1)
            if len(rows):
                corners = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
                found.append(Box(label, 0.9, *map(float, corners)))
        return found


class Cuts:
    """What is of either colour within a box."""

    def segment(self, frames: Tensor, boxes: Any = None) -> Segmentation:
        either = colour_mask(frames[0], RED) + colour_mask(frames[0], BLUE)
        masks = torch.zeros(len(boxes), 1, *either.shape)
        for mask, box in zip(masks, boxes, strict=True):
            inside = slice(int(box.y0), int(box.y1)), slice(int(box.x0), int(box.x1))
            mask[0][inside] = either[inside]
        return Segmentation(masks, torch.ones(len(boxes)))


class Greens:
    """Paints the mask green, and counts; it can break off."""

    defaults = EditSettings(steps=3)

    def __init__(self, left: int | None = None, error: type[BaseException] = Cancelled) -> None:
        self.left, self.error, self.orders = left, error, []  # type: ignore[var-annotated]

    def edit(
        self, frames: Tensor, order: str, mask: Any = None, settings: Any = None, on: Any = None
    ) -> Edited:
        if self.left is not None and len(self.orders) >= self.left:
            raise self.error
        self.orders.append((order, len(frames)))
        green = torch.tensor([0.1, 0.8, 0.1]).expand_as(frames)
        return Edited(torch.where(mask[..., None] > 0, green, frames), frames[:0], None, ("painted",))


class Sees(Greens):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def edit(self, frames: Tensor, *rest: Any) -> Edited:
        self.seen += list(frames)
        return super().edit(frames, *rest)


def job(*steps: Plan, editor: Any = None, grounder: Any = None, **more: Any) -> SceneJob:
    text = render(Trace("a", "b", "c", Plan.of_steps(list(steps)) if len(steps) > 1 else steps[0]))
    pipeline = Pipeline(Says(text), grounder or Looks(), Cuts(), editor or Greens())
    return SceneJob(scene(), pipeline, "like this, maybe", settings=QUICK, **more)


def run(work: SceneJob) -> tuple[Any, SplatScene]:
    looks = work.looks()
    selections = work.select_all(work.reason(looks), looks)
    return selections, work.paint(selections, looks)


MAKE = Plan("make the red ball green", ("red ball",))


def test_the_plans_thing_changes_and_the_other_keeps_its_bits() -> None:
    work = job(MAKE)
    (selection,), edited = run(work)
    red = torch.arange(80) < 40
    assert selection.rows[red].float().mean() > 0.9 and not bool(selection.rows[~red].any())
    assert sum(mask is not None for mask in selection.masks) >= 3
    before, after = work.scene.gaussians.tensors(), edited.gaussians.tensors()
    assert all(torch.equal(after[name][~selection.rows], before[name][~selection.rows]) for name in before)
    shown = rasterize(edited.gaussians, scene().cameras[0], torch.full((3,), 0.5)).image
    was = rasterize(work.scene.gaussians, scene().cameras[0], torch.full((3,), 0.5)).image
    inside = colour_mask(was, RED) > 0
    assert (shown[inside] - torch.tensor([0.1, 0.8, 0.1])).abs().mean() < 0.12
    assert edited.selection is not None and torch.equal(edited.selection, selection.rows)
    assert "painted" in edited.notes


def test_a_view_that_shows_another_thing_abstains() -> None:
    work = job(MAKE, grounder=Looks(lies=2))
    (selection,), _ = run(work)
    assert "view 1: what was found there is another thing" in selection.notes and selection.masks[1] is None
    assert not bool(selection.rows[40:].any())


class Blind(Looks):
    """Finds what it looks for in the first view alone."""

    def ground(self, frames: Tensor, labels: Any, threshold: float | None = None) -> list[Box]:
        found = super().ground(frames, labels, threshold)
        return found if self.asked == 1 else []


def test_where_the_detector_finds_nothing_the_segmenter_is_shown_the_place() -> None:
    (selection,), _ = run(job(MAKE, grounder=Blind()))
    assert sum("the segmenter drew" in note for note in selection.notes) >= 2
    assert selection.rows[:40].float().mean() > 0.9 and not bool(selection.rows[40:].any())
    work = job(MAKE, grounder=Blind())
    work.pipeline.segmenter = Everything(work.pipeline.segmenter)
    (selection,), _ = run(work)
    assert any("far more than is expected" in note for note in selection.notes)
    assert not bool(selection.rows[40:].any())


class Everything:
    """Cuts rightly once, then takes all of the picture."""

    def __init__(self, first: Any) -> None:
        self.first, self.asked = first, 0

    def segment(self, frames: Tensor, boxes: Any = None) -> Segmentation:
        self.asked += 1
        found = self.first.segment(frames, boxes)
        return found if self.asked == 1 else Segmentation(torch.ones_like(found.masks), found.scores)


def test_where_the_selection_is_hidden_another_thing_is_still_told() -> None:
    """From behind the blue ball the red one is not seen: its mask there is of something else."""
    work, up = job(MAKE), torch.tensor([0.0, 0.0, 1.0])
    hidden = Camera(
        looking_at(torch.tensor([3.0, 0.0, 0.0]), torch.zeros(3), up), pinhole(34, SIZE, SIZE), SIZE, SIZE
    )
    away = replace(hidden, view=looking_at(torch.tensor([3.0, 0, 0]), torch.tensor([6.0, 0, 0]), up))
    core = torch.arange(80) < 40
    aside = torch.zeros(SIZE, SIZE)
    aside[:8] = 1  # the upper border
    picture = torch.zeros(SIZE, SIZE, 3)
    work._find = lambda *_: aside  # type: ignore[method-assign]
    assert work._mask_in(MAKE, core, hidden, picture) == (None, "what was found there is another thing")
    assert work._mask_in(MAKE, core, away, picture)[1] == "what the first view selects is not in it"


def test_steps_are_edited_one_after_the_other() -> None:
    editor = Greens()
    selections, edited = run(job(MAKE, Plan("make the blue ball green", ("blue ball",)), editor=editor))
    assert [order for order, _ in editor.orders] == ["make the red ball green", "make the blue ball green"]
    assert not bool((selections[0].rows & selections[1].rows).any())
    assert edited.selection is not None and int(edited.selection.sum()) > 70


def test_a_thing_is_removed_and_later_steps_find_their_rows() -> None:
    editor = Greens()
    work = job(
        Plan("remove the red ball", ("red ball",)),
        Plan("make the blue ball green", ("blue ball",)),
        editor=editor,
    )
    (gone, painted), edited = run(work)
    assert gone.operation == "remove" and gone.rows[:40].float().mean() > 0.9
    assert work.home is not None and torch.equal(work.home[work.home >= 0], (~gone.rows).nonzero().flatten())
    assert len(edited) == len(work.home) and edited.selection is not None
    stays = ~edited.selection
    for name, tensor in edited.gaussians.tensors().items():
        assert torch.equal(tensor[stays], work.scene.gaussians.tensors()[name][work.home[stays]])
    assert torch.equal(edited.selection, (work.home < 0) | painted.rows[work.home.clamp(min=0)])
    before, after = (
        sum(
            float(colour_mask(rasterize(each, camera, torch.full((3,), 0.5)).image, RED).sum())
            for camera in scene().cameras
        )
        for each in (work.scene.gaussians, edited.gaussians)
    )
    assert before > 100 and after < 0.05 * before


def test_of_every_view_that_is_looked_at_is_told_and_it_can_be_stopped_there() -> None:
    told: list[tuple[str, int, int]] = []

    def tell(what: str, done: int, total: int, picture: Tensor | None) -> None:
        told.append((what, done, total))
        assert done <= total and (picture is None or picture.shape == (SIZE, SIZE, 3))
        if len(told) == stop:
            raise Cancelled

    def replacing() -> SceneJob:
        return job(Plan("replace the red ball with a green box", ("red ball",)), on_work=tell)

    stop = 0
    run(replacing())
    looked, prepared = ([each for each in told if each[0] == what] for what in ("look", "prepare"))
    assert looked == [("look", at, 4) for at in (1, 2, 3, 4)] == told[:4]
    assert prepared == [("prepare", at, 16) for at in range(16)]  # room, mask, hole and view, of four cameras
    at = told.index(("prepare", 0, 16))
    for stop in (2, 7, at + 3, at + 7, at + 11, at + 15):
        told.clear()
        with pytest.raises(Cancelled):
            run(replacing())
        assert len(told) == stop


def test_a_step_about_what_an_earlier_one_took_away_is_left_out() -> None:
    work = job(
        Plan("remove the red ball", ("red ball",)),
        Plan("make the red ball green", ("red ball",)),
        Plan("make the blue ball green", ("blue ball",)),
        editor=Greens(),
    )
    (gone, again, _), edited = run(work)
    assert torch.equal(gone.rows & again.rows, again.rows), "what is repainted goes before"
    assert "step 2: an earlier step took away what it is about; it is left out" in work.notes
    assert edited.selection is not None and len(edited) == len(edited.selection)


def test_something_is_added_where_the_plans_box_stands() -> None:
    box = torch.zeros(SIZE, SIZE)
    box[20:30, 4:14] = 1  # below the red ball
    plan = Plan("add a green ball at the left", ("green ball",), BoxSpans().encode(box))
    editor = Greens()
    work = job(plan, editor=editor)
    (added,), edited = run(work)
    assert added.operation == "add" and not bool(added.rows.any()) and added.place is not None
    assert editor.orders and work.home is not None
    assert torch.equal(work.home[:80], torch.arange(80)) and bool((work.home[80:] < 0).all())
    for name, tensor in edited.gaussians.tensors().items():
        assert torch.equal(tensor[:80], work.scene.gaussians.tensors()[name])
    shown = rasterize(edited.gaussians, scene().cameras[0], torch.full((3,), 0.5)).image
    assert colour_mask(shown, (0.1, 0.8, 0.1))[20:30, 4:14].mean() > 0.3


def test_a_whole_scene_and_no_change() -> None:
    (selection,), _ = run(job(Plan("change the weather to night", (), None, "global")))
    assert bool(selection.rows.all())
    work = job(Plan("keep the picture as it is", ()))
    looks = work.looks()
    assert work.select_all(work.reason(looks), looks) == []
    assert work.paint([], looks).gaussians is work.scene.gaussians


def test_photographs_are_edited_where_there_are_some() -> None:
    """Each has a corner of its own grey, which no rendering has. Of what was made of them they are none: a
    second edit begins from what the first has made."""

    def taken(n: int) -> Tensor:
        camera = scene().cameras[n].within(2 * SIZE)
        picture = rasterize(scene().gaussians, camera, torch.full((3,), 0.5)).image.clamp(0, 1)
        picture[:6, :6] = 0.1 * n
        return picture

    editor = Sees()
    work = job(MAKE, editor=editor)
    work.scene = replace(scene(), photographs=tuple((lambda n=n: taken(n)) for n in range(4)))
    looks = work.looks()
    corners = [round(float(picture[0, 0, 0]), 1) for picture in looks.pictures]
    assert looks.photographed and {tuple(p.shape) for p in looks.pictures} == {(SIZE, SIZE, 3)}
    assert sorted(corners) == [0.0, 0.1, 0.2, 0.3]
    edited = work.paint(work.select_all(work.reason(looks), looks), looks)
    assert sorted(round(float(frame[0, 0, 0]), 1) for frame in editor.seen) == sorted(corners)
    again = job(MAKE)
    again.scene = edited
    assert not again.looks().photographed
    green = colour_mask(again.looks().pictures[0], (0.1, 0.8, 0.1)).sum()
    assert green > 20 and not bool(colour_mask(again.looks().pictures[0], RED).sum() > green / 4)
    assert work.paint([], looks).photographs is work.scene.photographs


def test_a_mask_that_is_given_takes_the_place_of_the_plans() -> None:
    looks = job(MAKE).looks()
    given = colour_mask(looks.pictures[0], BLUE)[None]
    work = job(MAKE, mask=given)
    work.pipeline.grounder = None
    (selection,), _ = run(work)
    assert not bool(selection.rows[:40].any()) and bool(selection.rows[40:].any())


def test_what_cannot_be_is_said() -> None:
    work = job(MAKE)
    work.scene = SplatScene(scene().gaussians)
    with pytest.raises(SceneError, match="no cameras: give its file of cameras, or cameras='orbit:24'"):
        work.looks()
    corner = torch.zeros(SIZE, SIZE)
    corner[:6, :6] = 1
    empty = Plan("make the red ball green", ("red ball",), BoxSpans().encode(corner))
    nowhere = job(empty)
    nowhere.pipeline.grounder = nowhere.pipeline.segmenter = None
    looks = nowhere.looks()
    with pytest.raises(SceneError, match="no Gaussian lies in the masks of red ball"):
        nowhere.select_all(nowhere.reason(looks), looks)
