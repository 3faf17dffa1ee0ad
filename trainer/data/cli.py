"""`python -m trainer data check | stats | convert`, and the commands of rooms above."""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from evlm.plan.mask_codec import GRIDS, BoxSpans
from evlm.reason.messages import get_style

from ..config.arguments import check_whole
from .check import Check, check
from .convert import NAMES, Conversion, convert, target_file
from .files import Problem
from .stats import show, stats

# Commands of rooms that stand above this one, named as `trainer/__main__.py` names its own.
ABOVE = {
    **dict.fromkeys(("make", "sources", "card", "export"), "trainer.collect.cli"),
    **dict.fromkeys(("rate", "raters", "rated", "study"), "trainer.raters.cli"),
    "demo": "trainer.demo.cli",
}


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the commands and their flags."""
    names = " | ".join(("check", "stats", "convert", *ABOVE))
    commands = parser.add_subparsers(dest="data_command", required=True, metavar=names)
    for module in dict.fromkeys(ABOVE.values()):
        import_module(module).add_parsers(commands)
    text = "read every row, open every picture, list what is bad with line and reasons; ends with 1 if any is"
    checked = commands.add_parser("check", help=text, description=text)
    _path(checked)
    checked.add_argument(
        "--limit",
        type=int,
        default=100,
        metavar="N",
        help="bad rows to list; all are counted (default: %(default)s)",
    )
    checked.add_argument(
        "--fast", action="store_true", help="open no picture; ask whether each exists, and nothing else of it"
    )
    checked.add_argument("--no-files", action="store_true", help="do not even ask whether the pictures exist")
    checked.add_argument(
        "--form",
        choices=("auto", *NAMES),
        default="auto",
        help="format of the rows; auto goes by the names of the first row's columns (default: %(default)s)",
    )
    checked.add_argument(
        "--media", type=Path, metavar="DIR", help="folder that a foreign dataset's pictures lie in"
    )
    checked.add_argument(
        "--model",
        default="bundled",
        metavar="BASE",
        help="whose limits hold, as model.base of the recipe (default: %(default)s)",
    )
    checked.add_argument(
        "--max-pixels", type=int, metavar="N", help="of a picture, as model.max_pixels of the recipe"
    )
    text = "count rows, labels, votes, kinds, lengths and sizes"
    counted = commands.add_parser("stats", help=text, description=text)
    _path(counted)
    counted.add_argument("--json", action="store_true", help="as JSON instead of a table")
    counted.add_argument(
        "--pictures",
        type=int,
        default=2000,
        metavar="N",
        help="originals to open for their size; 0 looks at no file (default: %(default)s)",
    )
    text = "write a dataset in another format; rows that cannot be read are listed, and end it with 1"
    converted = commands.add_parser("convert", help=text, description=text)
    converted.add_argument("--from", dest="source", choices=NAMES, required=True, help="format of IN")
    converted.add_argument("--to", dest="target", choices=NAMES, required=True, help="format of OUT")
    converted.add_argument(
        "path", type=Path, metavar="IN", help="dataset folder, or .jsonl, .json or .parquet file"
    )
    converted.add_argument(
        "out", type=Path, metavar="OUT", help="folder, or .jsonl or .parquet file, not there yet"
    )
    converted.add_argument(
        "--copy", action="store_true", help="copy the pictures into OUT's folder (else they lie there)"
    )
    converted.add_argument(
        "--media",
        type=Path,
        metavar="DIR",
        help="folder that IN's pictures lie in (default: IN's own folder)",
    )
    converted.add_argument(
        "--style",
        choices=("full", "short"),
        default="full",
        help="the prompt's words, as `prompt` in the model's evlm.json (default: %(default)s)",
    )
    converted.add_argument(
        "--grid",
        type=int,
        choices=GRIDS,
        default=8,
        help="mask codec that the prompt explains (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """0 where all is well, 1 where rows are bad. Raises EVLMError."""
    if options.data_command in ABOVE:
        return int(import_module(ABOVE[options.data_command]).run(options))
    return int({"check": _check, "stats": _stats, "convert": _convert}[options.data_command](options))


def _check(options: argparse.Namespace) -> int:
    check_whole("--limit", options.limit, 0)
    check_whole("--max-pixels", options.max_pixels, 56 * 56)
    listed = _List(options.limit)
    files = not options.no_files
    base = options.model if files and not options.fast else None
    what = Check(options.path, options.form, options.media, files, base, options.max_pixels)
    tally = check(what, listed, bar=True)
    listed.close()
    form = "" if tally.form == "evlm" else f" of the form {tally.form}"
    unlabelled = f", {tally.unlabelled:,} of them without a label" if tally.unlabelled else ""
    print(
        f"{options.path}: {tally.good + listed.count:,} rows{form}, {tally.good:,} good, "
        f"{listed.count:,} bad; of the good ones {tally.desired:,} desired{unlabelled}, "
        f"{tally.good - tally.desired:,} not, {tally.questions:,} questions"
    )
    if tally.earlier:
        print(
            f"{tally.earlier:,} rows have earlier turns of the assistant: these are read, the last alone is "
            "learned; write a row for each turn to learn them all"
        )
    return 1 if listed.count else 0


def _stats(options: argparse.Namespace) -> int:
    check_whole("--pictures", options.pictures, 0)
    listed = _List(0)
    counted = stats(options.path, listed, options.pictures, bar=True)
    print(json.dumps(counted, indent=2) if options.json else show(counted))
    if listed.count:
        print(
            f"{listed.count:,} bad rows are left out: python -m trainer data check {options.path}",
            file=sys.stderr,
        )
    return 0


def _convert(options: argparse.Namespace) -> int:
    listed = _List(100)
    what = Conversion(
        options.source,
        options.target,
        options.path,
        options.out,
        options.copy,
        options.media,
        get_style(options.style),
        BoxSpans(options.grid),
    )
    count = convert(what, listed, bar=True)
    listed.close()
    print(
        f"{target_file(options.out, options.target)}: {count['rows']:,} rows written, {count['bad']:,} bad "
        f"ones left out, {count['copied']:,} pictures copied"
    )
    return 1 if count["bad"] else 0


class _List:
    """Shows the first `limit` bad rows, and counts all."""

    def __init__(self, limit: int) -> None:
        self.limit, self.count = limit, 0

    def __call__(self, problem: Problem) -> None:
        from tqdm import tqdm

        self.count += 1
        if self.count <= self.limit:
            tqdm.write(str(problem), file=sys.stderr)

    def close(self) -> None:
        if self.count > self.limit > 0:
            print(f"... and {self.count - self.limit:,} more bad rows; --limit shows them", file=sys.stderr)


def _path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="dataset folder, or .jsonl, .json or .parquet file"
    )
