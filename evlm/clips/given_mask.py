"""A mask that somebody gives for a clip: one picture for all frames, or a clip of masks, one for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import PictureError
from ..files.clip_reader import ClipFile, open_clip
from ..files.pictures import load_mask
from ..files.selection import as_float, over_white
from ..files.video_file import is_video


@dataclass(frozen=True)
class GivenMask:
    """masks: as a clip. still: [1, h, w] in 0..1, the one for all frames; None where each has its own.
    edited: the clip that it is for."""

    path: Path
    masks: ClipFile
    still: Tensor | None
    edited: ClipFile

    @classmethod
    def open(cls, path: str | Path, edited: ClipFile) -> GivenMask:
        """Of another size it is resized. Raises PictureError for one that cannot be read, is empty, or has
        another number of frames than are taken of the clip."""
        path = Path(path).expanduser()
        masks = open_clip(path)
        still = None
        if masks.count == 1:
            drawn = not path.is_dir() and not is_video(path)
            still = load_mask(path) if drawn else masks.some(1)[0].mean(-1)
            if not bool((still >= 0.5).any()):
                raise PictureError(
                    f"{path}: no pixel of it is on, so nothing can be edited; white is where to edit"
                )
        elif masks.count != edited.count and masks.counted() != edited.counted():
            raise _unequal(path, masks.count, edited, edited.count)
        return cls(path, masks, still, edited)

    def windows(self, size: int, begin: int = 0) -> Iterator[Tensor]:
        """[n, H, W] in 0..1 of the clip's size: the masks from frame `begin` on, as many as each of the
        clip's windows of `size` frames has; one for all is [1, H, W]. However large the masks are, no more
        than one lies there at its own size."""
        if self.still is not None:
            still = self._resized(self.still)
            while True:
                yield still
        held: list[Tensor] = []
        for picked in self.masks.frames(begin):
            held.append(self._resized(over_white(as_float([picked.pixels])).mean(-1)))
            if len(held) == size:
                yield torch.cat(held)
                held.clear()
        if held:
            yield torch.cat(held)

    def unequal(self) -> PictureError:
        """The clip has another number of frames than there are masks."""
        return _unequal(self.path, self.masks.counted(), self.edited, self.edited.counted())

    def _resized(self, mask: Tensor) -> Tensor:
        size = (self.edited.height, self.edited.width)
        if mask.shape[1:] == size:
            return mask
        return torch.nn.functional.interpolate(mask[:, None], size, mode="bilinear")[:, 0]


def _unequal(path: Path, masks: int, edited: ClipFile, frames: int) -> PictureError:
    return PictureError(
        f"{path}: {masks} masks, and {frames} frames of {edited.path} are edited; give one for all of them, "
        "or one for each frame that is taken"
    )
