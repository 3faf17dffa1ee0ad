"""Edits: exact region, nothing changed outside it, the instruction that says what was done."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from trainer.world.edits import (
    GLOBAL,
    MIX,
    OPERATIONS,
    Edit,
    add,
    move,
    moves,
    neighbour,
    random_edit,
    swap_thing,
)
from trainer.world.render import render_frames
from trainer.world.scene import CELLS, Scene, Thing, random_scene


def edits(op: str, count: int, moving: bool = False) -> list[Edit]:
    rng = random.Random(f"{op} {moving}")
    drawn: list[Edit] = []
    while len(drawn) < count:
        edit = random_edit(rng, op, random_scene(rng, sign=rng.choice((None, "blue")), moving=moving))
        drawn += [edit] if edit is not None else []
    return drawn


def grown(mask: np.ndarray) -> np.ndarray:
    """The mask and its eight neighbours."""
    padded = np.pad(mask, 1)
    h, w = mask.shape
    return np.any([padded[y : y + h, x : x + w] for y in range(3) for x in range(3)], axis=0)


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize(("size", "frames"), [(64, 1), (96, 1), (64, 4)])
def test_nothing_changes_outside_the_region(op: str, size: int, frames: int) -> None:
    for edit in edits(op, 15, moving=frames > 1):
        before, after = edit.pictures(size, frames)
        assert (
            before.shape == after.shape == (frames, size, size, 3) and before.dtype == after.dtype == np.uint8
        )
        assert (before != after).any()
        region = edit.region(size, frames)
        assert (region is None) == (op in GLOBAL) == (edit.scope == "global")
        if region is None:
            continue
        assert region.shape == (size, size) and region.dtype == np.bool_
        assert (before[:, ~region] == after[:, ~region]).all()
        changed = (render_frames(edit.source, size, frames) != render_frames(edit.result, size, frames)).any(
            (0, 3)
        )
        if edit.roomy:  # a whole place: all that changes lies in it
            assert not changed[~region].any()
        else:  # a silhouette: only its anti-aliased rim, two pixels at the tip of a star, may lie outside
            assert not changed[~grown(grown(region))].any()


@pytest.mark.parametrize("op", OPERATIONS)
def test_the_result_differs_from_the_source_in_what_was_ordered_only(op: str) -> None:
    for edit in edits(op, 60):
        source, result = edit.source, edit.result
        if op in GLOBAL:
            field = {"weather": "weather", "ground": "ground", "restyle": "style"}[op]
            assert replace(source, **{field: edit.value}) == result != source
            assert edit.targets == () and edit.instruction.endswith(f" {edit.value}")
            continue
        gone, new = set(source.things) - set(result.things), set(result.things) - set(source.things)
        assert gone == ({edit.target} - {None}) and new == ({edit.outcome} - {None})
        assert len({t.label for t in result.things}) == len(result.things)
        thing = edit.target or edit.outcome
        assert thing is not None and edit.targets == (thing.label,) and thing.label in edit.instruction
        changed = {
            field
            for field in ("shape", "colour", "texture", "size", "cell")
            if edit.target and edit.outcome and getattr(edit.target, field) != getattr(edit.outcome, field)
        }
        exactly = {
            "recolour": {"colour"},
            "retexture": {"texture"},
            "move": {"cell"},
            "remove": set(),
            "add": set(),
        }
        assert (
            changed == exactly[op] if op in exactly else "shape" in changed <= {"shape", "colour", "texture"}
        )


def test_the_instruction_reads_as_people_say_it() -> None:
    circle = Thing("circle", "red", "plain", "small", 4)
    scene = Scene((circle,))
    assert add(scene, Thing("star", "blue", "dotted", "large", 0)).instruction == (
        "add a large blue dotted star at the top left"
    )
    assert swap_thing(scene, circle, ("ring", "red", "striped")).instruction == (
        "replace the red circle with a red striped ring"
    )
    assert move(scene, circle, "up").instruction == "move the red circle up"


def test_moves_are_one_step_into_a_free_cell_and_all_equally_likely() -> None:
    corner, edge = Thing("circle", "red", "plain", "small", 0), Thing("star", "blue", "plain", "small", 1)
    scene = Scene((corner, edge), sign="red")
    assert moves(scene, corner) == ["down"] and set(moves(scene, edge)) == {"right", "down"}
    assert neighbour(0, "left") == neighbour(2, "right") == neighbour(1, "up") == neighbour(8, "down") == -1
    rng = random.Random(0)
    count = Counter(e.instruction for _ in range(3000) if (e := random_edit(rng, "move", scene)))
    assert len(count) == 3 and max(count.values()) < 1.15 * min(count.values())
    assert all(
        CELLS[e.outcome.cell] != CELLS[e.target.cell] for e in edits("move", 20) if e.outcome and e.target
    )


def test_the_mix_adds_up_to_the_papers() -> None:
    assert sum(MIX.values()) == pytest.approx(1, abs=0.003)
    assert MIX["recolour"] + MIX["replace"] == pytest.approx(0.565)
    assert MIX["weather"] + MIX["ground"] == pytest.approx(0.101)


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown operation 'melt'"):
        random_edit(random.Random(0), "melt", random_scene(random.Random(0)))
