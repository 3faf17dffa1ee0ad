"""What is in a dataset: counts, shares, lengths, sizes, and how far the raters agree."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from evlm.errors import MaskTextError, RecordError
from evlm.files.safe_paths import inside
from evlm.plan.mask_codec import decode_mask
from evlm.records import Row

from ..statistics import agreement
from .files import OnProblem, Problem, read, rows_file

PARTS = ("thinking", "intermediate", "reflection", "output")
KINDS = ("split", "source", "edit_type", "category", "scope")
_GRID = 64  # pixels a side of the frame in which a mask's share is measured


def stats(path: Path, on_problem: OnProblem, pictures: int = 2000, bar: bool = False) -> dict[str, Any]:
    """Everything that `show` draws, as JSON; rows that are bad are counted and left out.

    pictures: how many original pictures are opened for their size; 0 looks at none, and at no file.
    Lengths are in characters; of the output as it is written in a trace. Raises RecordError.
    """
    tally, file = _Tally(pictures), rows_file(path)

    def bad(problem: Problem) -> None:
        tally.bad += 1
        on_problem(problem)

    for _, row in read(file, bad, check_files=pictures > 0, bar=bar):
        tally.add(row, file.parent)
    return tally.result()


def show(counted: dict[str, Any]) -> str:
    """The statistics as a table of text."""
    rows, lines = counted["rows"], []

    def line(name: str, text: str) -> None:
        lines.append(f"{name:<22}{text}")

    line("rows", f"{rows:,} good, {counted['bad']:,} bad, of {counted['questions']:,} questions")
    if not rows:
        return "\n".join(lines)
    line("desired", f"{counted['desired']:.1%}")
    for kind in KINDS:
        shares = [f"{name} {count:,} ({count / rows:.0%})" for name, count in counted[kind].items()]
        line(kind.replace("_", " "), " · ".join(shares))
    masks = counted["masks"]
    line(
        "mask",
        f"{masks['text']:.0%} say one, {masks['picture']:.0%} have its picture, {masks['unreadable']:,} "
        f"cannot be read; on average {masks['area']:.1%} of the frame",
    )
    line(
        "references",
        " · ".join(f"{kind} {count:,}" for kind, count in counted["references"].items()) or "none",
    )
    for part, length in counted["lengths"].items():
        line(
            part,
            f"{length['mean']:.0f} characters, half up to {length['median']}, 95 % up to {length['p95']}, "
            f"at most {length['max']:,}",
        )
    raters = counted["raters"]
    votes = f"{raters['rows']:,} rows have votes, {raters['unanimous']:.1%} of them unanimous"
    line("raters", votes if raters["rows"] else "no votes")
    if raters["agreement"]:
        line("  agreement", _agreed(raters["agreement"]))
    for rater in raters["each"]:
        share = f"{rater['desired']:.1%} desired, {rater['agrees']:.1%} as the label"
        line(f"  {rater['rater']:.19}", f"{rater['votes']:,} votes, {share}")
    sizes = [f"{size} ({count:,})" for size, count in counted["pictures"]["sizes"].items()]
    line(
        "pictures",
        f"{counted['pictures']['looked']:,} originals: {' · '.join(sizes)}" if sizes else "not looked at",
    )
    if counted["pictures"]["unreadable"]:
        line(
            "  cannot be read",
            f"{len(counted['pictures']['unreadable']):,}: {counted['pictures']['unreadable'][0]}",
        )
    return "\n".join(lines)


class _Tally:
    def __init__(self, pictures: int) -> None:
        self.rows = self.bad = self.desired = self.voted = self.unanimous = 0
        self.questions: set[str] = set()
        self.kinds: dict[str, Counter[str]] = {kind: Counter() for kind in KINDS}
        self.masks: Counter[str] = Counter()
        self.area = 0.0
        self.references: Counter[str] = Counter()
        self.lengths: dict[str, Counter[int]] = defaultdict(Counter, {part: Counter() for part in PARTS})
        self.each: dict[str, Counter[str]] = {}
        self.votes: list[list[tuple[str | None, bool]]] = []
        self.left, self.looked = pictures, set[str]()
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.unreadable: list[str] = []

    def add(self, row: Row, folder: Path) -> None:
        self.rows += 1
        self.desired += row.label
        self.questions.add(row.question)
        for kind, counter in self.kinds.items():
            counter[getattr(row, kind)] += 1
        self.references.update(reference["kind"] for reference in row.references)
        text = row.completion
        if row.answer is None:
            for part in PARTS[:3]:
                self.lengths[part][len(getattr(row, part))] += 1
            self.lengths["output"][len(text) - text.rindex("\n<output>\n") - 1] += 1
        else:
            self.lengths["answer"][len(text)] += 1
        self._masks(row)
        self._votes(row)
        path = row.original[0]
        if self.left and path not in self.looked:
            self.left -= 1
            self.looked.add(path)
            self._look(folder, path)

    def result(self) -> dict[str, Any]:
        rows, read_masks = max(1, self.rows), max(1, self.masks["read"])
        each = [
            {
                "rater": name,
                "votes": c["votes"],
                "desired": c["desired"] / c["votes"],
                "agrees": c["agrees"] / c["votes"],
            }
            for name, c in sorted(self.each.items())
        ]
        return {
            "rows": self.rows,
            "bad": self.bad,
            "questions": len(self.questions),
            "desired": self.desired / rows,
            **{kind: dict(counter.most_common()) for kind, counter in self.kinds.items()},
            "masks": {
                "text": self.masks["text"] / rows,
                "picture": self.masks["picture"] / rows,
                "unreadable": self.masks["unreadable"],
                "area": self.area / read_masks,
            },
            "references": dict(self.references.most_common()),
            "lengths": {part: _spread(counter) for part, counter in self.lengths.items()},
            "raters": {
                "rows": self.voted,
                "unanimous": self.unanimous / max(1, self.voted),
                "each": each,
                "agreement": _agreement(self.votes),
            },
            "pictures": {
                "looked": len(self.looked),
                "unreadable": self.unreadable,
                "sizes": {f"{w} x {h}": count for (w, h), count in self.sizes.most_common(8)},
            },
        }

    def _masks(self, row: Row) -> None:
        self.masks["picture"] += row.mask is not None
        texts = [step["mask_text"] for step in row.steps if step.get("mask_text")] or [row.mask_text]
        self.masks["text"] += any(text is not None for text in texts)
        for text in texts:
            if text is None:
                continue
            try:
                self.area += float(decode_mask(text, _GRID, _GRID).mean())
                self.masks["read"] += 1
            except MaskTextError:
                self.masks["unreadable"] += 1

    def _votes(self, row: Row) -> None:
        self.voted += bool(row.raters)
        self.unanimous += len(set(row.raters)) == 1
        named = named_votes(row)
        self.votes.append(named)
        for name, vote in named:
            if name is not None:
                counter = self.each.setdefault(name, Counter())
                counter.update(votes=1, desired=int(vote), agrees=int(vote == row.label))

    def _look(self, folder: Path, path: str) -> None:
        from PIL import Image

        try:
            with Image.open(inside(folder, path)) as image:  # the header alone
                self.sizes[image.size] += 1
        except (RecordError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            self.unreadable.append(f"{path}: {error!s:.120}")


def named_votes(row: Row) -> list[tuple[str | None, bool]]:
    """(rater, vote) by `meta.votes`, which `data rated` writes. Without it nobody says whose vote the r-th of
    a row is: with 3 of 20 people a row it is not one person's."""
    votes = row.meta.get("votes")
    if not isinstance(votes, list) or not all(isinstance(vote, dict) for vote in votes):
        return [(None, vote) for vote in row.raters]
    named = [(vote.get("rater"), vote.get("yes")) for vote in votes]
    good = all(isinstance(name, str) for name, _ in named) and [yes for _, yes in named] == list(row.raters)
    return named if good else [(None, vote) for vote in row.raters]


def _agreement(votes: list[list[tuple[str | None, bool]]]) -> dict[str, Any] | None:
    """Of the rows with votes; None where no row has two."""
    found = agreement(votes)
    if found is None:
        return None
    pairs = [{"raters": list(pair), "kappa": kappa, "rows": n} for pair, (kappa, n) in found.cohen.items()]
    return {
        "rows": found.items,
        "complete": found.complete,
        "raters": found.raters,
        "percent": found.percent,
        "alpha": found.alpha,
        "fleiss": found.fleiss,
        "cohen": pairs,
    }


def _agreed(kappas: dict[str, Any]) -> str:
    pairs = ", ".join(
        f"{'-'.join(each['raters'])} {_kappa(each['kappa'])} ({each['rows']:,})"
        for each in kappas["cohen"][:20]
    )
    of = f"{kappas['complete']:,} rows with {kappas['raters']} votes"
    alpha, fleiss = _kappa(kappas["alpha"]), _kappa(kappas["fleiss"])
    unnamed = "of no pair: the rows' meta.votes do not say who voted"
    return (
        f"{kappas['percent']:.1%} of pairs of votes are equal, Krippendorff's alpha {alpha} "
        f"({kappas['rows']:,} rows), Fleiss' kappa {fleiss} ({of}), Cohen's {pairs or unnamed}"
    )


def _kappa(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.2f}"


def _spread(counter: Counter[int]) -> dict[str, float]:
    total = sum(counter.values())
    if not total:
        return {"mean": 0.0, "median": 0, "p95": 0, "max": 0}
    mean = sum(value * count for value, count in counter.items()) / total
    return {
        "mean": mean,
        "median": _at(counter, total, 0.5),
        "p95": _at(counter, total, 0.95),
        "max": max(counter),
    }


def _at(counter: Counter[int], total: int, share: float) -> int:
    """The least value that at least a share of all do not exceed."""
    below, values = 0, sorted(counter)
    for value in values:
        below += counter[value]
        if below >= math.ceil(total * share):
            return value
    return values[-1]
