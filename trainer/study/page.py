"""A study's result as Markdown: accuracy with intervals, differences from the first stage, prices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.accuracy import Outcome, difference, summary
from ..statistics import Interval
from .results import mean, outcomes_of

Result = Mapping[str, Any]


def page(study: str, results: Sequence[Result], budget: float | None, recipe: Mapping[str, Any]) -> str:
    """The page. results: as `study` writes them, all of them; the first arm is what the others are compared
    with. budget: tokens of each arm; None where each goes on until it gets no better. Intervals are over
    questions, each question's runs averaged; the single seeds stand beside them."""
    arms = list(dict.fromkeys(result["job"]["arm"] for result in results))
    by_arm = {arm: [result for result in results if result["job"]["arm"] == arm] for arm in arms}
    outcomes = {arm: [o for result in by_arm[arm] for o in _outcomes(result)] for arm in arms}
    seeds, job = len(by_arm[arms[0]]), results[0]["job"]
    asked = f"{job['questions']} questions of the split {job['split']}"
    spent = "each arm to its best on validation" if budget is None else f"{budget / 1e6:.2f} M tokens an arm"
    lines = [
        f"# {study}: {seeds} seeds, {asked} each, {spent}",
        "",
        f"| arm | exact | seeds | over {arms[0]} | mask IoU | malformed | "
        "mended | spoilt | R_reflect | s a step | steps | tokens, M | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for arm in arms:
        values = summary(outcomes[arm])[0].values
        each = ", ".join(f"{_mean(_outcomes(result)):.3f}" for result in by_arm[arm])
        over = "" if arm == arms[0] else _signed(difference(outcomes[arm], outcomes[arms[0]]))
        runs = len(by_arm[arm])
        steps = sum(result["job"]["steps"] for result in by_arm[arm]) / runs
        shown = f"{steps:.1f}".removesuffix(".0") if steps else ""
        tokens = sum(result["tokens"] for result in by_arm[arm]) / runs / 1e6
        cpu = sum(result["cpu_seconds"] for result in by_arm[arm]) / runs
        lines.append(
            f"| {arm} | {_shown(values['exact'])} | {each} | {over} | {_shown(values['iou'])} | "
            f"{values['malformed'].mean:.3f} | {_reflected(outcomes[arm], False)} | "
            f"{_reflected(outcomes[arm], True)} | {_number(by_arm[arm], 'reflection')} | "
            f"{_number(by_arm[arm], 'step_seconds')} | {shown} | {tokens:.2f} | {cpu:.0f} |"
        )
    lines += ["", "Differences of every two arms, exact, paired by question:", ""]
    lines += ["| | " + " | ".join(arms[1:]) + " |", "|---" * len(arms) + "|"]
    for row in arms[:-1]:
        cells = [
            _signed(difference(outcomes[column], outcomes[row]))
            if arms.index(column) > arms.index(row)
            else ""
            for column in arms[1:]
        ]
        lines.append(f"| less {row} | " + " | ".join(cells) + " |")
    first, second = recipe["phases"]
    lines += [
        "",
        "Intervals: 95 %, 10,000 bootstrap resamples of the questions, each question's runs averaged first; "
        "how much other seeds would differ is seen in the seeds' own column. Tokens: forwarded through the "
        "language model in the second stage, by policy, reference, sampling and embedding together; they, "
        "steps and CPU seconds are means over the seeds; "
        "mended: of the traces whose intermediate was wrong, how many end right; spoilt: of those whose "
        "intermediate was right, how many end wrong; R_reflect: Eq. 11 of these questions' right traces, "
        "teacher-forced; s a step: of the second stage. "
        + (
            "CPU seconds: of the arm's steps, without what is measured in between and its search for a rate."
            if budget is None
            else "CPU seconds: of the run's process, in the steps of both stages and while it answers the "
            "questions; loading, and what comes after a stage's last step, are not counted."
        ),
        f"Data: {recipe['data']}; first stage: {first}{'' if budget is None else f'; second: {second}'}.",
    ]
    return "\n".join(lines) + "\n"


def _outcomes(result: Result) -> list[Outcome]:
    return outcomes_of(result)


def _number(results: Sequence[Result], name: str) -> str:
    """Mean over the seeds; of runs of an older version there is none."""
    known = [result[name] for result in results if result.get(name) is not None]
    return f"{mean(known):.3f}" if known else "-"


def _reflected(outcomes: Sequence[Outcome], first: bool) -> str:
    """What the reflection did where the intermediate was right (`first`) or wrong: the share that it turned,
    and of how many."""
    some = [each for each in outcomes if each.first is first]
    turned = sum(each.exact is not first for each in some)
    return f"{turned / len(some):.3f} of {len(some):,}" if some else "-"


def _mean(outcomes: Sequence[Outcome]) -> float:
    return sum(each.exact for each in outcomes) / len(outcomes)


def _shown(value: Interval) -> str:
    return f"{value.mean:.3f} ({value.low:.3f} to {value.high:.3f})"


def _signed(value: Interval) -> str:
    text = f"{value.mean:+.3f} ({value.low:+.3f} to {value.high:+.3f})"
    return f"**{text}**" if value.excludes_zero else text
