"""The original of an edit from its file, references from theirs, and the edit back onto the disk."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import PictureError

if TYPE_CHECKING:
    from torch import Tensor

    from ..files.still import Still
    from ..request import Reference


@dataclass(frozen=True)
class Original:
    """frames: [F, H, W, 3] for the models. fps: of a clip, None where unknown. still: of one picture, what
    its file says besides. notes: what of the file is not read as one may think. durations: of a clip, seconds
    that each frame is shown, None where unknown. sound: the file has some, which is not read."""

    frames: Tensor
    fps: float | None = None
    still: Still | None = None
    notes: tuple[str, ...] = ()
    durations: tuple[Fraction, ...] | None = None
    sound: bool = False


def read_original(path: str, frames: str | None = None, fps: str | None = None) -> Original:
    """A still with all that its file says, or a clip; frames, fps: what is taken of it, as `Selection.parse`
    reads them. Raises PictureError."""
    from ..files.clips import Selection, read_clip
    from ..files.still import is_still, load_still

    selection = Selection.parse(frames, fps)
    if is_still(path):
        if selection != Selection():
            raise PictureError(f"{path}: it is one picture; --frames and --fps choose from a clip")
        still = load_still(path)
        return Original(still.frames, None, still, still.notes)
    clip = read_clip(path, selection)
    return Original(clip.frames, clip.fps, None, clip.notes, clip.durations, clip.sound)


def read_references(options: argparse.Namespace) -> tuple[tuple[Reference, ...], list[str]]:
    """(what --reference and its kin name, what was done to it in words). Raises PictureError, RequestError.

    A folder of pictures is one reference a picture, in their natural order. Of a video only those frames are
    taken that the reasoner is shown.
    """
    from ..files.clips import Selection, read_clip
    from ..files.depth import load_depth
    from ..files.pictures import load_picture, picture_files
    from ..reason.messages import MAX_FRAMES
    from ..request import Reference

    references: list[Reference] = []
    notes: list[str] = []
    for path in options.reference:
        folder = Path(path).expanduser()
        pictures = picture_files(folder) if path != "-" and folder.is_dir() else [path]
        references += [Reference("image", load_picture(picture)) for picture in pictures]
    for path in options.reference_video:
        clip = read_clip(path, Selection(at_most=MAX_FRAMES))
        references.append(Reference("video", clip.frames, fps=clip.fps))
        notes += [f"{path}: {note}" for note in clip.notes]
    for path in options.reference_depth:
        depth, remarks = load_depth(path)
        references.append(Reference("depth", depth))
        notes += remarks
    references += [Reference("text", text=text) for text in options.reference_text]
    return tuple(references), notes


def edited_names(original: Original) -> tuple[str, str]:
    """What the edited picture and its mask are called in the folder for the results."""
    from ..files.edited_still import edited_suffix

    if original.still is not None:
        return f"edited{edited_suffix(original.still)}", "mask.png"
    suffix = ".png" if len(original.frames) == 1 else ".webp"
    return f"edited{suffix}", f"mask{suffix}"


def write_edited(paths: Sequence[Path], edited: Tensor, mask: Tensor | None, original: Original) -> list[str]:
    """Write both files that `edited_names` named; returns what could not be kept.

    paths: of the picture and of its mask. edited: [F, H, W, 3] in 0..1. mask: [F, H, W] in 0..1, None for the
    whole frame. Raises PictureError.
    """
    from ..files.clips import save_animation
    from ..files.edited_still import save_edited
    from ..files.pictures import save_picture

    notes: list[str] = []
    if original.still is not None:
        notes += save_edited(paths[0], edited, mask, original.still).notes
    painted = (edited.new_ones(edited.shape[:3]) if mask is None else mask)[..., None].expand(-1, -1, -1, 3)
    if len(edited) == 1:
        if original.still is None:
            save_picture(paths[0], edited)
        save_picture(paths[1], painted)
        return notes
    notes += save_animation(paths[0], edited, durations=original.durations)
    save_animation(paths[1], painted, durations=original.durations)
    if original.durations is None:
        notes.append(
            "nothing says how fast the frames follow each other; 8 a second are written, --fps chooses"
        )
    return notes


def clip_record(original: Original) -> dict[str, Any]:
    """What trace.json says of a clip: seconds as fractions, as exact as the file had them."""
    durations = original.durations or ()
    times = [str(time) for time in accumulate(durations[:-1], initial=Fraction(0))]
    return {"fps": original.fps, "times": times, "seconds": str(sum(durations)), "sound": original.sound}


def clip_summary(path: Path, original: Original) -> str:
    """What the edited clip on the disk is, and what it lacks."""
    count, megabytes = len(original.frames), path.stat().st_size / 1e6
    sound = "without the sound of the original" if original.sound else "without sound"
    return f"{path.name}: {count} frames, lossless animated WebP, {megabytes:.1f} MB, {sound}"
