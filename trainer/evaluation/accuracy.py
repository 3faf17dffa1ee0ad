"""How good a reasoner is, on questions whose answer is known: held-out ones of the world, or a dataset's.

    questions = world_questions(500, seed=1)
    before = evaluate(batched(base), questions)
    after = evaluate(batched(trained), questions)
    summary(after)                  # accuracy with intervals: in all, by edit type, by input category
    difference(after, before)       # of the same questions, paired

What a model says and what that is worth are apart: `judge` takes any text, so a test needs no model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from evlm.errors import ConfigError, TraceError
from evlm.plan.form import PARTS
from evlm.plan.step_masks import plan_mask_iou
from evlm.plan.trace import parse
from evlm.request import Request

from ..statistics import Interval, interval, paired
from ..world.edits import MIX
from ..world.questions import CATEGORIES
from .questions import Question

Answerer = Callable[[Sequence[Request]], list[str]]
"""Requests -> the texts that answer them, in order."""

PAINTED = ("right", "scene")  # of pictures, where the plans were carried out
METRICS = ("exact", "targets", "iou", "malformed", "tokens", *PAINTED)
GROUPS = ("scenario", "rule", "wording", "kind", "premise")  # of hypothetical questions
_SHARES = ("exact", "targets", "malformed", *PAINTED)  # each yes or no


@dataclass(frozen=True)
class Outcome:
    """What an answer is worth.

    exact: the plan is right, instruction and targets. targets: they alone are. iou: of the trace's mask with
    the true one, 0..1, 0 for a malformed one; None where there is no true mask. malformed: not a trace in its
    exact form, so nothing in it counts. tokens: length of the text. instruction: the plan's, "" where
    malformed. first: whether the intermediate, before the reflection, was the right instruction already; None
    where there is none. groups: the question's. right, scene: whether the painted picture is right where it
    was to change, and everywhere; None where nothing was painted.
    """

    id: str
    edit_type: str
    category: str
    exact: bool
    targets: bool
    iou: float | None
    malformed: bool
    tokens: int
    instruction: str
    text: str
    first: bool | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    right: bool | None = None
    scene: bool | None = None


@dataclass(frozen=True)
class Line:
    """One line of the table. group: "all", "edit type", "category" or one of GROUPS. values: by the
    names in METRICS; those that no question has are missing."""

    group: str
    name: str
    questions: int
    values: dict[str, Interval]


def evaluate(
    answer: Answerer,
    questions: Sequence[Question],
    tokens: Callable[[str], int] | None = None,
    report: Callable[[int], None] | None = None,
    together: int = 32,
    parts: Sequence[str] = PARTS,
) -> list[Outcome]:
    """One outcome a question, in order. Raises what `answer` raises.

    tokens: counts those of a text (`token_counter` makes one for a model); words when None. report: told how
    many questions were answered since it was last told. together: questions whose pictures are in memory at
    once. parts: those that an answer has.
    """
    outcomes: list[Outcome] = []
    for at in range(0, len(questions), together):
        some = questions[at : at + together]
        texts = answer([question.request() for question in some])
        for question, text in zip(some, texts, strict=True):
            outcomes.append(judge(question, text, (tokens or _words)(text), parts=parts))
        if report is not None:
            report(len(some))
    return outcomes


def judge(
    question: Question,
    text: str,
    tokens: int | None = None,
    repair: bool = False,
    parts: Sequence[str] = PARTS,
) -> Outcome:
    """What a text is worth as an answer.

    tokens: length of the text, its words when None. repair: mend near misses of the grammar, of a model that
    was never tuned on it; else malformed is malformed. parts: those that it was asked for.
    """
    plan, before = None, ""
    with suppress(TraceError):
        trace = parse(text, repair=repair, parts=parts)
        plan, before = trace.plan, trace.intermediate.strip()
    mask = question.mask()
    right = plan is not None and plan.targets == question.targets
    return Outcome(
        id=question.id,
        edit_type=question.edit_type,
        category=question.category,
        exact=right and plan is not None and plan.instruction == question.instruction,
        targets=right,
        iou=None if mask is None else plan_mask_iou(plan, mask),
        malformed=plan is None,
        tokens=_words(text) if tokens is None else tokens,
        instruction=plan.instruction if plan else "",
        text=text,
        first=before == question.instruction if before else None,
        groups=dict(question.groups),
    )


def summary(outcomes: Sequence[Outcome], seed: int = 0) -> list[Line]:
    """All outcomes, then by edit type, input category and the questions' groups, each mean with its interval.

    Outcomes of one question in several runs count as one observation (see `statistics.interval`). Raises
    ConfigError where there are none.
    """
    if not outcomes:
        raise ConfigError("no outcomes: nothing was asked")
    lines = [_line("all", "all", outcomes, seed)]
    for group, name_of, order in (
        ("edit type", "edit_type", tuple(MIX)),
        ("category", "category", CATEGORIES),
    ):
        names = {getattr(outcome, name_of) for outcome in outcomes}
        known = [name for name in order if name in names]
        for name in [*known, *sorted(names - set(known))]:
            some = [outcome for outcome in outcomes if getattr(outcome, name_of) == name]
            lines.append(_line(group, name, some, seed))
    for group in GROUPS:
        for name in dict.fromkeys(sorted(each.groups[group] for each in outcomes if group in each.groups)):
            some = [outcome for outcome in outcomes if outcome.groups.get(group) == name]
            lines.append(_line(group, name, some, seed))
    return lines


def difference(
    first: Sequence[Outcome], second: Sequence[Outcome], metric: str = "exact", seed: int = 0
) -> Interval:
    """Mean of first - second with its interval, of two evaluations of the same questions in the same order.

    Several runs may follow one another (seed 0's outcomes, then seed 1's): a question's runs are averaged
    before questions are resampled. The interval then tells how sure the difference is over questions; that
    other seeds would train other models is not in it. Raises ConfigError where the questions differ.
    """
    if [each.id for each in first] != [each.id for each in second]:
        both = enumerate(zip(first, second, strict=False))
        where = next((n for n, (a, b) in both if a.id != b.id), min(len(first), len(second)))
        raise ConfigError(
            f"two evaluations of {len(first)} and {len(second)} questions that differ from number {where} "
            "on: expected the same ones in the same order"
        )
    pairs = [
        (a.id, x, y)
        for a, b in zip(first, second, strict=True)
        if (x := _value(a, metric)) is not None and (y := _value(b, metric)) is not None
    ]
    return paired([x for _, x, _ in pairs], [y for _, _, y in pairs], [key for key, _, _ in pairs], seed)


# --- models ---


def one_by_one(reasoner: Any, max_new_tokens: int = 768) -> Answerer:
    """A loaded `evlm.Reasoner` (or a remote one) that is asked for one greedy answer at a time."""
    from evlm.reason.reasoner import Sampling

    # What the model writes by itself is measured, as in batches.
    sampling = Sampling(max_new_tokens=max_new_tokens, guided="never")
    return lambda requests: [reasoner.generate(request, sampling).text for request in requests]


def load(
    base: str, adapter: str | Path | None = None, max_new_tokens: int = 768, style: str | None = None
) -> tuple[Answerer, Callable[[str], int], tuple[str, ...]]:
    """A model's answerer, its token counter, and the parts that it writes: batched for Qwen2-VL, one by one
    for the other families.

    base: "bundled", a name that `python -m evlm models` lists, or a folder; adapter: a LoRA file or folder.
    style: "short-direct" and the like, of a model that knows several; None is its own. Raises ModelError,
    CheckpointError.
    """
    from evlm.models.zoo import resolve
    from evlm.reason.backbone import load_backbone

    backbone = load_backbone(resolve(base, "reasoner"), adapter, style=style)
    answer, count = _answerer(backbone, max_new_tokens), token_counter(backbone.processor)
    return answer, count, backbone.request_style.parts


class Styled(NamedTuple):
    """A loaded model: tokens counts those of a text; tuned: on the form, which it must keep then; parts:
    those that it is asked for."""

    answer: Answerer
    tokens: Callable[[str], int]
    tuned: bool
    parts: tuple[str, ...]


def load_styled(
    base: str, adapter: str | Path | None = None, style: str = "auto", max_new_tokens: int = 768
) -> Styled:
    """As `load`, for a model that is asked in one of `messages.STYLES`, and whose own boxes become ours.
    Raises RequestError, too: a model that was tuned on one style takes no other."""
    from evlm.models.zoo import resolve
    from evlm.plan.native_boxes import in_our_form
    from evlm.reason.backbone import load_backbone
    from evlm.reason.messages import chosen_style
    from evlm.reason.reasoner import Reasoner, Sampling

    backbone = load_backbone(resolve(base, "reasoner"), adapter)
    count = token_counter(backbone.processor)
    if backbone.tuned:
        own = chosen_style(backbone.request_style, style)
        return Styled(_answerer(backbone, max_new_tokens), count, True, own.parts)
    reasoner = Reasoner(backbone, prefix_bytes=0)
    asked = chosen_style(reasoner.style, style)
    sampling = Sampling(max_new_tokens=max_new_tokens, guided="never", style=style)

    def answer(requests: Sequence[Request]) -> list[str]:
        said = [reasoner.generate(request, sampling) for request in requests]
        return [in_our_form(each.text, asked.boxes, each.seen) for each in said]

    return Styled(answer, count, False, asked.parts)


def _answerer(backbone: Any, max_new_tokens: int) -> Answerer:
    from evlm.reason.reasoner import Reasoner

    if backbone.family != "qwen2_vl":
        return one_by_one(Reasoner(backbone, prefix_bytes=0), max_new_tokens)
    return batched(as_learner(backbone), max_new_tokens)


def as_learner(backbone: Any) -> Any:
    """A loaded model as what asks many questions at once (`learner.Learner`)."""
    from evlm.adapter.checkpoint import AdapterMeta
    from evlm.adapter.lora import Lora
    from evlm.plan.mask_codec import get_codec

    from ..learner.learner import Learner

    return Learner(
        backbone.model,
        backbone.processor,
        backbone.request_style,
        get_codec(backbone.codec),
        backbone.max_frames,
        backbone.adapter or AdapterMeta(Lora(1, 1.0, ())),
        next(backbone.model.parameters()).device,
    )


def batched(learner: Any, max_new_tokens: int = 768) -> Answerer:
    """A `learner.Learner`, greedy, many questions at once: the same answers about three times sooner
    on one core."""
    from ..model.sampling import SampleConfig, answers

    config = SampleConfig(temperature=0.0, max_new_tokens=max_new_tokens)
    return lambda requests: answers(learner, [learner.chat(each) for each in requests], config)


def token_counter(processor: Any) -> Callable[[str], int]:
    """Counts the tokens of a text, the end token left out."""
    tokenizer = processor.tokenizer
    return lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"])


# --- parts ---


def _words(text: str) -> int:
    return len(text.split())


def _value(outcome: Outcome, metric: str) -> float | None:
    if metric not in METRICS:
        raise ConfigError(f"metric {metric!r:.40}: expected one of {', '.join(METRICS)}")
    value = getattr(outcome, metric)
    return None if value is None else float(value)


def _line(group: str, name: str, outcomes: Sequence[Outcome], seed: int) -> Line:
    values = {}
    for metric in METRICS:
        known = list(_known(outcomes, metric))
        if known:
            numbers, names = [value for _, value in known], [key for key, _ in known]
            values[metric] = interval(numbers, names, seed, share=metric in _SHARES)
    return Line(group, name, len({outcome.id for outcome in outcomes}), values)


def _known(outcomes: Sequence[Outcome], metric: str) -> Iterator[tuple[str, float]]:
    for outcome in outcomes:
        value = _value(outcome, metric)
        if value is not None:
            yield outcome.id, value
