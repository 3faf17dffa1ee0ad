"""A mask carried along the motion: against the exact masks of the moving world, through cuts and what hides
it, both ways, and on from where it was stopped."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.mask_by_flow import carried, films
from evlm.errors import RequestError
from evlm.segment import tracker as tracker_file
from evlm.segment.flow_tracker import FlowTracker, _FlowSession, seen_of
from evlm.segment.kept import Kept
from evlm.segment.tracker import Prompt

SIDE, COUNT = 64, 8


@pytest.mark.parametrize("clips", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_in_the_moving_world_it_is_where_the_thing_is(clips: int) -> None:
    told = [carried(film, thing) for film, thing in islice(films(), clips)]
    flow, static = (sum(getattr(each, name) for each in told) / clips for name in ("flow", "static"))
    print(f"mean IoU of {clips} things that move: {flow:.3f}, of a mask that stays {static:.3f}")
    assert flow > 0.7 and flow > static + 0.25
    away = sum(each.away for each in told)
    assert sum(each.said for each in told) >= 0.9 * away > 0


def dots(seed: int = 0) -> Tensor:
    """A smooth picture of chance, [SIDE, SIDE, 3] in 0..1."""
    draw = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, SIDE // 4, SIDE // 4, generator=draw)
    return (
        torch.nn.functional.interpolate(small, (SIDE, SIDE), mode="bicubic")[0].permute(1, 2, 0).clamp(0, 1)
    )


def crossing(step: int = 2, side: int = 18) -> tuple[Tensor, Tensor]:
    """(frames [COUNT, SIDE, SIDE, 3], masks): a square that goes right over another picture."""
    thing, ground = dots(1), dots(2) * 0.5
    frames, masks = ground.expand(COUNT, -1, -1, -1).clone(), torch.zeros(COUNT, SIDE, SIDE)
    for frame in range(COUNT):
        x = 6 + step * frame
        frames[frame, 20 : 20 + side, x : x + side] = thing[:side, :side]
        masks[frame, 20 : 20 + side, x : x + side] = 1
    return frames, masks


def iou(found: Tensor, wanted: Tensor) -> float:
    return float((found & (wanted > 0)).sum() / (found | (wanted > 0)).sum())


@pytest.mark.parametrize("frame", [0, 5])
def test_from_any_frame_it_goes_both_ways(frame: int) -> None:
    frames, masks = crossing()
    tracks = FlowTracker().track(frames, {frame: [Prompt("it", mask=masks[frame])]})
    assert torch.equal(tracks.mask(0, frame), masks[frame] > 0)
    assert min(iou(tracks.mask(0, each), masks[each]) for each in range(COUNT)) > 0.9
    assert float(seen_of(tracks.scores).min()) > 0.7 and not tracks.notes


def test_a_box_is_a_mask_and_a_click_is_refused() -> None:
    frames, masks = crossing()
    tracks = FlowTracker().track(frames[:3], {0: [Prompt("it", box=(6, 20, 24, 38))]})
    assert iou(tracks.mask(0, 2), masks[2]) > 0.9
    click = Prompt("it", points=(torch.tensor([[9.0, 30.0]]), torch.tensor([1])))
    with pytest.raises(RequestError, match="give a mask or a box"):
        FlowTracker().track(frames, {0: [click]})


def test_what_is_hidden_is_not_in_the_mask_and_what_is_gone_is_said() -> None:
    frames, masks = crossing(step=4)
    frames[2:, :, 34:40] = torch.tensor([0.9, 0.9, 0.1])  # a pole, from the third frame on
    seen = masks.clone()
    seen[2:, :, 34:40] = 0
    tracks = FlowTracker().track(frames, {0: [Prompt("it", mask=masks[0])]})
    assert min(iou(tracks.mask(0, each), seen[each]) for each in range(COUNT)) > 0.75
    frames[3:6] = dots(2) * 0.5  # and away, and back
    frames[3:6, :, 34:40] = torch.tensor([0.9, 0.9, 0.1])
    tracks = FlowTracker().track(frames, {0: [Prompt("it", mask=masks[0])]})
    assert tracks.present[0].tolist()[:6] == [True, True, True, False, False, False]
    assert tracks.present[0].tolist()[7] and "'it' is away from frame 3 to" in tracks.notes[0]
    assert iou(tracks.mask(0, 7), seen[7]) > 0.75


def test_a_thing_that_grew_goes_on_as_it_went() -> None:
    """What is known of a pixel goes with it: a step by hand is what `_move` makes of the same step."""
    grown = 0.5 * (torch.stack(torch.meshgrid(*[torch.arange(32.0)] * 2, indexing="xy"), -1) + 0.5)
    session = _FlowSession(lambda frame: torch.zeros(32, 32, 3), away=grown, speed=torch.tensor([4.0, 0.0]))
    session._coast()
    assert torch.allclose(session.away[:, 4:, 0], grown[:, :-4, 0] - 4, atol=1e-4)


def test_a_cut_ends_it() -> None:
    frames, masks = crossing()
    frames[4:] = 1 - frames[4:] * 0.3
    tracks = FlowTracker().track(frames, {0: [Prompt("it", mask=masks[0])]})
    assert tracks.present[0].tolist() == [True] * 4 + [False] * 4
    assert tracks.notes == ["a cut before frame 4 ends every track"]


def test_in_another_light_it_is_the_same_thing() -> None:
    frames, masks = crossing()
    frames = (frames * torch.linspace(1, 0.85, COUNT)[:, None, None, None]).clamp(0, 1)
    tracks = FlowTracker().track(frames, {0: [Prompt("it", mask=masks[0])]})
    assert min(iou(tracks.mask(0, each), masks[each]) for each in range(COUNT)) > 0.85


def test_a_large_frame_is_looked_at_in_little() -> None:
    frames, masks = crossing()
    wide = (round(SIDE * 9.5), SIDE * 17)
    large = torch.nn.functional.interpolate(frames.permute(0, 3, 1, 2), wide, mode="bilinear").movedim(1, -1)
    on = torch.nn.functional.interpolate(masks[:, None], wide)[:, 0]
    tracks = FlowTracker().track(large[:3], {0: [Prompt("it", mask=on[0])]})
    assert min(iou(tracks.mask(0, each), on[each]) for each in range(3)) > 0.9


def test_stopped_it_goes_on_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames, masks = crossing()
    monkeypatch.setattr(tracker_file, "EVERY", 3)
    prompts = {0: [Prompt("it", mask=masks[0])]}
    whole = FlowTracker().track(frames, prompts)

    def stop(done: int, _: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FlowTracker().track(frames, prompts, on_frame=stop, kept=Kept(tmp_path, "a"))
    again = FlowTracker().track(frames, prompts, kept=Kept(tmp_path, "a"))
    assert torch.equal(again.masks, whole.masks) and torch.equal(again.scores, whole.scores)
