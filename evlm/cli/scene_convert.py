"""`python -m evlm scene convert`: a file of Gaussians as another kind."""

from __future__ import annotations

import argparse
import os

from ..errors import EVLMError
from . import arguments as kinds
from .outputs import expanded

WRITTEN = (".ply", ".compressed.ply", ".splat", ".spz")


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    text = ".ply (Inria's layout or compressed), .splat, .spz or .ksplat"
    add("scene", metavar="FILE", type=kinds.path, help=text)
    add("out", metavar="OUT", type=kinds.path, help=f"what to write, by its ending: {', '.join(WRITTEN)}")
    text = "keep harmonics up to this degree (0: colours are the same from every side)"
    add("--degree", metavar="N", type=kinds.whole(0, 3), help=text)
    add("--overwrite", action="store_true", help="replace OUT where it is there")


def run(options: argparse.Namespace) -> int:
    """Read, write, and say what was lost on the way."""
    out = expanded(options.out)
    if not out.name.lower().endswith(WRITTEN):
        raise EVLMError(f"{options.out}: expected a name that ends in {', '.join(WRITTEN)}")
    if os.path.lexists(out):
        if not options.overwrite:
            raise EVLMError(f"{out} exists: name another file, or add --overwrite")
        if out.is_dir() or _same(options.scene, options.out):
            what = "is a folder" if out.is_dir() else "is read by this command"
            raise EVLMError(f"{out} {what}: name another file")
    from ..scene.files import load_gaussians, save_gaussians

    loaded = load_gaussians(expanded(options.scene))
    gaussians, degree = loaded.gaussians, options.degree
    if degree is not None and degree < gaussians.degree:
        gaussians = gaussians.with_degree(degree)
    notes = save_gaussians(out, gaussians, loaded.source)
    print(f"{out}: {len(gaussians):,} Gaussians, {out.stat().st_size:,} bytes")
    for note in (*loaded.notes, *notes):
        print(f"note: {note}")
    return 0


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(expanded(one), expanded(other))
    except OSError:
        return False
