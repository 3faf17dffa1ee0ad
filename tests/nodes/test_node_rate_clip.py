"""Rated clips: the row keeps some frames of both, the same ones, with their times."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from comfy_api.input_impl import VideoComponents, VideoFromComponents, VideoFromFile
from standin import call, part

pytest.importorskip("av")
COUNT, SIDE = 20, 16
KEPT = [0, 3, 5, 8, 11, 14, 16, 19]
TWO = """<thinking>a</thinking><intermediate>b</intermediate><reflection>c</reflection><output>
instruction: make the red square green
targets: red square
scope: local
instruction: remove the ball
targets: ball
scope: local</output>"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Any:
    before = folder_paths.base_path
    folder_paths.use(tmp_path / "comfy")
    yield
    folder_paths.use(Path(before))


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """Each of its own grey."""
    return (torch.arange(COUNT)[:, None, None, None] / 255).expand(-1, SIDE, SIDE, 3).contiguous()


def file_of(path: Path, frames: torch.Tensor, durations: list[Fraction]) -> VideoFromFile:
    part("evlm.files.clip_writer").write_clip(path, frames, "ffv1", durations)
    return VideoFromFile(str(path))


def rate(**inputs: Any) -> tuple[Any, Path]:
    """(the last row, its folder)."""
    given = {"plan": call("EVLM_PlanFromText", text="make it green", targets="square").args[0]}
    folder = call("EVLM_RateEdit", prompt="green", verdict="good", **{**given, **inputs}).args[0]
    return list(part("evlm.records").read_rows(folder))[-1], Path(folder)


def test_eight_frames_of_both_are_kept_with_rate_and_times(tmp_path: Path, frames: torch.Tensor) -> None:
    durations = [Fraction(1, 10)] * (COUNT - 1) + [Fraction(1, 2)]
    before = file_of(tmp_path / "a.mkv", frames, durations)
    after = VideoFromComponents(VideoComponents(frames + 100 / 255, Fraction(10)))
    mask = torch.zeros(COUNT, SIDE, SIDE)
    for frame in range(COUNT):
        mask[frame, :, frame % SIDE] = 1
    row, folder = rate(original=before, edited=after, mask=mask)
    paths = part("evlm.row").load_paths
    assert torch.equal(paths(folder, row.original), frames[KEPT])
    assert torch.equal((paths(folder, row.edited) * 255).round(), (frames[KEPT] * 255).round() + 100)
    assert row.meta["times"] == [round(each / 10, 3) for each in KEPT]
    assert row.fps == pytest.approx(7 / 1.9) and row.category == "text->video"
    assert torch.equal(row.true_mask(folder)[0], mask[KEPT].amax(0))
    assert row.request(folder).fps == row.fps


def test_a_clip_beside_the_frames_of_its_edit(tmp_path: Path, frames: torch.Tensor) -> None:
    clip = file_of(tmp_path / "a.mkv", frames, [Fraction(1, 10)] * COUNT)
    row, _ = rate(original=clip, edited=frames.flip(-1) + 0.5)
    assert len(row.original) == len(row.edited) == len(KEPT) and row.meta["times"][-1] == 1.9
    with pytest.raises(
        part("evlm.errors").RequestError, match="19 frames, but original has 20: expected as many"
    ):
        rate(original=clip, edited=frames[:-1])


def test_of_a_damaged_original_what_is_there_is_rated(
    tmp_path: Path, frames: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file promises more frames than can be decoded, and its edit has those that could."""
    told: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", told.append)
    tenth = Fraction(1, 10)
    path = tmp_path / "a.mkv"
    noise = torch.rand(COUNT, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    file_of(path, noise, [tenth] * COUNT)
    data = bytearray(path.read_bytes())
    data[len(data) * 6 // 10 :] = bytes(len(data) - len(data) * 6 // 10)
    path.write_bytes(data)
    with part("nodes.clips").opened(VideoFromFile(str(path))) as source:
        real = len(source.starts())
    assert 4 < real < COUNT
    edited = file_of(tmp_path / "b.mkv", 1 - noise[:real], [tenth] * real)
    row, folder = rate(original=VideoFromFile(str(path)), edited=edited)
    wanted = part("evlm.files.selection").spread(real, 8)
    paths = part("evlm.row").load_paths
    before, after = paths(folder, row.original), paths(folder, row.edited)
    assert torch.allclose(before, noise[wanted], atol=1 / 254) and torch.allclose(
        after, 1 - before, atol=1 / 120
    )
    assert any(f"{len(wanted)} of the clip's {real} frames are kept" in each for each in told)


def test_the_beginning_of_a_clip_is_rated_and_another_length_is_refused(
    tmp_path: Path, frames: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", told.append)
    tenth = Fraction(1, 10)
    clip = file_of(tmp_path / "a.mkv", frames, [tenth] * COUNT)
    row, folder = rate(original=clip, edited=file_of(tmp_path / "b.mkv", frames[:12] + 0.5, [tenth] * 12))
    wanted = part("evlm.files.selection").spread(12, 8)
    assert torch.equal(part("evlm.row").load_paths(folder, row.original), frames[wanted])
    assert row.meta["times"] == [round(each / 10, 3) for each in wanted]
    assert any("12 frames, but original has 20: the first 12 of both are rated" in each for each in told)
    slower = file_of(tmp_path / "c.mkv", frames[:12] + 0.5, [2 * tenth] * 12)
    with pytest.raises(
        part("evlm.errors").RequestError, match="has 20, and they are not shown at the same times"
    ):
        rate(original=clip, edited=slower)


def test_each_step_keeps_its_own_mask_of_the_kept_frames(tmp_path: Path, frames: torch.Tensor) -> None:
    clip = file_of(tmp_path / "a.mkv", frames, [Fraction(1, 10)] * COUNT)
    plan = call("EVLM_PlanFromText", text=TWO).args[0]
    masks = torch.zeros(2 * COUNT, SIDE, SIDE)
    masks[5, 0, 0] = masks[6, 0, 1] = masks[COUNT + 19, 1, 1] = 1  # frame 6 is not kept
    row, folder = rate(plan=plan, original=clip, edited=clip, mask=masks)
    read = [part("evlm.files.pictures").load_mask(folder / step["mask"])[0] for step in row.steps]
    assert [each.nonzero().tolist() for each in read] == [[[0, 0]], [[1, 1]]]


def test_images_are_kept_all_as_before(frames: torch.Tensor) -> None:
    row, _ = rate(original=frames, edited=frames.flip(-1))
    assert len(row.original) == COUNT and row.fps is None and row.meta == {}
