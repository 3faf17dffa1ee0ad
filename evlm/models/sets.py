"""Models that go together: a name for one model of each role."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ModelSet:
    """models: names of the zoo's catalogue, one for each role. about: who it is for, in a few words."""

    name: str
    models: tuple[str, ...]
    about: str


SETS: tuple[ModelSet, ...] = (
    ModelSet(
        "photo-8gb",
        ("qwen2-vl-2b", "grounding-dino-tiny", "sam2.1-small", "instruct-pix2pix"),
        "photographs, on a card of 8 GB in ComfyUI, which keeps one model on it at a time",
    ),
    ModelSet(
        "photo-24gb",
        ("qwen2.5-vl-7b", "grounding-dino-base", "sam2.1-large", "instruct-pix2pix"),
        "photographs, on a card of 24 GB in ComfyUI, which keeps one model on it at a time",
    ),
)


def find_set(name: str) -> ModelSet | None:
    """The set of this name, or None."""
    return next((each for each in SETS if each.name == name), None)


def expand(names: Sequence[str]) -> list[str]:
    """Names with each set replaced by its models, in place."""
    models: list[str] = []
    for name in names:
        known = find_set(name)
        models += (name,) if known is None else known.models
    return models
