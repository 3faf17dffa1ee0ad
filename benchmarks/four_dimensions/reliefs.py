"""Questions about reliefs: scenes of the flat world made solid, still or with one thing on its way.

The bundled models know these things by look and by name."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from evlm.scene import Camera, SplatScene
from trainer.bundle.check_scenes import OPERATIONS
from trainer.bundle.example_relief import SIDE, TIMES, VIEWS, fitted_moving, fitted_relief, gone
from trainer.world.edits import MIX, Edit
from trainer.world.questions import ask
from trainer.world.relief import cone, relief_view
from trainer.world.relief_reader import relief_right
from trainer.world.render import GROUND_RGB
from trainer.world.scene import LATTICE, Scene
from trainer.world.traces import write_trace

from .flat import STILL
from .spaces import Picture, Spatial

HELD, HELD_IN_TIME = 8, 4
ASIDE, TURN = 16.0, 1.2  # degrees and radians of the places held out, between those that are seen
FAR, WAYS = 24.0, 50  # units that a thing goes along either axis, at the most; draws of its way
APART = 1.1  # times their radii, which two things keep


class Reliefs(Spatial):
    """Seen from 13 places before the board, at most 20 degrees aside; read from 8 others."""

    name = "relief"
    way: tuple[int, tuple[float, float]] | None = None  # which thing goes, and how far

    def _drawn(self, number: int) -> bool:
        rng = random.Random(f"four dimensions, {self.name} {self.seed} {number}")
        op = rng.choices(OPERATIONS, [MIX[op] for op in OPERATIONS])[0]
        while True:
            self.question = ask(rng, "test", op, rng.choice(STILL))
            scene = self.edit.source
            if scene.weather == "clear" and scene.sign is None:
                break
        if self.moves:
            self.way = drawn_way(rng, self.edit)
            if self.way is None:
                return False
        held = cone(1 + (HELD_IN_TIME if self.moves else HELD), ASIDE, SIDE, TURN)[1:]
        if self.way is None:
            return self._told([(camera, self.edit) for camera in held])
        edits = {at: edit_at(self.edit, *self.way, at) for at in times()}
        return self._told([(replace(camera, time=at), edit) for at, edit in edits.items() for camera in held])

    @property
    def edit(self) -> Edit:
        edit: Edit = self.question.edit
        return edit

    def _of_target(self) -> int | None:
        return None if self.edit.target is None else self.edit.source.things.index(self.edit.target)

    def _view(self, scene: Scene, camera: Camera) -> Picture:
        return relief_view(scene, camera)

    def _read(self, pictures: Sequence[Picture], edit: Edit, cameras: Sequence[Camera]) -> bool:
        return relief_right(pictures, edit, cameras)

    def _trace(self) -> Any:
        return write_trace(random.Random(0), self.question)

    def _made(self) -> tuple[SplatScene, Tensor]:
        source, cameras = self.edit.source, cone(VIEWS, size=SIDE)
        background = GROUND_RGB[source.ground]
        if self.way is None:
            gaussians, owners = fitted_relief(source)
            return SplatScene(gaussians, cameras, background=background), owners
        gaussians, motion, owners = fitted_moving(source, *self.way)
        known = tuple(replace(camera, time=at) for at in times() for camera in cameras)
        return SplatScene(gaussians, known, background=background, motion=motion), owners


class MovingReliefs(Reliefs):
    """One thing goes its way: 13 places at 5 times, read from 4 others at all times."""

    moves, name = True, "moving relief"


def times() -> list[float]:
    return [at / (TIMES - 1) for at in range(TIMES)]


def drawn_way(rng: random.Random, edit: Edit) -> tuple[int, tuple[float, float]] | None:
    """A thing of the source and how far it goes, on the board and past nothing else, edited or not; None
    where there was none."""
    for _ in range(WAYS):
        number = rng.randrange(len(edit.source.things))
        way = rng.uniform(-FAR, FAR), rng.uniform(-FAR, FAR)
        if math.hypot(*way) < FAR / 2:
            continue
        steps = [edit_at(edit, number, way, step / 8) for step in range(9)]
        places = [each.source.things[number].centre() for each in steps]
        if all(_clear(each, number, place) for each, place in zip(steps, places, strict=True)):
            return number, way
    return None


def _clear(edit: Edit, number: int, place: tuple[float, float]) -> bool:
    """Whether a thing of the source that is at a place lies on the board, apart from all others there are
    before and after the edit."""
    goes, others = edit.source.things[number], (*edit.source.things, *edit.result.things)
    return all(goes.radius < at < LATTICE - goes.radius for at in place) and all(
        math.dist(place, other.centre()) >= APART * (goes.radius + other.radius)
        for other in others
        if other.centre() != place
    )


def edit_at(edit: Edit, number: int, way: tuple[float, float], time: float) -> Edit:
    """An edit of a relief in which a thing of the source goes its way, as things stand at a time."""
    goes = edit.source.things[number]
    after = edit.outcome if goes == edit.target else goes
    source, result = gone(edit.source, number, way, time), edit.result
    if after is not None:
        result = gone(result, result.things.index(after), way, time)
    target = None if edit.target is None else source.things[edit.source.things.index(edit.target)]
    outcome = None if edit.outcome is None else result.things[edit.result.things.index(edit.outcome)]
    return replace(edit, source=source, result=result, target=target, outcome=outcome)
