"""Questions about scenes of solids that stand still or move."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.scene_in_time import POINTS as MANY
from benchmarks.scene_in_time import fitted as fitted_in_time
from benchmarks.scene_in_time import seen_to_turn, shots
from evlm.scene import Camera, SplatScene
from trainer.bundle.check_scenes import HELD, NOISE, POINTS, SIDE, STEPS, VIEWS, ask_scene, behind, fitted
from trainer.world.moving import MovingScene, on_its_ways
from trainer.world.raytrace import surface, view
from trainer.world.solid import SolidScene
from trainer.world.solid_cameras import ring
from trainer.world.solid_edits import SolidEdit
from trainer.world.solid_reader import edit_right
from trainer.world.solid_traces import write_solid_trace

from .bench import ANOTHER
from .spaces import Picture, Spatial

TIMES, CAMERAS, HELD_IN_TIME, BASES = 8, 8, 4, 8  # of a scene that moves
WAYS = 200  # draws of ways, after which a scene is taken to have no room for them


class Solids(Spatial):
    """Seen from 24 places all around, read from 8 others."""

    def _drawn(self, number: int) -> bool:
        self.question = ask_scene(self.seed, number)
        return self._told([(camera, self.edit) for camera in ring(HELD, SIDE, held_out=True)])

    @property
    def edit(self) -> SolidEdit:
        edit: SolidEdit = self.question.edit.edit
        return edit

    def _of_target(self) -> int | None:
        return None if self.edit.target is None else self.edit.source.solids.index(self.edit.target)

    def _view(self, scene: SolidScene, camera: Camera) -> Picture:
        return view(scene, camera).picture

    def _read(self, pictures: Sequence[Picture], edit: SolidEdit, cameras: Sequence[Camera]) -> bool:
        return edit_right(pictures, edit, cameras)

    def _trace(self) -> Any:
        return write_solid_trace(random.Random(0), self.question)

    def _made(self) -> tuple[SplatScene, Tensor]:
        found = surface(self.edit.source, ring(VIEWS, SIDE), POINTS, NOISE)
        return fitted(self.edit.source), torch.from_numpy(found.owners)


class MovingSolids(Solids):
    """Solids on their ways: 8 places at 8 times, read from 4 others at all times."""

    moves = True

    def _drawn(self, number: int) -> bool:
        number += ANOTHER // 2  # other questions than those of scenes that stand still
        self.question = ask_scene(self.seed, number)
        rng = random.Random(f"four dimensions, ways {self.seed} {number}")
        drawn = (on_its_ways(rng, self.edit.source, self.edit.result) for _ in range(WAYS))
        moving = next((each for each in drawn if each is not None and seen_to_move(each)), None)
        if moving is None:
            return False
        self.moving, cameras = moving, ring(HELD_IN_TIME, SIDE, held_out=True)
        edits = {at: edit_at(moving, self.edit, at) for at in times()}
        return self._told(
            [(replace(camera, time=at), edit) for at, edit in edits.items() for camera in cameras]
        )

    def _made(self) -> tuple[SplatScene, Tensor]:
        source, cameras = self.edit.source, ring(CAMERAS, SIDE)
        seen = shots(self.moving, cameras, times())
        gaussians, motion, _ = fitted_in_time(self.moving, seen, TIMES, STEPS, BASES, 0)
        known = tuple(shot.camera for shot in seen)
        owners = surface(source, cameras, MANY, NOISE).owners
        return SplatScene(gaussians, known, background=behind(source), motion=motion), torch.from_numpy(
            owners
        )


def times() -> list[float]:
    return [at / (TIMES - 1) for at in range(TIMES)]


def seen_to_move(moving: MovingScene) -> bool:
    """Whether any of it does: a plain cone that turns about its axis looks as if it stood still."""
    return any(
        way.dx or way.dy or way.height or way.squash or (way.angle and seen_to_turn(solid, way))
        for solid, way in zip(moving.scene.solids, moving.ways, strict=True)
    )


def edit_at(moving: MovingScene, edit: SolidEdit, time: float) -> SolidEdit:
    """An edit of what moves, as things stand at a time."""
    source, after = moving.at(time), moving.edited(edit.result).at(time)
    target = None if edit.target is None else source.solids[edit.source.solids.index(edit.target)]
    outcome = None if edit.outcome is None else after.solids[edit.result.solids.index(edit.outcome)]
    return replace(edit, source=source, result=after, target=target, outcome=outcome)
