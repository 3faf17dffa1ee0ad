"""Scenes that move: what stands still is found, the rest is followed, and a stop changes nothing."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from moving_pictures import BALL, ROLLING, pictures, points

from evlm.errors import Cancelled, SceneError
from evlm.scene import Gaussians
from evlm.scene.fit import FittingInTime, TimeFit, from_points
from evlm.scene.fit.losses import psnr
from evlm.scene.motion import HexPlane, Keys, RigidBases
from evlm.scene.raster import rasterize
from evlm.scene.select import moving as moving_rows
from evlm.scene.select import which_move
from trainer.world.moving import MovingScene, Way
from trainer.world.raytrace import SKY_RGB
from trainer.world.solid import Solid, SolidScene

SKY = SKY_RGB["blue"]


def begin(size: int = 24, views: int = 4, times: int = 4) -> tuple[Gaussians, list, list]:  # type: ignore[type-arg]
    cameras, shown, _ = pictures(ROLLING, views, times, size)
    return from_points(points(ROLLING, 300, size)), cameras, shown


def near_ball(gaussians: Gaussians) -> torch.Tensor:
    middle = torch.tensor([BALL.x, BALL.y, BALL.radius])
    return (gaussians.means - middle).norm(dim=1) < BALL.radius + 0.06


def test_the_rolling_ball_moves_and_the_box_stands() -> None:
    gaussians, cameras, shown = begin(48, 6)
    moving, notes = which_move(gaussians, cameras, shown)
    ball = near_ball(gaussians)
    assert not notes and moving[ball].float().mean() > 0.75
    box = (gaussians.means[:, :2] - torch.tensor([1.0, 0.8])).abs().amax(1) < 0.55
    assert moving[box & (gaussians.means[:, 2] > 0.1)].float().mean() < 0.1


def test_pictures_are_looked_at_one_by_one_and_by_lines_to_the_same_bits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Against the median of all of them at once; and no more than two whole pictures are there at a time."""
    draw = torch.Generator().manual_seed(0)
    still = torch.rand(23, 17, 3, generator=draw)
    seen = [(still + 0.04 * torch.randn(23, 17, 3, generator=draw)).clamp(0, 1) for _ in range(10)]
    clip, there, most = torch.stack(seen), [], []
    expected = ((clip - clip.median(0).values).abs().amax(-1) > moving_rows.CHANGED).any(0)
    assert 0 < int(expected.sum()) < expected.numel()

    def reader(number: int) -> Callable[[], torch.Tensor]:
        def read() -> torch.Tensor:
            picture = seen[number].clone()
            there.append(weakref.ref(picture))
            most.append(sum(each() is not None for each in there))
            return picture

        return read

    a_line = 10 * 17 * 3 * 4
    for lines, passes in ((23, 1), (100, 1), (10, 3), (1, 23), (0.5, 23)):
        monkeypatch.setattr(moving_rows, "HELD", int(lines * a_line))
        most.clear()
        assert torch.equal(moving_rows._changed([reader(n) for n in range(10)], torch.zeros(1)), expected)
        assert len(most) == 1 + 10 * passes and max(most) <= 2


def test_cameras_that_all_move_say_nothing() -> None:
    gaussians, cameras, shown = begin()
    once = [number for number, camera in enumerate(cameras) if camera.time == 0]
    moving, notes = which_move(gaussians, [cameras[n] for n in once], [shown[n] for n in once])
    assert moving.all() and "no camera stands still" in notes[0]


def fitting(settings: TimeFit, kind: str = "bases") -> FittingInTime:
    gaussians, cameras, shown = begin()
    moving = near_ball(gaussians)
    motion: RigidBases | HexPlane = RigidBases.begin(gaussians, moving, Keys.even(4), count=2)
    if kind == "hexplane":
        motion = HexPlane.begin(gaussians, moving, Keys.even(4))
    return FittingInTime(gaussians, motion, cameras, shown, settings)


# A field's fit is stopped below, its mathematics are in test_motion_planes.
@pytest.mark.parametrize("kind", ["bases", pytest.param("hexplane", marks=pytest.mark.slow)])
def test_the_ball_is_followed(kind: str) -> None:
    fit = fitting(TimeFit(iterations=200, background=SKY), kind)
    gaussians, motion = fit.run()
    assert fit.done == 200
    ball = near_ball(from_points(points(ROLLING, 300, 24)))
    gone = (motion.at(gaussians, 1.0).means - gaussians.means)[ball].mean(0)
    aside = 0.2 if kind == "bases" else 0.1  # a field learns slower than a few rigid motions
    assert gone[0] > 0.5 and gone[1] > aside, "the truth is .9, .4"
    rest = motion.at(gaussians, 1.0)
    assert torch.equal(rest.means[~motion.moving], gaussians.means[~motion.moving])
    held, truth, _ = pictures(ROLLING, 3, 4, 24, held_out=True)
    background, start = torch.tensor(SKY), fitting(TimeFit(iterations=1))
    with torch.no_grad():
        after, before = (
            sum(
                psnr(rasterize(m.at(g, float(c.time or 0)), c, background).image.clamp(0, 1), t())
                for c, t in zip(held, truth, strict=True)
            )
            / len(held)
            for g, m in ((gaussians, motion), (start.gaussians, start.motion))
        )
    assert after > before + 1.5


@pytest.mark.parametrize(("stop", "kind"), [(3, "bases"), (25, "hexplane")])
def test_a_stop_changes_no_byte(stop: int, kind: str, tmp_path: Path) -> None:
    settings, state = TimeFit(iterations=30, background=SKY), tmp_path / "state.safetensors"
    whole = fitting(settings, kind).run()

    def cancel(step: object) -> None:
        if getattr(step, "done", 0) == stop:
            raise Cancelled

    with pytest.raises(Cancelled):
        fitting(settings, kind).run(cancel, state, every=2)
    resumed = fitting(settings, kind)
    again = resumed.run(None, state, every=2)
    for one, other in zip(whole, again, strict=True):
        for name, tensor in one.tensors().items():
            assert torch.equal(tensor, other.tensors()[name]), name
    with pytest.raises(SceneError, match="the state of another fit"):
        fitting(replace(settings, seed=1), kind).run(None, state)
    state.write_bytes(state.read_bytes()[:200])
    with pytest.raises(SceneError, match="cannot be read"):
        fitting(settings, kind).run(None, state)


def test_what_does_not_fit_is_named() -> None:
    gaussians, cameras, shown = begin()
    motion = RigidBases.begin(gaussians, near_ball(gaussians), Keys.even(4))
    with pytest.raises(SceneError, match="has no time, nor have 3 others"):
        timeless = [replace(c, time=None) if n < 4 else c for n, c in enumerate(cameras)]
        FittingInTime(gaussians, motion, timeless, shown)
    with pytest.raises(SceneError, match="15 pictures for 16 cameras"):
        FittingInTime(gaussians, motion, cameras, shown[1:])
    with pytest.raises(SceneError, match="0 iterations"):
        FittingInTime(gaussians, motion, cameras, shown, TimeFit(iterations=0))


def test_a_plain_thing_moves_as_a_whole() -> None:
    """Inside of it no picture changes while it goes its own width; the floor around it stands."""
    tall = Solid("cylinder", "blue", "plain", "large", 0.0, 0.0)
    hopping = MovingScene(SolidScene((tall,)), (Way(height=0.4, hops=1),))
    cameras, shown, _ = pictures(hopping, 4, 4, 32)
    gaussians = from_points(points(hopping, 600, 32))
    moving, _ = which_move(gaussians, cameras, shown)
    mine = (gaussians.means[:, :2].norm(dim=1) < tall.radius + 0.02) & (gaussians.means[:, 2] > 0.1)
    assert int(mine.sum()) > 40 and moving[mine].float().mean() > 0.95
    assert moving[gaussians.means[:, 2] < 0.05].float().mean() < 0.2
