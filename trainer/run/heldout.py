"""How a model does on questions that it does not learn from, while it learns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.errors import ConfigError, RecordError
from evlm.reason.messages import MAX_FRAMES

from ..config.recipe import Config, Source
from ..evaluation.accuracy import batched, evaluate
from ..evaluation.questions import Question, dataset_questions, world_questions
from ..learner.guard import Result, within_memory
from ..learner.learner import Learner
from ..learner.rows import Example, open_rows
from ..model.logprobs import sequence_logps
from ..model.merged_lora import merged
from ..model.prompts import split
from ..model.ranks import Ranks
from ..model.sampling import SampleConfig, answers
from ..report.samples import keep_samples

SPLIT = "validation"
MAX_NEW_TOKENS = 768
_TOGETHER = 32  # questions that are asked at once
_SCORED = 8  # rows whose loss is taken at once


@dataclass(frozen=True)
class Measured:
    """questions: whose plan is asked for; examples: whose answer's loss is taken."""

    questions: list[Question]
    examples: list[Example]


def open_held_out(config: Config, style: Any, codec: Any, max_frames: int = MAX_FRAMES) -> Measured:
    """What a recipe measures on: of each source the share that it holds out, else its split "validation".

    style, codec: how a request is put into words, and its mask. max_frames: of a video. Raises ConfigError
    where there is nothing, or not what a phase's patience counts by, RecordError for a bad row."""
    if not config.eval_every:
        return Measured([], [])
    questions: list[Question] = []
    share = -(-config.eval_rows // len(config.data))
    for source in config.data:
        questions += _questions(source, share)
    examples: list[Example] = []
    measured = _measured(config.data)
    try:
        if measured:
            rows = open_rows(
                measured, config.eval_rows, 0, True, style, codec, held=True, max_frames=max_frames
            )
            examples = rows.first()
    except RecordError:
        if questions:
            raise
    if not questions and not examples:
        raise ConfigError(
            f"eval_every {config.eval_every}: nothing to measure, no source has rows of the split {SPLIT!r}; "
            "hold out a share of one (data.0.heldout=0.05), or set eval_every=0"
        )
    for number, phase in enumerate(config.phases):
        if phase.patience and not (examples if phase.patience_by == "loss" else questions):
            other = "exact" if phase.patience_by == "loss" else "loss"
            raise ConfigError(
                f"phases.{number}.patience_by {phase.patience_by!r}: what is held out has no "
                f"{phase.patience_by}; say patience_by {other!r}"
            )
    return Measured(questions[: config.eval_rows], examples)


def open_samples(config: Config, style: Any, codec: Any, max_frames: int = MAX_FRAMES) -> list[Example]:
    """Rows whose answers a recipe draws, none where it does not; arguments as `open_held_out`'s. Raises
    ConfigError, RecordError."""
    if not config.sample_every:
        return []
    sources = [source for source in _measured(config.data) if source.form == "evlm"]
    if not sources:
        raise ConfigError("sample_every: expected 0 where no source has the form evlm")
    rows = open_rows(sources, config.sample_rows, 0, True, style, codec, held=True, max_frames=max_frames)
    return rows.first()


class HeldOut:
    """Questions that a recipe holds out; opened here, so that what is missing is said before the training
    begins. Raises ConfigError, RecordError."""

    def __init__(self, config: Config, learner: Learner) -> None:
        self.learner, self.out = learner, Path(config.out)
        seen = learner.style, learner.codec, learner.max_frames
        measured = open_held_out(config, *seen)
        self.questions, self.answered = measured.questions, measured.examples
        names = [each.id for each in self.questions], [(e.name, e.answer) for e in self.answered]
        self.hash = blake2b(repr(names).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        self.examples = open_samples(config, *seen)
        self.together: dict[str, int] = {}  # of what, where memory was too short for the usual number

    def measure(self) -> dict[str, float]:
        """ "exact": share of the questions whose plan is right; "iou": mean of the masks; nothing where there
        are no questions. Each rank asks its part of them; all know the result."""
        if not self.questions:
            return {}
        ranks, device = self.learner.ranks, self.learner.device

        def attempt(together: int) -> Tensor:
            answer, mine = batched(self.learner, MAX_NEW_TOKENS), ranks.part(self.questions)
            outcomes = evaluate(answer, mine, together=together, parts=self.learner.style.parts)
            scores = [[float(o.exact), math.nan if o.iou is None else o.iou] for o in outcomes]
            return ranks.gather(torch.tensor(scores, dtype=torch.float32, device=device).view(len(scores), 2))

        whole = self._fitting("asked", attempt, _TOGETHER, ranks)
        iou = float(whole[:, 1].nanmean())
        return {"exact": float(whole[:, 0].mean()), "iou": iou if math.isfinite(iou) else 0.0}

    def loss(self) -> dict[str, float]:
        """ "loss": negative log-likelihood a token of the answers that people wanted, in nats; nothing where
        there are none. Each rank takes its part."""
        if not self.answered:
            return {}
        learner, ranks, device = self.learner, self.learner.ranks, self.learner.device

        def attempt(together: int) -> float:
            total, tokens = 0.0, 0.0
            mine = ranks.part(self.answered)
            for at in range(0, len(mine), together):
                prompts, responses = split(learner.batch(mine[at : at + together]), learner.merge)
                with merged(learner.model):
                    logps = sequence_logps(learner.model, prompts, responses, range(len(responses)))
                total -= float(logps.sum())
                tokens += sum(len(response) for response in responses)
            return ranks.total(total, device) / ranks.total(tokens, device)

        return {"loss": self._fitting("scored", attempt, _SCORED, ranks)}

    def sample(self, step: int) -> dict[str, Any]:
        """The "sample" event: answers to a few examples, drawn into the run's folder by the first rank."""
        if self.learner.ranks.rank:
            return {}
        chats = [example.chat for example in self.examples]

        def attempt(together: int) -> list[str]:
            parts = [chats[at : at + together] for at in range(0, len(chats), together)]
            config = SampleConfig(0.0, MAX_NEW_TOKENS)
            return [text for part in parts for text in answers(self.learner, part, config)]

        texts = self._fitting("asked", attempt, _TOGETHER, Ranks())
        return keep_samples(self.out, step, self.examples, texts)

    def _fitting(self, what: str, attempt: Callable[[int], Result], usual: int, ranks: Ranks) -> Result:
        """What attempt(together) gives, with half as many together each time that memory runs out; that is
        remembered."""
        most = self.together.get(what, usual)
        result, used = within_memory(
            lambda some: attempt(some or most), most, most, ranks, self.learner.device, lambda _: None
        )
        self.together[what] = used or most
        return result


def better(measured: dict[str, float], best: dict[str, float] | None) -> bool:
    """Whether a measurement is better than the best one before: by "exact", then "iou"; where neither has a
    right answer, by the held-out loss, which moves long before."""
    if best is None:
        return True
    if not measured.get("exact") and not best.get("exact") and "loss" in measured and "loss" in best:
        return measured["loss"] < best["loss"]
    return _merit(measured) > _merit(best)


def _merit(measured: dict[str, float]) -> tuple[float, float]:
    return measured.get("exact", 0.0), measured.get("iou", 0.0)


def _measured(sources: Sequence[Source]) -> list[Source]:
    """The sources as they are measured."""
    return [source if source.heldout else replace(source, split=SPLIT) for source in sources if _own(source)]


def _own(source: Source) -> bool:
    """Whether a source has rows for measuring: foreign rows have no split."""
    return source.form == "evlm" or bool(source.heldout)


def _questions(source: Source, rows: int) -> list[Question]:
    """At most so many; none where the source has none."""
    if source.world:
        return world_questions(rows, source.seed, SPLIT, source.lamp, source.mix)
    if source.form != "evlm":
        return []
    name = source.split if source.heldout else SPLIT
    try:
        return dataset_questions(Path(str(source.path)), None, 0, name, source.heldout)[:rows]
    except ConfigError:
        return []
