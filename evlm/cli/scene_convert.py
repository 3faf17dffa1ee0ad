"""`python -m evlm scene convert`: a scene as another kind of file, or as a folder where it moves."""

from __future__ import annotations

import argparse
import os
from dataclasses import replace

from ..errors import EVLMError
from . import arguments as kinds
from .outputs import expanded, same_file

WRITTEN = (".ply", ".compressed.ply", ".splat", ".spz")


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    text = (
        ".ply (Inria's layout or compressed), .splat, .spz or .ksplat; or the folder of a scene that moves: "
        "ours, or one .ply a time"
    )
    add("scene", metavar="SCENE", type=kinds.path, help=text)
    text = f"what to write, by its ending: {', '.join(WRITTEN)}; of a scene that moves, a folder"
    add("out", metavar="OUT", type=kinds.path, help=text)
    text = (
        "of a scene that moves: one .ply a time into the folder OUT, at all times of its motion, at so many, "
        "or at 0.0,0.5; one alone into a file. Without it OUT becomes a folder of ours"
    )
    add("--times", metavar="TIMES", type=kinds.path, help=text)
    text = "keep harmonics up to this degree (0: colours are the same from every side)"
    add("--degree", metavar="N", type=kinds.whole(0, 3), help=text)
    add("--overwrite", action="store_true", help="replace OUT where it is there")


def run(options: argparse.Namespace) -> int:
    """Read, write, and say what was lost on the way."""
    out, single = expanded(options.out), options.out.lower().endswith(WRITTEN)
    if os.path.lexists(out) and (single or not out.is_dir()):
        if not options.overwrite or not single:
            raise EVLMError(
                f"{out} exists: name another {'file, or add --overwrite' if single else 'folder'}"
            )
        if out.is_dir() or same_file(expanded(options.scene), out):
            what = "is a folder" if out.is_dir() else "is read by this command"
            raise EVLMError(f"{out} {what}: name another file")
    if not single and out.suffix and not out.is_dir():
        raise EVLMError(f"{options.out}: expected a name that ends in {', '.join(WRITTEN)}, or a folder")
    from ..scene.files import save_gaussians
    from ..scene.moving import is_moving, load_scene, save_folder, save_sequence, times_of

    source = expanded(options.scene)
    if is_moving(source):  # what is written into its folder would be a part of it, or replace one
        folder = source if source.is_dir() else source.parent
        if folder.resolve() in out.resolve().parents:
            raise EVLMError(f"{out} lies in {folder}, which is read by this command: name a place outside")
    loaded = load_scene(source)
    scene, degree = loaded.scene(), options.degree
    if degree is not None and degree < scene.gaussians.degree:
        scene = replace(scene, gaussians=scene.gaussians.with_degree(degree))
    times = times_of(options.times, scene.motion) if options.times is not None else ()
    notes: tuple[str, ...] = ()
    if single:
        if scene.motion is not None and len(times) != 1:
            raise EVLMError(f"{options.out}: one file is of one time: add --times 0.5, or name a folder")
        notes = save_gaussians(out, scene.at(times[0] if times else None), scene.source)
        size = out.stat().st_size
    elif scene.motion is None:
        raise EVLMError(f"{options.out}: the scene stands still: name a file, {', '.join(WRITTEN)}")
    elif times:
        size = save_sequence(out, scene, times)
        notes = (f"one .ply for each of {len(times)} times",)
    else:
        notes = save_folder(out, scene)
        size = sum(each.stat().st_size for each in out.iterdir())
    print(f"{out}: {len(scene):,} Gaussians, {size:,} bytes")
    for note in (*loaded.notes, *notes):
        print(f"note: {note}")
    return 0
