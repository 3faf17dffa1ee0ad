"""What a question is: an edit hidden behind few words and references."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .edits import Edit
from .render import render, render_frames
from .scene import (
    COLOURS,
    SHAPES,
    TEXTURES,
    Scene,
    Thing,
)

# The paper's Table 6: what the references are -> what the original is.
CATEGORIES = ("image", "image+text", "video", "image->video", "video+text", "text")
FRAMES = 4  # of every video here

LIKE = ("", "like this", "match this", "same here", "make it so")


@dataclass(frozen=True)
class Ref:
    """A reference: one scene, four (a 2 x 2 grid), or words. A video when `frames` > 1."""

    scenes: tuple[Scene, ...] = ()
    text: str = ""
    frames: int = 1

    @property
    def kind(self) -> str:
        return "text" if not self.scenes else "video" if self.frames > 1 else "image"

    def pixels(self, size: int = 64) -> NDArray[np.uint8]:
        """uint8 [frames, size, size, 3]."""
        if len(self.scenes) == 1:
            return render_frames(self.scenes[0], size, self.frames)
        tiles = [render(s, size // 2) for s in self.scenes]
        return np.concatenate([np.concatenate(tiles[:2], 1), np.concatenate(tiles[2:], 1)])[None]


@dataclass(frozen=True)
class Question:
    """One question with one answer. `hint` says what the references tell, for the trace; `decisive`: whether
    the answer cannot be had without the visual reference."""

    edit: Edit
    category: str
    form: str
    prompt: str
    refs: tuple[Ref, ...]
    k: int
    hint: str
    decisive: bool

    @property
    def frames(self) -> int:
        return FRAMES if self.category.endswith("->video") else 1


def shared(a: Thing, b: Thing) -> int:
    """How many of shape, colour and texture two things share."""
    return sum(x == y for x, y in zip(a.look, b.look, strict=True))


def open_changes(
    things: tuple[Thing, ...], scene: Scene, key: str, alike: int = 3
) -> list[tuple[str, str, str]]:
    """The looks that one of `things` may take by another shape, colour or texture (`key`), when no other
    thing of the scene may share `alike` attributes with the outcome."""
    values = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES}[key]
    ways = [
        (thing, replace(thing, **{key: value}))  # type: ignore[arg-type]
        for thing in things
        for value in values
        if value != getattr(thing, key)
    ]
    return [
        new.look for old, new in ways if all(shared(t, new) < alike for t in scene.things if t is not old)
    ]


def name_of(thing: Thing, scene: Scene) -> str:
    """The shortest words that mean this thing alone: its shape, its colour, its texture, or its whole
    label."""
    for key in ("shape", "colour", "texture"):
        value = getattr(thing, key)
        if sum(getattr(t, key) == value for t in scene.things) == 1:
            return value if key == "shape" else f"{value} one"
    return thing.label
