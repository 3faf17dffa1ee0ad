"""What an edit kept, from the two scenes alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from splat_examples import columns_of, ply_bytes, some_gaussians

from evlm.errors import SceneError
from evlm.scene import Gaussians
from evlm.scene.gaussians import joined
from evlm.scene.kept import Kept, compare
from evlm.scene.motion import Keys, RigidBases
from evlm.scene.moving import LoadedScene, load_scene

MANY = some_gaussians(12, degree=1)
NEW = some_gaussians(4, degree=1).map(lambda tensor: tensor + 7)


def loaded(gaussians: Gaussians, motion: RigidBases | None = None) -> LoadedScene:
    return LoadedScene(gaussians, "ply", Path("room.ply"), 0, motion)


def chosen(*rows: int, count: int = 12) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.bool).index_fill(0, torch.tensor(rows, dtype=torch.int64), True)


def test_an_edit_changes_takes_and_adds_inside_its_selection() -> None:
    stays = (MANY.rows(torch.tensor([0, 1])), MANY.rows(torch.arange(4, 12)))
    after = joined([stays[0], NEW.rows(torch.tensor([0])), stays[1], NEW])
    kept = compare(loaded(MANY), loaded(after), chosen(2, 3, 11))
    assert kept == Kept(12, 15, 3, (), 1, True)
    assert kept.whole and kept.new == 5


@pytest.mark.parametrize("field", ["means", "log_scales", "quats", "logits", "sh"])
def test_one_bit_outside_the_selection_is_found(field: str) -> None:
    after = MANY.map(torch.clone)
    flat = after.tensors()[field].view(torch.int32)
    flat[5] ^= 1
    kept = compare(loaded(MANY), loaded(after), chosen(4, 6))
    assert kept.lost == (5,) and not kept.whole
    assert compare(loaded(MANY), loaded(after), chosen(5)).whole


def test_without_a_selection_nothing_may_have_changed() -> None:
    assert compare(loaded(MANY), loaded(MANY)) == Kept(12, 12, 0, (), 0, True)
    assert compare(loaded(MANY), loaded(MANY.rows(torch.arange(11)))).lost == (11,)


def test_rows_in_another_order_are_not_as_they_were() -> None:
    order = torch.arange(12)
    order[[3, 4]] = order[[4, 3]]
    assert compare(loaded(MANY), loaded(MANY.rows(order))).lost == (4,)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=9), st.lists(st.integers(0, 3), max_size=9))
def test_all_is_kept_exactly_where_the_one_is_a_subsequence_of_the_other(
    one: list[int], other: list[int]
) -> None:
    """Rows that are alike, too: the oracle walks along."""
    if not one or not other:
        return
    before, after = (loaded(MANY.rows(torch.tensor(rows))) for rows in (one, other))
    along = iter(other)
    assert compare(before, after).whole == all(any(row == each for each in along) for row in one)


def test_what_a_ply_holds_besides_counts_where_both_have_it(tmp_path: Path) -> None:
    columns = columns_of(some_gaussians(9, degree=2))
    columns["label"] = ("uchar", columns["x"][1] * 0 + 7)
    (tmp_path / "a.ply").write_bytes(ply_bytes(columns))
    columns["label"][1][4] = 8
    (tmp_path / "b.ply").write_bytes(ply_bytes(columns))
    one, other = (load_scene(tmp_path / name) for name in ("a.ply", "b.ply"))
    assert compare(one, one).whole and compare(one, other).lost == (4,)
    assert compare(one, loaded(other.gaussians)).whole


def test_what_stays_must_move_as_it_did() -> None:
    moving = chosen(*range(6))
    bases = RigidBases.begin(MANY, moving, Keys.even(3), 2, seed=1)
    home = torch.tensor([0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, -1])
    after = joined([MANY.rows(home[:-1]), NEW.rows(torch.tensor([0]))])
    taken = bases.taken(home)
    assert compare(loaded(MANY, bases), loaded(after, taken), chosen(2)).whole
    assert not compare(loaded(MANY, bases), loaded(after), chosen(2)).motion
    taken.weights[0, 0] += 1
    kept = compare(loaded(MANY, bases), loaded(after, taken), chosen(2))
    assert not kept.lost and not kept.motion and not kept.whole


def test_what_cannot_be_compared_is_said() -> None:
    with pytest.raises(SceneError, match=r"12 Gaussians, the selection is \[3\].*selection.npz"):
        compare(loaded(MANY), loaded(MANY), chosen(0, count=3))
    with pytest.raises(SceneError, match=r"degree 0.*has 1"):
        compare(loaded(MANY), loaded(MANY.with_degree(0)))
