"""Questions about stills and clips of the flat world, and how each arm answers them."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.clip_edit import TUNINGS, learned
from evlm.edit.steps import edit_steps
from evlm.errors import EVLMError
from evlm.plan.mask_codec import mask_iou
from evlm.plan.trace import Plan
from evlm.request import Request
from evlm.video.clip import ClipEditor
from evlm.video.settings import VideoSettings
from evlm.video.tune import tuned
from trainer.bundle.check_chain import picture_right
from trainer.world.clip_reader import frames_right
from trainer.world.clip_rows import clip_at
from trainer.world.clips import FPS
from trainer.world.questions import CATEGORIES, Question, ask
from trainer.world.rows import Recipe, to_request
from trainer.world.traces import write_trace

from .bench import ANOTHER, Bench, Outcome

STILL = tuple(name for name in CATEGORIES if not name.endswith("->video"))
SPARSE = VideoSettings(together="sparse", propagate="none")  # Tune-A-Video: at whom frames look; one noise


class Flat(ABC):
    """A question about a picture or a clip. Its arms, by their names: `answer`."""

    question: Question

    @property
    def kind(self) -> str:
        return self.question.edit.op

    @property
    def instruction(self) -> str:
        return self.question.edit.instruction

    def prepare(self) -> float:
        """CPU seconds of what all arms share."""
        return 0.0

    @abstractmethod
    def request(self) -> Request:
        """What ours is asked."""

    @abstractmethod
    def read(self, frames: Tensor) -> list[bool]:
        """For each frame in which it can be told, whether it shows what was ordered."""

    @abstractmethod
    def regions(self) -> Tensor | None:
        """bool [F, H, W]; None for the whole picture."""

    def answer(self, bench: Bench, arm: str, instructions: Sequence[str]) -> Outcome:
        """instructions: what ours planned, for all but ours."""
        if arm in ("ours", "told"):
            return self._chain(bench, arm)
        if arm == "ip2p-raw":
            instructions = (self.raw(),)
        try:
            return self._judged(self._whole(bench.pipeline.editor, arm, instructions), instructions)
        except EVLMError as error:
            return Outcome(why=f"{type(error).__name__}: {error!s:.160}", instructions=tuple(instructions))

    def raw(self) -> str:
        """The words of the request, which may be none."""
        request = self.request()
        return " ".join([request.prompt, *(each.text for each in request.references)]).strip()

    def _chain(self, bench: Bench, arm: str) -> Outcome:
        request, pipeline = self.request(), bench.pipeline
        if arm == "told":
            pipeline = bench.told(write_trace(random.Random(0), self.question))
        try:
            result = pipeline.run(request)
        except EVLMError as error:
            return Outcome(why=f"{type(error).__name__}: {error!s:.160}")
        said = tuple(step.instruction for step in result.plan.steps if not step.changes_nothing)
        place, regions = None, self.regions()
        if regions is not None:
            mask = torch.ones(regions.shape) if result.mask is None else result.mask
            pairs = zip(mask.expand(regions.shape), regions.float(), strict=True)
            places = [mask_iou(one, two) for one, two in pairs if bool(two.any())]
            place = float(np.mean(places)) if places else None
        why = f"held back: {result.held_back}" if result.held_back else ""
        return self._judged(result.edited, said, why, place)

    def _judged(
        self, frames: Tensor, said: Sequence[str], why: str = "", place: float | None = None
    ) -> Outcome:
        shown = self.read(frames)
        return Outcome(all(shown), float(np.mean(shown)), all(shown), why, tuple(said), place)

    def _whole(self, editor: Any, arm: str, instructions: Sequence[str]) -> Tensor:
        """The frames edited as a whole, by one instruction after another."""
        frames, painter, lent = self.request().original, editor, nullcontext()
        if len(frames) > 1:
            painter = ClipEditor(editor, SPARSE)
            if arm == "tune-a-video-tuned":
                lent = tuned(editor.unet, learned(editor, frames, None, editor.defaults, TUNINGS, SPARSE))  # type: ignore[assignment]
        if instructions == ("",):  # no plan says so, but somebody may
            return torch.as_tensor(painter.edit(frames, "").frames)
        with lent:
            steps = [(Plan(words, (), None, "global"), None) for words in instructions]
            return edit_steps(painter, frames, steps).frames


class Still(Flat):
    """Question `number` about a still, of the test split; the operations follow the world's shares."""

    def __init__(self, seed: int, number: int) -> None:
        rng = random.Random(f"four dimensions {seed} {number}")
        while True:
            self.question = ask(rng, "test", None, rng.choice(STILL))
            truth = torch.from_numpy(self.question.edit.pictures()[1]).float() / 255
            if picture_right(self.question, truth):
                return

    def request(self) -> Request:
        return to_request(self.question)

    def read(self, frames: Tensor) -> list[bool]:
        return [picture_right(self.question, frames)]

    def regions(self) -> Tensor | None:
        region = self.question.edit.region()
        return None if region is None else torch.from_numpy(region)[None]


class Clip(Flat):
    """Question `number` about a clip of 16 frames; every fifth has a cut. What can be told in no frame is no
    question: then it is that of a number far on."""

    def __init__(self, seed: int, number: int) -> None:
        while True:
            self.question, self.clip = clip_at(Recipe(seed=seed, split="test"), number)
            if all(truth := self.read(torch.from_numpy(self.clip.pictures()[1]).float() / 255)) and truth:
                return
            number += ANOTHER

    @cached_property
    def _frames(self) -> Tensor:
        return torch.from_numpy(self.clip.pictures()[0]).float() / 255

    def request(self) -> Request:
        asked = to_request(self.question)
        return Request(self._frames, asked.prompt, asked.references, float(FPS))

    def read(self, frames: Tensor) -> list[bool]:
        return [each for each in frames_right(frames.numpy(), self.clip) if each is not None]

    def regions(self) -> Tensor | None:
        regions = self.clip.regions()
        return None if regions is None else torch.from_numpy(regions)
