"""`python -m trainer run RECIPE [key=value ...]`: trains an adapter, and goes on where it stopped."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evlm.errors import TrainingError
from evlm.pictures import write_atomically

from .config import RECIPES, Config, load_config
from .learned import RECIPE
from .plan import plan
from .progress import STYLES, reporting
from .settings import write_yaml


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    parser.add_argument("recipe", help=f"a YAML file, or one that is shipped: {names}")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings in place of the recipe's")
    parser.add_argument(
        "--dry-run", action="store_true",
        help="say what it would do, what that needs, and what is missing; 1 where something is",
    )  # fmt: skip
    parser.add_argument(
        "--progress", choices=STYLES, default="auto",
        help="a bar, a line for each event, or each event as JSON; auto: a bar in a terminal, else lines",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """130 where it was asked to stop. Raises EVLMError."""
    config = load_config(args.recipe, args.settings)
    if args.dry_run:
        found = plan(config)
        print(found.text)
        return 1 if found.missing else 0
    from .loop import Stopped
    from .loop import run as train

    try:
        if int(os.environ.get("RANK", "0")):  # of several processes the first one speaks for all
            train(config, _silent)
            return 0
        _keep_recipe(config)
        with reporting(config, args.progress) as report:
            train(config, report)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0


def _silent(event: Mapping[str, Any]) -> None:
    pass


def _keep_recipe(config: Config) -> None:
    """Every setting of the run, for the report, the export, and whoever wants to run it again."""
    path = Path(config.out) / RECIPE
    text = write_yaml(config)
    try:
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise TrainingError(f"{path} cannot be written ({error.strerror}); choose another `out`") from error
