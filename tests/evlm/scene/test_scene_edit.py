"""Editing a scene by its views: what is not selected keeps its bits, and a stopped edit goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evlm.errors import Cancelled, SceneError
from evlm.scene import Camera, Gaussians
from evlm.scene.camera import looking_at, pinhole
from evlm.scene.edit import EditView, SceneEdit, edit_rows, edit_views
from evlm.scene.edit.journal import FolderJournal, digest_of
from evlm.scene.edit.paint_back import paint_back
from evlm.scene.edit.rows import Rows
from evlm.scene.edit.schedules import EditJob
from evlm.scene.edit.settings import SCHEDULES
from evlm.scene.gaussians import SH_C0, joined
from evlm.scene.raster import rasterize

SKY = torch.tensor([0.2, 0.3, 0.4])
QUICK = SceneEdit(strengths=(1.0, 0.5), steps=2, every=2, updates=1.5, sweeps=2, settled=0)


def blob(n: int, centre: tuple[float, float, float], colour: tuple[float, float, float]) -> Gaussians:
    draw = torch.Generator().manual_seed(n)
    return Gaussians(
        means=torch.tensor(centre) + 0.25 * torch.randn(n, 3, generator=draw),
        log_scales=torch.full((n, 3), math.log(0.15)),
        quats=torch.randn(n, 4, generator=draw),
        logits=torch.full((n,), 3.0),
        sh=((torch.tensor(colour) - 0.5) / SH_C0).expand(n, 1, 3).clone(),
    )


@cache
def scene() -> tuple[Gaussians, Tensor]:
    """A red and a blue cloud, and which rows are the red one: not the first of them."""
    both = joined([blob(20, (0.7, 0, 0), (0.1, 0.1, 0.8)), blob(30, (-0.5, 0, 0), (0.8, 0.1, 0.1))])
    return both, torch.arange(50) >= 20


@cache
def cameras(count: int = 4, size: int = 24) -> tuple[Camera, ...]:
    up = torch.tensor([0.0, 0.0, 1.0])
    turns = [2 * math.pi * at / count for at in range(count)]
    eyes = [torch.tensor([3 * math.cos(turn), 3 * math.sin(turn), 1.0]) for turn in turns]
    views = [looking_at(eye, torch.zeros(3), up) for eye in eyes]
    return tuple(
        Camera(view, pinhole(24, size, size), size, size, name=str(n)) for n, view in enumerate(views)
    )


@cache
def views() -> list[EditView]:
    return edit_views(*scene(), cameras(), background=SKY)


class Green:
    """Paints green, with a stain of its own in each view and draw; it can break off."""

    together = 2

    def __init__(self, stain: float = 0.0, calls: int | None = None) -> None:
        self.stain, self.left = stain, calls
        self.asked: list[tuple[float, int, tuple[str, ...]]] = []

    def paint(
        self, views: Sequence[EditView], current: Sequence[Tensor], strength: float, draw: int
    ) -> list[Tensor]:
        if self.left == 0:
            raise Cancelled
        self.left = None if self.left is None else self.left - 1
        names = tuple(view.camera.name for view in views)
        self.asked.append((strength, draw, names))
        found = []
        for view, shown in zip(views, current, strict=True):
            seeded = torch.Generator().manual_seed(100 * draw + int(view.camera.name))
            shift = self.stain * torch.randn(3, generator=seeded)
            found.append((torch.tensor([0.1, 0.7, 0.1]) + shift).clamp(0, 1).expand_as(shown))
        return found


def green_seen(gaussians: Gaussians) -> float:
    """How far the red cloud is from green, at the most, in the mean of a view's pixels that are mostly of
    it."""
    apart, (before, selection) = [], scene()
    for camera in cameras():
        inside = rasterize(before, camera, channels=selection.float()[:, None]).image[..., 0] > 0.7
        if not bool(inside.any()):
            continue  # behind the other cloud
        image = rasterize(gaussians, camera, SKY).image
        apart.append((image[inside] - torch.tensor([0.1, 0.7, 0.1])).abs().mean().item())
    return max(apart)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_selection_takes_the_paint_and_the_rest_keeps_its_bits(schedule: str) -> None:
    gaussians, selection = scene()
    every = 20 if schedule == "iterative" else 10
    settings = replace(QUICK, schedule=schedule, steps=10, every=every)  # type: ignore[arg-type]
    edited, _ = edit_rows(gaussians, selection, views(), Green(), settings, SKY)
    assert green_seen(edited) < (0.05 if schedule == "consistent" else 0.8 * green_seen(gaussians))
    for name, tensor in edited.tensors().items():
        assert torch.equal(tensor[~selection], gaussians.tensors()[name][~selection])
        assert not torch.equal(tensor[selection], gaussians.tensors()[name][selection])


def test_a_schedule_asks_for_what_it_says() -> None:
    asked = {}
    for schedule in SCHEDULES:
        painter = Green()
        edit_rows(*scene(), views(), painter, replace(QUICK, schedule=schedule), SKY)  # type: ignore[arg-type]
        asked[schedule] = painter.asked
    assert asked["direct"] == [(1.0, 1, ("0", "1")), (1.0, 1, ("2", "3"))]
    assert asked["consistent"] == [*asked["direct"], (0.5, 2, ("0", "1")), (0.5, 2, ("2", "3"))]
    assert len(asked["in2n"]) == 6 and len({draw for _, draw, _ in asked["in2n"]}) == 6
    assert {names for _, _, names in asked["in2n"][:4]} == {("0",), ("1",), ("2",), ("3",)}  # each once first
    assert all(0.02 <= strength <= 0.98 for strength, _, _ in asked["in2n"])


def test_rounds_end_where_the_views_agree() -> None:
    painter = Green()
    rounds = replace(QUICK, strengths=(1.0, 0.5, 0.5, 0.5), settled=0.9)
    _, notes = edit_rows(*scene(), views(), painter, rounds, SKY)
    assert len(painter.asked) == 4 and notes == (
        "the views agree as well as they will: 2 further rounds were left out",
    )


def test_each_round_is_fitted_to_the_mean_of_all_paintings_of_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the paintings themselves, and that mean strays by less than one of them does."""
    green, draws = torch.tensor([0.1, 0.7, 0.1]), 9
    fitted: list[list[Tensor]] = []

    def fit(self: EditJob, targets: Sequence[Tensor], *_: object) -> None:
        fitted.append([each.clone() for each in targets])

    monkeypatch.setattr(EditJob, "fit", fit)
    monkeypatch.setattr(EditJob, "disagreement", lambda *_: 0.0)  # else it would end where nothing is fitted
    settings = replace(QUICK, strengths=(1.0,) * draws, sweeps=0)
    edit_rows(*scene(), views(), Green(0.1), settings, SKY)
    assert len(fitted) == draws
    plain = [view.source for view in views()]
    painted = [Green(0.1).paint(views(), plain, 1.0, draw) for draw in range(1, draws + 1)]
    strays = []
    for number, targets in enumerate(fitted, 1):
        for at, (view, target) in enumerate(zip(views(), targets, strict=True)):
            mean = torch.stack([painted[draw][at] for draw in range(number)]).mean(0)
            assert torch.allclose(target[view.mask], mean[view.mask], atol=1e-3)  # kept in 16 bits
            assert torch.allclose(target[~view.mask], view.source[~view.mask], atol=1e-3)
        apart = [(t - green)[v.mask].square().mean() for v, t in zip(views(), targets, strict=True)]
        strays.append(float(torch.stack(apart).mean().sqrt()))
    assert strays[-1] < 0.5 * strays[0], "the mean of nine is to stray by a third of one"


@pytest.mark.slow  # how good it is; to what it is fitted is held above, and what is drawn below
def test_several_draws_are_worth_more_than_one() -> None:
    """The mean of four stained paintings of each view is nearer to what they are stains of."""
    once = replace(QUICK, strengths=(1.0,), steps=10)
    apart = [
        green_seen(edit_rows(*scene(), views(), Green(0.2), settings, SKY)[0])
        for settings in (once, replace(once, strengths=(1.0,) * 4))
    ]
    assert apart[1] < 0.8 * apart[0]


def test_colours_are_painted_back_as_the_weights_say() -> None:
    """Against every weight w(i, p), which is what a rendering of one channel a Gaussian shows."""
    gaussians, selection = scene()
    rows, seen = Rows(gaussians, selection, 4.0), views()
    targets = [torch.full_like(view.source, 0.6) for view in seen]
    paint_back(rows, seen, targets, SKY, 1)
    up, weight = torch.zeros(50, 3), torch.zeros(50, 1)
    for view, target in zip(seen, targets, strict=True):
        weights = rasterize(gaussians, view.close, channels=torch.eye(50)).image
        missing = view.cut(target) - rasterize(gaussians, view.close, SKY).image
        up += torch.einsum("hwn,hwc->nc", weights, missing)
        weight += weights.sum((0, 1))[:, None]
    wanted = gaussians.sh[:, 0] + up / weight / SH_C0
    assert torch.allclose(rows.whole().sh[selection, 0], wanted[selection], atol=1e-4)


@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stopped_at_any_painting_it_goes_on_to_the_same_bits(
    schedule: str, few: bool, tmp_path: Path
) -> None:
    settings = replace(QUICK, schedule=schedule)  # type: ignore[arg-type]
    painter = Green(0.1)
    whole, notes = edit_rows(*scene(), views(), painter, settings, SKY)
    for stop in (0, len(painter.asked) - 1) if few else range(len(painter.asked)):
        journal = FolderJournal(tmp_path / str(stop), digest_of([*scene(), settings]))
        with pytest.raises(Cancelled):
            edit_rows(*scene(), views(), Green(0.1, calls=stop), settings, SKY, journal=journal)
        rest = Green(0.1)
        again, said = edit_rows(*scene(), views(), rest, settings, SKY, journal=journal)
        assert len(rest.asked) == len(painter.asked) - stop and said == notes
        for name, tensor in again.tensors().items():
            assert torch.equal(tensor, whole.tensors()[name]), (stop, name)
    finished = Green(calls=0)
    edit_rows(*scene(), views(), finished, settings, SKY, journal=journal)  # nothing is painted again
    kept = len(list(journal.folder.glob("painted-*")))
    one_by_one = schedule in ("in2n", "iterative")  # they keep the last of each view
    assert kept == (len(views()) if one_by_one else len(painter.asked))


# A fit is kept by the journal alike in every schedule; each is stopped at a painting above.
@pytest.mark.parametrize(
    "schedule",
    [pytest.param(s, marks=() if s in ("consistent", "in2n") else pytest.mark.slow) for s in SCHEDULES],
)
def test_stopped_in_a_fit_it_goes_on_to_the_same_bits(schedule: str, tmp_path: Path) -> None:
    settings = replace(QUICK, schedule=schedule)  # type: ignore[arg-type]
    whole, _ = edit_rows(*scene(), views(), Green(0.1), settings, SKY)
    for stop in (1, 5):
        journal, told = FolderJournal(tmp_path / str(stop), "one"), []

        def tell(done: int, total: int, picture: Tensor | None, told: list = told, stop: int = stop) -> None:
            told.append((done, total))
            assert done <= total and (picture is None or picture.shape == (24, 24, 3))
            if len(told) == stop:
                raise Cancelled

        with pytest.raises(Cancelled):
            edit_rows(*scene(), views(), Green(0.1), settings, SKY, journal=journal, on_progress=tell)
        again, _ = edit_rows(*scene(), views(), Green(0.1), settings, SKY, journal=journal)
        assert all(
            torch.equal(a, b) for a, b in zip(again.tensors().values(), whole.tensors().values(), strict=True)
        )


def test_a_journal_belongs_to_one_edit_and_says_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = digest_of([torch.zeros(3), 1]), digest_of([torch.zeros(3), 2])
    assert (
        len({first, other, digest_of([torch.zeros(3, 1), 1]), digest_of([torch.zeros(3).double(), 1])}) == 4
    )
    journal = FolderJournal(tmp_path, first)
    journal.keep("a", {"x": torch.ones(2)})
    assert FolderJournal(tmp_path, other).recall("a") is None
    found = journal.recall("a")
    assert found is not None and torch.equal(found["x"], torch.ones(2))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evlm.scene.edit.journal.write_atomically", full)
    with pytest.raises(SceneError, match=r"No space left on device.*the same command goes on"):
        journal.keep("a", {"x": torch.zeros(2)})
    assert torch.equal(FolderJournal(tmp_path, first).recall("a")["x"], torch.ones(2))  # type: ignore[index]


@pytest.mark.parametrize("what", ["painted-0001-0002", "fitted"])
def test_a_damaged_file_of_a_journal_is_made_anew(what: str, tmp_path: Path) -> None:
    settings = replace(QUICK, schedule="direct")
    whole, _ = edit_rows(*scene(), views(), Green(0.1), settings, SKY)
    journal = FolderJournal(tmp_path, "one")
    edit_rows(*scene(), views(), Green(0.1), settings, SKY, journal=journal)
    path = journal.folder / f"{what}.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    rest = Green(0.1)
    again, _ = edit_rows(*scene(), views(), rest, settings, SKY, journal=journal)
    assert len(rest.asked) == (what != "fitted") and path.stat().st_size > 40
    pairs = zip(again.tensors().values(), whole.tensors().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_views_without_the_selection_are_left_out_and_none_at_all_is_said() -> None:
    gaussians, selection = scene()
    away = looking_at(torch.tensor([3.0, 0, 0]), torch.tensor([6.0, 0, 0]), torch.tensor([0.0, 0, 1]))
    blind = replace(cameras()[0], view=away)
    assert len(edit_views(gaussians, selection, [blind, *cameras()])) == 4
    with pytest.raises(SceneError, match="of 1 cameras none sees the 30 selected Gaussians"):
        edit_views(gaussians, selection, [blind])
    with pytest.raises(SceneError, match="select some first"):
        edit_views(gaussians, torch.zeros(50, dtype=torch.bool), cameras())
    with pytest.raises(SceneError, match=r"'0' is \[9, 9, 3\], expected \[24, 24, 3\]"):
        edit_views(gaussians, selection, cameras()[:1], [torch.zeros(9, 9, 3)])
    near, wide = views()[0], edit_views(gaussians, selection, cameras(), background=SKY, grow=2)[0]
    assert near.mask.sum() < wide.mask.sum() and bool(wide.mask[near.mask].all())
    left, top, width, height = near.part
    assert int(near.mask[top : top + height, left : left + width].sum()) == int(near.mask.sum())


def test_settings_out_of_range_are_named() -> None:
    for changes, words in (
        ({"schedule": "dge"}, "schedule 'dge'; there are consistent, in2n, direct"),
        ({"views": 0}, "views 0: expected 1 to 1000"),
        ({"decay": float("nan")}, "decay nan"),
        ({"strengths": ()}, "expected one or more above 0"),
        ({"strengths": (1.0, 1.5)}, "expected one or more above 0"),
    ):
        with pytest.raises(SceneError, match=words):
            SceneEdit(**changes)  # type: ignore[arg-type]
    with pytest.raises(SceneError, match="of another edit"):
        Rows(*scene(), 4.0).load({"means": torch.zeros(1, 3)})


def test_a_part_is_drawn_as_in_its_picture() -> None:
    gaussians, _ = scene()
    close = replace(gaussians, log_scales=gaussians.log_scales + 1)  # large ones, that reach over the border
    camera = cameras()[1]
    whole = rasterize(close, camera, SKY).image
    for left, top, width, height in ((0, 0, 6, 6), (3, 9, 14, 8), (18, 15, 6, 9)):
        part = rasterize(close, camera.cropped(left, top, width, height), SKY).image
        assert torch.allclose(part, whole[top : top + height, left : left + width], atol=1e-5)
    twice = camera.cropped(2, 3, 12, 12).cropped(4, 5, 6, 6)
    assert torch.allclose(rasterize(close, twice, SKY).image, whole[8:14, 6:12], atol=1e-5)


def test_opaque_rows_can_become_clear_and_huge_ones_stay_numbers() -> None:
    gaussians, selection = scene()
    logits, sizes = gaussians.logits.clone(), gaussians.log_scales.clone()
    logits[selection], sizes[25] = 10.0, 60.0
    rows = Rows(replace(gaussians, logits=logits, log_scales=sizes), selection, 4.0)
    before = rows.parameters["logits"].detach().clone()
    for view in cameras():
        rows.step(rasterize(rows.whole(), view, SKY).image.square().mean(), 0.0, 0.1)
    assert (rows.parameters["logits"] < before).sum() > 10
    assert all(bool(torch.isfinite(tensor).all()) for tensor in rows.whole().tensors().values())
