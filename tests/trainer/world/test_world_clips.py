"""The world in motion: every truth is checked against what is drawn, never against itself."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from trainer.world.clip_reader import all_right, frames_right
from trainer.world.clips import EVERY, FRAMES, OPERATIONS, ClipEdit, Film, random_film
from trainer.world.edits import Edit, random_edit, recolour, remove
from trainer.world.paths import KINDS, Path, random_path
from trainer.world.render import render, silhouette
from trainer.world.scene import Scene, Thing, random_scene, scene_split


def clip(seed: int, op: str | None = None, number: int = 0) -> ClipEdit:
    rng = random.Random(seed)
    edit: Edit | None = None
    while edit is None:
        scene = random_scene(rng)
        edit = random_edit(rng, op or rng.choice(OPERATIONS), scene)
    return ClipEdit(random_film(rng, scene, number), edit)


def alone(path: Path, shape: str = "star", texture: str = "striped", cell: int = 4) -> Film:
    return Film(Scene((Thing(shape, "red", texture, "large", cell),)), (path,))


def test_the_first_frame_is_a_picture_of_the_world() -> None:
    for seed in range(20):
        film = clip(seed).film
        assert np.array_equal(film.render_frame(0), render(film.scene))
        for thing in film.scene.things:
            assert np.array_equal(film.masks(thing)[1][0], silhouette(thing))


def test_a_film_is_the_same_for_the_same_seed_and_moves() -> None:
    first, again = clip(3).film, clip(3).film
    assert first == again and np.array_equal(first.render(), again.render())
    assert first.render().shape == (FRAMES, 64, 64, 3)
    moving = sum(
        bool((clip(seed).film.render()[0] != clip(seed).film.render()[-1]).any()) for seed in range(20)
    )
    assert moving >= 18


def test_every_fifth_clip_has_a_cut_to_another_scene_of_its_split() -> None:
    for number in range(10):
        film = clip(number, number=number).film
        assert (film.cut is not None) == (number % EVERY == EVERY - 1)
        if film.cut is not None:
            assert film.after is not None and 0 < film.cut < film.frames
            assert film.after.scene.ground != film.scene.ground
            assert scene_split(film.after.scene) == scene_split(film.scene)
            assert np.array_equal(film.render_frame(film.cut), render(film.after.scene))
            for thing in film.scene.things:
                assert not film.masks(thing)[1][film.cut :].any()
            assert film.flow(film.cut - 1, film.cut)[1].all()


def test_paths_do_what_their_names_say() -> None:
    thing = Thing("star", "red", "plain", "large", 3)
    scene = Scene((thing, Thing("heart", "blue", "plain", "large", 5)))
    for kind in KINDS:
        for seed in range(10):
            path = random_path(random.Random(seed), scene, thing, kind)
            poses = [path.pose(thing, frame, FRAMES) for frame in range(FRAMES)]
            assert (poses[0].x, poses[0].y, poses[0].scale, poses[0].angle) == (*thing.centre(), 1.0, 0.0)
            assert 0.8 <= poses[-1].scale <= 1.25
            steps = [np.hypot(b.x - a.x, b.y - a.y) for a, b in pairwise(poses)]
            if kind == "still":
                assert max(steps) == 0
            elif kind == "linear":
                assert max(steps) - min(steps) < 1e-4 and sum(steps) > 15
            elif kind == "stop":
                assert min(steps) == 0 and sum(step == 0 for step in steps) >= 4 and sum(steps) > 15
            elif kind == "leave":
                film = Film(Scene((thing,)), (path,))
                seen = film.masks(thing)[0].any((1, 2))
                assert seen[0] and seen[-1] and not seen.all()
                assert (poses[-1].x, poses[-1].y) == thing.centre()
            else:
                straight = [np.linspace(a, b, FRAMES) for a, b in zip(thing.centre(), path.to, strict=True)]
                off = np.hypot(straight[0] - [p.x for p in poses], straight[1] - [p.y for p in poses])
                assert 2.5 < off.max() < 8.1


def test_a_turn_of_a_quarter_shows_the_cross_as_it_was_and_its_stripes_upright() -> None:
    film = alone(Path("still", (32, 32), turn=np.pi / 2), "cross")
    first, last = film.render_frame(0, 128), film.render_frame(FRAMES - 1, 128)
    bare = render(Scene(()), 128).astype(int)
    turned = np.rot90(first.astype(int) - bare, -1)
    apart = np.abs(turned - (last.astype(int) - bare))
    assert apart.mean() < 0.5  # the ground's slope and the sixteenths of rims are not turned
    assert apart.mean() < np.abs(first.astype(int) - last).mean() / 3  # the stripes are


def test_growth_changes_the_area_by_its_square() -> None:
    film = alone(Path("still", (32, 32), grow=1.25), "circle", "plain")
    whole = film.masks(film.scene.things[0], 256)[1].sum((1, 2))
    assert abs(whole[-1] / whole[0] - 1.25**2) < 0.02


def test_visible_and_whole_masks_agree_with_what_is_drawn() -> None:
    """What a thing's removal changes in a picture is where it is seen."""
    hidden = 0
    for seed in range(12):
        film = clip(seed).film
        for index, thing in enumerate(film.scene.things):
            visible, whole = film.masks(thing)
            assert not (visible & ~whole).any()
            hidden += int((whole & ~visible).any())
            paths = tuple(path for at, path in enumerate(film.paths) if at != index)
            without = replace(film, scene=film.scene.swap(thing, None), paths=paths)
            for frame in (0, 5, 10):
                changed = (film.render_frame(frame) != without.render_frame(frame)).any(-1)
                assert not (changed & ~_wider(whole[frame])).any()
                assert (changed | ~visible[frame]).mean() > 0.99
    assert hidden >= 5  # the world has occlusions at all


def _wider(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    around = [padded[1 + y : 65 + y, 1 + x : 65 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return np.logical_or.reduce(around)


def test_flow_carries_pixels_to_where_they_are_drawn_next() -> None:
    """Followed along the flow, what is not hidden has the colour that it had; both ways there and back."""
    apart, back_apart = [], []
    for seed in range(12):
        film = clip(seed).film
        film = replace(film, scene=replace(film.scene, weather="clear"))
        for frame in (2, 7, 12):
            flow, hidden = film.flow(frame, frame + 1, 128)
            back, _ = film.flow(frame + 1, frame, 128)
            shown = film.owners(frame, 128)
            good = (shown >= 0) & ~hidden & _inner(shown)
            rows, columns = np.nonzero(good)
            at = np.stack([columns, rows], 1) + 0.5 + flow[good]
            x, y = np.floor(at).astype(int).T.clip(0, 127)
            before, after = film.render_frame(frame, 128), film.render_frame(frame + 1, 128)
            apart.append(np.abs(before[good].astype(int) - after[y, x]).mean() if good.any() else 0.0)
            back_apart.append(np.abs(flow[good] + back[y, x]).mean() if good.any() else 0.0)
    assert np.mean(apart) < 9 and np.mean(back_apart) < 0.12  # nearest pixels, rims of patterns among them


def _inner(shown: np.ndarray) -> np.ndarray:
    padded = np.pad(shown, 2, constant_values=-2)
    size = len(shown)
    same = [
        padded[2 + y : 2 + y + size, 2 + x : 2 + x + size] == shown for y in (-2, 0, 2) for x in (-2, 0, 2)
    ]
    return np.logical_and.reduce(same)


def test_a_pan_moves_all_things_by_the_same() -> None:
    film = replace(alone(Path("still", (32, 32)), "circle"), pan=(9.0, -6.0))
    flow, hidden = film.flow(0, 1)
    mine = film.owners(0) == 0
    assert np.allclose(flow[mine & ~hidden], [0.6, -0.4], atol=1e-4) and not flow[~mine].any()


def test_an_occluder_hides_what_it_passes() -> None:
    still = Thing("circle", "blue", "plain", "small", 4)
    film = Film(
        Scene((Thing("square", "red", "plain", "large", 3), still)),
        (Path("still", (11, 32)), Path("still", (32, 32))),
    )
    crossing = replace(
        film, scene=Scene((still, film.scene.things[0])), paths=(film.paths[1], Path("linear", (53, 32)))
    )
    assert crossing.masks(still)[0][0].any() and not crossing.masks(still)[0][7].any()
    assert crossing.masks(still)[1][7].sum() == crossing.masks(still)[1][0].sum()
    _, hidden = crossing.flow(0, 7)
    assert hidden[crossing.masks(still)[0][0]].all()


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_reader_says_right_of_every_true_frame_and_wrong_of_every_source_frame(op: str) -> None:
    told = 0
    for number in (0, EVERY - 1):
        each = clip(number * 7 + 1, op, number)
        before, after = each.pictures()
        verdicts = frames_right(after, each)
        told += sum(verdict is not None for verdict in verdicts)
        assert False not in verdicts and all_right(after, each)
        assert True not in frames_right(before, each)
        regions = each.regions()
        if regions is not None:
            assert np.array_equal(before[~regions], after[~regions])
            assert (before != after).any((1, 2, 3)).sum() >= 3
    assert told >= 12


def test_one_wrong_frame_makes_a_clip_wrong() -> None:
    film = alone(Path("linear", (53, 32)), "heart", "plain")
    each = ClipEdit(film, recolour(film.scene, film.scene.things[0], "blue"))
    before, after = each.pictures()
    after[9] = before[9]
    assert frames_right(after, each)[9] is False and not all_right(after, each)
    with pytest.raises(ValueError, match="3 frames of a clip of 16"):
        frames_right(after[:3], each)


def test_what_no_clip_can_be_is_refused() -> None:
    scene = Scene((Thing("star", "red", "plain", "large", 4),))
    with pytest.raises(ValueError, match="0 paths for"):
        Film(scene, ())
    with pytest.raises(ValueError, match="no sign"):
        Film(replace(scene, sign="red"), (Path(),))
    film = Film(scene, (Path(),))
    with pytest.raises(ValueError, match="'move' in a clip"):
        ClipEdit(film, replace(remove(scene, scene.things[0]), op="move"))
    with pytest.raises(ValueError, match="another scene"):
        ClipEdit(film, remove(replace(scene, ground="sea"), scene.things[0]))
    with pytest.raises(IndexError, match="frame 16 of a clip of 16"):
        film.render_frame(16)
