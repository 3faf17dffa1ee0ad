"""The world moves: clips of a scene with exact truth in every frame.

Masks, motion and what is hidden come from the poses alone; an edit of the first frame's scene is drawn into
every frame by the same poses. The ground is lit and not painted, and the weather lies on the lens: neither
moves, also when the camera pans.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .edits import MIX, Edit
from .paths import PAN, Path, Pose, random_path
from .render import MARGIN, REACH, Array, ground, painted_at, restyle, to_bytes, under_weather
from .scene import LATTICE, Scene, Thing, random_scene, scene_split

FRAMES, FPS = 16, 24
OPERATIONS = tuple(op for op in MIX if op != "move")  # a thing on its way has no cell to move to
EVERY = 5  # each fifth clip has a cut
GROUND = -1

Masks = NDArray[np.bool_]


@dataclass(frozen=True)
class Film:
    """A scene whose things follow paths, one for each. Things later in the scene hide earlier ones.

    pan: (x, y) in lattice units by which all centres have moved at the end. cut: the first frame that shows
    `after`, another film, instead.
    """

    scene: Scene
    paths: tuple[Path, ...]
    frames: int = FRAMES
    pan: tuple[float, float] = (0.0, 0.0)
    cut: int | None = None
    after: Film | None = None

    def __post_init__(self) -> None:
        """Raises ValueError where there is not one path for each thing, or a sign, which would not move."""
        if len(self.paths) != len(self.scene.things) or self.scene.sign:
            raise ValueError(f"{len(self.paths)} paths for {self.scene}: expected one a thing, and no sign")

    def at(self, frame: int) -> tuple[Film, int]:
        """The film that a frame belongs to, and its number in it. Raises IndexError."""
        if not 0 <= frame < self.frames:
            raise IndexError(f"frame {frame} of a clip of {self.frames}")
        if self.cut is None or self.after is None or frame < self.cut:
            return self, frame
        return self.after.at(frame - self.cut)

    def pose(self, index: int, frame: int) -> Pose:
        """Of the index-th thing, in a frame before the cut."""
        pose = self.paths[index].pose(self.scene.things[index], frame, self.frames)
        time = frame / max(1, self.frames - 1)
        return replace(pose, x=round(pose.x + self.pan[0] * time, 6), y=round(pose.y + self.pan[1] * time, 6))

    def render(self, size: int = 64) -> NDArray[np.uint8]:
        """uint8 [frames, size, size, 3]."""
        return np.stack([self.render_frame(frame, size) for frame in range(self.frames)])

    def render_frame(self, frame: int, size: int = 64) -> NDArray[np.uint8]:
        """uint8 [size, size, 3]."""
        film, frame = self.at(frame)
        scene = film.scene
        canvas = ground(scene.ground, size).copy()
        for index, thing in enumerate(scene.things):
            into, alpha, paint = painted(thing, film.pose(index, frame), size)
            canvas[into] = canvas[into] * (1 - alpha) + paint * alpha
        return to_bytes(restyle(under_weather(canvas, scene.weather), scene.style))

    def owners(self, frame: int, size: int = 64) -> NDArray[np.int64]:
        """Which thing (its index) each pixel shows, -1 the ground: [size, size]."""
        film, frame = self.at(frame)
        shown = np.full((size, size), GROUND)
        for index, thing in enumerate(film.scene.things):
            shown[silhouette_at(thing, film.pose(index, frame), size)] = index
        return shown

    def masks(self, thing: Thing, size: int = 64, which: Sequence[int] | None = None) -> tuple[Masks, Masks]:
        """(visible, whole) of a thing of the scene, bool [frames, size, size]; after the cut it is
        nowhere. which: only of these frames."""
        index = self.scene.things.index(thing)
        chosen = range(self.frames) if which is None else which
        whole = np.zeros((len(chosen), size, size), bool)
        visible = whole.copy()
        for at, frame in enumerate(chosen):
            if self.cut is None or frame < self.cut:
                whole[at] = silhouette_at(thing, self.pose(index, frame), size)
                visible[at] = self.owners(frame, size) == index
        return visible, whole

    def flow(self, start: int, end: int, size: int = 64) -> tuple[NDArray[np.float32], Masks]:
        """Motion from one frame to another: (float32 [size, size, 2], (dx, dy) in pixels; bool [size, size],
        where what stands there cannot be seen in the other frame). Across the cut nothing can."""
        (film, begin), (other, finish) = self.at(start), self.at(end)
        flow = np.zeros((size, size, 2), np.float32)
        if film is not other:
            return flow, np.ones((size, size), bool)
        shown, later = film.owners(begin, size), film.owners(finish, size)
        hidden = (shown == GROUND) & (later != GROUND)
        centre = np.stack(np.meshgrid(*[np.arange(size) + 0.5] * 2), -1)
        for index in range(len(film.scene.things)):
            mine = shown == index
            if not mine.any():
                continue
            there = carried(centre[mine], film.pose(index, begin), film.pose(index, finish), size)
            flow[mine] = there - centre[mine]
            x, y = np.floor(there).astype(int).T
            inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
            seen = inside & (later[y.clip(0, size - 1), x.clip(0, size - 1)] == index)
            hidden[mine] = ~seen
        return flow, hidden


@dataclass(frozen=True)
class ClipEdit:
    """An edit of a film's first scene, carried through the clip. The film of the result has the same poses; a
    thing that is added stands still, and moves with the camera."""

    film: Film
    edit: Edit

    def __post_init__(self) -> None:
        """Raises ValueError for an edit that no clip can carry."""
        if self.edit.op not in OPERATIONS:
            raise ValueError(f"{self.edit.op!r} in a clip: expected one of {', '.join(OPERATIONS)}")
        if self.edit.source != self.film.scene:
            raise ValueError("the edit is of another scene than the clip")

    @cached_property
    def result(self) -> Film:
        """The film of the edited scene."""
        source, edit, film = self.film.scene, self.edit, self.film
        paths = dict(zip((thing.cell for thing in source.things), film.paths, strict=True))
        scene = edit.result
        own = tuple(paths.get(thing.cell, Path()) for thing in scene.things)
        after = film.after
        if edit.scope == "global" and after is not None:
            after = replace(after, scene=with_value(after.scene, edit.op, edit.value))
        return replace(film, scene=scene, paths=own, after=after)

    def regions(self, size: int = 64, which: Sequence[int] | None = None) -> Masks | None:
        """Pixels that may change, for each frame: bool [frames, size, size]; None for all. Of a thing that
        keeps its form the visible part, else its whole place. which: only of these frames."""
        edit = self.edit
        if edit.scope == "global":
            return None
        if not edit.roomy:
            assert edit.target is not None
            return self.film.masks(edit.target, size, which)[0]
        film, thing = (self.film, edit.target) if edit.target is not None else (self.result, edit.outcome)
        assert thing is not None
        chosen = range(film.frames) if which is None else which
        index, found = film.scene.things.index(thing), np.zeros((len(chosen), size, size), bool)
        for at, frame in enumerate(chosen):
            if film.cut is None or frame < film.cut:
                x0, y0, x1, y1 = place_box_at(film.scene.things[index], film.pose(index, frame), size)
                found[at, y0:y1, x0:x1] = True
        return found

    def pictures(self, size: int = 64) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """(source, result), each uint8 [frames, size, size, 3], equal outside the regions."""
        before, after = self.film.render(size), self.result.render(size)
        regions = self.regions(size)
        return before, after if regions is None else np.where(regions[..., None], after, before)


def with_value(scene: Scene, op: str, value: str) -> Scene:
    """The scene under another weather, ground or style, as an edit of that kind orders it."""
    field = "style" if op == "restyle" else op
    return replace(scene, **{field: value})  # type: ignore[arg-type]


def painted(thing: Thing, pose: Pose, size: int) -> tuple[tuple[slice, slice], Array, Array]:
    """`painted_at` of a thing in a pose."""
    return painted_at(thing, pose.x, pose.y, round(thing.radius * pose.scale, 6), size, pose.angle)


def silhouette_at(thing: Thing, pose: Pose, size: int = 64) -> Masks:
    """Where a thing in a pose covers at least half of a pixel: bool [size, size]."""
    found = np.zeros((size, size), bool)
    into, alpha, _ = painted(thing, pose, size)
    found[into] = alpha[..., 0] >= 0.5
    return found


def place_box_at(thing: Thing, pose: Pose, size: int = 64) -> tuple[int, int, int, int]:
    """The thing's place with room around it, whatever its shape: (x0, y0, x1, y1) in pixels, x1 and y1
    exclusive, empty where it is out of sight."""
    reach = thing.radius * pose.scale * (REACH if pose.angle else 1) + MARGIN
    scale = size / LATTICE
    low = [int(np.floor(min(max(0.0, v - reach), LATTICE) * scale + 1e-9)) for v in (pose.x, pose.y)]
    high = [int(np.ceil(max(min(float(LATTICE), v + reach), 0.0) * scale - 1e-9)) for v in (pose.x, pose.y)]
    return low[0], low[1], max(low[0], high[0]), max(low[1], high[1])


def carried(points: NDArray[np.float64], start: Pose, end: Pose, size: int) -> NDArray[np.float64]:
    """Where points [N, 2] of a thing come to, in pixels, when it goes from one pose to another."""
    scale = size / LATTICE
    grow, turn = end.scale / start.scale, end.angle - start.angle
    turned = grow * np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    begin, finish = (np.array([pose.x, pose.y]) * scale for pose in (start, end))
    return (points - begin) @ turned + finish


def random_film(rng: random.Random, scene: Scene, number: int = 0, frames: int = FRAMES) -> Film:
    """A clip of a scene. One in four pans; number 4, 9, 14, ... has a cut to another scene of its split."""
    paths = tuple(random_path(rng, scene, thing) for thing in scene.things)
    pan = (0.0, 0.0)
    if rng.random() < 0.25:
        pan = (round(rng.uniform(-PAN, PAN), 2), round(rng.uniform(-PAN, PAN), 2))
    film = Film(scene, paths, frames, pan)
    if number % EVERY != EVERY - 1 or frames < 6:
        return film
    cut = rng.randint(frames // 3, 2 * frames // 3)
    while True:
        other = random_scene(rng, weather=scene.weather)
        differs = other.ground != scene.ground and not _labels(other) & _labels(scene)
        if differs and scene_split(other) == scene_split(scene):
            break
    return replace(film, cut=cut, after=random_film(rng, other, 0, frames - cut))


def _labels(scene: Scene) -> set[str]:
    return {thing.label for thing in scene.things}
