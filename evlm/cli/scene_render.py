"""`python -m evlm scene render`: a scene seen by cameras, as pictures or as a clip."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from ..errors import EVLMError
from . import arguments as kinds
from .outputs import expanded

if TYPE_CHECKING:
    from torch import Tensor

CODECS = {".mp4": "h264", ".webm": "vp9", ".mkv": "ffv1"}
ANIMATED = (".gif", ".webp")
OTHERS = {".png", ".avi", ".mov", ".m4v", ".mpg", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pdf", ".html"}


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    add("scene", metavar="FILE", type=kinds.path, help=".ply, .splat, .spz or .ksplat")
    text = "a folder for pictures of the views in their order, or a clip: .mp4, .webm, .mkv, .gif, .webp"
    add("out", metavar="OUT", type=kinds.path, help=text)
    text = "a file or folder of cameras, or orbit:24, orbit:24:-10,20:z, cone:12 (orbit:24)"
    add("--cameras", metavar="CAMERAS", type=kinds.path, default="orbit:24", help=text)
    text = "pixels of the longer side (512)"
    add("--size", metavar="PIXELS", type=kinds.whole(8, 8192), default=512, help=text)
    text = "what is behind everything: red,green,blue, 0 to 1 or 0 to 255 (0,0,0)"
    add("--background", metavar="R,G,B", type=kinds.colour, default=(0.0, 0.0, 0.0), help=text)
    add(
        "--antialias", action="store_true", help="draw what is smaller than a pixel thinner instead of larger"
    )
    add("--fps", metavar="N", type=kinds.whole(1, 240), default=24, help="frames a second of a clip (24)")


def run(options: argparse.Namespace) -> int:
    """Draw one view after another; nothing that is there is replaced."""
    out = expanded(options.out)
    kind = out.suffix.lower()
    if kind in OTHERS:
        kinds_of_clips = ", ".join([*CODECS, *ANIMATED])
        raise EVLMError(f"{out}: no clip is written as {kind}; name a folder, or a clip: {kinds_of_clips}")
    codec = CODECS.get(kind, "" if kind in ANIMATED else "png")
    if os.path.lexists(out) and (codec != "png" or not out.is_dir() or any(out.iterdir())):
        raise EVLMError(f"{out} exists: name another file, or an empty folder")
    import torch

    from ..files import write_clip
    from ..files.animation_writer import save_animation
    from ..scene.files import load_gaussians
    from ..scene.poses import load_cameras
    from ..scene.raster import check_bearable, rasterize

    loaded = load_gaussians(expanded(options.scene))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    g = loaded.gaussians.to(device)
    check_bearable(g)
    found = load_cameras(options.cameras, loaded.gaussians, size=options.size).within(options.size)
    background = torch.tensor(options.background)

    def drawn() -> Iterator[Tensor]:
        for camera in found.cameras:
            with torch.no_grad():
                picture = rasterize(g, camera, background, antialias=options.antialias).image
            yield picture.clamp(0, 1).cpu()[None]

    durations = [Fraction(1, options.fps)] * len(found.cameras)
    if codec:
        notes = write_clip(out, drawn(), codec, durations=durations)
    else:
        notes = save_animation(out, torch.cat(list(drawn())), durations=durations)
    print(f"{out}: {len(found.cameras)} views of {len(g):,} Gaussians")
    for note in (*loaded.notes, *found.notes, *notes):
        print(f"note: {note}")
    return 0
