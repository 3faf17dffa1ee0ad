"""Scenes and pictures: the same bytes everywhere, splits that share nothing, looks that differ."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import asdict
from itertools import combinations, product

import numpy as np
import pytest

from trainer.world.questions import ask
from trainer.world.render import (
    optical_flow,
    place_box,
    render,
    render_frames,
    silhouette,
    thing_alpha,
)
from trainer.world.scene import (
    COLOURS,
    GROUNDS,
    SHAPES,
    SIZES,
    SPLITS,
    STYLES,
    TEXTURES,
    WEATHERS,
    Scene,
    Thing,
    composition_split,
    random_scene,
    scene_hash,
    scene_split,
)

LOOKS = list(product(SHAPES, COLOURS, TEXTURES))


def digest(scene: Scene, size: int = 64, frame: int = 0) -> str:
    return hashlib.sha256(render(scene, size, frame).tobytes()).hexdigest()[:16]


EVERY_SHAPE = Scene(
    tuple(
        Thing(s, c, TEXTURES[i % 4], SIZES[i % 2], i)
        for i, (s, c) in enumerate(zip(SHAPES, COLOURS, strict=True))
    )
)
KNOWN = {
    "every shape": (EVERY_SHAPE, 64, "fbd5bbd06a003c6e"),
    "every shape, 96 px": (EVERY_SHAPE, 96, "68a5bfcb3a8dad35"),
    "a sign at night": (
        Scene((Thing("star", "pink", "dotted", "small", 2, 3, -2),), "sea", "night", sign="purple"),
        64,
        "928e98af1dcfd386",
    ),
    "a large sign in fog": (Scene((), "sand", "fog", sign="green", sign_large=True), 128, "ea8fcf295a044b4b"),
    "rain as a sketch": (
        Scene((Thing("ring", "red", "striped", "large", 4),), "grass", "rain", "sketch"),
        64,
        "030d3fb2066196f3",
    ),
    "snow in sepia": (
        Scene((Thing("heart", "blue", "plain", "large", 0),), "sand", "snow", "sepia"),
        64,
        "728cd1c708c8b310",
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_scene_draws_the_same_bytes_on_every_machine(name: str) -> None:
    scene, size, known = KNOWN[name]
    assert digest(scene, size) == known


def test_a_seed_draws_the_same_scene_everywhere() -> None:
    assert [
        scene_hash(random_scene(random.Random(s), sign=sign))
        for s, sign in ((0, None), (1, None), (2, "red"))
    ] == [
        "0b20fa259c922073",
        "14dad5654c64f842",
        "370aafc836498b5a",
    ]


def test_scenes_have_different_labels_in_different_places() -> None:
    rng = random.Random(1)
    for _ in range(500):
        scene = random_scene(rng, sign=rng.choice((None, "red")))
        cells = [t.cell for t in scene.things]
        assert 2 <= len(cells) <= 4 and len(set(cells)) == len(cells) and cells == sorted(cells)
        assert len({t.label for t in scene.things}) == len(scene.things)
        assert not (scene.sign and {6, 7} & set(cells))


def test_an_eighth_of_the_compositions_is_held_out_twice_and_every_pair_is_still_trained() -> None:
    split = {look: composition_split(look) for look in LOOKS}
    assert [sum(s == name for s in split.values()) for name in SPLITS] == [192, 32, 32]
    for i, j in combinations(range(3), 2):
        of_train = {(look[i], look[j]) for look in LOOKS if split[look] == "train"}
        assert of_train == {(look[i], look[j]) for look in LOOKS}


def test_a_scenes_hash_is_that_of_all_its_fields() -> None:
    for seed in range(20):
        scene = random_scene(random.Random(seed), sign=COLOURS[0] if seed % 2 else None, moving=seed % 3 == 0)
        text = json.dumps(asdict(scene), sort_keys=True)
        assert scene_hash(scene) == hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def test_questions_keep_to_their_split() -> None:
    scenes: dict[str, set[str]] = {}
    trained: set[tuple[str, str, str]] = set()
    for split, count in (("train", 800), ("validation", 60), ("test", 60)):
        questions = [ask(random.Random(f"{split} {i}"), split) for i in range(count)]  # type: ignore[arg-type]
        scenes[split] = {scene_hash(q.edit.source) for q in questions}
        assert {scene_split(q.edit.source) for q in questions} == {split}
        for question in questions:
            looks = [t.look for t in (question.edit.target, question.edit.outcome) if t is not None]
            homes = {composition_split(look) for look in looks}
            if split == "train":
                assert homes <= {"train"}
                trained.update(looks)
            else:
                assert not looks or split in homes  # what is asked was never asked in training
                assert homes <= {"train", split}
    assert not any(a & b for a, b in combinations(scenes.values(), 2))
    for i, j in combinations(range(3), 2):
        assert {(look[i], look[j]) for look in trained} == {(look[i], look[j]) for look in LOOKS}


@pytest.mark.parametrize("size", SIZES)
def test_no_two_looks_draw_alike(size: str) -> None:
    pictures = [render(Scene((Thing(*look, size, 4),))).astype(int) for look in LOOKS]
    flat = np.stack([p[20:44, 20:44].ravel() for p in pictures])
    for i in range(len(flat) - 1):
        clearly = (abs(flat[i + 1 :] - flat[i]) > 40).sum(1)
        assert clearly.min() >= 12, (LOOKS[i], LOOKS[i + 1 + int(clearly.argmin())])


@pytest.mark.parametrize(("field", "values"), [("ground", GROUNDS), ("weather", WEATHERS), ("style", STYLES)])
def test_no_two_grounds_weathers_or_styles_draw_alike(field: str, values: tuple[str, ...]) -> None:
    things = (Thing("star", "red", "striped", "large", 0), Thing("ring", "blue", "plain", "small", 5))
    pictures = [render(Scene(things, **{field: value})).astype(int) for value in values]  # type: ignore[arg-type]
    for a, b in combinations(pictures, 2):
        assert abs(a - b).mean() > 3


def test_a_thing_lies_in_its_place_and_never_on_another() -> None:
    rng = random.Random(2)
    for _ in range(60):
        scene = random_scene(rng, moving=True)
        for size, frame in ((64, 0), (64, 3), (96, 2)):
            covered = np.zeros((size, size), int)
            for thing in scene.things:
                x0, y0, x1, y1 = place_box(thing, size, frame)
                alpha = thing_alpha(thing, size, frame)
                taken = np.zeros((size, size), bool)
                taken[y0:y1, x0:x1] = True
                assert not alpha[~taken].any(), thing
                assert silhouette(thing, size, frame).any()
                covered += alpha > 0
            assert covered.max() == 1


def test_a_larger_picture_shows_the_same_scene() -> None:
    scene = random_scene(random.Random(5), weather="clear")
    large = render(scene, 128).astype(float).reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert abs(large - render(scene, 64)).mean() < 1.5


def test_a_video_is_its_frames_and_a_still_thing_does_not_move() -> None:
    moving, still = random_scene(random.Random(3), moving=True), random_scene(random.Random(3))
    frames = render_frames(moving, 64, 4)
    assert frames.shape == (4, 64, 64, 3) and frames.dtype == np.uint8
    assert all((frames[f] == render(moving, 64, f)).all() for f in range(4))
    assert (frames[0] != frames[3]).any()
    assert (render(still, 64, 0) == render(still, 64, 3)).all()


def moving_scenes() -> list[Scene]:
    rng = random.Random(4)
    drifting = [random_scene(rng, moving=True) for _ in range(30)]
    fast = [Scene((Thing("star", "red", "plain", s, 0, vx=7.0),)) for s in SIZES]
    return [*drifting, *fast]


@pytest.mark.parametrize("size", [64, 128])
def test_the_flow_carries_each_thing_to_its_place_in_the_next_frame(size: int) -> None:
    for scene in moving_scenes():
        for frame in range(3):
            flow = optical_flow(scene, size, frame)
            assert flow.shape == (size, size, 2) and flow.dtype == np.float32
            everything = np.zeros((size, size), bool)
            for thing in scene.things:
                now, then = silhouette(thing, size, frame), silhouette(thing, size, frame + 1)
                everything |= now
                ys, xs = np.nonzero(now)
                landed = np.stack([xs, ys], 1) + flow[ys, xs]
                there = np.stack(np.nonzero(then)[::-1], 1)
                assert abs(landed.mean(0) - there.mean(0)).max() < 0.75  # silhouettes are whole pixels
                warped = np.zeros_like(then)
                at = np.clip(np.floor(landed + 0.5).astype(int), 0, size - 1)
                warped[at[:, 1], at[:, 0]] = True
                assert (warped & then).sum() / (warped | then).sum() > 0.6, thing
            assert not flow[~everything].any()


def test_what_the_world_does_not_know_is_refused() -> None:
    thing = Thing("circle", "red", "plain", "small", 0)
    for scene in (
        Scene((Thing("blob", "red", "plain", "small", 0),)),
        Scene((Thing("circle", "red", "woolly", "small", 0),)),
        Scene((thing,), weather="hail"),
        Scene((thing,), style="cubist"),
        Scene((), sign="x!"),
    ):
        with pytest.raises(ValueError, match=r"unknown|cannot say"):
            render(scene)
