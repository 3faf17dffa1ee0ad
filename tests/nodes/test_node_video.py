"""Track, Edit Video and Steadiness on the stand-in for ComfyUI, with the bundled models."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from comfy_api.input_impl import VideoComponents, VideoFromComponents, VideoFromFile
from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import CurrentNodeContext
from standin import call, nodes, part

pytest.importorskip("av")
COUNT, SIDE, RATE = 5, 64, Fraction(24000, 1001)
GREEN = {"text": "make the red square green", "targets": "red square"}


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    before = folder_paths.base_path
    folder_paths.use(tmp_path_factory.mktemp("comfy"))
    yield
    folder_paths.use(Path(before))


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """A red square that goes to the right over grey."""
    made = torch.full((COUNT, SIDE, SIDE, 3), 0.6)
    for frame in range(COUNT):
        made[frame, 20:40, 8 + 4 * frame : 28 + 4 * frame] = torch.tensor([0.9, 0.1, 0.1])
    return made


@pytest.fixture(scope="module")
def squares() -> torch.Tensor:
    on = torch.zeros(COUNT, SIDE, SIDE)
    for frame in range(COUNT):
        on[frame, 20:40, 8 + 4 * frame : 28 + 4 * frame] = 1
    return on


@pytest.fixture(scope="module")
def clip(frames: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> VideoFromFile:
    """In a file without loss, with sound and a frame that stays longer than the others."""
    work = tmp_path_factory.mktemp("clip")
    sound = work / "sound.mka"
    part("evlm.files.clip_held").write_sound(sound, torch.sin(torch.arange(11025) / 9)[None], 44100)
    durations = [1 / RATE] * (COUNT - 1) + [2 / RATE]
    path = work / "clip.mkv"
    heard = part("evlm.files.clip_sound").Sound(sound)
    part("evlm.files.clip_writer").write_clip(path, frames, "ffv1", durations, heard)
    return VideoFromFile(str(path))


@pytest.fixture(scope="module")
def editor() -> Any:
    return call("EVLM_LoadEditor").args[0]


@pytest.fixture(scope="module")
def plan() -> Any:
    return call("EVLM_PlanFromText", **GREEN).args[0]


def edit(**inputs: Any) -> Any:
    return call("EVLM_EditVideo", steps=2, **inputs)


def reread(video: VideoFromFile) -> Any:
    return part("evlm.files.clips").read_clip(video.get_stream_source())


def test_what_is_outside_the_mask_is_the_same_and_times_and_sound_go_along(
    clip: VideoFromFile, frames: torch.Tensor, squares: torch.Tensor, editor: Any, plan: Any
) -> None:
    source = reread(clip)
    made = edit(editor=editor, video=clip, plan=plan, mask=squares)
    video, images = made.args
    assert torch.equal(images[squares < 0.5], source.frames[squares < 0.5])
    assert not torch.equal(images, source.frames)
    written = reread(video)
    assert written.durations == source.durations and written.sound
    assert (written.frames - images).abs().mean() < 0.02  # h264
    (shown,) = made.ui["images"]
    assert shown["type"] == "temp" and made.ui["animated"] == (True,)
    assert (part("nodes.folders").temp() / shown["filename"]).is_file()


def test_frames_in_memory_give_what_the_file_gives(
    clip: VideoFromFile, squares: torch.Tensor, editor: Any, plan: Any
) -> None:
    source = reread(clip)
    audio = {"waveform": torch.zeros(1, 2, 4800), "sample_rate": 48000}
    held = VideoFromComponents(VideoComponents(source.frames, RATE, audio))
    both = [edit(editor=editor, video=each, plan=plan, mask=squares).args for each in (clip, held)]
    assert torch.equal(both[0][1], both[1][1])
    written = reread(both[1][0])
    assert written.durations == (1 / RATE,) * COUNT and written.sound


def test_track_and_edit_by_a_plan_and_the_bundled_models(
    clip: VideoFromFile, squares: torch.Tensor, editor: Any, plan: Any
) -> None:
    models = {
        "detector": call("EVLM_LoadDetector").args[0],
        "segmenter": call("EVLM_LoadSegmenter").args[0],
    }
    tracked = call("EVLM_Track", clip=clip, plan=plan, **models)
    mask, steps, preview = tracked.args
    assert mask.shape == (COUNT, SIDE, SIDE) and torch.equal(steps, mask) and len(preview) == COUNT
    inside = (mask > 0.5) & (squares > 0.5)
    assert inside.sum() > 0.6 * squares.sum()
    both = call("EVLM_Track", clip=reread(clip).frames, plan=plan, **models).args[0]
    assert torch.equal(both, mask)
    whole = edit(editor=editor, video=clip, plan=plan, **models).args[1]
    by_mask = edit(editor=editor, video=clip, plan=plan, mask=mask).args[1]
    assert torch.equal(whole, by_mask)  # what Edit Video finds by itself is what Track finds


def test_a_mask_by_hand_and_clicks_go_along_the_motion_without_a_tracker(
    clip: VideoFromFile, squares: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part("evlm.segment.tracker"), "tracker_source", lambda path: None)
    how = {"segmenter": call("EVLM_LoadSegmenter").args[0], "clip": clip}

    def least(found: torch.Tensor) -> float:
        both = [(a > 0.5, b > 0.5) for a, b in zip(found, squares, strict=True)]
        return min(float((a & b).sum() / (a | b).sum()) for a, b in both)

    found = call("EVLM_Track", hand_mask=squares[2:3], frame=2, **how).args[0]
    assert torch.equal(found[2], squares[2]) and least(found) > 0.85
    clicks = '[{"x": 20, "y": 30}, {"x": 60, "y": 60, "on": false}]'
    assert least(call("EVLM_Track", points=clicks, frame=0, **how).args[0]) > 0.75
    off = '[{"x": 20, "y": 30, "frame": 0}, {"x": 60, "y": 60, "on": false, "frame": 3}]'
    with pytest.raises(part("evlm.errors").RequestError, match="all clicks in frame 3"):
        call("EVLM_Track", points=off, **how)


def test_a_mask_by_hand_and_clicks_go_to_a_tracker(
    clip: VideoFromFile, squares: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = call("EVLM_LoadSegmenter").args[0]
    errors = part("evlm.errors")
    seen: dict[int, Any] = {}

    class Tracker:
        def track(self, frames: torch.Tensor, prompts: Any, on_frame: Any) -> Any:
            seen.update(prompts)
            tracks = part("evlm.segment.tracks").Tracks(len(frames), *frames.shape[1:3])
            number = tracks.add("hand")
            for frame, on in enumerate(squares > 0.5):
                tracks.put(number, frame, on, 1.0)
                on_frame(frame + 1, len(frames))
            return tracks

    monkeypatch.setattr(part("nodes.track"), "tracker_of", lambda segmenter: Tracker())
    how = {"segmenter": segmenter, "clip": clip}
    assert torch.equal(call("EVLM_Track", hand_mask=squares[2:3], frame=2, **how).args[0], squares)
    assert list(seen) == [2] and torch.equal(seen[2][0].mask, squares[2])
    seen.clear()
    call(
        "EVLM_Track", points='[{"x": 9, "y": 30}, {"x": 1, "y": 1, "on": false, "frame": 3}]', frame=1, **how
    )
    assert {at: each[0].points[1].tolist() for at, each in seen.items()} == {1: [1], 3: [0]}
    with pytest.raises(errors.RequestError, match=r"frame 7.* 0 to 4"):
        call("EVLM_Track", points='[{"x": 9, "y": 30, "frame": 7}]', **how)
    with pytest.raises(errors.RequestError, match="nothing is drawn"):
        call("EVLM_Track", hand_mask=torch.zeros(1, SIDE, SIDE), **how)


def test_what_does_not_fit_is_refused_before_it_is_decoded(
    clip: VideoFromFile, squares: torch.Tensor, editor: Any, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part("evlm.files.clips"), "MAX_TOTAL_PIXELS", 4 * SIDE * SIDE)
    errors = part("evlm.errors")
    with pytest.raises(errors.PictureError, match=r"clip: 5 frames of 64 x 64.* at most 4.*EVLM Edit Video"):
        call("EVLM_Track", segmenter=call("EVLM_LoadSegmenter").args[0], clip=clip, plan=plan)
    video, images = edit(editor=editor, video=clip, plan=plan, mask=squares).args
    assert len(reread_any(video, monkeypatch)) == COUNT
    assert isinstance(images, ExecutionBlocker) and "`video`" in str(images.message)


def reread_any(video: VideoFromFile, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    monkeypatch.undo()
    return reread(video).frames


def test_an_image_output_that_cannot_be_is_refused_at_once(
    clip: VideoFromFile, editor: Any, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    monkeypatch.setattr(part("evlm.files.clips"), "MAX_TOTAL_PIXELS", 4 * SIDE * SIDE)
    graph = {"9": {"inputs": {"images": ["7", 1]}}, "7": {"inputs": {"video": ["1", 0]}}}
    monkeypatch.setattr(nodes()["EVLM_EditVideo"], "hidden", SimpleNamespace(prompt=graph))
    with CurrentNodeContext("run", "7"), pytest.raises(part("evlm.errors").PictureError, match="at most 4"):
        edit(editor=editor, video=clip, plan=plan)


def test_frames_of_a_long_clip_are_held_only_where_somebody_takes_them(
    clip: VideoFromFile, squares: torch.Tensor, editor: Any, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    monkeypatch.setattr(part("nodes.edit_video"), "HELD", 4 * SIDE * SIDE)
    taken = {"9": {"inputs": {"images": ["7", 1]}}}
    found = []
    for graph in ({}, taken):
        monkeypatch.setattr(nodes()["EVLM_EditVideo"], "hidden", SimpleNamespace(prompt=graph))
        with CurrentNodeContext("run", "7"):
            found.append(edit(editor=editor, video=clip, plan=plan, mask=squares).args[1])
    assert "change the seed" in found[0].message and found[1].shape == (COUNT, SIDE, SIDE, 3)


def test_a_mask_of_another_length_names_both_numbers(clip: VideoFromFile, editor: Any, plan: Any) -> None:
    with pytest.raises(part("evlm.errors").PictureError, match="3 masks for 5 frames"):
        edit(editor=editor, video=clip, plan=plan, mask=torch.ones(3, SIDE, SIDE))


def test_a_doubtful_plan_and_one_that_changes_nothing_give_the_clip_back(
    clip: VideoFromFile, editor: Any, plan: Any
) -> None:
    nothing = call("EVLM_PlanFromText", text="no change needed").args[0]
    for each in (plan, nothing):  # the first has a target, and nobody says where it is
        video, images = edit(editor=editor, video=clip, plan=each).args
        assert video is clip and torch.equal(images, reread(clip).frames)


def test_a_cancel_ends_it_between_two_steps_and_leaves_nothing(
    clip: VideoFromFile, squares: torch.Tensor, editor: Any, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cancelled(Exception):
        pass

    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) > 6:
            raise Cancelled

    monkeypatch.setattr(part("nodes.host"), "check_cancelled", check)
    before = set(part("nodes.folders").temp().iterdir())
    with pytest.raises(Cancelled):
        call("EVLM_EditVideo", steps=50, editor=editor, video=clip, plan=plan, mask=squares)
    assert set(part("nodes.folders").temp().iterdir()) == before


def test_steadiness_of_a_clip_beside_itself_and_beside_one_that_flickers(
    clip: VideoFromFile, squares: torch.Tensor
) -> None:
    text, strip, excess, flicker = call("EVLM_Steadiness", original=clip, edited=clip, mask=squares).args
    assert excess == 0 and "excess warp error" in text and strip.shape[0] == 1
    shaken = reread(clip).frames
    shaken[1::2] = (shaken[1::2] + 0.1).clamp(0, 1)
    worse = call("EVLM_Steadiness", original=clip, edited=shaken, mask=squares, flow="lk").args
    assert worse[2] > 1 and worse[3] > flicker + 5
    with pytest.raises(part("evlm.errors").RequestError, match=r"3 frames of 64 x 64.*5 frames of 64 x 64"):
        call("EVLM_Steadiness", original=clip, edited=shaken[:3])


def test_time_is_said_as_people_say_it() -> None:
    spoken = part("nodes.clips").spoken
    assert [spoken(each) for each in (0.4, 59, 200, 7500)] == ["0 s", "59 s", "3 min 20 s", "2 h 5 min"]


def test_keyframes_go_out_and_come_back_with_times_and_sound(
    clip: VideoFromFile, squares: torch.Tensor
) -> None:
    source = reread(clip)
    picked, keys, masks = call("EVLM_Keyframes", clip=clip, mask=squares, count=2).args
    assert keys.indices == (0, COUNT - 1) and torch.equal(masks, squares[[0, COUNT - 1]])
    edited = picked.flip(-1)
    made = call("EVLM_PropagateKeyframes", clip=clip, edited=edited, keys=keys, mask=squares, feather=0)
    video, images = made.args
    assert torch.equal(images[squares < 0.5], source.frames[squares < 0.5])
    red = images[2][squares[2] > 0.5].mean(0)
    assert red[2] > 0.6 > red[0]  # blue now
    written = reread(video)
    assert written.durations == source.durations and written.sound and made.ui["animated"] == (True,)
    shaded = edited * torch.tensor([1.0, 0.7])[:, None, None, None]
    own = {"clip": clip, "edited": shaded, "keys": keys, "feather": 0, "mask": squares}
    apart, even = (call("EVLM_PropagateKeyframes", **own, one_look=on).args[1] for on in (False, True))
    steps = [
        float(each[0][squares[0] > 0.5].mean() - each[-1][squares[-1] > 0.5].mean()) for each in (apart, even)
    ]
    assert abs(steps[1]) < 0.2 * steps[0] and torch.equal(even[squares < 0.5], source.frames[squares < 0.5])
    with pytest.raises(part("evlm.errors").PictureError, match="1 edited keyframes came back of 2"):
        call("EVLM_PropagateKeyframes", clip=clip, edited=edited[:1], keys=keys)


def test_reason_looks_at_some_frames_of_a_video(clip: VideoFromFile, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", told.append)
    clips = part("nodes.clips")
    for each in (clip, VideoFromComponents(VideoComponents(reread(clip).frames, RATE))):
        seen, rate = clips.looked_at(each, "image", 3)
        assert torch.equal(seen, reread(clip).frames[[0, 2, 4]])
        # Matroska's times are whole milliseconds
        assert rate is not None and abs(2 / rate - 4 / float(RATE)) <= 1e-3


def test_of_a_reference_video_only_what_is_looked_at_is_decoded(tmp_path: Path) -> None:
    """(C14) All of it stood in memory as float32."""
    path = tmp_path / "reference.mkv"
    frames = (torch.arange(40)[:, None, None, None] / 255).expand(-1, 16, 16, 3).contiguous()
    part("evlm.files.clip_writer").write_clip(path, frames, "ffv1", [Fraction(1, 10)] * 40)
    video = VideoFromFile(str(path))
    video.get_components = lambda: pytest.fail("all of it is decoded")
    (seen,) = call("EVLM_Reference", kind="video", video=video).args[0]
    which = part("evlm.files.selection").spread(40, 8)
    assert torch.equal((seen.frames * 255).round(), (frames[which] * 255).round())
    assert seen.fps == pytest.approx(7 / 3.9)
    (batch,) = call("EVLM_Reference", kind="video", image=frames).args[0]
    assert torch.equal(batch.frames, frames[which]) and batch.fps is None


def test_the_bundled_tracker_follows_a_mask_by_hand_and_clicks(
    clip: VideoFromFile, squares: torch.Tensor
) -> None:
    how = {"segmenter": call("EVLM_LoadSegmenter").args[0], "clip": clip}
    for asked in ({"hand_mask": squares[2:3], "frame": 2}, {"points": '[{"x": 20, "y": 30}]', "frame": 0}):
        found = call("EVLM_Track", **asked, **how).args[0] > 0.5
        overlaps = [float((a & b).sum() / (a | b).sum()) for a, b in zip(found, squares > 0.5, strict=True)]
        assert min(overlaps) > 0.6, overlaps
