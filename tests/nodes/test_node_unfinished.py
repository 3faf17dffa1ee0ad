"""An edit of a clip that was cancelled goes on where it was when the same is queued again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from comfy_api.input_impl import VideoComponents, VideoFromComponents, VideoFromFile
from standin import call, part

pytest.importorskip("av")
COUNT, SIDE, WINDOW = 8, 64, 3


class Cancelled(Exception):
    pass


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Any:
    before = folder_paths.base_path
    folder_paths.use(tmp_path / "comfy")
    yield
    folder_paths.use(Path(before))


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    return (torch.rand(COUNT, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0)) * 255).round() / 255


@pytest.fixture
def mask() -> torch.Tensor:
    on = torch.zeros(COUNT, SIDE, SIDE)
    for frame in range(COUNT):
        on[frame, 20:40, 8 + 4 * frame : 28 + 4 * frame] = 1
    return on


@pytest.fixture
def clip(frames: torch.Tensor, tmp_path: Path) -> VideoFromFile:
    part("evlm.files.clip_writer").write_clip(tmp_path / "clip.mkv", frames, "ffv1")
    return VideoFromFile(str(tmp_path / "clip.mkv"))


@pytest.fixture(scope="module")
def editor() -> Any:
    return call("EVLM_LoadEditor").args[0]


@pytest.fixture
def edit(mask: torch.Tensor, editor: Any) -> Callable[..., Any]:
    def run(video: Any, **other: Any) -> Any:
        how = {"editor": editor, "mask": mask, "window": WINDOW, "steps": 1, "together": "anchors"}
        asked = {"instruction": "make it green", **how, **other}
        return call("EVLM_EditVideo", video=video, **asked)

    return run


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nodes say."""
    said: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", said.append)
    return said


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """By window, how many frames were painted; `cancel_after` windows, the user cancels."""
    painter = part("evlm.video.windows").WindowPainter
    done: list[int] = []
    paint = painter.paint

    def counting(self: Any, work: Any, held: Any) -> Any:
        if len(done) == counting.cancel_after:  # type: ignore[attr-defined]
            raise Cancelled
        done.append(len(work.which))
        return paint(self, work, held)

    counting.cancel_after = -1  # type: ignore[attr-defined]
    monkeypatch.setattr(painter, "paint", counting)
    return done


def cancel_after(windows: int) -> None:
    part("evlm.video.windows").WindowPainter.paint.cancel_after = windows


def kept() -> list[Path]:
    return sorted(part("nodes.folders").temp().glob("evlm_unfinished_*"))


# Of a file, the bits are compared in test_frames_that_the_disk_did_not_take_are_painted_again.
@pytest.mark.parametrize("held", [pytest.param(False, marks=pytest.mark.slow), True], ids=["file", "memory"])
def test_it_goes_on_where_it_was_with_the_same_bits(
    clip: VideoFromFile,
    frames: torch.Tensor,
    edit: Callable[..., Any],
    painted: list[int],
    told: list[str],
    held: bool,
) -> None:
    def video() -> Any:  # what is in memory comes as another object each time
        return VideoFromComponents(VideoComponents(frames.clone(), 8, None)) if held else clip

    whole = edit(video()).args
    assert not kept() and len(painted) > 3
    count = len(painted)
    painted.clear()
    cancel_after(2)
    with pytest.raises(Cancelled):
        edit(video())
    assert "4 of 8 frames are painted, and kept: queue the same again" in told[-1]
    (left,) = kept()
    cancel_after(-1)
    painted.clear()
    with pytest.raises(Cancelled):
        cancel_after(0)
        edit(video(), seed=1)  # another edit begins at its first frame, and leaves nothing
    assert kept() == [left]
    cancel_after(-1)
    again = edit(video()).args
    assert len(painted) == count - 2 and not kept()
    assert "4 of 8 frames are painted from the run before" in "\n".join(told)
    assert torch.equal(again[1], whole[1])
    files = [Path(each[0].get_stream_source()) for each in (whole, again)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_is_kept_is_bounded_and_another_editor_begins_anew(
    clip: VideoFromFile, edit: Callable[..., Any], painted: list[int], told: list[str]
) -> None:
    def cancelled(**other: Any) -> None:
        painted.clear()
        cancel_after(1)
        with pytest.raises(Cancelled):
            edit(clip, **other)

    first = None
    for seed in range(3):
        cancelled(seed=seed)
        first = first or kept()[0]
        assert len(kept()) == min(seed + 1, 2)
    assert first not in kept()
    told.clear()
    cancelled(seed=2)
    assert any("from the run before" in each for each in told)  # it is said before anything is painted
    told.clear()
    cancelled(seed=2, editor=call("EVLM_LoadEditor", dtype="bf16").args[0])
    assert not any("from the run before" in each for each in told)


def test_the_same_loaded_anew_goes_on(
    clip: VideoFromFile, edit: Callable[..., Any], painted: list[int], told: list[str]
) -> None:
    """ComfyUI runs a loader again when its cache was dropped, or its `download` was switched."""
    cancel_after(2)
    with pytest.raises(Cancelled):
        edit(clip)
    cancel_after(-1)
    painted.clear()
    edit(clip, editor=call("EVLM_LoadEditor", download=True).args[0])
    assert any("4 of 8 frames are painted from the run before" in each for each in told)


def test_a_model_is_known_by_its_files_and_how_they_were_loaded(tmp_path: Path) -> None:
    import shutil

    model = part("nodes.unfinished").model
    roots = Path(folder_paths.models_dir) / "evlm"
    shutil.copytree(part("evlm.models.zoo").BUNDLED / "detector", roots / "mine")

    def known(**how: Any) -> str:
        return str(model(call("EVLM_LoadDetector", model="evlm/mine", **how).args[0]))

    first = known()
    assert known(download=True) == first != known(dtype="bf16")
    (roots / "mine" / "more.json").write_text("{}")
    assert known() != first
    segmenters = [call("EVLM_LoadSegmenter").args[0] for _ in range(2)]
    trackers = [part("nodes.tracking").tracker_of(each) for each in segmenters]
    assert len({*map(model, segmenters), *map(model, trackers)}) == 2
    nobody = [part("nodes.host").Managed("a", lambda device: 0, lambda _: [], "editor") for _ in range(2)]
    assert len(set(map(model, nobody))) == 2


def test_frames_that_the_disk_did_not_take_are_painted_again(
    clip: VideoFromFile, edit: Callable[..., Any], painted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    whole = edit(clip).args[1]
    count = len(painted)
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        painted.clear()
        cancel_after(2)
        with pytest.raises(Cancelled):
            edit(clip)
    cancel_after(-1)
    painted.clear()
    assert torch.equal(edit(clip).args[1], whole) and len(painted) == count


def test_two_of_the_same_at_once_do_not_share_a_folder() -> None:
    unfinished = part("nodes.unfinished")
    with unfinished.work_folder("a", lambda folder: True) as one:
        with unfinished.work_folder("a", lambda folder: True) as other:
            assert one != other and other.is_dir()
        assert one.is_dir() and not other.exists()
    assert not one.exists()


def test_a_scenes_rows_are_read_many_at_a_time_and_frames_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    unfinished = part("nodes.unfinished")
    rows = torch.rand(1 << 20, 3, generator=torch.Generator().manual_seed(0))
    key = unfinished.key_of(rows)
    cpu, pieces = torch.Tensor.cpu, list[torch.Size]()

    def counted(self: torch.Tensor) -> torch.Tensor:
        pieces.append(self.shape)
        return cpu(self)

    monkeypatch.setattr(torch.Tensor, "cpu", counted)
    assert unfinished.key_of(rows) == key and len(pieces) <= 4
    pieces.clear()
    unfinished.key_of(torch.zeros(3, 1024, 1024, 3))
    assert pieces == [(1, 1024, 1024, 3)] * 3
    changed = rows.clone()
    changed[-1, -1] += 1
    keys = {key, *map(unfinished.key_of, (changed, rows.reshape(3, -1), rows[:0]))}
    assert len(keys) == 4
