"""`python -m evlm scene page`: a scene as one page that any browser shows, offline."""

from __future__ import annotations

import argparse
import os

from ..errors import EVLMError
from . import arguments as kinds
from .outputs import expanded


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    text = (
        ".ply (Inria's layout or compressed), .splat, .spz or .ksplat; or the folder of a scene that moves, "
        "which then plays"
    )
    add("scene", metavar="SCENE", type=kinds.path, help=text)
    add("out", metavar="OUT", type=kinds.path, help="the page to write: .html")
    add("--overwrite", action="store_true", help="replace OUT where it is there")


def run(options: argparse.Namespace) -> int:
    """Read the scene and write the page."""
    out = expanded(options.out)
    if not out.name.lower().endswith((".html", ".htm")):
        raise EVLMError(f"{options.out}: expected a name that ends in .html")
    if os.path.lexists(out) and (out.is_dir() or not options.overwrite):
        remedy = "name another file" if out.is_dir() else "name another file, or add --overwrite"
        raise EVLMError(f"{out} exists: {remedy}")
    from ..scene.moving import load_scene
    from ..scene.page import scene_page, write_page

    path = expanded(options.scene)
    loaded = load_scene(path)
    camera = loaded.cameras[0] if loaded.cameras else None
    page = scene_page(loaded.gaussians, camera, path.name, loaded.background, motion=loaded.motion)
    write_page(out, page)
    print(f"{out}: {len(loaded.gaussians):,} Gaussians, {out.stat().st_size:,} bytes")
    for note in loaded.notes:
        print(f"note: {note}")
    return 0
