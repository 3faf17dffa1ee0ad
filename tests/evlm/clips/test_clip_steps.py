"""A plan's steps over a clip, window by window: as in memory, and the same from wherever a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_ip2p
import torch
from torch import Tensor

from evlm.clips import steps as clip_steps_file
from evlm.clips.carried import CarriedChain
from evlm.clips.frames import FileFrames
from evlm.clips.masks import MaskStore, MaskView
from evlm.clips.steps import ClipStep, StepChain
from evlm.edit.crop import CropBox
from evlm.files.clip_reader import open_clip
from evlm.files.clip_writer import write_clip
from evlm.video.clip import edit_clip
from evlm.video.propagate import keyframes
from evlm.video.settings import VideoSettings
from evlm.video.windows import Route

pytest.importorskip("av")
COUNT, SIDE = 9, 48
VIDEO = VideoSettings(together="anchors", window=4, overlap=1, propagate="none")


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_ip2p.load(
        tiny_ip2p.save_folder(tiny_ip2p.build(), tmp_path_factory.mktemp("ip2p") / "folder")
    )


@pytest.fixture(scope="module")
def frames() -> Tensor:
    noise = torch.rand(COUNT, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    return (noise * 255).round() / 255


@pytest.fixture(scope="module")
def clip(frames: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("clip") / "a.mkv"
    write_clip(path, frames, "ffv1")
    return open_clip(path)


def masks(shift: int) -> Tensor:
    """A square that moves, float [F, H, W]; in frame 4 it is not there."""
    on = torch.zeros(COUNT, SIDE, SIDE)
    for frame in range(COUNT):
        on[frame, 10:26, 2 + shift + 2 * frame : 18 + shift + 2 * frame] = float(frame != 4)
    return on


@pytest.fixture(scope="module")
def in_memory(editor: Any, frames: Tensor) -> Callable[[VideoSettings], Tensor]:
    """One edit of the whole clip, in one call; made once for each of the settings."""

    @cache
    def edited(video: VideoSettings) -> Tensor:
        settings = editor.defaults.with_kwargs(steps=2)
        return edit_clip(editor, frames, "make it red", masks(0), settings, video=video).frames

    return edited


@pytest.fixture
def store(tmp_path: Path) -> MaskStore:
    """Of two steps, in two pieces."""
    store = MaskStore(tmp_path, 2, SIDE, SIDE)
    for part in (slice(0, 5), slice(5, COUNT)):
        durations = [Fraction(1, 8)] * len(range(*part.indices(COUNT)))
        store.add([masks(0)[part], masks(8)[part]], durations)
    return MaskStore(tmp_path, 2, SIDE, SIDE)


def chain(
    editor: Any, clip: Any, store: MaskStore, steps: int, begin: int = 0, state: Any = None
) -> StepChain:
    """One edit is denoised in two steps, as in memory; of two edits each in one."""
    at_work = [ClipStep("make it red", (0,)), ClipStep("make it round", (1,))][:steps]
    settings = editor.defaults.with_kwargs(steps=3 - steps)
    source = FileFrames(clip, max(begin - VIDEO.overlap, 0))
    return StepChain(editor, at_work, store, settings, VIDEO, source, begin, state)


def test_masks_come_back_as_they_were_given(store: MaskStore) -> None:
    assert store.count == COUNT and store.durations == [Fraction(1, 8)] * COUNT
    assert torch.equal(store.some([0], range(COUNT)), masks(0) > 0)
    assert torch.equal(store.some([0, 1], [7, 2]), ((masks(0) + masks(8)) > 0)[[7, 2]])
    track = store.track([0, 1])
    assert track[4] is None and track[1] == (4, 10, 28, 26) and not store.whole([0])


@pytest.mark.parametrize("lazily", [False, True])
def test_one_step_is_what_it_is_in_memory(
    editor: Any,
    clip: Any,
    store: MaskStore,
    frames: Tensor,
    in_memory: Callable[[VideoSettings], Tensor],
    lazily: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if lazily:
        monkeypatch.setattr(clip_steps_file, "_AT_ONCE", 0)
    found = torch.cat([each for _, each in chain(editor, clip, store, 1).windows()])
    wanted = in_memory(VIDEO)
    assert torch.equal(found, wanted) and not torch.equal(found, frames)
    assert torch.equal(found[masks(0) == 0], frames[masks(0) == 0])


def test_two_steps_go_on_from_every_window_with_the_same_bits(
    editor: Any, clip: Any, store: MaskStore, tmp_path: Path
) -> None:
    whole = chain(editor, clip, store, 2)
    found, states = {}, {}
    for first, edited in whole.windows():
        found[first] = edited
        stop = first + len(edited)
        states[stop] = tmp_path / f"state-{stop}"
        whole.save(states[stop], stop)
    assert list(found) == [0, 4, 7]
    for begin in (4, 7):
        later = dict(chain(editor, clip, store, 2, begin, states[begin]).windows())
        assert list(later) == [first for first in found if first >= begin]
        assert all(torch.equal(later[first], found[first]) for first in later)


def test_between_windows_the_model_has_its_own_attention(editor: Any, clip: Any, store: MaskStore) -> None:
    """Runs that are left half way, in any order, change nothing for those that come after."""
    stock = dict(editor.unet.attn_processors)

    def own() -> bool:
        now = editor.unet.attn_processors
        return all(now[name] is each for name, each in stock.items())

    left = chain(editor, clip, store, 2).windows()
    first = next(left)[1]
    assert own()
    other = chain(editor, clip, store, 2).windows()
    assert torch.equal(next(other)[1], first) and own()
    second = next(other)[1]
    left.close()
    assert own() and torch.equal(dict(chain(editor, clip, store, 2).windows())[4], second)


CARRIED = VideoSettings("all", window=4, overlap=1, propagate="flow", keyframes=(0, 2, 3, 5, 7, 8))


def carried(
    editor: Any, clip: Any, store: MaskStore, folder: Path, steps: int, begin: int = 0
) -> CarriedChain:
    at_work = [ClipStep("make it red", (0,)), ClipStep("make it round", (1,))][:steps]
    settings = editor.defaults.with_kwargs(steps=3 - steps)
    source = FileFrames(clip, begin)
    return CarriedChain(editor, at_work, store, settings, CARRIED, clip, source, folder, begin)


@pytest.mark.parametrize("lazily", [pytest.param(False, marks=pytest.mark.slow), True])
def test_keyframes_carried_over_a_file_are_as_in_memory(
    editor: Any,
    clip: Any,
    store: MaskStore,
    frames: Tensor,
    in_memory: Callable[[VideoSettings], Tensor],
    tmp_path: Path,
    lazily: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if lazily:
        monkeypatch.setattr(clip_steps_file, "_AT_ONCE", 0)
    found = torch.cat([each for _, each in carried(editor, clip, store, tmp_path, 1).windows()])
    wanted = in_memory(CARRIED)
    assert torch.equal(found, wanted) and not torch.equal(found, frames)
    assert torch.equal(found[masks(0) == 0], frames[masks(0) == 0])


def test_by_single_keyframes_a_file_is_as_in_memory(
    editor: Any, clip: Any, store: MaskStore, in_memory: Callable[[VideoSettings], Tensor], tmp_path: Path
) -> None:
    """What lies between two keyframes comes from both also where each is painted by itself."""
    video = VideoSettings(window=1, overlap=0, propagate="flow", keyframes=(0, 4, 8))
    steps, source = [ClipStep("make it red", (0,))], FileFrames(clip)
    settings = editor.defaults.with_kwargs(steps=2)
    found = CarriedChain(editor, steps, store, settings, video, clip, source, tmp_path).windows()
    assert torch.equal(torch.cat([each for _, each in found]), in_memory(video))


def test_carried_runs_go_on_from_every_file_with_the_same_bits(
    editor: Any, clip: Any, store: MaskStore, tmp_path: Path
) -> None:
    found = dict(carried(editor, clip, store, tmp_path, 2).windows())
    written = {path.name: path.read_bytes() for path in sorted(tmp_path.glob("keys-*"))}
    assert len(written) == 2 and next(iter(found)) == 0 and sum(map(len, found.values())) == COUNT
    for name in written:
        (tmp_path / name).unlink()
        again = dict(carried(editor, clip, store, tmp_path, 2).windows())
        assert all(torch.equal(again[first], found[first]) for first in found)
        assert {path.name: path.read_bytes() for path in tmp_path.glob("keys-*")} == written
    for begin in list(found)[1::2]:
        later = dict(carried(editor, clip, store, tmp_path, 2, begin).windows())
        assert list(later) == [first for first in found if first >= begin]
        assert all(torch.equal(later[first], found[first]) for first in later)


def test_keyframes_of_a_long_clip_are_chosen_without_reading_its_masks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compared is the area of masks; of two steps together each piece is read once, and no more."""
    store, on = MaskStore(tmp_path, 2, SIDE, SIDE), torch.zeros(40, SIDE, SIDE)
    for frame in range(40):
        on[frame, 10:20, 10 : 20 + frame // 2] = 1
    for first in range(0, 40, 2):
        part = on[first : first + 2]
        store.add([part, part.flip(2)], [Fraction(1, 8)] * 2)
    again = MaskStore(tmp_path, 2, SIDE, SIDE)
    assert again.count == 40 and again.pieces == store.pieces
    box = CropBox(0, 0, SIDE, SIDE, SIDE, SIDE)
    loads: list[int] = []
    load = np.load
    monkeypatch.setattr(np, "load", lambda *a, **k: loads.append(1) or load(*a, **k))
    for steps, reads in (((0,), 0), ((0, 1), 20)):
        view: Any = MaskView(store, steps)
        mask = on.bool() if len(steps) == 1 else on.bool() | on.flip(2).bool()
        boxes = dict.fromkeys(range(40), box)
        loads.clear()
        assert keyframes([Route(view, boxes)]) == keyframes([Route(mask, boxes)])
        assert len(loads) == reads
