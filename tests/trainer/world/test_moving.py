"""Solids on their ways: exact pictures, exact motion."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from trainer.world.moving import MovingScene, Way, flow, random_moving
from trainer.world.raytrace import view
from trainer.world.solid import PosedSolid, Solid, SolidScene, solid_hash
from trainer.world.solid_cameras import around, ring

BALL = Solid("ball", "red", "plain", "large", -1.2, 0.0)
BOX = Solid("box", "blue", "checkered", "small", 1.0, 1.0)
SCENE = SolidScene((BALL, BOX))


def test_at_the_beginning_nothing_has_moved() -> None:
    moving = MovingScene(SCENE, (Way(dx=1.0), Way(angle=1.0)))
    assert moving.at(0.0) == SCENE and solid_hash(moving.at(0.0)) == solid_hash(SCENE)
    assert moving.at(1.0).solids[0].x == pytest.approx(-0.2)
    with pytest.raises(ValueError, match="1 ways for 2 solids"):
        MovingScene(SCENE, (Way(),))


def test_a_turn_of_a_box_is_what_the_camera_would_see_from_aside() -> None:
    """Turned by 30 degrees about the middle of the world, seen from 30 degrees further: the same mask."""
    box = Solid("box", "blue", "plain", "large", 0.0, 0.0)
    turned = PosedSolid("box", "blue", "plain", "large", 0.0, 0.0, yaw=np.pi / 6)
    one = view(SolidScene((box,)), around(0.4, 0.5))
    other = view(SolidScene((turned,)), around(0.4 + np.pi / 6, 0.5))
    assert np.abs(one.coverage - other.coverage).max() <= 1 / 16
    whole = one.coverage[0] == 1
    assert np.allclose(one.depth[whole], other.depth[whole], atol=1e-9)
    plain = PosedSolid("box", "blue", "plain", "large", 0.0, 0.0)
    assert np.array_equal(view(SolidScene((plain,)), around(0.4, 0.5)).picture, one.picture)


def test_a_lifted_ball_hides_what_is_behind_it_no_more() -> None:
    up = PosedSolid("ball", "red", "plain", "large", -1.2, 0.0, lift=0.6)
    camera = around(0.0, 0.35)
    low, high = (view(SolidScene((ball,)), camera).coverage[0] for ball in (BALL, up))
    rows = np.arange(64)[:, None]
    assert (rows * high).sum() / high.sum() < (rows * low).sum() / low.sum() - 3
    assert np.allclose(low.sum(), high.sum(), rtol=0.15)


@pytest.mark.parametrize("way", [Way(dx=0.8, dy=0.2), Way(height=0.5), Way(dx=0.4, angle=1.2)])
def test_flow_leads_to_the_same_point(way: Way) -> None:
    """What is seen later where the flow leads has the same colour, but for light and the pixels' size."""
    moving = MovingScene(SCENE, (way, Way(angle=0.6)))
    camera = around(0.6, 0.5)
    found = flow(moving, camera, 0.0, 0.5)
    one, two = (view(moving.at(time), camera) for time in (0.0, 0.5))
    inside = (one.coverage[0] == 1) & found.seen
    assert inside.sum() > 20
    where = np.argwhere(inside)
    goes = where + 0.5 + found.pixels[inside][:, ::-1]
    rows, columns = np.floor(goes).astype(int).T
    assert (two.coverage[0][rows, columns] > 0).mean() > 0.98
    ground = (one.coverage.sum(0) == 0) & np.isfinite(one.depth)
    assert np.abs(found.pixels[ground]).max() < 1e-9, "the ground stays"
    assert not found.seen[~np.isfinite(one.depth)].any() and not found.pixels[~np.isfinite(one.depth)].any()


def test_what_gets_hidden_is_not_seen() -> None:
    """The box behind a ball that rolls before it."""
    ball = Solid("ball", "red", "plain", "large", 0.0, -1.2)
    box = Solid("box", "blue", "plain", "small", -1.25, 0.0)
    moving = MovingScene(SolidScene((ball, box)), (Way(dy=1.2), Way()))
    camera = around(0.0, 0.1)
    found = flow(moving, camera, 0.0, 1.0)
    one, two = (view(moving.at(time), camera) for time in (0.0, 1.0))
    lost = (one.coverage[1] == 1) & (two.coverage[0] == 1)
    assert lost.sum() > 10 and not found.seen[lost].any()
    back = flow(moving, camera, 0.0, 0.0)
    assert np.abs(back.pixels).max() < 1e-9 and back.seen[np.isfinite(one.depth)].all()


def test_another_camera_sees_the_motion_of_both() -> None:
    moving = MovingScene(SCENE, (Way(), Way()))
    first, second = ring(8)[0], ring(8)[1]
    found = flow(moving, first, 0.0, 1.0, second)
    assert np.abs(found.pixels[found.seen]).mean() > 3
    same = flow(moving, first, 0.0, 1.0)
    assert np.abs(same.pixels).max() < 1e-9


def test_an_edit_keeps_the_ways() -> None:
    moving = MovingScene(SCENE, (Way(dx=1.0), Way(angle=1.0)))
    blue = replace(BALL, colour="cyan")
    assert moving.edited(SCENE.swap(BALL, blue)).ways == moving.ways
    assert moving.edited(SCENE.swap(BALL, None)).ways == (Way(angle=1.0),)
    new = Solid("cone", "green", "plain", "small", 0.0, 0.0)
    more = replace(SCENE, solids=(*SCENE.solids, new))
    assert moving.edited(more).ways == (*moving.ways, Way())


def test_random_ones_move_and_keep_apart() -> None:
    for seed in range(20):
        moving = random_moving(random.Random(seed))
        assert not all(way.still for way in moving.ways)
        assert len(moving.ways) < 3 or any(way.still for way in moving.ways)
        for time in (0.0, 0.5, 1.0):
            solids = moving.at(time).solids
            assert all(max(abs(s.x), abs(s.y)) <= 1.4 for s in solids)
    assert random_moving(random.Random(3)) == random_moving(random.Random(3))
