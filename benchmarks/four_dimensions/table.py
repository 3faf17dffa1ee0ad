"""The table: shares of right answers by dimension, their bars, and paired differences to the peers."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import median

from trainer.statistics import Interval, interval, paired

from .answers import Answer

BARS = {"2D": 0.92, "video": 0.85, "3D": 0.70, "4D": 0.65}  # of ours, for the interval's lower end
BARS |= {"3D relief": BARS["3D"], "4D relief": BARS["4D"]}
QUESTIONS, IN_TIME = 1000, 200  # that all dimensions, and 4D alone, have to have
PEERS = {
    "ours": "ours",
    "told": "ours, told the true plan",
    "ip2p": "plain IP2P, our plan's instruction",
    "ip2p-raw": "plain IP2P, the raw words",
    "tune-a-video": "Tune-A-Video's recipe, not tuned",
    "tune-a-video-tuned": "Tune-A-Video's recipe, tuned",
    "in2n": "IN2N's schedule, whole scene",
    "instruct-4d": "Instruct 4D-to-4D's recipe, whole scene",
}
COLUMNS = (
    "dimension", "who", "n", "right [95 %]", "bar for the lower end", "ours better by [95 %]",
    "by most views", "frames, views right", "planned exactly", "CPU-s, median",
)  # fmt: skip
FOUND = 0.7  # IoU of a place, below which it is the place that is blamed

Found = Mapping[str, Mapping[str, Mapping[int, Answer]]]
"""dimension -> arm -> number -> its answer."""


def grouped(
    answers: Sequence[Answer], dimensions: Collection[str] = ("2D", "video", "3D", "4D")
) -> dict[str, dict[str, dict[int, Answer]]]:
    found: dict[str, dict[str, dict[int, Answer]]] = {name: {} for name in BARS if name in dimensions}
    for each in sorted(answers, key=lambda each: (list(PEERS).index(each.arm), each.number)):
        found[each.dimension].setdefault(each.arm, {})[each.number] = each
    return found


def met(ours: Interval, bar: float) -> bool:
    """By the interval's lower end; of a single answer there is none."""
    return ours.low >= bar


def tables(found: Found) -> tuple[str, int]:
    """(markdown, how many bars are missed or cannot be judged yet)."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    missed = 0
    for dimension, arms in found.items():
        bar = BARS[dimension]
        ours = arms.get("ours", {})
        missed += not ours
        for arm, answers in arms.items():
            right = interval([each.right for each in answers.values()], share=True)
            said, apart, planned = "", "", ""
            if arm == "ours":
                kept = met(right, bar)
                missed += not kept
                said = f"{bar:.2f}: {'met' if kept else '**missed**'}"
            else:
                both = [number for number in answers if number in ours]
                apart = f"{_points(difference(ours, answers, both))}, {len(both)} pairs" if both else ""
            if arm in ("ours", "told"):
                planned = f"{_mean([each.planned for each in answers.values()]):.3f}"
            shown = _mean([each.shown for each in answers.values()])
            seconds = median(each.seconds for each in answers.values())
            most = (
                f"{_mean([each.most for each in answers.values()]):.3f}"
                if dimension[:2] in ("3D", "4D")
                else ""
            )
            cells = dimension, PEERS[arm], str(len(answers)), _share(right), said, apart, most
            lines.append(f"| {' | '.join(cells)} | {shown:.3f} | {planned} | {seconds:.1f} |")
    counts = {name: len(arms.get("ours", {})) for name, arms in found.items()}
    in_time = sum(count for name, count in counts.items() if name.startswith("4D"))
    enough = sum(counts.values()) >= QUESTIONS and in_time >= IN_TIME
    missed += not enough
    lines += [
        "",
        f"{sum(counts.values())} questions (bar {QUESTIONS}), of them {in_time} in 4D (bar {IN_TIME})"
        + ("." if enough else ": **too few**."),
        "",
        *by_kind(found),
        "",
        *causes(found),
    ]
    return "\n".join(lines) + "\n", missed


def difference(ours: Mapping[int, Answer], other: Mapping[int, Answer], both: Sequence[int]) -> Interval:
    """Ours less the other, over the questions that both have answered."""
    return paired([ours[at].right for at in both], [other[at].right for at in both])


def by_kind(found: Found) -> list[str]:
    """Ours: right of how many, by kind of edit and dimension."""
    kinds = sorted({each.kind for arms in found.values() for each in arms.get("ours", {}).values()})
    lines = [f"| ours, right of | {' | '.join(kinds)} |", f"|---|{'---|' * len(kinds)}"] if kinds else []
    for dimension in found:
        ours = found[dimension].get("ours", {}).values()
        cells = []
        for kind in kinds:
            some = [each.right for each in ours if each.kind == kind]
            cells.append(f"{sum(some)} of {len(some)}" if some else "")
        if any(cells):
            lines.append(f"| {dimension} | {' | '.join(cells)} |")
    return lines


def causes(found: Found) -> list[str]:
    """What stopped ours where it is wrong: the first of the steps that went wrong."""
    lines = [f"| wrong, of which | answers | {' | '.join(CAUSES)} |", f"|---|---|{'---|' * len(CAUSES)}"]
    for dimension in found:
        for arm in ("ours", "told"):
            wrong = [each for each in found[dimension].get(arm, {}).values() if not each.right]
            if not wrong:
                continue
            counts = [sum(cause(each) == name for each in wrong) for name in CAUSES]
            lines.append(f"| {dimension}, {PEERS[arm]} | {len(wrong)} | {' | '.join(map(str, counts))} |")
    return lines if len(lines) > 2 else []  # fmt: skip


CAUSES = ("no plan", "another plan", "held back", "nothing found", "its place", "its picture")


def cause(answer: Answer) -> str:
    if not answer.instructions and answer.why:
        return "no plan"
    if not answer.planned:
        return "another plan"
    if answer.why.startswith("held back"):
        return "held back"
    if answer.why:
        return "nothing found"
    return "its place" if answer.place is not None and answer.place < FOUND else "its picture"


def _share(value: Interval) -> str:
    ends = "" if math.isnan(value.low) else f" [{value.low:.3f}, {value.high:.3f}]"
    return f"{value.mean:.3f}{ends}"


def _points(value: Interval) -> str:
    ends = "" if math.isnan(value.low) else f" [{value.low:+.3f}, {value.high:+.3f}]"
    return f"{value.mean:+.3f}{ends}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
