"""Votes become rows: the majority is the label, and who voted how stays with it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from evlm.errors import RecordError
from evlm.files.safe_paths import inside
from evlm.records import ROWS_FILE

from ..data.files import EVLM_COLUMNS, OnProblem, read, row_columns, writing
from .agree import votes_by_item
from .items import view_of
from .store import Store, pseudonym


def write_rated(
    store: Store, folder: Path, out: Path, on_problem: OnProblem, partial: bool = False
) -> dict[str, int]:
    """The rated rows of a dataset as a new one, with their pictures (as hard links where the disk has them).

    out: a folder without rows. partial: also rows with fewer votes than wanted. Ties are left out, and items
    whose answer was known before. A row gets the majority as `label`, its votes in rater order as `raters`,
    and `meta.votes`: {rater, yes, at, ms} of each, under pseudonyms, `note` where there is one.
    Returns {rows, ties, unfinished, unvoted, changed, unknown}; changed: since people saw them; unknown: the
    page has not been started since they came. Raises RecordError.
    """
    votes = votes_by_item(store)
    with store.read() as sql:
        items = {
            row["row_id"]: row
            for row in sql.execute("SELECT row_id, wanted, kind, view FROM item WHERE kind != 'gone'")
        }
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecordError(f"{out} is there and not empty; name another folder")
    count = dict.fromkeys(("rows", "ties", "unfinished", "unvoted", "changed", "unknown"), 0)
    with writing(out / ROWS_FILE, EVLM_COLUMNS) as write:
        for _, row in read(folder, on_problem):
            item = items.get(row.id)
            if item is None:
                count["unknown"] += 1
                continue
            if item["kind"] != "edit":
                continue
            given = votes.get(row.id, {})
            yes = sum(each["value"] for each in given.values())
            if not given:
                count["unvoted"] += 1
            elif json.dumps(view_of(row)) != item["view"]:
                count["changed"] += 1
            elif len(given) < item["wanted"] and not partial:
                count["unfinished"] += 1
            elif 2 * yes == len(given):
                count["ties"] += 1
            else:
                kept = [
                    {"rater": pseudonym(rater), "yes": each["value"], "at": round(each["at"], 3),
                     "ms": each["ms"], **({"note": each["note"]} if each["note"] else {})}
                    for rater, each in given.items()
                ]  # fmt: skip
                for path in row.paths():
                    _bring(inside(folder, path), inside(out, path))
                meta = {**row.meta, "votes": kept}
                labelled = replace(
                    row, label=2 * yes > len(given), raters=tuple(each["yes"] for each in kept), meta=meta
                )
                write(row_columns(labelled))
                count["rows"] += 1
    return count


def _bring(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(os.path.realpath(source), target)
        except OSError:  # another disk, or one without links
            shutil.copyfile(source, target)
    except OSError as error:
        raise RecordError(f"{target}: cannot be written ({error})") from error
