"""The schedules of a scene that moves: what is not selected keeps its bits, a stopped one goes on, and what
is carried from view to view is what the scene would show there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from test_edit_in_time import GREEN, RED_ONES, rising
from test_scene_job import SIZE
from torch import Tensor

from evlm.errors import Cancelled
from evlm.scene.edit import EditView, SceneEdit, edit_rows, edit_views
from evlm.scene.edit.carry import carry
from evlm.scene.edit.journal import FolderJournal
from evlm.scene.edit.pseudo_views import clips_of
from evlm.scene.moving import views_in_time
from evlm.scene.raster import Rendering, rasterize

IN_TIME = ("canonical", "iterative", "pseudo3d")
GREY = torch.full((3,), 0.5)


@cache
def views() -> tuple[EditView, ...]:
    """Two places at three times."""
    moving = rising()
    assert moving.motion is not None
    pairs = views_in_time(moving.cameras, moving.motion, 6, 3)
    found = edit_views(moving.gaussians, RED_ONES, pairs, background=GREY, motion=moving.motion)
    assert len(found) == 6
    return tuple(found)


class Stained:
    """Paints green with a stain of each draw, place and time, and keeps half of what it is shown as its
    strength says; it can break off."""

    together = 2

    def __init__(self, left: int | None = None) -> None:
        self.left, self.asked = left, []  # type: ignore[var-annotated]

    def paint(
        self, seen: Sequence[EditView], current: Sequence[Tensor], strength: float, draw: int
    ) -> list[Tensor]:
        if self.left is not None and len(self.asked) >= self.left:
            raise Cancelled
        self.asked.append((strength, draw, [(each.camera.name, each.camera.time) for each in seen]))
        made = []
        for view, shown in zip(seen, current, strict=True):
            number = 100 * draw + 10 * int(view.camera.name) + round(4 * (view.camera.time or 0))
            stain = 0.1 * torch.randn(3, generator=torch.Generator().manual_seed(number))
            keeps = 0.5 * (1 - strength)
            made.append(((1 - keeps) * (GREEN + stain) + keeps * shown).clamp(0, 1))
        return made


def settings(schedule: str) -> SceneEdit:
    some = SceneEdit(strengths=(1.0, 0.6, 0.3), steps=2, updates=1.5, settled=0, longest=SIZE)
    return replace(some, schedule=schedule)  # type: ignore[arg-type]


def edited(
    schedule: str, painter: Stained, journal: FolderJournal | None = None, every: int = 2
) -> dict[str, Tensor]:
    moving = rising()
    how = replace(settings(schedule), every=every)
    found, _ = edit_rows(
        moving.gaussians, RED_ONES, views(), painter, how, GREY, 2.0, journal, motion=moving.motion
    )
    return found.tensors()


@pytest.mark.parametrize("schedule", IN_TIME)
def test_the_thing_turns_green_at_every_time_and_the_rest_keeps_its_bits(schedule: str) -> None:
    moving, after = rising(), edited(schedule, Stained(), every=20 if schedule == "iterative" else 40)
    for name, tensor in moving.gaussians.tensors().items():
        assert torch.equal(after[name][~RED_ONES], tensor[~RED_ONES])
    was, now = moving.gaussians, replace(moving.gaussians, **after)
    assert moving.motion is not None
    for time in (0.25, 1.0):
        camera = replace(moving.cameras[0], time=time)
        inside = rasterize(moving.at(time), camera, channels=RED_ONES.float()[:, None]).image[..., 0] > 0.9
        before, there = (
            (rasterize(moving.motion.at(each, time), camera, GREY).image[inside] - GREEN).abs().mean()
            for each in (was, now)
        )
        assert int(inside.sum()) > 8 and there < 0.6 * before


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("schedule", IN_TIME)
def test_stopped_at_any_painting_it_goes_on_to_the_same_bits(
    schedule: str, few: bool, tmp_path: Path
) -> None:
    painter = Stained()
    whole = edited(schedule, painter)
    count = len(painter.asked)
    for stop in (1, count // 2 + 1) if few else range(count):
        journal = FolderJournal(tmp_path / f"{stop}", "a")
        with pytest.raises(Cancelled):
            edited(schedule, Stained(stop), journal)
        rest = Stained()
        again = edited(schedule, rest, journal)
        assert len(rest.asked) == len(painter.asked) - stop
        assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_iterative_paints_every_time_as_often_and_none_twice_in_turn() -> None:
    painter = Stained()
    edited("iterative", painter)
    pairs = [asked[0] for _, _, asked in painter.asked]
    assert len(pairs) == 9 and len(set(pairs[:6])) == 6  # each pair once before any comes again
    for first in (0, 3, 6):
        assert {time for _, time in pairs[first : first + 3]} == {0, 0.5, 1}


def test_pseudo3d_paints_one_places_clip_first() -> None:
    painter = Stained()
    edited("pseudo3d", painter)
    key = views()[clips_of(views())[0][0]].camera.name
    assert [asked for _, _, asked in painter.asked[:2]] == [[(key, 0), (key, 0.5)], [(key, 1)]]
    assert all(name != key for _, _, asked in painter.asked[2:4] for name, _ in asked)
    assert [strength for strength, _, _ in painter.asked] == [1, 1, 0.5, 0.5, 0.3, 0.3, 0.3, 0.3]


@pytest.mark.parametrize(("other", "apart"), [(1, 0.04), (2, 0.01), (3, 0.04)])
def test_a_painting_is_carried_to_where_the_scene_shows_it(other: int, apart: float) -> None:
    """Of another place, of another time, of both: a ball with a gradient over it, painted as the scene shows
    it, is carried to nearly what the other view shows; at the same pixels it would be something else."""
    moving = rising()
    assert moving.motion is not None
    motion, shaded = moving.motion, moving.gaussians.map(Tensor.clone)
    shaded.sh[:, 0] = (shaded.means - shaded.means[RED_ONES].mean(0)) * 2
    pairs = [replace(moving.cameras[at], time=time) for time in (0.0, 0.5) for at in (0, 1)]
    seen = edit_views(moving.gaussians, RED_ONES, pairs, background=GREY, motion=motion)
    here, there = seen[other], seen[0]

    def shown(view: EditView) -> Tensor:
        at = motion.at(shaded, float(view.camera.time or 0))
        return rasterize(at, view.camera, GREY).image.detach()

    colours, known = carry(shaded, motion, there, shown(there), here)
    assert known.sum() > 0.3 * here.mask.sum() and not bool((known & ~here.mask).any())
    error, without = ((each - shown(here))[known].abs().mean() for each in (colours, shown(there)))
    assert error < apart and error < 0.75 * without
    assert not bool(colours[~known].any())


class NoDoubles(Tensor):
    """A tensor as on Apple's MPS."""

    def double(self) -> Tensor:  # type: ignore[override]
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self) -> Tensor:  # type: ignore[override]
        return self.as_subclass(Tensor)


def test_a_painting_is_carried_on_a_device_without_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    moving, (there, here) = rising(), views()[:2]
    assert moving.motion is not None
    painting = torch.rand(there.source.shape, generator=torch.Generator().manual_seed(0))
    plain = carry(moving.gaussians, moving.motion, there, painting, here)

    def drawn(*args: Any, **kwargs: Any) -> Rendering:
        seen = rasterize(*args, **kwargs)
        image, alpha, depth = (each.as_subclass(NoDoubles) for each in (seen.image, seen.alpha, seen.depth))
        return replace(seen, image=image, alpha=alpha, depth=depth)

    monkeypatch.setattr("evlm.scene.edit.carry.rasterize", drawn)
    there, here = (
        replace(each, source=each.source.as_subclass(NoDoubles), mask=each.mask.as_subclass(NoDoubles))
        for each in (there, here)
    )
    painted = painting.as_subclass(NoDoubles)
    for one, other in zip(carry(moving.gaussians, moving.motion, there, painted, here), plain, strict=True):
        assert torch.equal(one, other) and bool(other.any())
