"""`python -m trainer world OUT`: a dataset of the world, or a sheet to look at."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from evlm.errors import RecordError
from evlm.records import ROWS_FILE, Row, RowWriter, read_rows

from .clip_rows import clip_rows
from .edits import OPERATIONS
from .mix import Mix
from .questions import CATEGORIES
from .rows import UNDESIRED, Recipe, question_at, rows, to_request
from .scene import SPLITS
from .traces import write_trace

if TYPE_CHECKING:
    from evlm.viz.sheet import SheetRow

SHEET_ROWS = 24
SHEET_SIDE = 264  # 64 px at four times their size, at twice where two references share a tile
Rows = Callable[[Recipe, int, int], Iterator[tuple[Row, dict[str, Tensor]]]]
CHUNK = 64  # rows that become durable together


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    recipe = Recipe()
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="dataset folder; rows that it has already are kept"
    )
    parser.add_argument(
        "--rows", type=_count, default=1000, metavar="N", help="rows in all (default: %(default)s)"
    )
    parser.add_argument(
        "--clips",
        type=_count,
        default=0,
        metavar="N",
        help="instead, N rows whose originals are clips: things cross the picture, turn, hide each other",
    )
    parser.add_argument("--seed", type=int, default=recipe.seed, metavar="S", help="default: %(default)s")
    parser.add_argument("--split", choices=SPLITS, default=recipe.split, help="default: %(default)s")
    parser.add_argument(
        "--size", type=int, default=recipe.size, metavar="PX", help="side of a picture (default: %(default)s)"
    )
    parser.add_argument(
        "--undesired",
        type=float,
        default=UNDESIRED,
        metavar="N",
        help="undesired rows for each question, on average (default: %(default)s: raters like 58 %% of all)",
    )
    parser.add_argument("--op", choices=OPERATIONS, help="this kind of edit only (default: the paper's mix)")
    parser.add_argument("--category", choices=CATEGORIES, help="this kind of input only (default: all alike)")
    for name, what in (
        ("doubles", "questions that ask two edits of different things"),
        ("conflicts", "questions whose words and picture disagree"),
        ("whatif", "questions that name a cause and not the edit"),
    ):
        parser.add_argument(
            f"--{name}", type=float, default=0.0, metavar="SHARE", help=f"{what}, 0 to 1 (default: 0)"
        )
    parser.add_argument(
        "--sheet",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="FILE",
        help=f"draw the first {SHEET_ROWS} questions (default: OUT/sheet.png)",
    )


def run(options: argparse.Namespace) -> int:
    """Writes the rows that are missing and, if asked to, the sheet. Raises RecordError, ConfigError."""
    kind = (options.op, options.category, Mix(options.doubles, options.conflicts, options.whatif))
    recipe = Recipe(options.seed, options.split, options.size, options.undesired, *kind)
    if options.clips and (recipe.mix or options.category is not None or options.op == "move"):
        raise RecordError("--clips: no --category, doubles, conflicts, whatif or --op move; leave them out")
    wanted, make = (options.clips, clip_rows) if options.clips else (options.rows, rows)
    count = write_rows(options.out, recipe, wanted, make)
    share = f", {count['liked'] / count['rows']:.0%} of them liked by the raters" if count["rows"] else ""
    print(f"{options.out}: {count['rows']:,} rows written{share}, {count['kept']:,} were there")
    if options.sheet is not None:
        file = options.out / "sheet.png" if options.sheet == Path() else options.sheet
        draw_questions(file, recipe)
        print(f"{file}: the first {SHEET_ROWS} questions")
    return 0


def write_rows(out: Path, recipe: Recipe, count: int, make: Rows = rows) -> Counter[str]:
    """Makes sure that a dataset has rows 0 ... count - 1 of a recipe.

    make: `rows`, or `clip_rows`. Returns how many "rows" were written, how many of them the raters "liked",
    how many were "kept".
    Raises RecordError.
    """
    from tqdm import tqdm

    writer, done = RowWriter(out), Counter[str]()
    there = {row.id for row in read_rows(out, check_files=False)} if (out / ROWS_FILE).exists() else set()
    with tqdm(total=count, unit="row", disable=None) as bar:
        for start in range(0, count, CHUNK):
            chunk = list(make(recipe, start, min(count, start + CHUNK)))
            new = [(row, pictures) for row, pictures in chunk if row.id not in there]
            writer.append_all(new)
            done += Counter(rows=len(new), liked=sum(row.label for row, _ in new), kept=len(chunk) - len(new))
            bar.update(len(chunk))
    return done


def draw_questions(file: Path, recipe: Recipe, count: int = SHEET_ROWS) -> None:
    """A contact sheet in two columns: original, references, true mask and result; what was asked."""
    from PIL import Image

    from evlm.files.pictures import write_atomically
    from evlm.viz.sheet import PAPER, draw_sheet

    rows = [_sheet_row(recipe, number) for number in range(count)]
    half = (count + 1) // 2
    columns = [draw_sheet(part, side=SHEET_SIDE) for part in (rows[:half], rows[half:])]
    sheet = Image.new("RGB", (sum(c.width for c in columns), max(c.height for c in columns)), PAPER)
    sheet.paste(columns[0], (0, 0))
    sheet.paste(columns[1], (columns[0].width, 0))
    write_atomically(file, lambda out: sheet.save(out, "PNG"))


def _sheet_row(recipe: Recipe, number: int) -> SheetRow:
    import random

    import torch

    from evlm.pipeline import Result
    from evlm.viz.sheet import SheetRow

    question = question_at(recipe, number)
    edit = question.edit
    trace = write_trace(random.Random(number), question, recipe.size)
    region = edit.region(recipe.size, question.frames)
    mask = None if region is None else torch.from_numpy(region).float().expand(question.frames, -1, -1)
    edited = torch.from_numpy(edit.pictures(recipe.size, question.frames)[1]).float() / 255
    title = f"{number} · {question.category} · {edit.op} by {question.form} · k = {question.k:,}"
    result = Result(trace, trace.plan, "", (), None, mask, edited)
    return SheetRow(to_request(question, recipe.size), result, title)


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number}: expected 0 or more")
    return number
