"""What the paper shows of its dataset, of this one: words of the text references (Figure 9), edit types
(Figure 10), questions of several references and of a picture with words (Tables 7, 8), lengths of the
parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean

from evlm.files.pictures import write_atomically
from evlm.plan.form import PROSE
from evlm.records import Row

WORDS, TYPES = "words.svg", "edit-types.svg"  # beside the card
_SHOWN = 20  # questions of a table
_WIDTH, _BAR, _LEFT = 480, 22, 130


def words_of_references(rows: Iterable[Row]) -> Counter[int]:
    """How many text references have so many words, each question counted once."""
    once = {row.question: row for row in rows}.values()
    texts = (each["text"] for row in once for each in row.references if each["kind"] == "text")
    return Counter(len(text.split()) for text in texts)


def draw(folder: Path, rows: Sequence[Row]) -> None:
    """Writes both figures. Raises OSError."""
    words = words_of_references(rows)
    counts = {f"{count} word{'s' * (count > 1)}": words[count] for count in range(1, max([8, *words]) + 1)}
    types = Counter(row.edit_type for row in rows)
    for name, title, bars in ((WORDS, "text references", counts), (TYPES, "rows by edit type",
                                                                   dict(types.most_common()))):  # fmt: skip
        text = svg(title, bars)
        write_atomically(folder / name, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]


def svg(title: str, bars: Mapping[str, int]) -> str:
    """Lying bars with their numbers, readable on light and dark pages."""
    height, most = _BAR * (len(bars) + 1) + 8, max([1, *bars.values()])
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" '
        f'height="{height}" role="img" aria-label="{escape(title)}" font-family="sans-serif" font-size="13" '
        'fill="#777">',
        f'<text x="{_LEFT}" y="15">{escape(title)}</text>',
    ]
    for at, (name, count) in enumerate(bars.items(), 1):
        y, length = _BAR * at + 4, round((_WIDTH - _LEFT - 70) * count / most, 1)
        lines.append(f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        lines.append(f'<rect x="{_LEFT}" y="{y}" width="{length}" height="{_BAR - 5}" fill="#3d7dca"/>')
        lines.append(f'<text x="{_LEFT + length + 6}" y="{y + 13}">{count:,}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def examples(rows: Iterable[Row], several: bool) -> list[tuple[str, str, str]]:
    """(row, its references, the instruction) of the first questions with two references or more, or with a
    picture or clip and words."""
    found: dict[str, tuple[str, str, str]] = {}
    for row in rows:
        kinds = {each["kind"] for each in row.references}
        fits = len(row.references) > 1 if several else "text" in kinds and len(kinds) > 1
        if fits and row.question not in found:
            shown = " + ".join(each.get("text") or each["kind"] for each in row.references)
            found[row.question] = row.id, shown, row.instruction
        if len(found) >= _SHOWN:
            break
    return list(found.values())


def lengths(rows: Sequence[Row]) -> list[tuple[str, str, str]]:
    """(part, words on average, at most) of the traces."""
    traces = [row for row in rows if row.answer is None]
    counts = {name: [len(getattr(row, name).split()) for row in traces] for name in (*PROSE, "instruction")}
    return [(name, f"{fmean(each):.1f}", f"{max(each):,}") for name, each in counts.items() if each]


def mended(rows: Sequence[Row]) -> float:
    """Share of the traces whose intermediate says something else than the plan in the end."""
    traces = [row for row in rows if row.answer is None]
    changed = sum(_plain(row.intermediate) != _plain(row.instruction) for row in traces)
    return changed / max(1, len(traces))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")
