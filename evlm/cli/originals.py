"""The original of an edit from its file, references from theirs, and the edit back onto the disk."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..files.still import Still
    from ..request import Reference


@dataclass(frozen=True)
class Original:
    """frames: [F, H, W, 3] for the models. fps: of a clip, None where unknown. still: of one picture, what
    its file says besides. notes: what of the file is not read as one may think."""

    frames: Tensor
    fps: float | None = None
    still: Still | None = None
    notes: tuple[str, ...] = ()


def read_original(path: str) -> Original:
    """A still with all that its file says, or a clip. Raises PictureError."""
    from ..files.clips import load_frames
    from ..files.still import is_still, load_still

    if is_still(path):
        still = load_still(path)
        return Original(still.frames, None, still, still.notes)
    frames, fps = load_frames(path)
    return Original(frames, fps)


def read_references(options: argparse.Namespace) -> tuple[tuple[Reference, ...], list[str]]:
    """(what --reference and its kin name, what was done to it in words). Raises PictureError, RequestError.

    A folder of pictures is one reference a picture, in their natural order.
    """
    from ..files.clips import load_frames
    from ..files.depth import load_depth
    from ..files.pictures import load_picture, picture_files
    from ..request import Reference

    references: list[Reference] = []
    notes: list[str] = []
    for path in options.reference:
        folder = Path(path).expanduser()
        pictures = picture_files(folder) if path != "-" and folder.is_dir() else [path]
        references += [Reference("image", load_picture(picture)) for picture in pictures]
    for path in options.reference_video:
        frames, fps = load_frames(path)
        references.append(Reference("video", frames, fps=fps))
    for path in options.reference_depth:
        depth, remarks = load_depth(path)
        references.append(Reference("depth", depth))
        notes += remarks
    references += [Reference("text", text=text) for text in options.reference_text]
    return tuple(references), notes


def edited_names(original: Original) -> tuple[str, str]:
    """What the edited picture and its mask are called in the folder for the results."""
    from ..files.save_edited import edited_suffix

    if original.still is not None:
        return f"edited{edited_suffix(original.still)}", "mask.png"
    suffix = ".png" if len(original.frames) == 1 else ".webp"
    return f"edited{suffix}", f"mask{suffix}"


def write_edited(paths: Sequence[Path], edited: Tensor, mask: Tensor | None, original: Original) -> list[str]:
    """Write both files that `edited_names` named; returns what could not be kept.

    paths: of the picture and of its mask. edited: [F, H, W, 3] in 0..1. mask: [F, H, W] in 0..1, None for the
    whole frame. Raises PictureError.
    """
    from ..files.pictures import save_picture
    from ..files.save_edited import save_edited

    notes: list[str] = []
    if original.still is not None:
        notes += save_edited(paths[0], edited, mask, original.still).notes
    else:
        save_picture(paths[0], edited, original.fps)
    painted = edited.new_ones(edited.shape[:3]) if mask is None else mask
    save_picture(paths[1], painted[..., None].expand(-1, -1, -1, 3), original.fps)
    return notes
