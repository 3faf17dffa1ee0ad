"""Edits that change a shape: rows come and go in the selection, others keep their bits and their order."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from test_scene_edit import SKY, Green, blob, cameras, scene
from torch import Tensor

from evlm.errors import Cancelled, SceneError
from evlm.plan.operation import operation
from evlm.plan.trace import Plan
from evlm.scene import Camera, Gaussians
from evlm.scene.camera import looking_at, pinhole
from evlm.scene.edit import EditView, SceneEdit, edit_shape, edit_views
from evlm.scene.edit.holes import balls, closing
from evlm.scene.edit.journal import FolderJournal
from evlm.scene.edit.places import Place, around, lifted
from evlm.scene.edit.reshape import reshaped
from evlm.scene.edit.settings import SCHEDULES
from evlm.scene.edit.views import seen
from evlm.scene.gaussians import joined
from evlm.scene.raster import rasterize

GROWS = SceneEdit(strengths=(1.0,), steps=5, every=3, updates=2.0, sweeps=1, settled=0, growth=1.5)
FLOOR = -0.5  # its height


@cache
def room() -> tuple[Gaussians, Tensor]:
    """A grey floor with a hole in its middle, a red ball over that, and which rows are the ball."""
    grid = torch.cartesian_prod(torch.linspace(-2, 2, 21), torch.linspace(-2, 2, 21))
    grid = grid[grid.norm(dim=1) > 0.55]
    points = torch.cat([grid, torch.full((len(grid), 1), FLOOR)], 1)
    red = blob(60, (0, 0, 0), (0.8, 0.1, 0.1))
    red = replace(red, means=red.means * 0.8 + torch.tensor([0.0, 0.0, FLOOR + 0.3]))
    floor = balls(red, points, torch.full((len(points), 3), 0.4), 0.13, 0.97)
    return joined([floor, red]), torch.arange(len(floor) + 60) >= len(floor)


@cache
def high() -> tuple[Camera, ...]:
    """Four cameras that look down from 45 degrees."""
    up, turns = torch.tensor([0.0, 0.0, 1.0]), [math.pi / 2 * at for at in range(4)]
    eyes = [torch.tensor([2.2 * math.cos(turn), 2.2 * math.sin(turn), 2.2]) for turn in turns]
    return tuple(Camera(looking_at(eye, torch.zeros(3), up), pinhole(48, 48, 48), 48, 48) for eye in eyes)


@cache
def views() -> list[EditView]:
    return edit_views(*scene(), cameras(), background=SKY)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_rows_grow_inside_the_selection_alone(schedule: str) -> None:
    gaussians, selection = scene()
    settings = replace(GROWS, schedule=schedule)  # type: ignore[arg-type]
    edited = edit_shape(gaussians, selection, views(), Green(0.3), settings, SKY)
    old, new = edited.home >= 0, edited.home < 0
    assert bool(new.any()) and int(edited.changed.sum()) <= 45  # 30 were selected
    assert not bool((new[1:] < new[:-1]).any()) and bool((edited.home[old].diff() > 0).all())  # new ones last
    assert torch.equal(edited.changed, new | selection[edited.home.clamp(min=0)])
    kept = edited.gaussians.rows(~edited.changed)
    for name, tensor in gaussians.rows(~selection).tensors().items():
        assert torch.equal(kept.tensors()[name], tensor)


def test_any_seed_grows() -> None:
    """The largest that EVLM Edit Scene takes; a generator takes less than it and a step together."""
    grown = [
        edit_shape(*scene(), views(), Green(0.3), replace(GROWS, schedule="direct", seed=seed), SKY).gaussians
        for seed in (2**63 - 1, 2**63 - 2)
    ]
    assert len(grown[0]) != len(grown[1]) or not torch.equal(grown[0].means, grown[1].means)


@pytest.mark.parametrize(
    "schedule",
    [pytest.param(s, marks=() if s in ("consistent", "in2n") else pytest.mark.slow) for s in SCHEDULES],
)
def test_stopped_while_it_grows_it_goes_on_to_the_same_bits(schedule: str, tmp_path: Path) -> None:
    settings = replace(GROWS, schedule=schedule, strengths=(1.0, 0.5))  # type: ignore[arg-type]
    told: list[int] = []
    whole = edit_shape(*scene(), views(), Green(0.3), settings, SKY, on_progress=lambda *_: told.append(0))
    for stop in (len(told) // 2,) if schedule != "consistent" else (len(told) // 2, len(told) - 2):
        journal, left = FolderJournal(tmp_path / str(stop), "one"), [stop]

        def tell(*_: object, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == 0:
                raise Cancelled

        with pytest.raises(Cancelled):
            edit_shape(*scene(), views(), Green(0.3), settings, SKY, journal=journal, on_progress=tell)
        again = edit_shape(*scene(), views(), Green(0.3), settings, SKY, journal=journal)
        assert torch.equal(again.home, whole.home)
        for name, tensor in whole.gaussians.tensors().items():
            assert torch.equal(again.gaussians.tensors()[name], tensor), name


def test_a_hole_in_a_floor_is_closed_by_floor() -> None:
    gaussians, ball = room()
    floor = gaussians.rows(~ball)
    masks = [seen(gaussians, ball, camera) for camera in high()]
    new = closing(floor, high(), masks, 100)
    assert 5 < len(new) <= 100
    off, away = (new.means[:, 2] - FLOOR).abs(), new.means[:, :2].norm(dim=1)
    assert off.max() < 0.13 and away.max() < 1.0  # within the floor, whose Gaussians are that thick
    assert (new.colours - 0.4).abs().max() < 0.15
    hole = [
        masked & (rasterize(floor, camera).alpha < 0.3) for masked, camera in zip(masks, high(), strict=True)
    ]
    assert sum(int(each.sum()) for each in hole) > 10
    whole = joined([floor, new])
    for each, camera in zip(hole, high(), strict=True):
        if bool(each.any()):
            assert (rasterize(whole, camera).alpha[each] > 0.5).float().mean() > 0.8
    assert len(closing(floor, high(), masks, 6)) <= 6
    aside = floor.rows(floor.means[:, 1] < -1.5)
    assert len(closing(aside, high()[:1], masks[:1], 100)) == 0  # only the background is around it


def test_what_goes_and_what_comes_by_the_kind_of_edit() -> None:
    gaussians, ball = room()
    count, looks = int(ball.sum()), high()
    gone = reshaped("remove", gaussians, ball, looks, None, SKY)
    new = gone.home < 0
    assert torch.equal(gone.selection, new) and torch.equal(gone.home[~new], (~ball).nonzero().flatten())
    assert all(bool((view.source - SKY).abs().max() > 0.2) for view in gone.views)  # the ball is still shown
    kept = reshaped("replace", gaussians, ball, looks, None, SKY)
    assert int(kept.selection.sum()) == count + int(new.sum())
    for wide, view in zip(kept.views, gone.views, strict=True):
        assert bool(wide.mask[view.mask].all()) and wide.mask.sum() > view.mask.sum()
    place = Place(torch.tensor([0.8, 0.0, 0.0]).double(), 0.3)
    added = reshaped("add", gaussians, torch.zeros_like(ball), looks, None, SKY, place)
    assert torch.equal(added.home[: len(gaussians)], torch.arange(len(gaussians)))
    fresh = added.gaussians.rows(added.selection).means.double()
    assert len(fresh) and float((fresh - place.centre).norm(dim=1).max()) <= 0.3001
    same = reshaped("repaint", gaussians, ball, looks, None, SKY)
    assert torch.equal(same.selection, ball) and len(same.gaussians) == len(gaussians)
    with pytest.raises(SceneError, match="nothing would be left of it"):
        reshaped("remove", gaussians, torch.ones_like(ball), looks, None, SKY)


def test_a_place_in_a_picture_becomes_a_place_of_the_scene() -> None:
    gaussians, ball = room()
    floor, camera = gaussians.rows(~ball), high()[0]
    centre, radius = torch.tensor([0.2, -0.9, FLOOR + 0.3]).double(), 0.3
    room_of = Place(centre, radius).room(floor, camera)
    assert 0.01 < float(room_of.float().mean()) < 0.2
    found = lifted(floor, camera, room_of.float())
    assert (found.centre - centre).norm() < radius and abs(found.radius / radius - 1) < 0.4
    behind = Place(torch.tensor([-0.5, 0.0, FLOOR + 0.1]).double(), 0.2)  # the ball stands before it
    assert behind.room(gaussians, camera).sum() < behind.room(floor, camera).sum()
    whole = around(gaussians, ball)
    assert whole.centre[:2].norm() < 0.2 and 0.3 < whole.radius < 0.9
    with pytest.raises(SceneError, match="the plan's place is empty"):
        lifted(floor, camera, torch.zeros(48, 48))
    away = replace(camera, view=torch.diag(torch.tensor([-1.0, 1, -1, 1])).double() @ camera.view)
    with pytest.raises(SceneError, match="shows nothing that says how far"):
        lifted(floor, away, torch.ones(48, 48))


@pytest.mark.parametrize(
    "instruction, kind",
    [
        ("remove the red ball", "remove"),
        ("Please delete the cup.", "remove"),
        ("add a small red ball at the left", "add"),
        ("put a hat on him", "add"),
        ("replace the red ball with a blue box", "replace"),
        ("turn the dog into a cat", "replace"),
        ("turn his jacket into green", "repaint"),
        ("move the red ball left", "move"),
        ("make the red ball blue", "repaint"),
        ("address the ball", "repaint"),
    ],
)
def test_a_plan_says_what_kind_of_change_it_is(instruction: str, kind: str) -> None:
    assert operation(Plan(instruction, ("it",))) == kind
    assert operation(Plan(instruction, (), None, "global")) == "repaint"


def test_growth_below_one_is_refused() -> None:
    with pytest.raises(SceneError, match=r"growth 0\.5: expected 1 to 100"):
        SceneEdit(growth=0.5)
