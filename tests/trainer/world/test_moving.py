"""Solids on their ways: exact pictures, exact motion."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from trainer.world.moving import MovingScene, Way, flow, random_moving
from trainer.world.raytrace import meet, view
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


def test_a_squashed_solid_is_met_where_its_formula_says() -> None:
    """From above, half a radius beside its middle: an ellipsoid's height and normal; a box's lid."""
    ball = PosedSolid("ball", "red", "plain", "large", 0.0, 0.0, tall=1.3)
    r, eye, down = ball.radius, np.array([0.0, 0.0, 5.0]), np.array([0.0, 0.0, -1.0])
    hits = meet(ball, eye + np.array([0.5 * r, 0, 0]), down[None])
    top = 1.3 * r * (1 + np.sqrt(0.75))
    assert np.allclose(5 - hits.distance, top, atol=1e-12)
    normal = np.array([0.5, 0, np.sqrt(0.75) / 1.3])
    assert np.allclose(hits.normals, normal / np.linalg.norm(normal), atol=1e-12)
    assert np.allclose(hits.local, [[0.5, 0, np.sqrt(0.75)]], atol=1e-12), "its texture goes with it"
    box = PosedSolid("box", "blue", "plain", "large", 0.0, 0.0, yaw=0.4, tall=0.7)
    hits = meet(box, eye + np.array([0.1, 0.1, 0]), down[None])
    assert np.allclose(5 - hits.distance, 0.7 * 2 * box.radius, atol=1e-12)
    assert np.allclose(hits.normals, [[0, 0, 1]], atol=1e-12)


def test_flow_of_a_squash_leads_to_the_same_texture() -> None:
    ball = Solid("ball", "red", "striped", "large", 0.0, 0.0)
    moving = MovingScene(SolidScene((ball,)), (Way(squash=0.3),))
    grown = moving.at(0.25).solids[0]
    assert isinstance(grown, PosedSolid) and grown.tall == pytest.approx(1.3)
    camera = around(0.6, 0.3)
    found = flow(moving, camera, 0.0, 0.25)
    one, two = (view(moving.at(time), camera) for time in (0.0, 0.25))
    inside = (one.coverage[0] == 1) & found.seen
    goes = np.argwhere(inside) + 0.5 + found.pixels[inside][:, ::-1]
    assert found.pixels[inside][:, 1].min() < -2, "its top rises by some pixels"
    rows, columns = np.floor(goes).astype(int).T
    assert (two.coverage[0][rows, columns] > 0).mean() > 0.98
    before, after = (each.picture.astype(float).sum(-1) for each in (one, two))
    moved, stood = after[rows, columns] - before[inside], after[inside] - before[inside]
    assert np.abs(moved).mean() < 0.7 * np.abs(stood).mean()
