"""Whether a pair changes as its captions do, and stays alike otherwise, by a CLIP model of this machine: the
four numbers of InstructPix2Pix and UltraEdit. What is lowest of its own set is left out: how high such a
number is says more of the model than of the pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .clip import Clip, check_clip
from .pictures import stamp
from .plan import Question
from .sources.item import Item
from .stages import Result, key_of

SIMILAR_VERSION = 1  # of what is measured; another number measures again
CALLED = "filters.clip"


class Pair(NamedTuple):
    """A pair's paths in the dataset, and what its source says that they show: both captions, or none."""

    before: str
    after: str
    captions: tuple[str, ...] = ()


def captions(item: Item) -> tuple[str, ...]:
    """(of the original, of the edited picture); () where not both are known."""
    said = item.extra.get("captions")
    texts = [said.get(name) for name in ("original", "edited")] if isinstance(said, dict) else []
    known = tuple(text for text in texts if isinstance(text, str) and text.strip())
    return known if len(known) == 2 else ()


class Similar:
    """Measures a `Pair`. The model is loaded for the first that was not measured before. Raises ConfigError
    where the folder holds no CLIP."""

    def __init__(self, folder: Path, out: Path) -> None:
        check_clip(folder, CALLED)
        self.folder, self.out = folder, out
        self._model = SIMILAR_VERSION, stamp(folder)

    def key(self, pair: Pair) -> str:
        return key_of(*self._model, *pair)

    @cached_property
    def clip(self) -> Clip:
        return Clip(self.folder, CALLED)

    def __call__(self, pair: Pair) -> Result:
        """{"image": likeness of both pictures; "source", "target": of each and its caption; "direction": of
        the way between the pictures and the way between the captions}, -1 to 1, the last three with captions.
        Raises PictureError."""
        before, after = (self.clip.picture(self.out / path) for path in (pair.before, pair.after))
        found = {"image": before @ after}
        if pair.captions:
            first, second = (self.clip.said(text) for text in pair.captions)
            found |= {"source": before @ first, "target": after @ second,
                      "direction": _cosine(after - before, second - first)}  # fmt: skip
        return {name: round(float(value), 4) for name, value in found.items()}


def lowest(found: Mapping[Any, Mapping[str, float]], share: float) -> dict[Any, str]:
    """{name: reason} of those whose direction, or likeness of pictures, is among the lowest `share` of all
    that have one. Of equal ones all stay."""
    problems: dict[Any, str] = {}
    for measure in ("direction", "image"):
        values = sorted(each[measure] for each in found.values() if measure in each)
        count = int(share * len(values))
        for name, each in found.items():
            if count and each.get(measure, values[count]) < values[count]:
                said = f"{measure} {each[measure]:.3f}, among the lowest {share:.0%} of {len(values):,}"
                problems.setdefault(name, said)
    return problems


def similar_line(folder: str, share: float, questions: Sequence[Question]) -> str:
    """For `--dry-run`. Raises ConfigError where the folder holds no CLIP."""
    check_clip(Path(folder), CALLED)
    items = {q.item.original.id: q.item for q in questions if q.item.edited is not None}
    known = sum(bool(captions(item)) for item in items.values())
    return (
        f"{CALLED} {folder}: {len(items):,} pairs are measured, {known:,} of them have captions; by each "
        f"measure the lowest {share:.0%} are left out"
    )


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(one, other, dim=0)
