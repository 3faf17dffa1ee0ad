"""`python -m evlm scene select`: what a request would change in a scene of Gaussians, and nothing painted."""

from __future__ import annotations

import argparse

from . import scene_edit


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags: those of `scene edit`."""
    scene_edit.add_parser(parser)
    parser.set_defaults(until="mask")


def run(options: argparse.Namespace) -> int:
    """Plan and select; write the selection, a strip in which it is drawn, and the trace."""
    return scene_edit.run(options)
