"""`python -m evlm scene render`: a scene seen by cameras, as pictures or as a clip."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

from ..errors import EVLMError
from . import arguments as kinds
from .outputs import expanded

if TYPE_CHECKING:
    from torch import Tensor

    from ..scene import Camera, SplatScene

CODECS = {".mp4": "h264", ".webm": "vp9", ".mkv": "ffv1"}
OWN = re.compile(r"own(?::([0-9]{1,6}))?")
SIZE = 512  # pixels of the longer side, at most, where nobody says
ANIMATED = (".gif", ".webp")
OTHERS = {".png", ".avi", ".mov", ".m4v", ".mpg", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".pdf", ".html"}


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    text = ".ply, .splat, .spz or .ksplat; or the folder of a scene that moves"
    add("scene", metavar="SCENE", type=kinds.path, help=text)
    text = "a folder for pictures of the views in their order, or a clip: .mp4, .webm, .mkv, .gif, .webp"
    add("out", metavar="OUT", type=kinds.path, help=text)
    text = (
        "a file or folder of cameras, or orbit:24, orbit:24:-10,20:z, cone:12 (orbit:24); of a scene that "
        "moves also own, each of its cameras at its own time, or own:0, the first (which is the default)"
    )
    add("--cameras", metavar="CAMERAS", type=kinds.path, help=text)
    text = (
        "of a scene that moves: all times of its motion (all, the default), so many, or 0.0,0.5,1.0. One "
        "camera sees them all; with more, they move on while time does"
    )
    add("--times", metavar="TIMES", type=kinds.path, help=text)
    text = "pixels of the longer side (512, or that of cameras whose pictures are smaller)"
    add("--size", metavar="PIXELS", type=kinds.whole(8, 8192), help=text)
    text = "what is behind everything: red,green,blue, 0 to 1 or 0 to 255 (0,0,0)"
    add("--background", metavar="R,G,B", type=kinds.colour, help=text)
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
    from ..scene.moving import load_scene
    from ..scene.raster import check_bearable, rasterize

    loaded = load_scene(expanded(options.scene))
    cameras, notes = _cameras(options, loaded.scene())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scene = loaded.scene().to(device)
    check_bearable(scene.gaussians)
    background = torch.tensor(options.background or loaded.background)

    def drawn() -> Iterator[Tensor]:
        for camera in cameras:
            with torch.no_grad():
                gaussians = scene.at(camera.time)
                picture = rasterize(gaussians, camera, background, antialias=options.antialias).image
            yield picture.clamp(0, 1).cpu()[None]

    durations = [Fraction(1, options.fps)] * len(cameras)
    if codec:
        lost = write_clip(out, drawn(), codec, durations=durations)
    else:
        lost = save_animation(out, torch.cat(list(drawn())), durations=durations)
    print(f"{out}: {len(cameras)} views of {len(scene):,} Gaussians")
    for note in (*loaded.notes, *notes, *lost):
        print(f"note: {note}")
    return 0


def _cameras(options: argparse.Namespace, scene: SplatScene) -> tuple[tuple[Camera, ...], tuple[str, ...]]:
    """(cameras, of a scene that moves with their times; notes)."""
    from ..scene.moving import paired, times_of
    from ..scene.poses import load_cameras
    from ..scene.poses.in_time import to_unit

    moves, asked = scene.motion is not None, options.cameras
    notes: tuple[str, ...] = ()
    if asked is None:
        asked = "own:0" if moves and scene.cameras else "orbit:24"
    own = OWN.fullmatch(asked) if moves else None
    if own is not None:
        number = int(own[1] or 0)
        if number >= len(scene.cameras):
            raise EVLMError(f"--cameras {asked}: the scene has {len(scene.cameras)} cameras of its own")
        cameras = scene.cameras if own[1] is None else scene.cameras[number : number + 1]
    else:
        found = load_cameras(asked, scene.gaussians, size=options.size or SIZE, photographs=False)
        found = to_unit(found) if moves else found
        cameras, notes = found.cameras, found.notes
    size = options.size
    cameras = tuple(each.within(SIZE) if size is None else each.sized(size) for each in cameras)
    if not moves:
        if options.times is not None:
            times_of(options.times, None)
        return cameras, notes
    timed = all(camera.time is not None for camera in cameras)
    if options.times is None and timed and (own is None or own[1] is None):
        return cameras, notes
    return paired(cameras, times_of(options.times or "all", scene.motion)), notes
