"""How steady an edited clip is: figures along the motion of the original.

With O the original, E the edit, and w the original's flow from frame f + 1 back to f:

    warp error   |E_{f+1} - E_f looked up along w|^2, mean over M and the channels (Lai et al., ECCV 2018,
                 section 3; times 1000, as TokenFlow prints it). M: where the flow there and back agrees,
                 within the mask of both frames.
    excess       the same less the original's own: 0 is as steady as the original. The headline.
    flicker      how much the colour of the whole place changes from frame to frame though nothing asks for
                 it: the standard deviation over frames of the mean of E - truth in the mask where the truth
                 is known, else of E - (E and its two neighbours brought to it along the flow, averaged).
                 Of 255.
    seam         warp error between frames where a window begins, over that elsewhere.
    truth        |E - truth|, mean over the mask, where the truth is known.

The flow is always the original's: an edit cannot look steady by moving wrongly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import PictureError
from .affine import object_flow
from .estimator import Estimator
from .flow import consistent, lk, warp

OnPair = Callable[[int, Tensor], None]
"""(f, heat [H, W]): after the pair f, f + 1; heat is the warp error of each pixel, 0 where none is taken."""


@dataclass(frozen=True)
class Steadiness:
    """The figures, and those of each pair of neighbouring frames (nan where a pair has no pixel to tell).

    pairs, original_pairs: warp error of the edit and of the original, times 1000. warp, original: their
    means. excess: warp less original. flicker: of 255. seam, truth: None without windows, without truth.
    covered: share of the mask's pixels along which the flow could be trusted.
    """

    pairs: tuple[float, ...]
    original_pairs: tuple[float, ...]
    warp: float
    original: float
    excess: float
    flicker: float
    seam: float | None
    truth: float | None
    covered: float


def steadiness(
    original: Tensor,
    edited: Tensor,
    mask: Tensor | None = None,
    borders: Sequence[int] = (),
    truth: Tensor | None = None,
    estimator: Estimator = lk,
    on_pair: OnPair | None = None,
) -> Steadiness:
    """Measures an edited clip. Two frames are looked at at a time.

    original, edited, truth: [F, H, W, 3] in 0..1, F at least 2. mask: [F, H, W] or [1, H, W], where at least
    .5 the edit counts; None: everywhere. borders: the frames with which windows begin. Raises PictureError.
    """
    _check(original, edited, mask, truth)
    count = len(original)
    on = torch.ones(original.shape[:3], dtype=torch.bool) if mask is None else (mask >= 0.5)
    on = on.expand(count, -1, -1)
    pairs, own, trusted, possible = [], [], 0, 0
    around = _Around(count)
    for f in range(count - 1):
        before, after = original[f : f + 1], original[f + 1 : f + 2]
        back = _flow(after, before, on[f + 1 : f + 2], on[f : f + 1], estimator, mask is not None)
        there = _flow(before, after, on[f : f + 1], on[f + 1 : f + 2], estimator, mask is not None)
        good = (
            consistent(back, there)[0]
            & on[f + 1]
            & (warp(on[f : f + 1, ..., None].float(), back)[0, ..., 0] > 0.99)
        )
        brought = warp(edited[f : f + 1], back)
        heat = (edited[f + 1] - brought[0]).square().mean(-1) * good
        pairs.append(_mean(heat, good) * 1e3)
        own.append(_mean((after - warp(before, back))[0].square().mean(-1), good) * 1e3)
        trusted, possible = trusted + int(good.sum()), possible + int(on[f + 1].sum())
        around.add(f + 1, brought[0], good)
        good_there = consistent(there, back)[0] & on[f]
        around.add(f, warp(edited[f + 1 : f + 2], there)[0], good_there)
        around.close(f, edited[f], on[f])
        if on_pair is not None:
            on_pair(f, heat)
    around.close(count - 1, edited[-1], on[-1])
    warped, source = _average(pairs), _average(own)
    drift = (
        around.drift
        if truth is None
        else [_tint(edited[f] - truth[f], on[f]) for f in range(count) if on[f].any()]
    )
    return Steadiness(
        tuple(pairs),
        tuple(own),
        warped,
        source,
        warped - source,
        _spread(drift) * 255,
        _seam(pairs, borders),
        None if truth is None else float((edited - truth).abs().mean(-1)[on].mean()) if on.any() else 0.0,
        trusted / possible if possible else 0.0,
    )


class _Around:
    """The mean colour by which each frame differs from itself averaged with its neighbours, brought to it
    along the flow; two frames are held at a time."""

    def __init__(self, count: int) -> None:
        self.drift: list[Tensor] = []
        self._open: dict[int, list[tuple[Tensor, Tensor]]] = {f: [] for f in range(count)}

    def add(self, frame: int, brought: Tensor, good: Tensor) -> None:
        self._open[frame].append((brought, good))

    def close(self, frame: int, edited: Tensor, on: Tensor) -> None:
        total, many = edited.clone(), torch.ones_like(on, dtype=torch.float32)
        for brought, good in self._open.pop(frame):
            total += brought * good[..., None]
            many += good
        seen = on & (many > 1)
        if seen.any():
            self.drift.append(_tint(edited - total / many[..., None], seen))


def _flow(
    first: Tensor, second: Tensor, mask: Tensor, later: Tensor, estimator: Estimator, placed: bool
) -> Tensor:
    """The flow, in the mask the thing's own where that explains the frames better."""
    flow = estimator(first, second)
    if not placed or not mask.any():
        return flow
    own = object_flow(first, second, mask, later, flow)
    apart = [(first - warp(second, each)).abs().mean(-1)[mask].mean() for each in (flow, own)]
    return own if apart[1] < apart[0] else flow


def _check(original: Tensor, edited: Tensor, mask: Tensor | None, truth: Tensor | None) -> None:
    if original.ndim != 4 or len(original) < 2:
        raise PictureError(f"a clip of shape {list(original.shape)}: steadiness needs [2 or more, H, W, 3]")
    for name, clip in (("edited clip", edited), ("truth", truth)):
        if clip is not None and clip.shape != original.shape:
            raise PictureError(
                f"{name}: {list(clip.shape)} beside an original of {list(original.shape)} (frames, height, "
                "width, channels): expected the same frames of the same size"
            )
    wanted = [(count, *original.shape[1:3]) for count in (1, len(original))]
    if mask is not None and tuple(mask.shape) not in wanted:
        raise PictureError(
            f"mask: {list(mask.shape)} for a clip of {list(original.shape[:3])} (frames, height, width): "
            "expected one picture, or one for each frame, of the clip's size"
        )


def _mean(values: Tensor, where: Tensor) -> float:
    return float(values[where].mean()) if where.any() else math.nan


def _tint(apart: Tensor, where: Tensor) -> Tensor:
    """Mean colour in a mask, [3]."""
    return apart[where].mean(0)


def _average(values: Sequence[float]) -> float:
    told = [value for value in values if not math.isnan(value)]
    return sum(told) / len(told) if told else math.nan


def _spread(colours: Sequence[Tensor]) -> float:
    return float(torch.stack(list(colours)).std(0).mean()) if len(colours) > 1 else 0.0


def _seam(pairs: Sequence[float], borders: Sequence[int]) -> float | None:
    at = {border - 1 for border in borders if 0 < border <= len(pairs)}
    inside = _average([value for f, value in enumerate(pairs) if f in at])
    elsewhere = _average([value for f, value in enumerate(pairs) if f not in at])
    if math.isnan(inside) or math.isnan(elsewhere):
        return None
    return inside / elsewhere if elsewhere > 0 else (1.0 if inside == 0 else math.inf)
