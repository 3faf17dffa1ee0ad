"""`python -m trainer run RECIPE [key=value ...]`: trains an adapter, and goes on where it stopped."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evlm.errors import TrainingError
from evlm.files.pictures import write_atomically

from ..config.recipe import RECIPES, Config, load_config
from ..config.settings import write_yaml
from ..export.adapter_source import RECIPE
from ..report.progress import STYLES, reporting
from .dry_run import plan
from .lock import locked


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    parser.add_argument("recipe", help=f"a YAML file, or one that is shipped: {names}")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings in place of the recipe's")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what it would do, what that needs, and what is missing; 1 where something is",
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="delete the states of an earlier run in its folder, and begin anew",
    )
    parser.add_argument(
        "--progress",
        choices=STYLES,
        default="auto",
        help="a bar, a line for each event, or each event as JSON; auto: a bar in a terminal, else lines",
    )


def run(args: argparse.Namespace) -> int:
    """130 where it was asked to stop. Raises EVLMError."""
    config = load_config(args.recipe, args.settings)
    if args.dry_run:
        dry_run = plan(config, args.fresh)
        print(dry_run.text)
        return 1 if dry_run.missing else 0
    from .loop import Stopped
    from .loop import run as train

    try:
        if int(os.environ.get("RANK", "0")):  # of several processes the first one speaks for all
            train(config, _silent, args.fresh)
            return 0
        with locked(Path(config.out)), reporting(config, args.progress, args.fresh) as report:

            def told(event: Mapping[str, Any]) -> None:
                report(event)
                if event["event"] != "start":  # now nothing of an earlier run in the folder counts any more
                    _keep_recipe(config)

            train(config, told, args.fresh)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 130
    return 0


def _silent(event: Mapping[str, Any]) -> None:
    pass


def _keep_recipe(config: Config) -> None:
    """Every setting of the run, for the report, the export, and whoever wants to run it again."""
    path, text = Path(config.out) / RECIPE, write_yaml(config)
    if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
        return
    try:
        write_atomically(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise TrainingError(f"{path} cannot be written ({error.strerror}); choose another `out`") from error
