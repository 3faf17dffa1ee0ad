"""`python -m evlm scene fit`: photographs with cameras become a scene of Gaussians."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EVLMError
from . import arguments as kinds
from . import scene_fit_moving
from .outputs import expanded
from .scene_convert import WRITTEN
from .scene_fit_files import check_cameras, check_photographs, check_written, kept

if TYPE_CHECKING:
    from ..scene import Camera
    from ..scene.fit.fitting import FitStep
    from ..scene.points import Points


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    text = (
        "a COLMAP model's folder, transforms.json (nerfstudio's, D-NeRF's), poses_bounds.npy (also DyNeRF's, "
        "beside cam00.mp4 and so on) or cameras.json"
    )
    add("cameras", metavar="CAMERAS", type=kinds.path, help=text)
    add(
        "out",
        metavar="OUT",
        type=kinds.path,
        help="the scene to write: .ply, .compressed.ply, .splat or .spz; a name without an ending is the "
        "folder of a scene that moves, of pictures that know their time",
    )
    text = "the photographs, where the cameras do not say it; or a clip with a frame for each camera"
    add("--images", metavar="PATH", type=kinds.path, help=text)
    text = "of a scene that moves: of its times those from A up to B, every STEP-th (0:300:4, ::2)"
    add("--frames", metavar="A:B:STEP", type=kinds.path, help=text)
    text = "of a scene that moves: how many rigid motions its parts share (16)"
    add("--bases", metavar="N", type=kinds.whole(1, 256), help=text)
    text = (
        "of a scene that moves: bases, rigid motions that its parts share; hexplane, a field that bends, for "
        "what does not keep its shape (bases)"
    )
    add("--motion", choices=["bases", "hexplane"], help=text)
    text = "a .ply of points with colours to begin with, where the cameras bring none"
    add("--points", metavar="FILE", type=kinds.path, help=text)
    text = "at most so many points to begin with, spread over all (on a CPU 20,000)"
    add("--max-gaussians", metavar="N", type=kinds.whole(1, 50_000_000), default=20_000, help=text)
    text = "photographs' longer side is at most this, in pixels (512)"
    add("--size", metavar="PIXELS", type=kinds.whole(16, 8192), default=512, help=text)
    text = (
        "one view each (400; of a scene that moves 6 a picture, 400 to 2,000); above 2,000 the rates of 3D "
        "Gaussian Splatting hold, with growth"
    )
    add("--iterations", metavar="N", type=kinds.whole(1, 1_000_000), help=text)
    text = "of harmonics, 0 to 3 (0: colours are the same from every side)"
    add("--degree", metavar="N", type=kinds.whole(0, 3), default=0, help=text)
    text = "what is behind everything, a sky: red,green,blue, 0 to 1 or 0 to 255 (0,0,0)"
    add("--background", metavar="R,G,B", type=kinds.colour, help=text)
    add(
        "--seed",
        metavar="N",
        type=kinds.whole(0, 2**31 - 1),
        default=0,
        help="of the views' order and growth",
    )
    text = "a picture to write, again at each tenth: the view that was learnt from"
    add("--preview", metavar="PNG", type=kinds.path, help=text)
    add("--overwrite", action="store_true", help="replace OUT, and the preview, where they are there")


def run(options: argparse.Namespace) -> int:
    """Read, fit, and write; a fit that was stopped goes on from OUT.fit.safetensors."""
    check_cameras(options)
    out = expanded(options.out)
    if not out.suffix:
        return scene_fit_moving.run(options, out)
    if not out.name.lower().endswith(WRITTEN):
        raise EVLMError(f"{options.out}: expected a name that ends in {', '.join(WRITTEN)}")
    if os.path.lexists(out) and (out.is_dir() or not options.overwrite):
        raise EVLMError(f"{out} exists: name another file, or add --overwrite")
    for name in ("frames", "motion", "bases"):
        if getattr(options, name) is not None:
            raise EVLMError(
                f"--{name} is of a scene that moves, which is a folder: name OUT without an ending, or leave "
                f"--{name} out"
            )
    check_written(options, out)
    import torch

    from ..scene.files import save_gaussians
    from ..scene.fit import FitSettings, Fitting, Growth, from_points
    from ..scene.fit.rates import SHORT
    from ..scene.poses import load_cameras

    found = load_cameras(expanded(options.cameras), images=images_of(options)).within(options.size)
    if found.photographs is None:
        raise EVLMError(f"{options.cameras}: no photographs lie there; name their folder by --images")
    check_photographs(options, found.photographs)
    points = some_of(_points(options.points, found.points), options.max_gaussians, options.seed)
    start = from_points(points, options.degree, seed=options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start = start.to(device)
    iterations = options.iterations or 400
    growth = Growth(every=100, share=0.05, limit=4.0) if iterations > SHORT else None
    settings = FitSettings(
        iterations, options.background or (0.0, 0.0, 0.0), growth=growth, seed=options.seed
    )
    fitting = Fitting(start, found.cameras, found.photographs, settings)
    out.parent.mkdir(parents=True, exist_ok=True)
    state = out.with_name(out.name + ".fit.safetensors")
    print(
        f"{len(found.cameras)} photographs, {len(start):,} Gaussians, {iterations:,} iterations",
        flush=True,
    )
    for note in [*found.notes, *_still(found.cameras, out)]:
        print(f"note: {note}")
    preview = None if options.preview is None else expanded(options.preview)
    with kept(state):
        fitted = fitting.run(lambda step: tell(step, preview), state)
    notes = save_gaussians(out, fitted.to("cpu"))
    state.unlink(missing_ok=True)
    print(f"{out}: {len(fitted):,} Gaussians, {out.stat().st_size:,} bytes")
    for note in (*fitting.notes, *notes):
        print(f"note: {note}")
    return 0


def _still(cameras: Sequence[Camera], out: Path) -> list[str]:
    """What there is to say where the photographs are of several times."""
    times = len({camera.time for camera in cameras})
    if times < 2:
        return []
    return [
        f"the photographs are of {times} times, and {out.name} stands still: name a folder to fit what moves"
    ]


def images_of(options: argparse.Namespace) -> Path | None:
    """The folder, or the clip, that --images names."""
    return None if options.images is None else expanded(options.images)


def some_of(points: Points, most: int, seed: int) -> Points:
    """At most so many of them, drawn."""
    import torch

    if len(points) <= most:
        return points
    draw = torch.Generator().manual_seed(seed)
    some = torch.randperm(len(points), generator=draw)[:most].sort().values
    return type(points)(points.positions[some], points.colours[some], points.notes)


def _points(path: str | None, found: Points | None) -> Points:
    from ..scene.files import load_points

    if path is not None:
        return load_points(expanded(path))
    if found is None:
        raise EVLMError("the cameras bring no points to begin with: name a .ply of points by --points")
    return found


def tell(step: FitStep, preview: Path | None) -> None:
    """A line at each tenth, and the picture."""
    if step.done * 10 // step.total == (step.done - 1) * 10 // step.total:
        return
    print(f"{step.done:,} of {step.total:,}: loss {step.loss:.4f}, {step.count:,} Gaussians", flush=True)
    if preview is not None:
        from ..files.pictures import save_picture

        save_picture(preview, step.picture.clamp(0, 1).cpu())
