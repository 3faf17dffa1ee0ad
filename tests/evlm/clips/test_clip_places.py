"""The places of a clip that is looked at in pieces: those of one in memory, wherever it was stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_sam2
import torch
from torch import Tensor

from evlm import place_each as place_each_file
from evlm.boxes import Box
from evlm.clips import job as job_file
from evlm.clips.given_mask import GivenMask
from evlm.clips.job import ClipJob
from evlm.clips.masks import MaskStore
from evlm.edit.protocol import EditSettings
from evlm.errors import PictureError
from evlm.files import pictures
from evlm.files.clip_codecs import form_of
from evlm.files.clip_reader import open_clip
from evlm.files.clip_writer import write_clip
from evlm.files.pictures import save_mask
from evlm.pipeline import Pipeline
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan, Trace
from evlm.reason.reasoner import Reasoned
from evlm.request import Request
from evlm.results import Planned
from evlm.segment import tracker as tracker_file
from evlm.segment.tracker import Tracker
from evlm.video.settings import VideoSettings

pytest.importorskip("av")
SIDE, COUNT, CUT = 64, 12, 9


@pytest.fixture(scope="module")
def frames() -> Tensor:
    """A red square that goes right, comes in frame 2, and is elsewhere behind a cut."""
    noise = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0)) * 0.4
    frames = noise.repeat(COUNT, 1, 1, 1)
    frames[CUT:] = frames[CUT:].flip(1) * 0.2
    for frame in range(2, COUNT):
        x, y = (4 + 3 * frame, 20) if frame < CUT else (40, 8)
        frames[frame, y : y + 16, x : x + 14] = torch.tensor([1.0, 0.0, 0.0])
    return (frames * 255).round() / 255


@pytest.fixture(scope="module")
def clip(frames: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("clip") / "a.mkv"
    write_clip(path, frames, "ffv1")
    return open_clip(path)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tiny_sam2.make_folder(tmp_path_factory.mktemp("tracker"), 128, 64)
    return tiny_sam2.calmed(Tracker.load(folder, device="cpu"))


class Red:
    """A detector that finds what is red."""

    def ground(self, frames: Tensor, labels: Any, threshold: Any = None, **_: Any) -> list[Box]:
        found = []
        for at, frame in enumerate(frames):
            rows, columns = ((frame[..., 0] > 0.9) & (frame[..., 1] < 0.1)).nonzero(as_tuple=True)
            if len(rows):
                box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                found.append(Box(labels[0], 0.9, *map(float, box), frame=at))
        return found


@pytest.fixture(autouse=True)
def keyframes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_file, "KEYFRAME", 4)


def rectangle() -> str:
    on = torch.zeros(SIDE, SIDE)
    on[18:38, 4:50] = 1
    return BoxSpans().encode(on)


PLANS = {
    "found": Plan("make it blue", ("square",)),
    "its own": Plan("make it blue", (), rectangle(), "local"),
    "two steps": Plan.of_steps(
        [
            Plan("make it blue", ("square",), rectangle(), "local", trust="base"),
            Plan("make the rest darker", (), None, "global"),
        ]
    ),
}
# A plan's own mask is in two of them.
FEW = [pytest.param(each, marks=pytest.mark.slow if each == "its own" else ()) for each in PLANS]


def job_of(clip: Any, tracker: Tracker, folder: Path) -> ClipJob:
    nothing: Any = None
    form, _ = form_of("ffv1", SIDE, SIDE)
    return ClipJob(
        clip,
        Pipeline(nothing, Red(), None, nothing, tracker),
        Request(torch.zeros(1, SIDE, SIDE, 3), "x"),
        EditSettings(),
        VideoSettings(),
        form,
        folder,
    )


def reasoned(plan: Plan) -> Reasoned:
    return Reasoned("", 0, 0.0, trace=Trace("", "", "", plan))


def in_memory(frames: Tensor, tracker: Tracker, plan: Plan) -> Planned:
    """The slow way: all frames at once."""
    nothing: Any = None
    pipeline = Pipeline(nothing, Red(), None, nothing, tracker)
    return pipeline.plan(Request(frames, "x"), reasoned(plan))


def check(store: MaskStore, planned: Planned) -> None:
    assert store.count == COUNT and store.steps == len(planned.steps)
    for number, step in enumerate(planned.steps):
        wanted = torch.ones(COUNT, SIDE, SIDE) if step.mask is None else step.mask
        assert torch.equal(store.some([number], range(COUNT)), wanted >= 0.5)
        assert store.whole([number]) == (step.mask is None)
    assert [Box(**box) for piece in store.pieces for box in piece.boxes] == sorted(
        planned.boxes, key=lambda box: box.frame
    )
    assert [note for piece in store.pieces for note in piece.notes] == list(planned.notes)
    assert {piece.doubt for piece in store.pieces} == {planned.doubt}


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("looks", [pytest.param(False, marks=pytest.mark.slow), True])
def test_the_plans_own_mask_goes_along_in_pieces_too(
    frames: Tensor, clip: Any, tracker: Tracker, looks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """looks: a detector that finds nothing is asked first."""
    on = torch.zeros(SIDE, SIDE)
    on[20:36, 10:24] = 1
    plan = Plan("make it blue", ("cup",) if looks else (), BoxSpans().encode(on), "local")
    monkeypatch.setattr(Red, "ground", lambda *_, **__: [])
    monkeypatch.setattr(tracker_file, "EVERY", 2)
    shown = frames.roll(-2, 0)  # what is seen from the first frame on
    path = tmp_path / "a.mkv"
    write_clip(path, shown, "ffv1")
    nothing: Any = None
    finder: Any = Red() if looks else None
    pipeline = Pipeline(nothing, finder, None, nothing)
    told: list[Any] = []
    planned = pipeline.plan(Request(shown, "x"), reasoned(plan), on_event=told.append)
    done = [(each.step, each.done, each.total) for each in told if each.kind == "progress"]
    assert done == [("segment", frame + 1, COUNT) for frame in range(COUNT)]  # and there it can be stopped
    assert planned.steps[0].mask is not None and any("along the motion" in each for each in planned.notes)
    assert float(planned.steps[0].mask[6, 20:36, 28:42].mean()) > 0.9
    assert not planned.steps[0].mask[CUT - 2 :].any()
    monkeypatch.setattr(job_file, "_PLACED", 3 * SIDE * SIDE)
    job = replace(job_of(open_clip(path), tracker, tmp_path / "work"), anyway=True, pipeline=pipeline)
    rename, left = pictures.os.replace, [7]

    def killing(*paths: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise _Killed
        rename(*paths)

    monkeypatch.setattr(pictures.os, "replace", killing)
    with pytest.raises(_Killed):
        job.places(reasoned(plan))
    monkeypatch.setattr(pictures.os, "replace", rename)
    store = job.places(reasoned(plan))
    assert torch.equal(store.some([0], range(COUNT)), planned.steps[0].mask >= 0.5)
    job = replace(job, work=tmp_path / "still", video=VideoSettings(track="plan"))
    wanted = (on >= 0.5).expand(COUNT, -1, -1)
    assert torch.equal(job.places(reasoned(plan)).some([0], range(COUNT)), wanted)


@pytest.mark.parametrize("name", FEW)
def test_in_pieces_it_is_what_it_is_in_memory(
    frames: Tensor, clip: Any, tracker: Tracker, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = in_memory(frames, tracker, PLANS[name])
    if name in ("found", "two steps"):
        assert len({box.frame for box in planned.boxes}) > 1 and planned.steps[0].mask is not None
        assert 0 < float(planned.steps[0].mask.mean()) < 1
        assert any("a cut before frame 9" in note for note in planned.notes)
    for size in (2, 3):
        monkeypatch.setattr(job_file, "_PLACED", size * SIDE * SIDE)
        job = replace(job_of(clip, tracker, tmp_path / str(size)), anyway=True)
        store = job.places(reasoned(PLANS[name]))
        assert [len(piece.durations) for piece in store.pieces] == [size] * (COUNT // size)
        check(store, planned)
        check(job.places(reasoned(PLANS[name])), planned)
        assert not list(job.work.glob("follow-*"))


def test_killed_at_any_file_it_goes_on_with_the_same_bytes(
    clip: Any, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_file, "_PLACED", 3 * SIDE * SIDE)
    monkeypatch.setattr(tracker_file, "EVERY", 4)
    plan = reasoned(PLANS["found"])
    job_of(clip, tracker, tmp_path / "whole").places(plan)
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    rename = pictures.os.replace
    for moment in (4, 13):  # of 17: among the states with their masks, and the pieces of two files
        left = [moment]

        def killing(*paths: Any, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise _Killed
            rename(*paths)

        monkeypatch.setattr(pictures.os, "replace", killing)
        folder = tmp_path / str(moment)
        with pytest.raises(_Killed):
            job_of(clip, tracker, folder).places(plan)
        monkeypatch.setattr(pictures.os, "replace", rename)
        job_of(clip, tracker, folder).places(plan)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == wanted
    assert len(wanted) == 9


def test_of_a_plan_that_is_doubted_anyway_only_the_first_piece_is_looked_at(
    clip: Any, tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_file, "_PLACED", 3 * SIDE * SIDE)
    plan = replace(PLANS["found"], repairs=tuple(f"repair {number}" for number in range(9)))
    store = job_of(clip, tracker, tmp_path).places(reasoned(plan))
    assert store.count == 3 and "9 repairs" in store.pieces[0].doubt
    assert not (tmp_path / "places.done").exists()


def test_a_file_that_promised_more_frames_ends_where_it_ends(
    frames: Tensor, clip: Any, tracker: Tracker, tmp_path: Path
) -> None:
    plan = PLANS["found"]
    job = job_of(replace(clip, count=COUNT + 5), tracker, tmp_path)
    check(job.places(reasoned(plan)), in_memory(frames, tracker, plan))


def test_a_mask_of_a_frame_that_is_not_there_is_no_unedited_clip(
    clip: Any, tracker: Tracker, tmp_path: Path
) -> None:
    save_mask(tmp_path / "m.png", torch.ones(SIDE, SIDE))
    longer = replace(clip, count=COUNT + 5)
    job = job_of(longer, tracker, tmp_path / "work")
    job.mask, job.mask_frame = GivenMask.open(tmp_path / "m.png", longer), COUNT + 2
    with pytest.raises(PictureError, match=f"of frame {COUNT + 2}, and only {COUNT} frames"):
        job.places(reasoned(PLANS["found"]))
    job = replace(job, work=tmp_path / "other", mask_frame=0)
    notes = job.places(reasoned(replace(PLANS["found"], repairs=("a comma",)))).pieces[0].notes
    assert "repaired: a comma" in notes


def test_things_by_themselves_are_not_made_where_nobody_asks(
    frames: Tensor, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask for each thing in each frame is many times a mask for all."""
    from evlm.place_clip import place_clip
    from evlm.segment.tracks import Tracks

    asked: list[int] = []
    masks = Tracks.masks.fget
    monkeypatch.setattr(Tracks, "masks", property(lambda tracks: asked.append(1) or masks(tracks)))
    place = place_clip(PLANS["found"], frames, Red(), tracker, None)
    assert place.mask is not None and not asked
    assert bool((place.objects.amax(0) <= place.mask).all()) and asked  # the mask is a little larger


class Draws:
    """A segmenter that draws a box without its first row, and runs over it where the box is high."""

    def segment(self, frames: Tensor, boxes: Any) -> Any:
        masks = torch.zeros(len(boxes), *frames.shape[:3])
        for number, box in enumerate(boxes):
            x0, y0, x1, y1 = (round(each) for each in box.corners)
            masks[number, box.frame, y0 + 1 : y1, x0:x1] = 1
            if y0 < 10:
                masks[number, box.frame, y0 + 2 : y0 + 8] = 1
        return SimpleNamespace(masks=masks)


def drawn_job(clip: Any, folder: Path) -> ClipJob:
    nothing: Any = None
    job = job_of(clip, nothing, folder)
    return replace(job, pipeline=Pipeline(nothing, Red(), Draws(), nothing), video=EACH)


EACH = VideoSettings(track="every-frame")


@pytest.mark.parametrize("name", FEW)
def test_by_a_segmenter_in_every_frame_it_is_decided_on_once(
    frames: Tensor, clip: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thing is not there yet in the first window: that is no reason to paint the whole frame in any."""
    planned = drawn_job(clip, tmp_path).pipeline.plan(Request(frames, "x"), reasoned(PLANS[name]), video=EACH)
    if name == "found":
        mask = planned.steps[0].mask
        assert mask is not None and not bool(mask[:2].any()) and bool(mask[2:].flatten(1).any(1).all())
        assert any("ran" in note for note in planned.notes)
    for size in (5,) if name == "its own" else (2, 5):
        monkeypatch.setattr(job_file, "_PLACED", size * SIDE * SIDE)
        job = replace(drawn_job(clip, tmp_path / str(size)), anyway=True)
        check(job.places(reasoned(PLANS[name])), planned)
        assert not list(job.work.glob("follow-*"))


def test_killed_between_two_windows_it_goes_on_with_the_same_bytes(
    clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_file, "_PLACED", 2 * SIDE * SIDE)
    monkeypatch.setattr(place_each_file, "EVERY", 4)
    plan = reasoned(PLANS["two steps"])
    drawn_job(clip, tmp_path / "whole").places(plan)
    wanted = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    rename = pictures.os.replace
    for moment in range(0, 9, 2):
        left = [moment]

        def killing(*paths: Any, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise _Killed
            rename(*paths)

        monkeypatch.setattr(pictures.os, "replace", killing)
        with pytest.raises(_Killed):
            drawn_job(clip, tmp_path / str(moment)).places(plan)
        monkeypatch.setattr(pictures.os, "replace", rename)
        drawn_job(clip, tmp_path / str(moment)).places(plan)
        assert {path.name: path.read_bytes() for path in (tmp_path / str(moment)).iterdir()} == wanted
