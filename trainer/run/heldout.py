"""How a model does on questions that it does not learn from, while it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from evlm.errors import ConfigError

from ..config.recipe import Config, Source
from ..evaluation.accuracy import Question, batched, dataset_questions, evaluate, world_questions
from ..learner.learner import Learner
from ..learner.rows import Example, open_rows
from ..model.sampling import SampleConfig, answers
from ..report.samples import keep_samples

SPLIT = "validation"
MAX_NEW_TOKENS = 768


class HeldOut:
    """Questions of the split "validation" of what a recipe trains on; opened here, so that what is missing is
    said before the training begins. Raises ConfigError, RecordError."""

    def __init__(self, config: Config, learner: Learner) -> None:
        self.learner, self.out = learner, Path(config.out)
        sources = [replace(source, split=SPLIT) for source in config.data if source.form == "evlm"]
        if not sources and (config.eval_every or config.sample_every):
            raise ConfigError("eval_every, sample_every: expected 0 where no source has the form evlm")
        self.questions: list[Question] = []
        if config.eval_every:
            share = -(-config.eval_rows // len(sources))
            self.questions = [q for source in sources for q in _questions(source, share)][: config.eval_rows]
        self.examples: list[Example] = []
        if config.sample_every:
            rows = open_rows(sources, config.sample_rows, 0, True, learner.style, learner.codec)
            self.examples = rows.batch(0)

    def measure(self) -> dict[str, float]:
        """ "exact": share of the questions whose plan is right; "iou": mean of the masks. Each rank asks its
        part of the questions; all know the result."""
        ranks, device = self.learner.ranks, self.learner.device
        outcomes = evaluate(batched(self.learner, MAX_NEW_TOKENS), ranks.part(self.questions))
        scores = [[float(o.exact), math.nan if o.iou is None else o.iou] for o in outcomes]
        whole = ranks.gather(torch.tensor(scores, dtype=torch.float32, device=device).view(len(scores), 2))
        iou = float(whole[:, 1].nanmean())
        return {"exact": float(whole[:, 0].mean()), "iou": iou if math.isfinite(iou) else 0.0}

    def sample(self, step: int) -> dict[str, Any]:
        """The "sample" event: answers to a few examples, drawn into the run's folder by the first rank."""
        if self.learner.ranks.rank:
            return {}
        chats = [example.chat for example in self.examples]
        texts = answers(self.learner, chats, SampleConfig(0.0, MAX_NEW_TOKENS))
        return keep_samples(self.out, step, self.examples, texts)


def _questions(source: Source, rows: int) -> list[Question]:
    if not source.world:
        return dataset_questions(Path(str(source.path)), rows, 0, SPLIT)
    return world_questions(rows, source.seed, SPLIT, source.lamp)
