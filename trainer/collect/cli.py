"""`python -m trainer data make RECIPE.yaml [key=value ...]`."""

from __future__ import annotations

import argparse
import sys
from itertools import chain
from pathlib import Path
from typing import Any

from .dry_run import shown
from .plan import make_plan
from .recipe import Recipe, load_recipe
from .sources.kinds import items


def add_parsers(commands: Any) -> None:
    """Declares `make`. commands: what argparse's `add_subparsers` gives."""
    text = "plan a dataset of reasoned edits from pictures and clips on this disk: what it will hold"
    make: argparse.ArgumentParser = commands.add_parser("make", help=text, description=text)
    make.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file (docs/dataset.md)")
    make.add_argument("settings", nargs="*", metavar="key=value", help="settings that replace the recipe's")
    make.add_argument(
        "--dry-run",
        action="store_true",
        required=True,
        help="say what would be made and what is missing for it",
    )


def run(options: argparse.Namespace) -> int:
    """0 where the plan is full, 1 where sources are too few for it. Raises EVLMError."""
    recipe = load_recipe(options.recipe, options.settings)
    planned = make_plan(recipe, _all_items(recipe))
    print(shown(recipe, planned))
    return 1 if planned.missing else 0


def _all_items(recipe: Recipe) -> Any:
    from tqdm import tqdm

    every = chain.from_iterable(items(number, source) for number, source in enumerate(recipe.sources))
    return tqdm(every, unit=" items", desc="sources", disable=None, file=sys.stderr)
