"""A table on paper: Markdown, CSV, LaTeX, HTML."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ..statistics import Interval

NONE = "-"
_TEX = {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
        "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """name: of its files. bold: (row, column) of what stands out. notes: lines under it."""

    name: str
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    bold: frozenset[tuple[int, int]] = frozenset()
    notes: Sequence[str] = ()

    def files(self) -> Mapping[str, str]:
        return {f"{self.name}.md": markdown(self), f"{self.name}.csv": csv_text(self),
                f"{self.name}.tex": latex(self)}  # fmt: skip


def markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(re.sub(r"[|\n]", lambda c: "\\|" if c[0] == "|" else " ", each)
                                 for each in cells) + " |"  # fmt: skip

    lines = [f"# {table.title}", "", line(table.head), line(["---", *["---:"] * (len(table.head) - 1)])]
    for number, row in enumerate(table.rows):
        lines.append(line([f"**{each}**" if (number, at) in table.bold else each
                           for at, each in enumerate(row)]))  # fmt: skip
    return "\n".join([*lines, "", *[f"{note}\n" for note in table.notes]]).rstrip() + "\n"


def csv_text(table: Table) -> str:
    """The cells as they are; what a spreadsheet would take for a formula begins with a quote."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for row in (table.head, *table.rows):
        writer.writerow([f"'{each}" if each[:1] in ("=", "@") else each for each in row])
    return out.getvalue()


def latex(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(cells) + r" \\"

    lines = [rf"\begin{{tabular}}{{l{'r' * (len(table.head) - 1)}}}", r"\hline",
             line([_tex(each) for each in table.head]), r"\hline"]  # fmt: skip
    for number, row in enumerate(table.rows):
        lines.append(line([rf"\textbf{{{_tex(each)}}}" if (number, at) in table.bold else _tex(each)
                           for at, each in enumerate(row)]))  # fmt: skip
    notes = [f"% {' '.join(note.split())}" for note in table.notes]
    return "\n".join([f"% {table.title}", *lines, r"\hline", r"\end{tabular}", *notes]) + "\n"


def html(table: Table) -> str:
    """A section of a page."""
    head = "".join(f"<th>{escape(each)}</th>" for each in table.head)
    rows = []
    for number, row in enumerate(table.rows):
        cells = (f"<b>{escape(each)}</b>" if (number, at) in table.bold else escape(each)
                 for at, each in enumerate(row))  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in table.notes)
    return (f"<h2>{escape(table.title)}</h2><div class='wide'><table><tr>{head}</tr>{''.join(rows)}"
            f"</table></div>{notes}")  # fmt: skip


def percent(found: Interval | None, places: int = 1) -> str:
    """A share in percent with its interval."""
    if found is None or math.isnan(found.mean):
        return NONE
    mean, low, high = (100 * each for each in found)
    if math.isnan(low):
        return f"{mean:.{places}f}"
    return f"{mean:.{places}f} [{low:.{places}f}, {high:.{places}f}]"


def points(found: Interval | None) -> str:
    """A difference of shares, in percent points with its sign."""
    if found is None or math.isnan(found.mean):
        return NONE
    mean, low, high = (100 * each for each in found)
    return f"{mean:+.1f}" if math.isnan(low) else f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def number(found: Interval | None, places: int = 3) -> str:
    """A kappa or a mean with its interval."""
    if found is None or math.isnan(found.mean):
        return NONE
    if math.isnan(found.low):
        return f"{found.mean:.{places}f}"
    return f"{found.mean:.{places}f} [{found.low:.{places}f}, {found.high:.{places}f}]"


def _tex(text: str) -> str:
    return re.sub(r"[&%$#_{}~^\\]", lambda found: _TEX[found[0]], " ".join(text.split()))
