"""`--plan` and `--mask`: what is given by somebody in place of being reasoned and looked for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ..errors import EVLMError, PictureError
from . import arguments as kinds

if TYPE_CHECKING:
    from torch import Tensor

    from ..reason.given import GivenPlan


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    add = parser.add_argument
    text = (
        "trace.json of an earlier run, perhaps changed by hand: its plan is taken, and no reasoner is asked"
    )
    add("--plan", metavar="FILE", type=kinds.path, help=text)
    text = "where the edit goes, in place of detector and segmenter: a picture, or of a clip a clip of masks"
    add("--mask", metavar="FILE", type=kinds.path, help=text)


def check_flags(options: argparse.Namespace) -> None:
    """Raises EVLMError for what a plan that is there has no use for."""
    for flag in ("endpoint", "adapter", "quantize", "compile"):
        if options.plan and getattr(options, flag):
            raise EVLMError(f"--{flag} is for a reasoner, and with --plan none is asked: leave one out")


def plan_of(options: argparse.Namespace) -> GivenPlan | None:
    """The plan of --plan; where nothing was said, the prompt is that of its run."""
    if options.plan is None:
        return None
    from ..reason.given import GivenPlan

    given = GivenPlan.read(options.plan)
    options.prompt = options.prompt or given.prompt
    return given


def mask_of(path: str, frames: Tensor, notes: list[str]) -> Tensor:
    """The mask of --mask for frames [F, H, W, 3]: [F or 1, H, W] in 0..1."""
    from ..files.clips import read_clip
    from ..files.pictures import load_mask
    from ..masks import fit_mask

    mask = load_mask(path) if len(frames) == 1 else read_clip(path).frames.mean(-1)
    fitted = fit_mask(mask, frames, name=path, notes=notes)
    if fitted is None or not bool((fitted >= 0.5).any()):
        raise PictureError(f"--mask {path}: no pixel of it is on; white is where to edit")
    return fitted
