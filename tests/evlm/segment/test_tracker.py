"""Tracking: both libraries against their own propagation, what is forgotten, cuts, lost and found."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_sam2
import torch
from torch import Tensor

from evlm.boxes import Box
from evlm.errors import Cancelled, ModelError, PictureError, RequestError
from evlm.files.clip_reader import open_clip
from evlm.files.pictures import save_picture
from evlm.segment.clip_frames import ReadFrames
from evlm.segment.memory import _forget
from evlm.segment.segmenter import MEAN, STD
from evlm.segment.tracker import Prompt, Tracker, box_prompts, together
from evlm.segment.tracks import Tracks, colours, is_cut, match

SIDE, COUNT = tiny_sam2.SIDE, 18
needs_sam2 = pytest.mark.skipif(importlib.util.find_spec("sam2") is None, reason="the sam2 package")


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    folder = tiny_sam2.make_folder(tmp_path_factory.mktemp("tracker"), 128, 64)
    return tiny_sam2.calmed(Tracker.load(folder, device="cpu"))


@pytest.fixture(scope="module")
def meta(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    paths = tiny_sam2.make_meta(tmp_path_factory.mktemp("meta"))
    return tiny_sam2.calmed(Tracker.load(paths["pt"], device="cpu", config=paths["yaml"]))


def clip(count: int = COUNT) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    still = torch.rand(1, SIDE, SIDE, 3, generator=generator)
    return (still + 0.3 * torch.rand(count, SIDE, SIDE, 3, generator=generator)).clamp(0, 1)


def pixels(frames: Tensor) -> Tensor:
    return (frames.movedim(-1, 1) - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


BOX = (10.0, 12.0, 40.0, 50.0)


def seen_by(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, Tensor, float]]:
    """(frame, logits, score) as the driver gets them."""
    from evlm.segment import tracker as module

    seen: list[tuple[int, Tensor, float]] = []
    put = module._Run._put

    def watch(run: Any, number: int, frame: int, logits: Tensor, score: float, since: int) -> None:
        seen.append((frame, logits.clone(), score))
        put(run, number, frame, logits, score, since)

    monkeypatch.setattr(module._Run, "_put", watch)
    return seen


def test_transformers_own_propagation_gives_the_same(hf: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle keeps the whole video and forgets nothing."""
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    seen, frames = seen_by(hf, monkeypatch), clip()
    hf.track(frames, {0: [Prompt("a", BOX)]})
    session = Sam2VideoInferenceSession(
        video=pixels(frames), video_height=SIDE, video_width=SIDE, dtype=torch.float32
    )
    session.obj_id_to_idx(0)
    points = {"point_coords": torch.tensor(BOX).reshape(1, 1, 2, 2), "point_labels": torch.tensor([[[2, 3]]])}
    session.add_point_inputs(0, 0, points)
    session.obj_with_new_inputs = [0]
    hf.model(session, frame_idx=0)
    oracle = list(hf.model.propagate_in_video_iterator(session, start_frame_idx=0))
    assert [frame for frame, _, _ in seen] == [out.frame_idx for out in oracle] == list(range(COUNT))
    for (_, logits, score), out in zip(seen, oracle, strict=True):
        assert torch.allclose(logits, out.pred_masks[0, 0], atol=1e-4)
        assert score == pytest.approx(float(out.object_score_logits), abs=1e-4)
    assert not torch.allclose(seen[1][1], seen[-1][1], atol=1e-3)


@needs_sam2
def test_metas_own_propagation_gives_the_same(meta: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    from evlm.segment.memory import _Images, _MetaSession

    seen, frames = seen_by(meta, monkeypatch), clip()
    meta.track(frames, {0: [Prompt("a", BOX)]})
    state = _MetaSession(meta.model, {}, _Images(lambda frame: pixels(frames)[frame], COUNT)).state
    meta.model.add_new_points_or_box(state, 0, 0, box=torch.tensor(BOX))
    oracle = list(meta.model.propagate_in_video(state))
    assert len(seen) == len(oracle) == COUNT
    for (_, logits, _), (_, _, large) in zip(seen, oracle, strict=True):
        ours = torch.nn.functional.interpolate(logits[None, None], (SIDE, SIDE), mode="bilinear")
        assert torch.allclose(ours, large, atol=1e-4)


@pytest.mark.parametrize("name", ["hf", pytest.param("meta", marks=needs_sam2)])
def test_a_session_stays_as_large_as_its_memories(name: str, request: pytest.FixtureRequest) -> None:
    tracker = request.getfixturevalue(name)
    frames = clip(22)
    session = tracker.memory.begin(tracker._pixels(frames), 22)()
    points = torch.tensor(BOX).reshape(2, 2), torch.tensor([2, 3], dtype=torch.int32)
    sizes = []
    with torch.inference_mode():
        session.prompt(0, points, None)
        for frame in range(22):
            session.step(frame)
            sizes.append(session.size())
    assert sizes[1] < sizes[6] < sizes[16] == sizes[21]  # 7 memories and 16 pointers, then no more


def test_of_many_prompted_frames_the_first_and_the_last_are_remembered() -> None:
    prompted = {frame: {"pointer": torch.ones(2), "large": torch.ones(9)} for frame in range(0, 90, 10)}
    others = {frame: {"pointer": torch.ones(2), "memory": torch.ones(5)} for frame in range(70, 90)}
    _forget(prompted, others, 89, 7, 16, "pointer", ("large",))
    assert list(prompted) == [0, 60, 70, 80] and not any("large" in each for each in prompted.values())
    assert list(others) == list(range(74, 90))
    assert [frame for frame, each in others.items() if "memory" in each] == list(range(83, 90))


def test_a_mask_and_points_prompt_too_and_a_later_prompt_corrects(hf: Tracker) -> None:
    frames, mask = clip(6), torch.zeros(SIDE, SIDE)
    mask[10:40, 20:50] = 1
    shown = hf.track(frames, {0: [Prompt("a", mask=mask)]})
    assert float(shown.mask(0, 0).float().sub(mask).abs().mean()) < 0.05
    points = torch.tensor([[30.0, 30.0], [5.0, 5.0]]), torch.tensor([1, 0])
    other = hf.track(frames, {0: [Prompt("a", points=points)]})
    corrected = hf.track(frames, {0: [Prompt("a", points=points)], 3: [Prompt("a", mask=mask)]})
    assert torch.equal(corrected.masks[:, :3], other.masks[:, :3])
    assert float(corrected.mask(0, 3).float().sub(mask).abs().mean()) < 0.05 and len(corrected) == 1


@pytest.mark.parametrize("name", ["hf", pytest.param("meta", marks=needs_sam2)])
def test_clicks_in_a_later_frame_correct_what_is_followed(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They hold from there on, beside what is remembered; taken back, all is as it was."""
    tracker, frames = request.getfixturevalue(name), clip(7)
    seen = seen_by(tracker, monkeypatch)

    def logits(prompts: dict[int, list[Prompt]]) -> list[Tensor]:
        seen.clear()
        assert len(tracker.track(frames, prompts)) == 1
        return [each for _, _, each in sorted((frame, at, each) for at, (frame, each, _) in enumerate(seen))]

    on, off = ((torch.tensor([[x, 40.0]]), torch.tensor([kind])) for x, kind in ((44.0, 1), (12.0, 0)))
    both = torch.cat([on[0], off[0]]), torch.cat([on[1], off[1]])
    shown, clicks = {0: [Prompt("a", BOX)]}, [Prompt("a", points=on), Prompt("a", points=off)]
    plain, corrected = logits(shown), logits(shown | {4: clicks})
    assert all(torch.equal(corrected[f], plain[f]) for f in range(4))
    assert not torch.equal(corrected[4], plain[4])
    assert not all(map(torch.equal, corrected[5:], plain[5:]))
    assert not torch.equal(corrected[4], logits({4: clicks})[4])  # it remembers the box
    assert all(map(torch.equal, corrected, logits(shown | {4: [Prompt("a", points=both)]})))
    assert not torch.equal(corrected[4], logits(shown | {4: clicks[:1]})[4])
    assert all(map(torch.equal, plain, logits(shown)))


def test_transformers_own_correction_gives_the_same(hf: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that it has passed already, and then a click there."""
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    seen, frames = seen_by(hf, monkeypatch), clip(7)
    click = torch.tensor([[44.0, 40.0]]), torch.tensor([1])
    hf.track(frames, {0: [Prompt("a", BOX)], 4: [Prompt("a", points=click)]})
    session = Sam2VideoInferenceSession(
        video=pixels(frames), video_height=SIDE, video_width=SIDE, dtype=torch.float32
    )
    session.obj_id_to_idx(0)
    points = {"point_coords": torch.tensor(BOX).reshape(1, 1, 2, 2), "point_labels": torch.tensor([[[2, 3]]])}
    session.add_point_inputs(0, 0, points)
    session.obj_with_new_inputs = [0]
    for frame in range(5):
        hf.model(session, frame_idx=frame)
    session.add_point_inputs(
        0, 4, {"point_coords": click[0][None, None], "point_labels": click[1][None, None]}
    )
    session.obj_with_new_inputs = [0]
    out = hf.model(session, frame_idx=4)
    assert torch.allclose(seen[4][1], out.pred_masks[0, 0], atol=1e-4)


def test_prompts_of_one_name_in_a_frame_are_one() -> None:
    points = torch.tensor([[1.0, 2.0]]), torch.tensor([1])
    merged = together(
        [Prompt("a", BOX), Prompt("b", BOX), Prompt("a", points=points), Prompt("a", points=points)]
    )
    assert [each.name for each in merged] == ["a", "b"] and merged[0].box == BOX
    assert merged[0].points is not None and merged[0].points[0].shape == (2, 2)
    with pytest.raises(RequestError, match="one is a mask"):
        together([Prompt("a", BOX), Prompt("a", mask=torch.ones(4, 4))])


def test_a_files_frames_are_tracked_as_a_tensors_and_few_are_held(hf: Tracker, tmp_path: Path) -> None:
    frames = (clip(20) * 255).round() / 255
    for number, frame in enumerate(frames):
        save_picture(tmp_path / f"{number:02}.png", frame)
    read = ReadFrames(open_clip(tmp_path), held=4)
    assert tuple(read.shape) == tuple(frames.shape)
    shown = {9: [Prompt("a", BOX)]}  # followed backward to the first frame, too
    held: list[int] = []
    tracks = hf.track(read, shown, on_frame=lambda *_: held.append(len(read._held)))
    assert torch.equal(tracks.masks, hf.track(frames, shown).masks) and bool(tracks.present[0].all())
    assert max(held) == 4
    with pytest.raises(IndexError):
        read[20]
    (tmp_path / "19.png").unlink()
    with pytest.raises(PictureError, match="frame 19 cannot be read, it ends at 19"):
        ReadFrames(read._clip)[19]


class Scripted:
    """A memory that sees the truth: the mask of the object whose box it was prompted with."""

    image_size = SIDE

    def __init__(self, truth: Sequence[Tensor], drift: int = 3) -> None:
        self.truth, self.model = truth, torch.nn.Linear(1, 1)
        self.sessions: list[Any] = []

    def begin(self, pixels: Any, count: int) -> Any:
        def session() -> Any:
            self.sessions.append(_Scripted(self.truth))
            return self.sessions[-1]

        return session


class _Scripted:
    def __init__(self, truth: Sequence[Tensor]) -> None:
        self.truth, self.mine, self.steps = truth, -1, list[int]()

    def prompt(self, frame: int, points: Any, mask: Any) -> None:
        middle = points[0].mean(0).long()
        self.mine = next(n for n, each in enumerate(self.truth) if each[frame, middle[1], middle[0]])
        self.away = False

    def step(self, frame: int, reverse: bool = False) -> tuple[Tensor, float]:
        self.steps.append(frame)
        there = self.truth[self.mine][frame]
        self.away = self.away or not bool(there.any())  # what is lost must be shown again
        return there.float() * 20 - 10, -5.0 if self.away else 5.0

    def size(self) -> int:
        return 0


def square(*spans: tuple[int, int, int], count: int = 30) -> Tensor:
    """Bool [count, SIDE, SIDE]: a square of 10 pixels at column x from frame a to b (exclusive), for each."""
    on = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for a, b, x in spans:
        on[a:b, 20:30, x : x + 10] = True
    return on


def detector(labels: Sequence[str], truth: Sequence[Tensor], asked: list[int]) -> Any:
    def find(frame: int) -> list[Box]:
        asked.append(frame)
        found = []
        for label, each in zip(labels, truth, strict=True):
            rows, columns = each[frame].nonzero(as_tuple=True)
            if len(rows):
                corners = [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]
                found.append(Box(label, 0.9, *corners, frame=frame))
        return found

    return find


def grey(count: int = 30) -> Tensor:
    return torch.full((count, SIDE, SIDE, 3), 0.5)


def test_what_is_lost_is_found_again_and_what_appears_is_followed_back() -> None:
    truth = [square((0, 8, 5), (15, 30, 30)), square((18, 30, 50))]
    asked: list[int] = []
    tracks = Tracker(Scripted(truth)).track(grey(), find=detector(["cup", "ball"], truth, asked))
    assert asked == [0, 8, 24]  # the first, where the cup falls away, and the keyframe
    assert tracks.labels == ("cup", "ball")
    assert torch.equal(tracks.masks[0, :8].bool(), truth[0][:8])
    assert torch.equal(tracks.masks[0, 24:].bool(), truth[0][24:])  # the same cup, not a third object
    assert torch.equal(tracks.masks[1].bool(), truth[1])  # seen at 24, there since 18
    assert tracks.notes == ["'cup' is away from frame 8 to 23: these stay as they are"]
    assert tracks.present[0].tolist() == [f < 8 or f >= 24 for f in range(30)]
    assert float(tracks.scores[0, 3]) > 0.9 > 0.1 > float(tracks.scores[0, 10])


def test_a_detector_computes_in_its_own_numbers() -> None:
    """A tracker in 16 bits, as on a card, does not bring the detector's boxes down to them."""
    weights, wide, seen = torch.rand(2, 2), torch.rand(2, 2), list[torch.dtype]()

    def find(frame: int) -> list[Box]:
        seen.append((weights @ wide).dtype)
        return [Box("cup", 0.9, 0, 20, 10, 30, frame)]

    Tracker(Scripted([square((0, 3, 0), count=3)]), torch.bfloat16).track(grey(3), find=find)
    assert seen == [torch.float32]


def test_a_cut_ends_every_track_and_the_next_shot_begins_anew() -> None:
    truth = [square((0, 10, 5)), square((10, 30, 40))]
    frames, asked = grey(), list[int]()
    frames[10:] = 0.1
    tracks = Tracker(Scripted(truth)).track(frames, find=detector(["cup", "cup"], truth, asked))
    assert asked == [0, 10, 24] and len(tracks) == 2
    assert torch.equal(tracks.masks.bool(), torch.stack(truth))
    assert "a cut before frame 10 ends every track" in tracks.notes


def test_a_prompt_in_the_middle_of_a_shot_is_followed_both_ways() -> None:
    truth = [square((0, 30, 5)), square((0, 30, 40))]
    memory = Scripted(truth)
    shown = {12: [Prompt("a", (5, 20, 15, 30))], 4: [Prompt("b", (40, 20, 50, 30))]}
    tracks = Tracker(memory).track(grey(), shown)
    assert torch.equal(tracks.masks.bool(), torch.stack([truth[1], truth[0]]))
    assert tracks.labels == ("b", "a") and not tracks.notes
    assert sum(len(each.steps) for each in memory.sessions) == (26 + 5) + (18 + 13)


def test_boxes_of_a_label_are_one_object_through_the_frames() -> None:
    boxes = [Box("cup", 0.9, 1, 1, 5, 5), Box("cup", 0.8, 9, 9, 12, 12), Box("cup", 0.9, 2, 2, 6, 6, frame=3)]
    names = {frame: [each.name for each in shown] for frame, shown in box_prompts(boxes).items()}
    assert names == {0: ["cup", "cup 2"], 3: ["cup"]}


def test_it_can_be_cancelled_and_says_what_is_wrong(hf: Tracker, tmp_path: Path) -> None:
    done: list[int] = []

    def stop(frame: int, _count: int) -> None:
        done.append(frame)
        if frame == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        hf.track(clip(6), {0: [Prompt("a", BOX)]}, on_frame=stop)
    assert done == [1, 2, 3]
    for prompts, said in [({}, "nothing to track"), ({9: [Prompt("a", BOX)]}, "frame 9")]:
        with pytest.raises(RequestError, match=said):
            hf.track(clip(6), prompts)
    with pytest.raises(RequestError, match="mask, or a box"):
        Prompt("a", BOX, mask=torch.zeros(4, 4))
    bundled = Path(__file__).parents[3] / "evlm" / "bundled" / "segmenter"
    with pytest.raises(ModelError, match="no memory"):
        Tracker.load(_image_only(tmp_path, bundled))
    with pytest.raises(ModelError, match="does not exist"):
        Tracker.load(tmp_path / "nothing.pt")


def _image_only(folder: Path, bundled: Path) -> Path:
    """A segmenter without a memory."""
    text = (bundled / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"sam2_video"', '"sam2"'))
    return folder


def test_tracks_are_packed_and_come_back() -> None:
    tracks, mask = Tracks(5, 9, 13), torch.rand(9, 13) > 0.5
    number = tracks.add("cup")
    tracks.put(number, 1, mask, 0.9)
    tracks.put(number, 4, mask, 0.9)
    assert torch.equal(tracks.mask(0, 1), mask) and not tracks.mask(0, 2).any()
    assert torch.equal(tracks.union(1, 3), torch.stack([mask, torch.zeros_like(mask)]))
    assert tracks.gaps(0) == [(2, 3)]
    tracks.put(number, 4, torch.zeros_like(mask), 0.1)
    assert tracks.present.tolist() == [[False, True, False, False, False]]
    assert torch.equal(tracks.masks[0, 1].bool(), mask)


def test_cuts_are_told_from_motion_and_boxes_are_assigned_as_a_whole() -> None:
    frames = clip(2)
    assert not is_cut(colours(frames[0]), colours(frames[0].roll(9, 1)))
    assert not is_cut(colours(frames[0]), colours(frames[1]))
    assert is_cut(colours(frames[0]), colours(frames[0] * 0.2))
    boxes = [torch.tensor([0.0, 0, 10, 10]), torch.tensor([2.0, 0, 12, 10])]
    others = [torch.tensor([1.0, 0, 11, 10]), torch.tensor([30.0, 0, 40, 10]), torch.tensor([3.0, 0, 13, 10])]
    assert match(boxes, others) == [(0, 0), (1, 2)]
    assert match(boxes, others[1:2]) == match([], others) == []


def test_what_is_shown_in_a_frame_is_not_tidied_there(hf: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second piece that is shown later is far from what was followed, and meant all the same."""
    looked: list[int] = []

    def last(_: Any, number: int, frame: int, until: int) -> None:
        looked.append(frame)

    monkeypatch.setattr("evlm.segment.tracker.seen_last", last)
    hf.track(
        clip(7),
        {0: [Prompt("a", BOX)], 4: [Prompt("a", points=(torch.tensor([[44.0, 40.0]]), torch.ones(1)))]},
    )
    assert looked == [1, 2, 3, 5, 6]
