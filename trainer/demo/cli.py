"""`python -m trainer data demo OUT`: the whole chain, from pictures to a trained adapter."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..config.arguments import check_folder, check_whole
from ..run.lock import locked


def add_parsers(commands: Any) -> None:
    """Declares `demo` among the commands of `data`."""
    text = (
        "all steps with no network: the drawn world's pictures, the bundled reasoner as teacher, filters and "
        "masks, three scripted raters at the page, labels, KTO; run again, it goes on"
    )
    parser: argparse.ArgumentParser = commands.add_parser("demo", help=text, description=text)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for all of it")
    parser.add_argument(
        "--rows", type=int, default=48, metavar="N", help="questions to plan (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, default=6, metavar="N", help="of the training (default: %(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """0 when all of it is done. Raises EVLMError."""
    check_whole("--rows", options.rows, 6, 100_000)
    check_whole("--steps", options.steps, 1, 100_000)
    check_folder("OUT", options.out)
    from .chain import Chain

    with locked(options.out, "the demo"):
        Chain(options.out.resolve(), options.rows, options.steps).run()
    return 0
