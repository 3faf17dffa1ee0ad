"""A tracking that was stopped goes on from the disk: the same bits as one that was not."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import tiny_sam2
import torch
from torch import Tensor

from evlm.boxes import Box
from evlm.errors import Cancelled
from evlm.segment import tracker as module
from evlm.segment.kept import Kept, read_nested, write_nested
from evlm.segment.tracker import Prompt, Tracker
from evlm.segment.tracks import Tracks

SIDE, COUNT = tiny_sam2.SIDE, 14
BOX = (10.0, 12.0, 40.0, 50.0)
needs_sam2 = pytest.mark.skipif(importlib.util.find_spec("sam2") is None, reason="the sam2 package")


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tiny_sam2.make_folder(tmp_path_factory.mktemp("tracker"), 128, 64)
    return tiny_sam2.calmed(Tracker.load(folder, device="cpu"))


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    paths = tiny_sam2.make_meta(tmp_path_factory.mktemp("meta"))
    return tiny_sam2.calmed(Tracker.load(paths["pt"], device="cpu", config=paths["yaml"]))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 3)


def stopped_at(frame: int) -> Any:
    def told(done: int, _total: int) -> None:
        if done == frame:
            raise Cancelled

    return told


def same(a: Tracks, b: Tracks) -> bool:
    return (
        torch.equal(a.masks, b.masks)
        and torch.equal(a.scores, b.scores)
        and (a.labels, a.notes, a.count) == (b.labels, b.notes, b.count)
    )


@pytest.mark.parametrize("name", ["hf", pytest.param("meta", marks=[needs_sam2, pytest.mark.slow])])
def test_stopped_in_any_frame_it_gives_the_same(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two objects, one shown in the middle of the shot and corrected later, over a cut."""
    tracker: Tracker = request.getfixturevalue(name)
    generator = torch.Generator().manual_seed(3)
    frames = torch.rand(1, SIDE, SIDE, 3, generator=generator) * 0.7
    frames = (frames + 0.3 * torch.rand(COUNT, SIDE, SIDE, 3, generator=generator)).clamp(0, 1)
    frames[10:] *= 0.2
    click = torch.tensor([[44.0, 40.0]]), torch.tensor([1])
    shown = {
        0: [Prompt("a", BOX)],
        2: [Prompt("b", (30, 30, 50, 50))],
        5: [Prompt("a", points=click)],
        10: [Prompt("c", BOX)],
    }
    seen: list[tuple[int, int, Tensor]] = []
    put = module._Run._put

    def watch(run: Any, number: int, frame: int, logits: Tensor, score: float, since: int) -> None:
        seen.append((number, frame, logits.clone()))
        put(run, number, frame, logits, score, since)

    monkeypatch.setattr(module._Run, "_put", watch)
    whole = tracker.track(frames, shown)
    wanted = list(seen)
    kept = Kept(tmp_path, "follow")
    for stop in (5, 11):
        with pytest.raises(Cancelled):
            tracker.track(frames, shown, on_frame=stopped_at(stop), kept=kept)
    seen.clear()
    assert same(tracker.track(frames, shown, kept=kept), whole)
    assert [frame for _, frame, _ in seen] == [9, 9, 10, 11, 12, 13]  # from the last state on
    assert all(torch.equal(a[2], b[2]) for a, b in zip(seen, wanted[-6:], strict=True))
    seen.clear()
    assert same(tracker.track(frames, shown, kept=kept), whole) and not seen


class _Truth:
    """A memory that sees the truth, and loses a thing for good when it is away."""

    image_size = SIDE

    def __init__(self, truth: list[Tensor]) -> None:
        self.truth, self.model = truth, torch.nn.Linear(1, 1)

    def begin(self, pixels: Any, count: int) -> Any:
        return lambda: _Session(self.truth)


class _Session:
    def __init__(self, truth: list[Tensor]) -> None:
        self.truth, self.mine, self.away = truth, -1, False

    def prompt(self, frame: int, points: Any, mask: Any) -> None:
        middle = points[0].mean(0).long()
        self.mine = next(n for n, each in enumerate(self.truth) if each[frame, middle[1], middle[0]])
        self.away = False

    def step(self, frame: int, reverse: bool = False) -> tuple[Tensor, float]:
        there = self.truth[self.mine][frame]
        self.away = self.away or not bool(there.any())
        return there.float() * 20 - 10, -5.0 if self.away else 5.0

    def size(self) -> int:
        return 0

    def remembered(self) -> Any:
        return [self.mine, self.away]

    def restore(self, state: Any) -> None:
        self.mine, self.away = state


def test_what_was_lost_found_and_cut_stays_so(tmp_path: Path) -> None:
    count = 60
    truth = [torch.zeros(count, SIDE, SIDE, dtype=torch.bool) for _ in range(3)]
    truth[0][0:8, 20:30, 5:15] = truth[0][15:40, 20:30, 30:40] = True
    truth[1][18:40, 40:50, 50:60] = True
    truth[2][40:, 8:18, 8:18] = True
    frames = torch.full((count, SIDE, SIDE, 3), 0.5)
    frames[40:] = 0.1
    asked: list[int] = []

    def find(frame: int) -> list[Box]:
        asked.append(frame)
        found = []
        for label, each in zip(("cup", "ball", "cup"), truth, strict=True):
            rows, columns = each[frame].nonzero(as_tuple=True)
            if len(rows):
                box = (float(columns.min()), float(rows.min()), columns.max() + 1.0, rows.max() + 1.0)
                found.append(Box(label, 0.9, *map(float, box), frame=frame))
        return found

    tracker = Tracker(_Truth(truth))
    whole = tracker.track(frames, find=find)
    keyframes = list(asked)
    assert keyframes == [0, 8, 24, 40, 48] and len(whole) == 3 and len(whole.notes) == 2
    for stop in (1, 9, 22, 40, 50):
        kept = Kept(tmp_path / str(stop), "follow")
        with pytest.raises(Cancelled):
            tracker.track(frames, find=find, on_frame=stopped_at(stop), kept=kept)
        asked.clear()
        assert same(tracker.track(frames, find=find, kept=kept), whole)
        assert asked == [frame for frame in keyframes if frame >= stop - stop % 3]


def test_a_state_counts_only_with_the_masks_before_it(tmp_path: Path) -> None:
    """A kill between the two files of a state."""
    said: list[Any] = []
    kept = Kept(tmp_path, "a", lambda: {"found": 1}, said.append)
    assert kept.load() is None
    kept.save([[0, 0, 0.5, torch.ones(2)]], {"shot": 0})
    write_nested(tmp_path / "a-000001.masks", [[0, 4, 0.5, None]])
    state = kept.load()
    assert state is not None and len(state["masks"]) == 1 and state["shot"] == 0
    assert said == [{"found": 1}]


def test_what_is_nested_comes_back(tmp_path: Path) -> None:
    value = {"a": [{1: torch.rand(3, 4).T, "x": None}, "text", 0.1, True], "b": torch.ones(2).bfloat16()}
    write_nested(tmp_path / "a", value)
    back = read_nested(tmp_path / "a")
    assert torch.equal(back["a"][0][1], value["a"][0][1]) and back["a"][0]["x"] is None  # type: ignore[index]
    assert back["a"][1:] == ["text", 0.1, True] and back["b"].dtype == torch.bfloat16
