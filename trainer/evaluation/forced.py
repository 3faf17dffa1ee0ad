"""Whether the reflection reads what stands before it: an answer is begun with the right or a wrong
`<intermediate>`, the model goes on from there, and its `<output>` is counted.

    answer = begun(as_learner(backbone))
    force(answer, questions)        # one Forced a question and kind
    table(found)                    # mended and spoilt, by what the model said by itself

An output that follows `<thinking>` past the intermediate mends every wrong one and verifies nothing; one that
copies the intermediate mends none. Only what is mended *and* not spoilt is worth its tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from evlm.errors import ConfigError
from evlm.plan.form import PARTS
from evlm.request import Request

from ..model.sampling import Begun
from .accuracy import Outcome, judge
from .questions import Question

Beginner = Callable[[Sequence[Request], Sequence[Begun]], list[str]]
"""Requests and how their answers begin -> whole texts, in order."""

_INTERMEDIATE = re.compile(r"(<intermediate>\n?)(.*?)(\n?</intermediate>)", re.DOTALL)


@dataclass(frozen=True)
class Forced:
    """What became of one answer whose intermediate was put there.

    kind: the intermediate is "right" or "wrong"; own: whether the model's own answer, without any of this,
    was right; own_words: a wrong one that the model itself had written. said: the intermediate. outcome: of
    the whole answer.
    """

    kind: Literal["right", "wrong"]
    own: bool
    own_words: bool
    said: str
    outcome: Outcome

    @property
    def followed(self) -> bool:
        return self.outcome.instruction == self.said


@dataclass(frozen=True)
class Findings:
    """own: the model's answers by themselves. forced: those that were begun for it. left_out: questions whose
    own answer was no trace with an intermediate."""

    own: list[Outcome]
    forced: list[Forced]
    left_out: int


def force(
    answer: Beginner,
    questions: Sequence[Question],
    report: Callable[[int], None] | None = None,
    together: int = 32,
    parts: Sequence[str] = PARTS,
) -> Findings:
    """Asks each question three times: by itself, then with its own `<thinking>` and the right intermediate,
    then with a wrong one: the model's own where that was wrong, else another instruction for the same
    picture. parts: those that an answer has. Raises what `answer` raises."""
    own: list[Outcome] = []
    forced: list[Forced] = []
    left_out = 0
    for at in range(0, len(questions), together):
        some = questions[at : at + together]
        requests = [question.request() for question in some]
        texts = answer(requests, [Begun()] * len(some))
        outcomes = [judge(question, text, parts=parts) for question, text in zip(some, texts, strict=True)]
        own += outcomes
        asked: list[tuple[int, Forced, Begun]] = []
        for number, (question, before) in enumerate(zip(some, outcomes, strict=True)):
            place = _INTERMEDIATE.search(before.text)
            if before.malformed or place is None:
                left_out += 1
                continue
            mine = place[2].strip()
            slip = mine if before.first is False else _wrong(question, questions)
            for kind, said in (("right", question.instruction), ("wrong", slip)):
                if said:
                    words = kind == "wrong" and before.first is False
                    one = Forced(kind, before.exact, words, said, before)  # type: ignore[arg-type]
                    start = f"{before.text[: place.start()]}{place[1]}{said}{place[3]}"
                    asked.append((number, one, Begun(start + before.text[place.end() :], len(start))))
        done = answer([requests[number] for number, _, _ in asked], [start for _, _, start in asked])
        for (number, one, _), text in zip(asked, done, strict=True):
            forced.append(replace(one, outcome=judge(some[number], text, parts=parts)))
        if report is not None:
            report(len(some))
    return Findings(own, forced, left_out)


def begun(learner: Any, max_new_tokens: int = 768) -> Beginner:
    """A `learner.Learner` that goes on, greedily, from how an answer begins."""
    from ..model.sampling import SampleConfig, answers

    config = SampleConfig(temperature=0.0, max_new_tokens=max_new_tokens)
    return lambda requests, starts: answers(
        learner, [learner.chat(each) for each in requests], config, begun=starts
    )


def table(found: Findings) -> str:
    """Counts as Markdown. Raises ConfigError where no answer had an intermediate."""
    if not found.forced:
        raise ConfigError("no answer is a trace with an <intermediate>: there is nothing to force")
    lines = [
        "| intermediate | own answer | answers | output right | output as the intermediate | malformed |",
        "|---|---|---|---|---|---|",
    ]
    for kind in ("right", "wrong"):
        for own in (True, False):
            some = [each for each in found.forced if each.kind == kind and each.own is own]
            lines.append(
                f"| {kind} | {'right' if own else 'wrong'} | {len(some):,} "
                f"| {sum(each.outcome.exact for each in some):,} | {sum(each.followed for each in some):,} "
                f"| {sum(each.outcome.malformed for each in some):,} |"
            )
    right = [each for each in found.forced if each.kind == "right"]
    wrong = [each for each in found.forced if each.kind == "wrong"]
    first = [each for each in found.own if each.first is False]
    held = [each for each in found.own if each.first is True]
    lines += [
        "",
        f"mended: of {len(wrong):,} wrong intermediates {sum(each.outcome.exact for each in wrong):,} end in "
        f"a right output ({sum(each.own_words for each in wrong):,} of them the model's own words, "
        f"{sum(each.own_words and each.outcome.exact for each in wrong):,} mended).",
        f"spoilt: of {len(right):,} right intermediates {sum(not each.outcome.exact for each in right):,} "
        "end in a wrong output.",
        f"by itself: of {len(first):,} wrong intermediates {sum(each.exact for each in first):,} mended; of "
        f"{len(held):,} right ones {sum(not each.exact for each in held):,} spoilt. "
        f"{found.left_out:,} answers had no intermediate to change.",
    ]
    return "\n".join(lines)


def rows(found: Findings) -> list[dict[str, Any]]:
    """Each forced answer for a file."""
    return [
        {
            "id": each.outcome.id,
            "intermediate": each.kind,
            "said": each.said,
            "own_answer_right": each.own,
            "own_words": each.own_words,
            "output_right": each.outcome.exact,
            "followed": each.followed,
            "answer": each.outcome.text,
        }
        for each in found.forced
    ]


def _wrong(question: Question, others: Sequence[Question]) -> str:
    """Another instruction: the question's own other one, else that of another question of its kind."""
    if question.other:
        return question.other
    alike = (each.instruction for each in others if each.edit_type == question.edit_type)
    return next((each for each in alike if each != question.instruction), "")
