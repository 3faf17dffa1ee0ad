"""`python -m evlm scene fit` of a scene that moves: pictures that know their time become its folder."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EVLMError
from .outputs import expanded
from .scene_fit_files import check_photographs, check_written, kept

if TYPE_CHECKING:
    from ..scene import Gaussians, SplatScene
    from ..scene.fit import TimeFit
    from ..scene.motion import Learned
    from ..scene.poses import LoadedCameras

KEYS, BASES = 64, 16
A_PICTURE, LEAST, MOST = 6, 400, 2000  # iterations by default: for a picture, and in all
LONG = 3600.0  # seconds of a fit, from which on somebody has to have said that it is meant
HELD_OUT = 24  # pictures that say at the end how near the scene is to them


def run(options: argparse.Namespace, out: Path) -> int:
    """Read, estimate, fit, and write; a fit that was stopped goes on from OUT.fit.safetensors."""
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise EVLMError(f"{out} exists: name another folder, or an empty one")
    check_written(options, out)
    import torch

    from ..scene import SplatScene
    from ..scene.fit import FittingInTime, TimeFit, from_points, guessed_points
    from ..scene.motion import HexPlane, Keys, RigidBases
    from ..scene.moving import save_folder
    from ..scene.poses import decoded, load_cameras
    from ..scene.poses.in_time import in_time
    from ..scene.select import which_move
    from .scene_fit import images_of, some_of, tell

    found = load_cameras(expanded(options.cameras), images=images_of(options))
    if found.photographs is None:
        raise EVLMError(f"{options.cameras}: no photographs lie there; name their folder by --images")
    check_photographs(options, found.photographs)
    found = decoded(in_time(found, options.frames).within(options.size))
    photographs, notes = found.photographs or (), list(found.notes)
    background = options.background or _background(found, notes)
    if options.points is not None:
        from ..scene.files import load_points

        points = load_points(expanded(options.points))
    else:
        points = found.points or guessed_points(
            found.cameras, photographs, min(options.max_gaussians, 4000), background, options.seed
        )
    points = some_of(points, options.max_gaussians, options.seed)
    notes += [note for note in points.notes if note not in notes]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start = from_points(points, options.degree, seed=options.seed).to(device)
    moving, said = which_move(start, found.cameras, photographs)
    times = sorted({float(camera.time or 0.0) for camera in found.cameras})
    keys = Keys(torch.tensor(times).double()) if len(times) <= KEYS else Keys.even(KEYS)
    motion: Learned
    if options.motion == "hexplane":  # bases, where nobody says
        motion = HexPlane.begin(start, moving, keys, seed=options.seed)
    else:
        motion = RigidBases.begin(start, moving, keys, options.bases or BASES, options.seed)
    count = len(found.cameras)
    iterations = options.iterations or min(MOST, max(LEAST, A_PICTURE * count))
    settings = TimeFit(iterations, background=background, seed=options.seed)
    fitting = FittingInTime(start, motion, found.cameras, photographs, settings)
    seconds = _estimate(start, motion, found, settings)
    held = sum(12 * camera.width * camera.height for camera in found.cameras)
    print(
        f"{count} pictures at {len(times)} times, {len(start):,} Gaussians ({int(moving.sum()):,} may move), "
        f"{iterations:,} iterations: about {_spoken(seconds)}, {held / 1e6:,.0f} MB of pictures",
        flush=True,
    )
    for note in [*notes, *said]:
        print(f"note: {note}", flush=True)
    if seconds > LONG and options.iterations is None and options.frames is None:
        raise EVLMError(
            f"this takes about {_spoken(seconds)} here: take fewer times (--frames ::4) or smaller pictures "
            f"(--size), or say --iterations {iterations} to have it all the same"
        )
    preview = None if options.preview is None else expanded(options.preview)
    out.parent.mkdir(parents=True, exist_ok=True)
    state = out.with_name(out.name + ".fit.safetensors")
    with kept(state):
        gaussians, path = fitting.run(lambda step: tell(step, preview), state)
    scene = SplatScene(gaussians, found.cameras, background=background, motion=path).to("cpu")
    save_folder(out, scene)
    state.unlink(missing_ok=True)
    print(f"{out}: {len(scene):,} Gaussians, {_near(scene, found):.1f} dB to its pictures")
    return 0


def _background(found: LoadedCameras, notes: list[str]) -> tuple[float, float, float]:
    """White behind pictures with an alpha channel, as D-NeRF's are, which are read over white; else black."""
    from ..files.pictures import opened

    path = getattr((found.photographs or (None,))[0], "path", None)
    if path is not None and path.suffix.lower() in (".png", ".webp"):
        with opened(path) as image:
            if "A" in image.getbands() or "transparency" in image.info:
                notes.append("the pictures have an alpha channel: white is behind the scene")
                return 1.0, 1.0, 1.0
    return 0.0, 0.0, 0.0


def _estimate(start: Gaussians, motion: Learned, found: LoadedCameras, settings: TimeFit) -> float:
    """Seconds of the fit, from two steps of one that is thrown away."""
    from ..scene.fit import FittingInTime

    trial = FittingInTime(start, motion, found.cameras, found.photographs or (), settings)
    trial.step()
    began = time.perf_counter()
    trial.step()
    return (time.perf_counter() - began) * settings.iterations


def _near(scene: SplatScene, found: LoadedCameras) -> float:
    """Mean PSNR to some of the pictures."""
    import torch

    from ..scene.fit.losses import psnr
    from ..scene.raster import rasterize

    count, near = len(found.cameras), []
    background = torch.tensor(scene.background)
    for at in sorted({number * count // HELD_OUT for number in range(HELD_OUT)}):
        camera = found.cameras[at]
        with torch.no_grad():
            shown = rasterize(scene.at(camera.time), camera, background).image.clamp(0, 1)
        near.append(float(psnr(shown, (found.photographs or ())[at]().float())))
    return sum(near) / len(near)


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
