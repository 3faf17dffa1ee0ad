"""Questions about scenes of solids that stand still or move, and how each arm answers them."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from benchmarks.scene_in_time import fitted as fitted_in_time
from benchmarks.scene_in_time import shots
from evlm.errors import EVLMError
from evlm.plan.operation import operation
from evlm.plan.trace import Plan
from evlm.scene import Camera, SplatScene
from evlm.scene.edit import SceneEdit
from evlm.scene.edit.reshape import GROWTH
from evlm.scene.edit.settings import IN_TIME
from evlm.scene_job import Looks, SceneJob, StepSelection
from trainer.bundle.check_scenes import (
    HELD,
    NOISE,
    POINTS,
    SIDE,
    STEPS,
    VIEWS,
    ask_scene,
    behind,
    fitted,
    picture_of,
)
from trainer.world.moving import MovingScene, on_its_ways
from trainer.world.raytrace import surface, view
from trainer.world.rows import to_request
from trainer.world.solid_cameras import ring
from trainer.world.solid_edits import SolidEdit
from trainer.world.solid_questions import SolidQuestion
from trainer.world.solid_reader import edit_right
from trainer.world.solid_traces import write_solid_trace

from .bench import ANOTHER, Bench, Outcome

TIMES, CAMERAS, HELD_IN_TIME, BASES = 8, 8, 4, 8  # of a scene that moves
WAYS = 200  # draws of ways, after which a scene is taken to have no room for them


class Solids:
    """Question `number` about a scene of solids, seen from 24 places and read from 8 others. What can be told
    from none of them is no question: then it is that of a number far on.

    looks: cameras that know their time, and the edit as it is then.
    """

    first = 0  # of the numbers that questions are drawn by

    def __init__(self, seed: int, number: int) -> None:
        self.seed = seed
        while not self._drawn(self.first + number):
            number += ANOTHER

    def _drawn(self, number: int) -> bool:
        """Draws the question; whether its truth can be told."""
        self.question: SolidQuestion = ask_scene(self.seed, number)
        return self._told([(camera, self.edit) for camera in ring(HELD, SIDE, held_out=True)])

    def _told(self, looks: Sequence[tuple[Camera, SolidEdit]]) -> bool:
        verdicts = [(look, _right(view(look[1].result, look[0]).picture, *look)) for look in looks]
        self.looks = [look for look, verdict in verdicts if verdict]
        return bool(self.looks) and not any(verdict is False for _, verdict in verdicts)

    @property
    def edit(self) -> SolidEdit:
        return self.question.edit.edit

    @property
    def kind(self) -> str:
        return self.edit.op

    @property
    def instruction(self) -> str:
        return self.edit.instruction

    @cached_property
    def scene(self) -> SplatScene:
        """Fitted to exact views."""
        return fitted(self.edit.source)

    def prepare(self) -> float:
        """CPU seconds of the fit, which all arms share."""
        return self._fit_seconds

    @cached_property
    def _fit_seconds(self) -> float:
        began = time.process_time()
        _ = self.scene
        return time.process_time() - began

    @cached_property
    def owners(self) -> Tensor:
        """int [N]: the number of the solid that each Gaussian began on."""
        found = surface(self.edit.source, ring(VIEWS, SIDE), POINTS, NOISE)
        return torch.from_numpy(found.owners)

    def settings(self, arm: str, words: Sequence[str]) -> SceneEdit:
        """As `scene edit` has them; of the peer its schedule, with room for a shape where one changes."""
        if arm != "in2n":
            return SceneEdit(views=VIEWS, longest=SIDE)
        return SceneEdit("in2n", views=VIEWS, longest=SIDE, growth=GROWTH if _shaped(words) else 1.0)

    def answer(self, bench: Bench, arm: str, instructions: Sequence[str]) -> Outcome:
        """instructions: what ours planned, for all but ours."""
        request, pipeline, planned = to_request(self.question, SIDE), bench.pipeline, tuple(instructions)
        if arm == "told":
            pipeline = bench.told(write_solid_trace(random.Random(0), self.question))
        settings, place = self.settings(arm, planned), None
        job = SceneJob(self.scene, pipeline, request.prompt, request.references, settings)
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
                chosen = [self._everything(words, looks) for words in planned]
            edited = job.paint(chosen, looks)
        except EVLMError as error:
            why = f"{type(error).__name__}: {error!s:.160}"
            return Outcome(why=why, instructions=planned, place=place)
        return self._judged(edited, planned, place)

    def _everything(self, words: str, looks: Looks) -> StepSelection:
        """All Gaussians, wherever a view shows them."""
        rows = torch.ones(len(self.scene), dtype=torch.bool)
        return StepSelection(Plan(words, (), None, "global"), rows, (None,) * len(looks.cameras))

    def _place(self, chosen: Sequence[StepSelection]) -> float | None:
        """IoU of what is selected with what the question's solid began as; None of what is not there yet."""
        if self.edit.target is None or not chosen:
            return None
        wanted = self.owners == self.edit.source.solids.index(self.edit.target)
        rows = torch.stack([each.rows for each in chosen]).any(0)
        return float((rows & wanted).sum()) / max(1.0, float((rows | wanted).sum()))

    def _judged(self, edited: SplatScene, said: tuple[str, ...], place: float | None) -> Outcome:
        background = torch.tensor(edited.background)
        pictures = [
            picture_of(edited.at(camera.time), camera, background).numpy() for camera, _ in self.looks
        ]
        verdicts = [_right(picture, *look) for picture, look in zip(pictures, self.looks, strict=True)]
        shown = [each for each in verdicts if each is not None]  # from some sides two looks are one
        by_time: dict[float, list[tuple[np.ndarray, Camera, SolidEdit]]] = {}
        for picture, (camera, edit) in zip(pictures, self.looks, strict=True):
            by_time.setdefault(camera.time or 0.0, []).append((picture, camera, edit))
        most = all(_most(looks) for looks in by_time.values())
        right = bool(shown) and all(shown)
        return Outcome(right, sum(shown) / max(1, len(shown)), most, "", said, place)


class MovingSolids(Solids):
    """The same about solids on their ways: 8 places at 8 times, read from 4 others at all times."""

    first = ANOTHER // 2  # other questions than those of scenes that stand still

    def _drawn(self, number: int) -> bool:
        self.question = ask_scene(self.seed, number)
        rng = random.Random(f"four dimensions, ways {self.seed} {number}")
        drawn = (on_its_ways(rng, self.edit.source, self.edit.result) for _ in range(WAYS))
        moving = next((each for each in drawn if each is not None), None)
        if moving is None:
            return False
        self.moving = moving
        cameras = ring(HELD_IN_TIME, SIDE, held_out=True)
        return self._told(
            [
                (replace(camera, time=at), edit_at(moving, self.edit, at))
                for at in times()
                for camera in cameras
            ]
        )

    @cached_property
    def scene(self) -> SplatScene:
        cameras = ring(CAMERAS, SIDE)
        seen = shots(self.moving, cameras, times())
        gaussians, motion, _ = fitted_in_time(self.moving, seen, TIMES, STEPS, BASES, 0)
        background = behind(self.edit.source)
        return SplatScene(
            gaussians, tuple(shot.camera for shot in seen), background=background, motion=motion
        )

    @cached_property
    def owners(self) -> Tensor:
        from benchmarks.scene_in_time import POINTS as MANY

        return torch.from_numpy(surface(self.edit.source, ring(CAMERAS, SIDE), MANY, NOISE).owners)

    def settings(self, arm: str, words: Sequence[str]) -> SceneEdit:
        """Both by `pseudo3d`, which is the default: what differs is what may change."""
        return SceneEdit("pseudo3d" if arm == "instruct-4d" else IN_TIME, views=VIEWS, longest=SIDE)


def times() -> list[float]:
    return [at / (TIMES - 1) for at in range(TIMES)]


def edit_at(moving: MovingScene, edit: SolidEdit, time: float) -> SolidEdit:
    """An edit of what moves, as things stand at a time."""
    result = moving.edited(edit.result)
    source, after = moving.at(time), result.at(time)
    target = None if edit.target is None else source.solids[edit.source.solids.index(edit.target)]
    outcome = None if edit.outcome is None else after.solids[edit.result.solids.index(edit.outcome)]
    return replace(edit, source=source, result=after, target=target, outcome=outcome)


def _right(picture: np.ndarray, camera: Camera, edit: SolidEdit) -> bool | None:
    """Whether one view shows the edit; None where it cannot be told there."""
    try:
        return edit_right([picture], edit, [camera])
    except ValueError:
        return None


def _most(looks: Sequence[tuple[np.ndarray, Camera, SolidEdit]]) -> bool:
    """Whether the majority of one time's views shows the edit."""
    pictures, cameras, edits = zip(*looks, strict=True)
    try:
        return edit_right(list(pictures), edits[0], list(cameras))
    except ValueError:
        return False


def _shaped(words: Sequence[str]) -> bool:
    return any(operation(Plan(each, (), None, "local")) != "repaint" for each in words)
