"""The masks of a clip of any length, on the disk: packed, in pieces, each there whole or not at all."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..boxes import bounding_box
from ..files.pictures import write_atomically

if TYPE_CHECKING:
    from ..boxes import Box

Corners = tuple[int, int, int, int]


@dataclass(frozen=True)
class Piece:
    """Some frames of a clip and where its steps go in them.

    first: number of the first frame. durations: seconds that each is shown. corners: by step and frame, the
    box (x0, y0, x1, y1) around the mask, None where it is empty. areas: pixels of it. whole: by
    step, it goes everywhere. boxes: of the targets, as JSON. doubt: why nothing should be painted, or empty.
    """

    first: int
    durations: tuple[Fraction, ...]
    corners: tuple[tuple[Corners | None, ...], ...]
    areas: tuple[tuple[int, ...], ...]
    whole: tuple[bool, ...]
    boxes: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    doubt: str = ""


class MaskStore:
    """Pieces in a folder, in the order of their frames. steps: of the plan. height, width: of a frame."""

    def __init__(self, folder: Path, steps: int, height: int, width: int) -> None:
        self.folder, self.steps, self.height, self.width = folder, steps, height, width
        self.pieces: list[Piece] = []
        self.count = 0  # frames that are there
        self._read: tuple[int, Tensor] | None = None
        while (path := self._path(self.count, "json")).is_file():
            data = json.loads(path.read_text(encoding="utf-8"))
            self._append(
                Piece(
                    data["first"],
                    tuple(Fraction(each) for each in data["durations"]),
                    tuple(tuple(c and (c[0], c[1], c[2], c[3]) for c in step) for step in data["corners"]),
                    tuple(tuple(step) for step in data["areas"]),
                    tuple(data["whole"]),
                    tuple(data["boxes"]),
                    tuple(data["notes"]),
                    data["doubt"],
                )
            )

    def _append(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.count += len(piece.durations)

    @property
    def durations(self) -> list[Fraction]:
        return [each for piece in self.pieces for each in piece.durations]

    def track(self, steps: Sequence[int]) -> list[Corners | None]:
        """In each frame the box around the masks of some steps."""
        return [
            _around([piece.corners[step][at] for step in steps])
            for piece in self.pieces
            for at in range(len(piece.durations))
        ]

    def whole(self, steps: Sequence[int]) -> bool:
        """Whether one of these steps goes everywhere."""
        return any(piece.whole[step] for piece in self.pieces for step in steps)

    def add(
        self,
        masks: Sequence[Tensor | None],
        durations: Sequence[Fraction],
        boxes: Sequence[Box] = (),
        notes: Sequence[str] = (),
        doubt: str = "",
    ) -> None:
        """The next frames. masks: by step, [n, H, W] in 0..1 or None for the whole frame; on from 0.5."""
        import numpy as np

        first, shape = self.count, (len(durations), self.height, self.width)
        on = torch.stack([torch.ones(shape) if mask is None else mask.expand(shape) for mask in masks]) >= 0.5
        piece = Piece(
            first,
            tuple(durations),
            tuple(tuple(bounding_box(frame) for frame in step) for step in on),
            tuple(tuple(step) for step in on.flatten(2).sum(2).tolist()),
            tuple(mask is None for mask in masks),
            tuple(asdict(box) for box in boxes),
            tuple(notes),
            doubt,
        )
        packed = np.packbits(on.numpy(), axis=-1)
        write_atomically(self._path(first, "npz"), lambda file: np.savez_compressed(file, on=packed))
        text = json.dumps({**asdict(piece), "durations": [str(each) for each in durations]})
        write_atomically(self._path(first, "json"), lambda file: file.write(text.encode()))
        self._append(piece)

    def some(self, steps: Sequence[int], frames: Sequence[int]) -> Tensor:
        """bool [n, H, W]: where any of these steps goes in some frames."""
        picked = torch.empty(len(frames), self.height, self.width, dtype=torch.bool)
        for at, frame in enumerate(frames):
            piece = self._holds(frame)
            picked[at] = self._piece(piece)[list(steps), frame - piece.first].any(0)
        return picked

    def area(self, steps: Sequence[int], frame: int) -> int:
        """Pixels in which any of these steps goes in a frame; of one step nothing is read for it."""
        if len(steps) > 1:
            return int(self.some(steps, [frame]).sum())
        piece = self._holds(frame)
        return piece.areas[steps[0]][frame - piece.first]

    def _holds(self, frame: int) -> Piece:
        return self.pieces[bisect_right(self.pieces, frame, key=lambda piece: piece.first) - 1]

    def _piece(self, piece: Piece) -> Tensor:
        """bool [steps, n, H, W]; the last one that was read is kept."""
        import numpy as np

        if self._read is None or self._read[0] != piece.first:
            self._read = None
            with np.load(self._path(piece.first, "npz"), allow_pickle=False) as file:
                on = np.unpackbits(file["on"], axis=-1, count=self.width)
            self._read = piece.first, torch.from_numpy(on).bool()
        return self._read[1]

    def _path(self, first: int, kind: str) -> Path:
        return self.folder / f"places-{first:08}.{kind}"


@dataclass(frozen=True)
class MaskView:
    """The masks of some steps as if they were one tensor [F, H, W], read where they are asked for."""

    store: MaskStore
    steps: tuple[int, ...]

    def __getitem__(self, frames: int | Sequence[int]) -> Tensor:
        if isinstance(frames, int):
            return self.store.some(self.steps, [frames])[0]
        return self.store.some(self.steps, frames)

    def area(self, frame: int) -> int:
        """Pixels of the mask in a frame."""
        return self.store.area(self.steps, frame)


def _around(boxes: Sequence[Corners | None]) -> Corners | None:
    there = [box for box in boxes if box is not None]
    if not there:
        return None
    lows, highs = [box[:2] for box in there], [box[2:] for box in there]
    return (
        min(low[0] for low in lows),
        min(low[1] for low in lows),
        max(high[0] for high in highs),
        max(high[1] for high in highs),
    )
