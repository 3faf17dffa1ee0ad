"""Evaluations on paper: Markdown tables, CSV, and one JSON line a question."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evlm.errors import RecordError
from evlm.files.pictures import forget_parts, write_atomically

from ..statistics import Interval, cohen_kappa, fleiss_kappa, interval, percent_agreement
from .accuracy import METRICS, PAINTED, Line, Outcome
from .judges import Verdict
from .questions import Question

_LEFT = 60.0  # seconds after which nobody writes a table any more
TITLES = {
    "exact": "plan exact",
    "targets": "targets right",
    "iou": "mask IoU",
    "malformed": "malformed",
    "tokens": "tokens",
    "right": "picture right",
    "scene": "all of it right",
}


@dataclass(frozen=True)
class Judged:
    """What one judge said. yes, no: verdicts. malformed: answers without an instruction, which are wrong
    without asking. silent: something else than YES or NO. unreached: no answer came.

    share: of yes among yes, no and malformed; None where there are none of these. agreement, kappa: with
    `exact`, on the questions with a verdict; None where there are none, or kappa is not defined.
    """

    name: str
    yes: int
    no: int
    malformed: int
    silent: int
    unreached: int
    share: Interval | None
    agreement: float | None
    kappa: float | None


def judged(
    name: str, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict | None], seed: int = 0
) -> Judged:
    """verdicts: one an outcome, None for the malformed ones. Raises ConfigError without scikit-learn."""
    given = [(v.yes, o.exact) for o, v in zip(outcomes, verdicts, strict=True) if v and v.yes is not None]
    yes, malformed = sum(says_yes for says_yes, _ in given), sum(each is None for each in verdicts)
    counted = [float(says_yes) for says_yes, _ in given] + [0.0] * malformed
    says_yes, exact = [bool(each) for each, _ in given], [each for _, each in given]
    return Judged(
        name,
        yes,
        len(given) - yes,
        malformed,
        sum(v is not None and v.reached and v.yes is None for v in verdicts),
        sum(v is not None and not v.reached for v in verdicts),
        interval(counted, seed=seed, share=True) if counted else None,
        percent_agreement(says_yes, exact) if given else None,
        cohen_kappa(says_yes, exact) if given else None,
    )


def table(lines: Sequence[Line]) -> str:
    """The summary as a Markdown table: each mean with its interval."""
    head, rows = cells(lines)
    return _markdown(head, [row if row[1] else [f"*{row[0]}*", *row[1:]] for row in rows])


def cells(lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    """The summary as a head and rows of text; what no line has, of pictures, has no column."""
    known = {name for line in lines for name in line.values}
    shown = [metric for metric in METRICS if metric in known or metric not in PAINTED]
    head = ["", "questions", *(TITLES[metric] for metric in shown)]
    rows, group = [], ""
    for line in lines:
        if line.group not in ("all", group):
            group = line.group
            rows.append([f"by {group}", *[""] * (len(head) - 1)])
        values = [_cell(line.values.get(metric), 1 if metric == "tokens" else 3) for metric in shown]
        rows.append([line.name, f"{line.questions:,}", *values])
    return head, rows


def judges_table(judgements: Sequence[Judged], verdicts: Sequence[Sequence[Verdict | None]]) -> str:
    """The judges as a Markdown table and, of several, how far they agree with one another.

    verdicts[judge][outcome]. Raises ConfigError without scikit-learn and statsmodels.
    """
    head = ["judge", "says YES", "YES", "NO", "malformed", "no verdict", "not reached", "agrees with exact",
            "Cohen's kappa"]  # fmt: skip
    rows = [
        [
            j.name,
            _cell(j.share),
            *map(str, (j.yes, j.no, j.malformed, j.silent, j.unreached)),
            _number(j.agreement),
            _number(j.kappa),
        ]
        for j in judgements
    ]
    text = _markdown(head, rows)
    if len(judgements) < 2:
        return text
    together = [
        [bool(v.yes) for v in each if v]
        for each in zip(*verdicts, strict=True)
        if all(v is not None and v.yes is not None for v in each)
    ]
    kappa = fleiss_kappa(together) if together else None
    pairs = []
    for a in range(len(judgements)):
        for b in range(a + 1, len(judgements)):
            first, second = [each[a] for each in together], [each[b] for each in together]
            equal = percent_agreement(first, second) if together else None
            cohen = cohen_kappa(first, second) if together else None
            pairs.append([f"{judgements[a].name} · {judgements[b].name}", _number(equal), _number(cohen)])
    agreed = _markdown(["two judges", "agree", "Cohen's kappa"], pairs)
    everyone = f"All judges gave a verdict on {len(together):,} questions; Fleiss' kappa {_number(kappa)}."
    return f"{text}\n\n{everyone}\n\n{agreed}"


def csv_text(lines: Sequence[Line]) -> str:
    """The summary as CSV: group, name, questions, and mean, low and high of each metric."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for line in lines:
        values = [_plain(line.values.get(metric), end) for metric in METRICS for end in range(3)]
        writer.writerow([line.group, line.name, line.questions, *values])
    return out.getvalue()


def read_csv(file: Path) -> list[Line]:
    """The lines of a file that `csv_text` made. Raises RecordError where it is none."""
    try:
        reader = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline=""))
        if reader.fieldnames not in (_COLUMNS, _COLUMNS[: -len(PAINTED) * len(_ENDS)]):  # older ones
            raise ValueError(f"other columns: {reader.fieldnames!s:.80}")
        return [_from_csv(row) for row in reader]
    except (OSError, ValueError, LookupError, TypeError, csv.Error) as error:
        raise RecordError(
            f"{file}: not the results of `python -m trainer eval` ({type(error).__name__}: {error!s:.120}); "
            "run it again, or remove the file"
        ) from None


def answer_lines(
    questions: Sequence[Question],
    outcomes: Sequence[Outcome],
    verdicts: Mapping[str, Sequence[Verdict | None]] | None = None,
) -> str:
    """One JSON object a question: what was asked, the right answer, the answer, what it is worth, and what
    each judge said."""
    lines = []
    for at, (question, outcome) in enumerate(zip(questions, outcomes, strict=True)):
        request = question.request()
        data: dict[str, Any] = {
            "id": question.id,
            "edit_type": question.edit_type,
            "category": question.category,
            "prompt": request.prompt,
            "references": [{"kind": each.kind, "text": each.text} for each in request.references],
            "right": {"instruction": question.instruction, "targets": list(question.targets)},
            "answer": outcome.text,
            "exact": outcome.exact,
            "targets_right": outcome.targets,
            "iou": outcome.iou,
            "malformed": outcome.malformed,
            "tokens": outcome.tokens,
            **({"groups": dict(outcome.groups)} if outcome.groups else {}),
            **({} if outcome.right is None else {"picture_right": outcome.right, "all_right": outcome.scene}),
        }
        if verdicts:
            data["judges"] = {name: _said(each[at]) for name, each in verdicts.items()}
        lines.append(json.dumps(data, allow_nan=False) + "\n")
    return "".join(lines)


def write(out: Path, texts: Mapping[str, str]) -> None:
    """Writes files into the folder, each whole or not at all, and takes away what a killed process left of
    them. Raises RecordError."""
    for name, text in texts.items():
        data = text.encode("utf-8", "backslashreplace")  # a folder's name may be no UTF-8
        try:
            write_atomically(out / name, lambda file, data=data: file.write(data))  # type: ignore[misc]
            forget_parts(out / name, older=_LEFT)
        except OSError as error:
            raise RecordError(f"{out / name}: cannot be written ({error})") from None


def _said(verdict: Verdict | None) -> dict[str, Any] | None:
    if verdict is None:
        return None
    return {"yes": verdict.yes, "answer": verdict.answer, "reached": verdict.reached}


_ENDS = ("", "_low", "_high")
_COLUMNS = ["group", "name", "questions", *(metric + end for metric in METRICS for end in _ENDS)]


def _from_csv(row: Mapping[str, str]) -> Line:
    values = {
        metric: Interval(*(float(row[metric + end] or "nan") for end in _ENDS))
        for metric in METRICS
        if row.get(metric)
    }
    return Line(row["group"], row["name"], int(row["questions"]), values)


def _plain(judgements: Interval | None, end: int) -> str:
    return "" if judgements is None or math.isnan(judgements[end]) else f"{judgements[end]:.6g}"


def _cell(judgement: Interval | None, places: int = 3) -> str:
    if judgement is None:
        return "–"
    if math.isnan(judgement.low):
        return f"{judgement.mean:.{places}f}"
    return f"{judgement.mean:.{places}f} [{judgement.low:.{places}f}, {judgement.high:.{places}f}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *escaped]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
