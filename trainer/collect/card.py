"""A dataset's card: what is in it, who made it, under whose rules, what was dropped; as Markdown."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evlm.errors import EVLMError, RecordError, one_line
from evlm.files.pictures import write_atomically
from evlm.records import Row

from ..config.settings import build, read_yaml
from ..data.files import OnProblem, read
from .card_figures import TYPES, WORDS, draw, examples, lengths, mended, words_of_references
from .cost import ledger
from .judging import QUESTIONS
from .make import RECIPE
from .quota import CATEGORIES, EDIT_TYPES, REST
from .recipe import Recipe
from .services import Service, titles

MARK = "<!-- written by `python -m trainer data card` -->"
NAME = "README.md"


def write_card(folder: Path, out: Path, on_problem: OnProblem) -> int:
    """The card of a dataset's folder, in place of one written before; gives its rows. Raises RecordError,
    also where another hand wrote the file."""
    try:
        if out.exists() and not out.read_text(encoding="utf-8", errors="replace").startswith(MARK):
            raise RecordError(f"{out} was not written by this command; name another file with --out")
        rows = [row for _, row in read(folder, on_problem, check_files=False)]
        text = card(folder, rows)
        write_atomically(out, lambda file: file.write(text.encode()))
        draw(out.parent, rows)
    except OSError as error:
        raise RecordError(f"{out}: cannot be written ({error.strerror or error})") from None
    return len(rows)


def card(folder: Path, rows: list[Row]) -> str:
    """Markdown. Its figures are of the rows; who taught and what was dropped, of the folder's records."""
    parts = [
        MARK,
        f"# {one_line(folder.resolve().name)}",  # which may be no UTF-8
        f"{len(rows):,} rows of {len({row.question for row in rows}):,} questions about "
        f"{len({row.original for row in rows}):,} originals, in the form of EVLM's REFLECTIVE-EDIT.",
        _table(("category", "rows", "share", "in the paper"), _shares(rows, "category", CATEGORIES)),
        _table(("edit type", "rows", "share", "in the paper"), _shares(rows, "edit_type", _types())),
        _table(("split", "rows", "groups of pictures"), _splits(rows)),
        "## Licences",
        _table(("source", "licence", "rows", "from"), licences(rows)),
        _warnings(rows),
        "## How it was made",
        *_made(folder, rows),
        "## Labels",
        _labels(rows),
        "## What is in it",
        *_content(rows),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _types() -> dict[str, float]:
    """Figure 10, its rest in equal parts."""
    shares = {name: float(share) for name, share in EDIT_TYPES.items()}
    rest = shares.pop("rest")
    return {**shares, **{name: rest / len(REST) for name in REST}}


def _shares(rows: list[Row], name: str, paper: Mapping[str, float]) -> Iterable[tuple[str, ...]]:
    counts, whole = Counter(str(getattr(row, name) or "none") for row in rows), sum(paper.values())
    for each in [*paper, *sorted(set(counts) - set(paper))]:
        share = counts[each] / max(1, len(rows))
        there = f"{paper[each] / whole:.1%}" if each in paper else ""
        yield each, f"{counts[each]:,}", f"{share:.1%}", there


def _splits(rows: list[Row]) -> Iterable[tuple[str, ...]]:
    groups: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        groups[row.split].add(str(row.meta.get("group", row.original)))
    for name, count in sorted(Counter(row.split for row in rows).items()):
        yield name, f"{count:,}", f"{len(groups[name]):,}"


def licences(rows: list[Row]) -> Iterable[tuple[str, ...]]:
    """(source, licence, rows, where it is from) of all pictures, those that other sources lent included."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        own = (row.source, str(row.meta.get("license") or "unknown"), str(row.meta.get("source_url") or ""))
        others = row.meta.get("reference_licenses") or []
        counts.update({own, *((str(each), str(each_licence), "") for each, each_licence in others)})
    for (source, licence, url), count in sorted(counts.items()):
        yield source, licence, f"{count:,}", url


def noncommercial(licence: str) -> bool:
    """Whether it forbids commerce, as far as its name says: by SPDX's NC, or in words."""
    return _NO_COMMERCE.search(licence) is not None


def unknown(licence: str) -> bool:
    """Whether nobody says whose rules the pictures are under."""
    return licence.strip().lower() in ("", "unknown", "none")


_NO_COMMERCE = re.compile(r"(?<![a-z])nc(?![a-z])|\bno[nt]?\W*(?:for\W+)?commercial", re.I)


def _warnings(rows: list[Row]) -> str:
    known = {licence for _, licence, _, _ in licences(rows)}
    said = []
    if any(map(noncommercial, known)):
        said.append("Some pictures may not be used commercially.")
    if any(map(unknown, known)):
        said.append("Of some pictures no licence is known: they are not to be passed on.")
    said.append("Nobody has looked for people, faces or names in the pictures but those who made the set.")
    return " ".join(said)


def _made(folder: Path, rows: list[Row]) -> Iterable[str]:
    teachers = Counter(str(row.meta.get("teacher") or "none") for row in rows)
    yield "Traces by " + ", ".join(f"{name} ({count:,})" for name, count in teachers.most_common()) + "."
    recipe = _recipe(folder)
    if recipe is not None and recipe.teacher is not None:
        yield f"What its provider says about training on answers: {recipe.teacher.terms}"
    spent = ledger(folder)
    if spent:
        dates = f"{str(spent.get('first'))[:10]} to {str(spent.get('last'))[:10]}"
        yield (
            f"{spent.get('sent', 0):,} requests, {spent.get('answers', 0):,} answers, {dates}; "
            f"{spent.get('tokens_in', 0):,} tokens asked, {spent.get('tokens_out', 0):,} written, "
            f"{spent.get('cost', 0):.4g} spent."
        )
    judges = () if recipe is None else recipe.judges
    for judge, title in zip(judges, titles(judges), strict=True):
        yield f"Judged by {_paid(judge, (spent.get('judges') or {}).get(title))}"
    if recipe is not None and recipe.maker is not None:
        yield f"Pictures drawn by {_paid(recipe.maker, spent.get('maker'))}"
    if given := [row.meta["judged"] for row in rows if row.meta.get("judged")]:
        names = [name for name in QUESTIONS if any(name in each for each in given)]
        means = (sum(each[name] for each in given if name in each) / sum(name in each for each in given)
                 for name in names)  # fmt: skip
        said = ", ".join(f"{name} {mean:.2f}" for name, mean in zip(names, means, strict=True))
        yield f"What the judges give on average, of 1 to 5: {said}."
    masks = Counter(str(row.meta["mask_by"]) for row in rows if row.meta.get("mask_by"))
    if masks:
        yield "Masks by " + ", ".join(f"{name} ({count:,})" for name, count in masks.most_common()) + "."
    again = sum(bool(row.meta.get("asked_again")) for row in rows)
    mended = sum(bool(row.meta.get("repairs")) for row in rows)
    yield f"{mended:,} traces were mended by the parser, {again:,} asked for twice."
    dropped = _dropped(folder)
    if dropped:
        yield _table(("dropped as", "questions or answers"),
                     [(name, f"{count:,}") for name, count in sorted(dropped.items())])  # fmt: skip


def _paid(service: Service, sums: dict[str, Any] | None) -> str:
    """Who a service is, what it cost, and its terms."""
    cost = f" ({sums['answers']:,} answers, {sums['cost']:.4g} spent)" if sums else ""
    return f"{service.name}{cost}; {service.terms or 'its terms are not said'}."


def _labels(rows: list[Row]) -> str:
    voted = [row for row in rows if row.raters]
    if not voted:
        return "Nobody has rated the rows yet: every label is what the maker says."
    agreed = sum(len(set(row.raters)) == 1 for row in voted)
    return (
        f"{len(voted):,} rows have {sum(len(row.raters) for row in voted):,} votes; the majority says yes to "
        f"{sum(row.label for row in voted) / len(voted):.1%}, all are of one mind about "
        f"{agreed / len(voted):.1%}. `python -m trainer data stats` gives kappas and alpha."
    )


def _content(rows: list[Row]) -> Iterable[str]:
    if any(words_of_references(rows).values()):
        yield f"![how many words the text references have]({WORDS})"
    yield f"![edit types]({TYPES})"
    yield _table(("part of the trace", "words on average", "at most"), lengths(rows))
    yield f"In {mended(rows):.1%} of the traces the plan is another than the intermediate was."
    for title, several in (
        ("Questions of several references", True),
        ("A picture or clip with words", False),
    ):
        if found := examples(rows, several):
            yield f"### {title}"
            yield _table(("row", "references", "instruction"), found)


def _recipe(folder: Path) -> Recipe | None:
    try:
        return build(Recipe, read_yaml(folder / RECIPE))
    except EVLMError:
        return None


def _dropped(folder: Path) -> Counter[str]:
    try:
        lines = (folder / "work/dropped.jsonl").read_text(encoding="utf-8").splitlines()
        return Counter(str(json.loads(line)["name"]) for line in lines)
    except (OSError, ValueError, LookupError, TypeError):
        return Counter()


def _table(head: tuple[str, ...], lines: Iterable[tuple[Any, ...]]) -> str:
    rows = [head, tuple("---" for _ in head), *lines]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "/") for cell in row) + " |" for row in rows)
