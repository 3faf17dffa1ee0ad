"""`python -m trainer data make RECIPE.yaml [key=value ...]`, `data sources PATH`, `data card FOLDER`,
`data export FOLDER OUT`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from evlm.errors import ConfigError

from ..config.arguments import check_whole
from .batch import FOLDER, beside
from .dry_run import shown
from .make import STAGES, Made, make
from .plan import first, make_plan
from .recipe import Recipe, load_recipe
from .sources.item import Item
from .sources.kinds import KINDS, items


def add_parsers(commands: Any) -> None:
    """Declares `make`, `sources`, `card` and `export`. commands: what argparse's `add_subparsers` gives."""
    text = "make a dataset of reasoned edits from pictures and clips on this disk; run again, it goes on"
    parser: argparse.ArgumentParser = commands.add_parser("make", help=text, description=text)
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file (docs/dataset.md)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings that replace the recipe's")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="say what would be made and what is missing for it; write nothing",
    )
    parser.add_argument("--only", choices=STAGES, help="up to this stage, and write no rows.jsonl")
    parser.add_argument("--limit", type=int, metavar="N", help="N questions alone, of every category")
    parser.add_argument(
        "--engine",
        choices=("plain", "ray"),
        default="plain",
        help="ray: pictures are compared, hashed and masked on all cores of a Ray cluster",
    )
    text = "write what is in a dataset, who made it and under whose rules, as Markdown"
    card: argparse.ArgumentParser = commands.add_parser("card", help=text, description=text)
    card.add_argument("folder", type=Path, metavar="FOLDER", help="dataset folder")
    card.add_argument("--out", type=Path, metavar="FILE", help="default: FOLDER/README.md")
    text = "say as which kinds of source a folder or table can be read, with its rows, fields and licence"
    there: argparse.ArgumentParser = commands.add_parser("sources", help=text, description=text)
    there.add_argument("folder", type=Path, metavar="PATH", help="folder or table")
    there.add_argument("--kind", choices=("auto", *KINDS), default="auto", help="(default: %(default)s)")
    text = "write a dataset for others, its pictures inside, with a card and LICENSES.csv"
    shared: argparse.ArgumentParser = commands.add_parser("export", help=text, description=text)
    shared.add_argument("folder", type=Path, metavar="FOLDER", help="dataset folder")
    shared.add_argument("out", type=Path, metavar="OUT", help="folder, not there yet")
    shared.add_argument(
        "--to", choices=("hf", "webdataset"), required=True,
        help="parquet as `datasets` reads it, or tars; `data convert` writes other trainers' formats",
    )  # fmt: skip
    shared.add_argument(
        "--allow", action="store_true", help="also pictures of unknown licences, or that forbid commerce"
    )


def run(options: argparse.Namespace) -> int:
    """0 where the plan is full, 1 where sources are too few for it or rows were dropped. Raises EVLMError."""
    other = {"card": _card, "sources": _sources, "export": _export}.get(options.data_command)
    if other is not None:
        return other(options)
    check_whole("--limit", options.limit)
    recipe = load_recipe(options.recipe, options.settings)
    planned = make_plan(recipe, _all_items(recipe))
    print(shown(recipe, planned))
    if options.dry_run:
        return 1 if planned.missing else 0
    questions = first(planned.questions, options.limit)
    engine = None
    if options.engine == "ray":
        from .ray import RayEngine

        engine = RayEngine()
    made = make(recipe, questions, options.only, len(questions) == len(planned.questions), engine)
    print(_said(recipe, made))
    for file in made.batches:
        print(f"waiting for {beside(file)}{_how(recipe, file)}; then the same command again")
    return 1 if planned.missing or made.dropped else 0


def _how(recipe: Recipe, file: Path) -> str:
    """How a batch is answered that is not sent."""
    place = file.parent.name == FOLDER and recipe.teacher
    asked = [place] if place else recipe.judges
    found = next((each for each in asked if each.batch == "file"), None)
    if found is None:
        return ", which the endpoint is working on"
    said = f"vllm run-batch -i {file} -o {beside(file)} --model {found.model}"
    return f": {said}, or any service that takes such files"


def _card(options: argparse.Namespace) -> int:
    from .card import NAME, write_card

    if not options.folder.is_dir():
        raise ConfigError(f"{options.folder}: expected a dataset folder")
    problems: list[object] = []
    out = options.out or options.folder / NAME
    count = write_card(options.folder, out, problems.append)
    print(f"{out}: the card of {count:,} rows; {len(problems):,} bad ones left out")
    return int(bool(problems))


def _sources(options: argparse.Namespace) -> int:
    from .recognised import lines, recognised

    for line in lines(options.folder, recognised(options.folder, options.kind)):
        print(line)
    return 0


def _export(options: argparse.Namespace) -> int:
    from .export import export

    problems: list[object] = []
    counts = export(options.folder, options.out, options.to, options.allow, problems.append)
    splits = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    print(f"{options.out}: {sum(counts.values()):,} rows ({splits}); {len(problems):,} bad ones left out")
    return int(bool(problems))


def _said(recipe: Recipe, made: Made) -> str:
    dropped = ", ".join(f"{count:,} x {name}" for name, count in sorted(made.dropped.items()))
    return (
        f"{recipe.out}: {made.rows:,} rows, {sum(made.dropped.values()):,} dropped"
        + (f" ({dropped}; work/dropped.jsonl says why)" if dropped else "")
        + (f"; {made.spent:.4g} spent in all" if made.spent else "")
    )


def _all_items(recipe: Recipe) -> Iterator[Item]:
    from tqdm import tqdm

    every = chain.from_iterable(items(number, source) for number, source in enumerate(recipe.sources))
    yield from tqdm(every, unit=" items", desc="sources", disable=None, file=sys.stderr)
