"""Places that lie apart: each gets a crop of its own, so that none is painted as a speck of a large one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .crop import NATIVE_SCALES, CropBox
from .follow import Corners, Track, follow, track_of

MOST_CROPS = 4
"""A crop costs as much as a whole edit of its own."""
_MOST_PIECES = 256  # of a mask; one in more pieces is a texture, not several places


@dataclass(frozen=True)
class Place:
    """inside: bool [F, H, W], this place's share of the mask. boxes: the crop around it in each frame in
    which it is on, all of one size."""

    inside: Tensor
    boxes: tuple[CropBox, ...]


@dataclass(frozen=True, eq=False)
class _Group:
    """Pieces that share a crop; each group is itself alone. boxes: by frame."""

    numbers: tuple[int, ...]
    track: Track
    boxes: dict[int, CropBox]

    @property
    def area(self) -> int:
        box = next(iter(self.boxes.values()))
        return (box.x1 - box.x0) * (box.y1 - box.y0)


def places(on: Tensor, context: float, best_resolution: int, multiple: int, cell: int = 1) -> list[Place]:
    """The places of a mask, bool [F, H, W], that are painted each in its own crop, which follows it.

    One crop is enough where it shows everything at a size that the model paints well. Else each piece that
    hangs together in space and time gets one; pieces whose crops overlap, or that one crop holds in less of
    the frame, share it, and there are at most `MOST_CROPS`. Arguments as `follow`'s. Empty for an empty mask.
    """
    if not bool(on.any()):
        return []

    height, width = on.shape[1:]

    def group(numbers: tuple[int, ...], track: Track) -> _Group:
        boxes = follow(track, height, width, context, best_resolution, multiple, cell)
        at_work = [frame for frame, corners in enumerate(track) if corners is not None]
        return _Group(numbers, track, dict(zip(at_work, boxes, strict=True)))

    whole = group((), track_of(on))
    if _scale(next(iter(whole.boxes.values()))) >= NATIVE_SCALES[0]:
        return [Place(on, tuple(whole.boxes.values()))]
    labels, tracks = _pieces(on)
    if not 1 < len(tracks) <= _MOST_PIECES:
        return [Place(on, tuple(whole.boxes.values()))]
    groups = [group((number,), track) for number, track in enumerate(tracks, 1)]
    # Asked again and again of the same two: many small pieces would take minutes.
    overlap = cache(_overlap)

    @cache
    def together(a: _Group, b: _Group) -> _Group:
        return group(a.numbers + b.numbers, _around(a.track, b.track))

    def growth(pair: tuple[_Group, _Group]) -> int:
        return together(*pair).area - pair[0].area - pair[1].area

    while len(groups) > 1:
        pairs = [(groups[a], groups[b]) for b in range(len(groups)) for a in range(b)]
        nearest = next((pair for pair in pairs if overlap(*pair)), None)
        if nearest is None:
            nearest = min(pairs, key=growth)
            if growth(nearest) > 0 and len(groups) <= MOST_CROPS:
                break
        groups = [each for each in groups if each not in nearest] + [together(*nearest)]
    found = [
        Place(torch.isin(labels, torch.tensor(each.numbers)), tuple(each.boxes.values())) for each in groups
    ]
    return sorted(found, key=lambda place: (place.boxes[0].y0, place.boxes[0].x0))


def _pieces(on: Tensor) -> tuple[Tensor, list[list[Corners | None]]]:
    """(int [F, H, W], the number of each pixel's piece, 0 outside; the track of each)."""
    from scipy import ndimage

    labels, count = ndimage.label(on.numpy(), structure=torch.ones(3, 3, 3).numpy())
    tracks: list[list[Corners | None]] = [[None] * len(on) for _ in range(count)]
    if count <= _MOST_PIECES:
        for frame, flat in enumerate(labels):
            for track, found in zip(tracks, ndimage.find_objects(flat, count), strict=True):
                if found is not None:
                    rows, columns = found
                    track[frame] = (columns.start, rows.start, columns.stop, rows.stop)
    return torch.from_numpy(labels), tracks


def _scale(box: CropBox) -> float:
    """Of the crop as the model sees it, against the frame."""
    return min(box.height / (box.y1 - box.y0), box.width / (box.x1 - box.x0))


def _around(a: Track, b: Track) -> list[Corners | None]:
    """The track around two of them."""
    both: list[Corners | None] = []
    for one, other in zip(a, b, strict=True):
        if one is None or other is None:
            both.append(one or other)
        else:
            both.append(
                (min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3]))
            )
    return both


def _overlap(a: _Group, b: _Group) -> bool:
    """Whether their crops do, in any frame."""
    return any(_touch(a.boxes[frame], b.boxes[frame]) for frame in a.boxes.keys() & b.boxes.keys())


def _touch(a: CropBox, b: CropBox) -> bool:
    return a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1
