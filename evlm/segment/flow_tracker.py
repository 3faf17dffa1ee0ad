"""Objects through a clip by optical flow: no weights, for where no SAM 2 that tracks is loaded.

What a mask holds in the frame in which it was shown is the thing. From frame to frame its motion is fitted
there and back (six numbers, refined; motion/affine.py), and then once more against the frame in which it was
shown, so that errors do not add up. A pixel counts where the ways there and back agree and the thing looks as
it did: what is hidden is none of the mask. Where less than a quarter of the thing is left it is lost: it has
no mask, and is looked for in the whole frame until it is seen again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..boxes import bounding_box
from ..errors import RequestError
from ..motion.affine import Affine, fit_affine
from ..motion.flow import blurred, centres, consistent, lk, warp
from .clip_frames import Frames
from .kept import Kept
from .memory import Pixels
from .segmenter import MEAN, STD
from .tracker import Find, OnFrame, Prompt, Tracker
from .tracks import Tracks

SIDE = 512  # pixels of the square to which a frame is brought, at most
LOOKED = 128  # pixels of the longer side of what the motion is looked for in
ROOM = 12  # pixels around a thing that are looked at besides half of its size
UNLIKE = 0.15  # a difference of colour from which on a pixel does not show the thing
SURE = 0.8  # share of the thing that is seen, from which on its motion is believed
MOVES = 0.6  # seen of it on average, below which what a mask holds is not one thing
LOST, FOUND = 0.25, 0.6  # below which it is lost, and from which it is found again
PART = 0.4  # share of a lost thing that must lie in the frame
EDGE = 0.1  # share of the thing that lies in the frame, below which it has left it
FAR = 2.0  # pixels by which the frame in which it was shown may correct a step
RESTS = 1.1  # times as unlike what was shown a place has to be where it was, to have moved,
FAINT = 0.25 / 255  # and by so much more
THUMB = 64  # pixels of the longer side of a frame in which a lost thing is looked for


class FlowTracker(Tracker):
    """As a `Tracker`, of masks and boxes; clicks need a model. Nothing is loaded. rests: what is shown is a
    place that things may pass, and stays where it is unless a motion explains much more of it."""

    tidies = False  # what is seen of a thing may be slivers

    def __init__(self, rests: bool = False) -> None:
        self.dtype = torch.float32
        self.rests = rests

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def track(
        self,
        frames: Frames,
        prompts: Mapping[int, Sequence[Prompt]] | None = None,
        find: Find | None = None,
        on_frame: OnFrame | None = None,
        kept: Kept | None = None,
    ) -> Tracks:
        """As `Tracker.track`; `seen_of` its scores is the share of the thing that is seen in a frame."""
        self.memory = FlowMemory(min(SIDE, max(frames.shape[1:3])), rests=self.rests)
        return super().track(frames, prompts, find, on_frame, kept)


@dataclass
class FlowMemory:
    """What `Tracker` asks of a memory."""

    image_size: int
    model: Any = None
    rests: bool = False

    def begin(self, pixels: Pixels, count: int) -> Callable[[], _FlowSession]:
        mean, std = (torch.tensor(each) for each in (MEAN, STD))

        def picture(frame: int) -> Tensor:
            return pixels(frame).permute(1, 2, 0) * std + mean

        return lambda: _FlowSession(picture, self.rests)


@dataclass
class _FlowSession:
    """One object. shown: the frame in which it was shown, [S, S, 3]; of: float [S, S], its mask there. away:
    float [S, S, 2], how far from each pixel of the last frame lies what it shows in `shown`. last: the frame
    before; on: its mask, what is hidden included; speed: its last step, (x, y)."""

    picture: Callable[[int], Tensor]
    rests: bool = False
    shown: Tensor = field(default_factory=lambda: torch.empty(0))
    of: Tensor = field(default_factory=lambda: torch.empty(0))
    away: Tensor = field(default_factory=lambda: torch.empty(0))
    last: Tensor = field(default_factory=lambda: torch.empty(0))
    seen: Tensor = field(default_factory=lambda: torch.empty(0))
    speed: Tensor = field(default_factory=lambda: torch.zeros(2))
    new: Tensor | None = None
    lost: bool = False

    def prompt(self, frame: int, points: tuple[Tensor, Tensor] | None, mask: Tensor | None) -> None:
        if mask is None:
            assert points is not None
            mask = _box_of(*points, size=len(self.picture(frame)))
        self.new = (mask >= 0.5).float()

    def step(self, frame: int, reverse: bool = False) -> tuple[Tensor, float]:
        picture = self.picture(frame)
        if self.new is not None:
            self.shown, self.of, self.new = picture, self.new, None
            self.last, self.seen, self.lost = picture, self.of, not bool(self.of.any())
            self.away, self.speed = torch.zeros(*picture.shape[:2], 2), torch.zeros(2)
            return _logits(self.of), _score(float(not self.lost))
        if bool(self.of.any()):
            if self.lost:
                share = self._look_for(picture)
            else:
                share = self._follow(picture)
            self.lost = share < LOST
        self.last = picture
        if self.lost:
            return _logits(self.of * 0), _score(0.0)
        return _logits(self.seen), _score(share)

    def size(self) -> int:
        return sum(each.numel() for each in (self.shown, self.of, self.away, self.last, self.seen))

    def remembered(self) -> Any:
        names = ("shown", "of", "away", "last", "seen", "speed", "lost")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: Any) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def _follow(self, picture: Tensor) -> float:
        """A step from the last frame into this one; the share of the thing that is seen. What is half hidden
        looks as if it moved with what hides it: then it may rather have gone on as it went."""
        before, known = self._place, self._unlike_shown(picture) if self.rests else 0.0
        share = self._fitted(picture)
        if self.rests and known <= RESTS * self._unlike_shown(picture) + FAINT:
            self.away, _, self.seen = before
            self.speed = torch.zeros(2)
            return self._judge(picture)
        if share >= SURE:
            return share
        fitted, self._place = self._place, before
        self._coast()
        if bool((self._known()[1] >= 0.5).any()):
            self._correct(picture, _Window.around(self._known()[1], self.speed))
        on = self._judge(picture)
        if on > share:
            return on
        self.away, _, self.seen = fitted  # how fast it is was seen better before
        return share

    def _coast(self) -> None:
        """A step as the last one was."""
        step = (-self.speed).expand_as(self.away)
        self.away = step + warp(self.away[None], step[None])[0]

    @property
    def _place(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.away, self.speed, self.seen

    @_place.setter
    def _place(self, place: tuple[Tensor, Tensor, Tensor]) -> None:
        self.away, self.speed, self.seen = place

    def _fitted(self, picture: Tensor) -> float:
        """A step by the motion that is seen."""
        window = _Window.around(self.seen, self.speed)
        before, now = window.cut(self.last), window.cut(picture)
        on = (window.cut(self.seen[..., None])[..., 0] >= 0.5).float()
        if not bool(on.any()):
            return 0.0
        start = (self.speed * window.scale).expand(*before.shape[:3], 2)
        there = fit_affine(before, now, on, start=start)
        way = _inverse(there, before.shape[1], before.shape[2])
        ahead = (warp(on[..., None], way)[..., 0] >= 0.5).float()
        if not bool(ahead.any()):
            return 0.0
        back = fit_affine(now, before, ahead, later=on)
        flow = back.flow(*now.shape[1:3])
        fine = lk(now, before, levels=1, steps=3, start=flow, weight=ahead) - flow
        worth = _unlike(now, before, flow + fine) < 0.7 * _unlike(now, before, flow) - 1 / 255
        fine = fine.clamp(-1, 1) * (worth & (ahead > 0))[..., None]
        agrees = consistent(flow + fine, there.flow(*now.shape[1:3]))[0] | (ahead[0] < 0.5)
        self._move(window, back, fine)
        self._correct(picture, window)
        return self._judge(picture, window.back(agrees.float()[None, ..., None])[..., 0] >= 0.5)

    def _move(self, window: _Window, by: Affine, fine: Tensor | None = None) -> None:
        """What lies `by` further in the last frame, or in what is known of it, is here now."""
        size = len(self.away)
        step = window.flow(by, centres(size, size, self.away))
        if fine is not None:
            step = step + window.back(fine / window.scale, outside=0.0)
        self.away = step + warp(self.away[None], step[None])[0]
        middle = _middle(self.seen)
        self.speed = -step[int(middle[1]), int(middle[0])].clone()

    def _correct(self, picture: Tensor, window: _Window) -> None:
        """The rest of the way to the frame in which it was shown."""
        known, on = self._known()
        here, there, mask = (window.cut(each) for each in (picture, known, on[..., None]))
        mask = (mask[..., 0] >= 0.5).float()
        alike = mask * ((here - there).abs().mean(-1) < 2 * UNLIKE)
        if float(alike.sum()) >= LOST * float(mask.sum()):  # what hides it moves otherwise
            mask = alike
        if not bool(mask.any()):
            return
        rest = fit_affine(here, there, mask, later=mask)
        flow = rest.flow(*here.shape[1:3])
        far = (flow.norm(dim=-1) * mask).amax()
        before, after = (
            ((here - warp(there, each)).abs().mean(-1) * mask).sum()
            for each in (torch.zeros_like(flow), flow)
        )
        if far <= FAR and after < before:
            speed = self.speed
            self._move(window, rest)
            self.speed = speed

    def _judge(self, picture: Tensor, agrees: Tensor | None = None) -> float:
        """Brings `seen` up to date; the share of the thing that is."""
        known, on = self._known()
        apart = picture - known
        inside = on >= 0.5
        whole, here = float((self.of >= 0.5).sum()), float(inside.sum())
        if here < max(EDGE * whole, 1):  # it has left the frame
            return 0.0
        apart = apart - apart[inside].median(0).values.clamp(-UNLIKE, UNLIKE)  # another light
        unlike = apart.abs().amax(-1) * inside
        alike = _mean_within(unlike, inside) < UNLIKE
        seen = inside & alike
        sure = seen if agrees is None else seen & agrees
        self.seen = seen.float()
        return float(sure.sum()) / here

    def _unlike_shown(self, picture: Tensor) -> float:
        """How far a pixel of the thing is from what it was when it was shown, where it is taken to be: the
        median, which knows nothing of what passes over less than half of it."""
        known, on = self._known()
        apart = (picture - known).abs().amax(-1)[on >= 0.5]
        return float(apart.median()) if len(apart) else UNLIKE

    def _look_for(self, picture: Tensor) -> float:
        """The thing as it was shown, wherever it is; the share that is seen, 0 where it is not."""
        corners = bounding_box(self.of)
        assert corners is not None
        scale = min(THUMB / len(picture), 1.0)
        small = max(round(len(picture) * scale), 1)
        frame, shown, on = (
            F.interpolate(each.permute(2, 0, 1)[None], (small, small), mode="area")
            for each in (picture, self.shown, self.of[..., None])
        )
        x0, y0, x1, y1 = (round(each * small / len(picture)) for each in corners)
        x1, y1 = max(x1, x0 + 1), max(y1, y0 + 1)
        kernel, mask = shown[..., y0:y1, x0:x1], on[..., y0:y1, x0:x1]
        area = float(mask.sum())
        if area < 4:
            return 0.0
        pad = (mask.shape[3] // 2, mask.shape[3] // 2, mask.shape[2] // 2, mask.shape[2] // 2)
        around, there = F.pad(frame, pad), F.pad(torch.ones_like(frame[:, :1]), pad)
        cost = F.conv2d(around.square().sum(1, keepdim=True), mask) - 2 * F.conv2d(around, kernel * mask)
        cost = cost + F.conv2d(there, (kernel.square() * mask).sum(1, keepdim=True))
        parts = F.conv2d(there, mask)  # of the thing that lie in the frame
        cost = torch.where(parts >= PART * area, cost / parts, torch.inf)
        at = int(cost.argmin())
        row, column = divmod(at, cost.shape[3])
        shift = torch.tensor([x0 + pad[0] - column, y0 + pad[2] - row]) * (len(picture) / small)
        before = self._place
        self.away = shift.float().expand(*picture.shape[:2], 2).clone()
        self.speed = torch.zeros(2)
        self.seen = self._known()[1]
        if bool((self.seen >= 0.5).any()):
            self._correct(picture, _Window.around(self.seen, self.speed))
        share = self._judge(picture)
        if share >= FOUND:
            return share
        self._place = before
        return 0.0

    def _known(self) -> tuple[Tensor, Tensor]:
        """(the frame in which it was shown [S, S, 3], and its mask [S, S]) where they are now."""
        both = torch.cat([self.shown, self.of[..., None]], -1)
        size = len(both)
        moved = warp(both[None], self.away[None])[0]
        at = self.away + centres(size, size, self.away)
        inside = ((at > 0) & (at < size)).all(-1)
        return moved[..., :3], moved[..., 3] * inside


@dataclass(frozen=True)
class _Window:
    """The part of a frame in which a motion is looked for, made smaller. scale: [2], x and y."""

    x0: int
    y0: int
    x1: int
    y1: int
    side: int
    size: tuple[int, int]
    scale: Tensor

    @classmethod
    def around(cls, on: Tensor, speed: Tensor) -> _Window:
        corners = bounding_box(on)
        side = len(on)
        x0, y0, x1, y1 = corners or (0, 0, side, side)
        dx, dy = (float(each) for each in speed)
        wide, high = (x1 - x0) / 2 + ROOM, (y1 - y0) / 2 + ROOM
        left, top = int(max(min(x0, x0 + dx) - wide, 0)), int(max(min(y0, y0 + dy) - high, 0))
        right = int(min(max(x1, x1 + dx) + wide, side))
        bottom = int(min(max(y1, y1 + dy) + high, side))
        width, height = max(right - left, 1), max(bottom - top, 1)
        share = min(LOOKED / max(width, height), 1.0)
        size = max(round(height * share), 1), max(round(width * share), 1)
        scale = torch.tensor([size[1] / width, size[0] / height])
        return cls(left, top, left + width, top + height, side, size, scale)

    def cut(self, picture: Tensor) -> Tensor:
        """[S, S, C] -> [1, h, w, C]."""
        part = picture[self.y0 : self.y1, self.x0 : self.x1]
        if part.shape[:2] == self.size:
            return part[None]
        small = F.interpolate(part.permute(2, 0, 1)[None], self.size, mode="area")
        return small.permute(0, 2, 3, 1)

    def back(self, values: Tensor, outside: float = 1.0) -> Tensor:
        """[1, h, w, C] -> [S, S, C]."""
        size = (self.y1 - self.y0, self.x1 - self.x0)
        large = values.permute(0, 3, 1, 2)
        if tuple(large.shape[2:]) != size:
            large = F.interpolate(large, size, mode="bilinear", align_corners=False)
        whole = values.new_full((self.side, self.side, values.shape[3]), outside)
        whole[self.y0 : self.y1, self.x0 : self.x1] = large[0].permute(1, 2, 0)
        return whole

    def flow(self, affine: Affine, at: Tensor) -> Tensor:
        """A motion found in the window, at points [..., 2] of the frame."""
        near = (at - at.new_tensor([self.x0, self.y0])) * self.scale - affine.centre[0]
        near = near / affine.radius[0]
        return (affine.matrix[0, :, 0] + near @ affine.matrix[0, :, 1:].T) / self.scale


def _inverse(affine: Affine, height: int, width: int) -> Tensor:
    """From each pixel of the second frame the way back to the first, [1, h, w, 2]."""
    turn = torch.eye(2) + affine.matrix[0, :, 1:] / affine.radius[0]
    if float(torch.det(turn)) < 0.1:  # nothing grows tenfold from frame to frame
        turn = torch.eye(2)
    at = centres(height, width, affine.matrix)
    rest = at - affine.centre[0] - affine.matrix[0, :, 0]
    return (affine.centre[0] + rest @ torch.linalg.inv(turn).T - at)[None]


def _unlike(first: Tensor, second: Tensor, flow: Tensor) -> Tensor:
    apart = (first - warp(second, flow)).abs().mean(-1)
    return blurred(apart[:, None], 2.0)[:, 0]


def _mean_within(values: Tensor, inside: Tensor, reach: int = 1) -> Tensor:
    """The mean over each pixel's neighbours that are inside, [S, S]."""
    both = torch.stack([values * inside, inside.float()])[None]
    sums = F.avg_pool2d(both, 2 * reach + 1, 1, reach)[0]
    return sums[0] / sums[1].clamp(min=1e-6)


def _middle(mask: Tensor) -> Tensor:
    """(x, y) of a mask's middle, within the frame."""
    at = centres(len(mask), len(mask), mask)
    middle = (mask[..., None] * at).sum((0, 1)) / mask.sum().clamp(min=1e-6)
    return middle.clamp(0, len(mask) - 1)


def _box_of(xy: Tensor, kinds: Tensor, size: int) -> Tensor:
    """The mask of a box among points. Raises RequestError for clicks."""
    corners = [xy[kinds == kind] for kind in (2, 3)]
    if len(kinds) != 2 or any(len(each) != 1 for each in corners):
        raise RequestError(
            "clicks are followed by SAM 2's memory, and no model that has one is loaded: give a mask or a box"
        )
    at = centres(size, size, xy.float())
    return ((at >= corners[0][0]) & (at <= corners[1][0])).all(-1).float()


def _logits(mask: Tensor) -> Tensor:
    return mask - 0.5


def _score(share: float) -> float:
    """The logit that `Tracker` takes for being there, of any share that is not lost: 0.5 + share / 2."""
    return float(torch.logit(torch.tensor(0.5 + share / 2), eps=1e-4)) if share else -10.0


def seen_of(scores: Tensor) -> Tensor:
    """The share that is seen, of a `Tracks`' scores."""
    return (2 * scores - 1).clamp(min=0)
