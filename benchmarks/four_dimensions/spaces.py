"""Questions about scenes of Gaussians, and how each arm answers them, whatever the world they are of."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evlm.errors import EVLMError
from evlm.plan.operation import operation
from evlm.plan.trace import Plan
from evlm.scene import Camera, SplatScene
from evlm.scene.edit import SceneEdit
from evlm.scene.edit.reshape import GROWTH
from evlm.scene.edit.settings import IN_TIME
from evlm.scene_job import Looks, SceneJob, StepSelection
from trainer.bundle.check_scenes import SIDE, VIEWS, picture_of
from trainer.world.rows import to_request

from .bench import ANOTHER, Bench, Outcome

Picture = np.ndarray


class Spatial(ABC):
    """Question `number` about a scene, read from places held out. What can be told from none of them is no
    question: then it is that of a number far on.

    looks: cameras, which know their time where the scene moves, and the edit as it is then.
    """

    question: Any
    moves = False

    def __init__(self, seed: int, number: int) -> None:
        self.seed = seed
        self.looks: list[tuple[Camera, Any]] = []
        while not self._drawn(number):
            number += ANOTHER

    @abstractmethod
    def _drawn(self, number: int) -> bool:
        """Draws the question and its looks; whether its truth can be told (`_told`)."""

    @abstractmethod
    def _made(self) -> tuple[SplatScene, Tensor]:
        """(the scene fitted to exact views of it, int [N]: the number of the thing that each of its Gaussians
        began on)."""

    @abstractmethod
    def _view(self, scene: Any, camera: Camera) -> Picture:
        """What a camera sees of the world's scene: uint8 [H, W, 3]."""

    @abstractmethod
    def _read(self, pictures: Sequence[Picture], edit: Any, cameras: Sequence[Camera]) -> bool:
        """The world's exact reader, by the majority of the views. Raises ValueError: none can tell."""

    @abstractmethod
    def _trace(self) -> Any:
        """The true trace."""

    @property
    @abstractmethod
    def edit(self) -> Any: ...

    @abstractmethod
    def _of_target(self) -> int | None:
        """The number of the thing that is changed; None of what is not there yet."""

    def _told(self, looks: Sequence[tuple[Camera, Any]]) -> bool:
        """Takes those looks in which the truth can be told; False where there is none, or it is not right."""
        verdicts = [(look, self._right(self._view(look[1].result, look[0]), *look)) for look in looks]
        self.looks = [look for look, verdict in verdicts if verdict]
        return bool(self.looks) and not any(verdict is False for _, verdict in verdicts)

    def _right(self, picture: Picture, camera: Camera, edit: Any) -> bool | None:
        """Whether one view shows the edit; None where it cannot be told there."""
        try:
            return self._read([picture], edit, [camera])
        except ValueError:
            return None

    @property
    def kind(self) -> str:
        return str(self.edit.op)

    @property
    def instruction(self) -> str:
        return str(self.edit.instruction)

    def prepare(self) -> float:
        """CPU seconds of the fit, which all arms share."""
        return self._fitted[2]

    @cached_property
    def _fitted(self) -> tuple[SplatScene, Tensor, float]:
        began = time.process_time()
        scene, owners = self._made()
        return scene, owners, time.process_time() - began

    def settings(self, arm: str, words: Sequence[str]) -> SceneEdit:
        """As `scene edit` has them; of the peers the same, but IN2N's schedule, with room for a shape where
        one changes. Instruct 4D-to-4D's is our default: there what may change is all that differs."""
        if arm == "in2n":
            growth = GROWTH if shaped(words) else 1.0
            return SceneEdit("in2n", views=VIEWS, longest=SIDE, growth=growth)
        schedule = "pseudo3d" if arm == "instruct-4d" else IN_TIME if self.moves else "consistent"
        return SceneEdit(schedule, views=VIEWS, longest=SIDE)

    def answer(self, bench: Bench, arm: str, instructions: Sequence[str]) -> Outcome:
        """instructions: what ours planned, for all but ours."""
        request, pipeline, planned = to_request(self.question, SIDE), bench.pipeline, tuple(instructions)
        if arm == "told":
            pipeline = bench.told(self._trace())
        settings, place, scene = self.settings(arm, planned), None, self._fitted[0]
        job = SceneJob(scene, pipeline, request.prompt, request.references, settings)
        try:
            looks = job.looks()
            if arm in ("ours", "told"):
                reasoned = job.reason(looks)
                steps = [step for step in reasoned.trace.plan.steps if not step.changes_nothing]
                planned = tuple(step.instruction for step in steps)
                chosen = job.select_all(reasoned, looks)
                place = self._place(chosen)
                if job.doubt:
                    return Outcome(why=f"held back: {job.doubt}", instructions=planned, place=place)
            else:
                chosen = [everything(words, looks, len(scene)) for words in planned]
            edited = job.paint(chosen, looks)
        except EVLMError as error:
            why = f"{type(error).__name__}: {error!s:.160}"
            return Outcome(why=why, instructions=planned, place=place)
        return self._judged(edited, planned, place)

    def _place(self, chosen: Sequence[StepSelection]) -> float | None:
        """IoU of what is selected with what the thing began as; None of what is not there yet."""
        number = self._of_target()
        if number is None or not chosen:
            return None
        wanted = self._fitted[1] == number
        rows = torch.stack([each.rows for each in chosen]).any(0)
        return float((rows & wanted).sum()) / max(1.0, float((rows | wanted).sum()))

    def _judged(self, edited: SplatScene, said: tuple[str, ...], place: float | None) -> Outcome:
        background = torch.tensor(edited.background)
        pictures = [
            picture_of(edited.at(camera.time), camera, background).numpy() for camera, _ in self.looks
        ]
        verdicts = [self._right(picture, *look) for picture, look in zip(pictures, self.looks, strict=True)]
        shown = [each for each in verdicts if each is not None]  # from some sides two looks are one
        by_time: dict[float, list[tuple[Picture, Camera, Any]]] = {}
        for picture, (camera, edit) in zip(pictures, self.looks, strict=True):
            by_time.setdefault(camera.time or 0.0, []).append((picture, camera, edit))
        most = all(self._most(looks) for looks in by_time.values())
        right = bool(shown) and all(shown)
        return Outcome(right, sum(shown) / max(1, len(shown)), most, "", said, place)

    def _most(self, looks: Sequence[tuple[Picture, Camera, Any]]) -> bool:
        """Whether the majority of one time's views shows the edit."""
        pictures, cameras, edits = zip(*looks, strict=True)
        try:
            return self._read(pictures, edits[0], cameras)
        except ValueError:
            return False


def everything(words: str, looks: Looks, count: int) -> StepSelection:
    """All Gaussians, wherever a view shows them."""
    rows = torch.ones(count, dtype=torch.bool)
    return StepSelection(Plan(words, (), None, "global"), rows, (None,) * len(looks.cameras))


def shaped(words: Sequence[str]) -> bool:
    """Whether one of these instructions changes a shape."""
    return any(operation(Plan(each, (), None, "local")) != "repaint" for each in words)
