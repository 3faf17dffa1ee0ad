"""Edits of solids: the flat world's sentences, exact in every view; the reader tells them from all else."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest

from trainer.world.edits import OPERATIONS as FLAT_OPERATIONS
from trainer.world.edits import random_edit
from trainer.world.scene import CELLS, SHAPES, random_scene
from trainer.world.solid import SOLIDS, Solid, SolidScene, random_setting, random_solids
from trainer.world.solid_cameras import around, ring
from trainer.world.solid_edits import (
    MIX,
    OPERATIONS,
    WHOLE,
    SolidEdit,
    add,
    change_whole,
    move,
    move_to,
    random_solid_edit,
    recolour,
    remove,
    retexture,
    swap_solid,
)
from trainer.world.solid_reader import edit_right, read, read_place, read_whole, scene_right

BALL = Solid("ball", "red", "striped", "large", 0.0, -1.25)
BOX = Solid("box", "blue", "plain", "small", 1.25, 0.0)
SCENE = SolidScene((BALL, BOX, Solid("cone", "yellow", "dotted", "large", -1.25, 1.25)))
CAMERAS = ring(3, 40)


def edits(op: str, count: int) -> list[SolidEdit]:
    rng = random.Random(op)
    drawn: list[SolidEdit] = []
    while len(drawn) < count:
        edit = random_solid_edit(rng, op, random_setting(rng, random_solids(rng)))
        drawn += [edit] if edit is not None else []
    return drawn


def pictures(scene_edit: SolidEdit, after: bool = True) -> list[np.ndarray]:
    return [scene_edit.views(camera)[after].picture for camera in CAMERAS]


def form(instruction: str, shapes: tuple[str, ...]) -> str:
    """The sentence with what it names left open."""
    thing = rf"(\w+ )?(\w+ )?(\w+ )({'|'.join(shapes)})\b"
    return re.sub(thing, "THING", instruction)


@pytest.mark.parametrize("op", [op for op in OPERATIONS if op not in ("sky",)])
def test_the_sentences_are_those_of_the_flat_world(op: str) -> None:
    rng = random.Random(0)
    flat = [random_edit(rng, op, random_scene(rng)) for _ in range(150)]
    known = {form(edit.instruction, SHAPES) for edit in flat if edit is not None}
    values = {edit.value for edit in flat if edit is not None}
    for edit in edits(op, 30):
        said = form(edit.instruction, SOLIDS)
        assert said in known, edit.instruction
        if op not in ("add", "replace"):
            assert edit.value in values
        assert edit.targets == ((edit.target or edit.outcome).label,) if op not in WHOLE else not edit.targets


def test_mixes_agree_but_for_style_and_sky() -> None:
    assert set(FLAT_OPERATIONS) ^ set(OPERATIONS) == {"restyle", "sky"}
    assert abs(sum(MIX.values()) - 1) < 0.03
    with pytest.raises(ValueError, match="unknown operation 'restyle'"):
        random_solid_edit(random.Random(0), "restyle", SCENE)


def test_what_is_ordered_is_what_changes() -> None:
    assert recolour(SCENE, BALL, "cyan").instruction == "make the red striped ball cyan"
    assert retexture(SCENE, BALL, "plain").outcome.label == "red ball"
    assert remove(SCENE, BOX).result.solids == (BALL, SCENE.solids[2])
    new = Solid("torus", "green", "plain", "large", 1.25, 1.25)
    assert add(SCENE, new).instruction == "add a large green torus at the bottom right"
    assert swap_solid(SCENE, BOX, new.look).value == "green torus"
    assert change_whole(SCENE, "sky", "pink").instruction == "change the sky to pink"
    moved = move_to(SCENE, BALL, 8)
    assert moved.instruction == "move the red striped ball to the bottom right" and moved.outcome.cell == 8


def test_the_grid_is_as_the_first_camera_sees_it() -> None:
    """Left is left, up is farther away, and so higher in the picture."""
    camera = ring(6, 96)[0]
    centre = {}
    for cell, name in enumerate(CELLS):
        solid = Solid("ball", "red", "plain", "small", 0.01, -0.02).at_cell(cell)
        assert solid.cell == cell
        seen = move(SolidScene((solid,)), solid, "up") if cell > 2 else None
        assert seen is None or seen.outcome.cell == cell - 3
        covered = recolour(SolidScene((solid,)), solid, "blue").region(camera)
        centre[name] = np.argwhere(covered).mean(0)
    assert centre["top left"][0] < centre["left"][0] < centre["bottom left"][0]
    assert centre["left"][1] < centre["centre"][1] < centre["right"][1]
    assert np.abs(centre["centre"] - 48).max() < 6


@pytest.mark.parametrize("op", OPERATIONS)
def test_nothing_changes_outside_the_region_in_any_view_and_the_reader_sees_the_edit(op: str) -> None:
    for edit in edits(op, 1):
        changed = []
        for camera in CAMERAS:
            before, after = (seen.picture for seen in edit.views(camera))
            region, place = edit.region(camera), edit.place(camera)
            differs = (before != after).any(-1)
            changed.append(differs.any())
            assert (region is None) == (place is None) == (op in WHOLE)
            if region is None:
                continue
            x0, y0, x1, y1 = place
            assert not (differs & ~region).any() and not region[:y0].any() and not region[y1:].any()
            assert not region[:, :x0].any() and not region[:, x1:].any()
        assert any(changed)
        assert edit_right(pictures(edit), edit, CAMERAS) and not edit_right(
            pictures(edit, False), edit, CAMERAS
        )


def test_splits_hold_back_compositions_and_scenes() -> None:
    rng = random.Random(3)
    found = {"train": 0, "validation": 0, "test": 0, None: 0}
    for _ in range(600):
        edit = random_solid_edit(rng, rng.choice(OPERATIONS), random_solids(rng))
        if edit is not None:
            found[edit.split] += 1
    assert min(found.values()) > 5 and found["train"] > 150


def test_most_views_decide_and_one_alone_does_not() -> None:
    edit = recolour(SCENE, BALL, "cyan")
    after, before = pictures(edit), pictures(edit, False)
    assert edit_right([*after[:2], before[2]], edit, CAMERAS)
    assert not edit_right([*before[:2], after[2]], edit, CAMERAS)
    noisy = [p / 255 + np.random.default_rng(n).normal(size=p.shape) * 0.05 for n, p in enumerate(after)]
    assert edit_right(noisy, edit, CAMERAS)
    assert read(before, SCENE, BALL, CAMERAS) == BALL.look
    assert read_whole(before, SCENE, "sky", CAMERAS) == "blue"
    assert scene_right(after, edit.result, CAMERAS) and not scene_right(after, SCENE, CAMERAS)


def test_views_that_cannot_tell_abstain_and_pictures_that_do_not_fit_are_named() -> None:
    camera = around(0.0, 0.2, 40)
    wall = tuple(Solid("box", "red", "plain", "large", 1.25, y) for y in (-0.4, 0.4))
    hidden = Solid("ball", "green", "plain", "small", 0.0, 0.0)
    edit = remove(SolidScene((*wall, hidden)), hidden)
    picture = edit.views(camera)[0].picture
    assert not edit.region(camera).any() and edit.place(camera) is not None
    assert read_place(picture, edit.source, hidden, camera) is None
    assert read_place(np.zeros((8, 8, 3)), SCENE, BOX, camera.resized(8, 8)) is None
    away = camera.cropped(500, 500, 40, 40)
    assert read_place(picture, SCENE, BOX, away) is None
    with pytest.raises(ValueError, match="cannot be told in any of the views"):
        read([picture], SCENE, BOX, [away])
    with pytest.raises(ValueError, match=r"shape \(8, 8, 3\) for a camera of 40 x 40"):
        read_place(np.zeros((8, 8, 3)), SCENE, BOX, camera)
    with pytest.raises(ValueError, match="cannot read 'style'"):
        read_whole([picture], SCENE, "style", [camera])
