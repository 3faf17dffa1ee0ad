"""`python -m evlm steadiness`: how steady an edited clip is, beside its original."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import EVLMError
from . import arguments as kinds
from .outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor

    from ..motion.steady import Steadiness

NAMES = ("steadiness.json", "steadiness.png")


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add("original", metavar="ORIGINAL", type=kinds.path, help="clip: video, animation or folder of frames")
    add("edited", metavar="EDITED", type=kinds.path, help="the same clip, edited: as many frames, as large")
    add("--mask", metavar="FILE", type=kinds.path, help="where it was edited: a picture, or a clip of masks")
    text = "frame with which a window of the editing begins, for the seam; repeatable"
    add("--border", action="append", default=[], metavar="N", type=kinds.whole(1, 10**7), help=text)
    text = "optical flow; auto: RAFT where its weights lie on this machine, else lk, which needs none"
    add("--flow", choices=["auto", "lk", "raft"], default="auto", help=text)
    add("--out", metavar="DIR", type=kinds.path, help=f"folder for {' and '.join(NAMES)}")
    add("--overwrite", action="store_true", help="replace those of an earlier run in --out")


def run(options: argparse.Namespace) -> int:
    """Measure, print the table, and write figures and strip where a folder is named."""
    inputs = [path for path in (options.original, options.edited, options.mask) if path]
    outputs = Outputs(options.out, options.overwrite, inputs) if options.out else None
    if outputs is not None:
        outputs.check(NAMES)
    from ..files.clips import read_clip
    from ..motion.estimator import load_estimator
    from ..motion.steady import steadiness
    from ..viz.strip import draw_strip, shown_pairs

    estimator = load_estimator(options.flow, folders=options.folder)
    original, edited = (read_clip(path).frames for path in (options.original, options.edited))
    if len(original) != len(edited) or original.shape != edited.shape:
        raise EVLMError(
            f"{options.edited}: {_size(edited)}, but {options.original} has {_size(original)}: expected the "
            "same"
        )
    if len(original) < 2:
        raise EVLMError(f"{options.original}: one picture; steadiness is of a clip of two frames or more")
    mask = _mask(options.mask, original) if options.mask else None
    shown, heats = set(shown_pairs(len(original))), {}

    def keep(pair: int, heat: Tensor) -> None:
        if pair in shown:
            heats[pair] = heat.clone()

    figures = steadiness(original, edited, mask, options.border, estimator=estimator, on_pair=keep)
    print(table(figures))
    if outputs is not None:
        from ..files.pictures import write_atomically

        strip = draw_strip(original, edited, heats, figures, options.border)
        data = json.dumps(plain(figures), indent=2, allow_nan=False).encode()
        paths = outputs.claim(NAMES)
        try:
            write_atomically(paths[0], lambda file: file.write(data))
            write_atomically(paths[1], lambda file: strip.save(file, "PNG"))
        finally:
            outputs.release(paths)
        print(f"written: {paths[0]}, {paths[1]}")
    return 0


def table(figures: Steadiness) -> str:
    """The figures as lines of text, each with what it means."""
    lines = [
        ("excess warp error", f"{figures.excess:+.3f}", "x 1e-3; 0: as steady as the original"),
        ("warp error", f"{figures.warp:.3f}", "x 1e-3, along the original's flow"),
        ("  of the original", f"{figures.original:.3f}", "x 1e-3"),
        ("flicker", f"{figures.flicker:.2f}", "of 255, the place's colour from frame to frame"),
        ("seam", "-" if figures.seam is None else f"{figures.seam:.2f}", "at windows' borders / elsewhere"),
        ("covered", f"{figures.covered:.0%}", "of the place, where the flow could be trusted"),
    ]
    return "\n".join(f"{name:20}{value:>9}   {what}" for name, value, what in lines)


def plain(figures: Steadiness) -> dict[str, Any]:
    """The figures as JSON holds them: what could not be told is null."""

    def kept(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return [kept(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {name: kept(value) for name, value in asdict(figures).items()}


def _mask(path: str, original: Tensor) -> Tensor:
    """[F or 1, H, W] in 0..1. Raises PictureError, EVLMError."""
    from ..files.clips import read_clip

    mask = read_clip(path).frames.mean(-1)
    if mask.shape[1:] != original.shape[1:3] or len(mask) not in (1, len(original)):
        raise EVLMError(
            f"{path}: {_size(mask)}, but the clip has {_size(original)}: expected one picture or as many, of "
            "its size"
        )
    return mask


def _size(frames: Tensor) -> str:
    return f"{len(frames)} frames of {frames.shape[2]} x {frames.shape[1]}"
