"""A user study: which participant sees which item by which method, in which order.

A balanced random design: each participant gets the same number of items of each task and none twice, and the
items of a task are seen equally often, or once more or less where the numbers do not go up.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evlm.errors import ConfigError, RecordError
from evlm.files.safe_paths import inside

from ..config.settings import build, read_yaml
from ..data.files import read_lines

KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp",
         ".gif": "image/gif", ".mp4": "video/mp4", ".webm": "video/webm"}  # fmt: skip
"""What a browser shows; a scene is shown as a clip around it."""


@dataclass(frozen=True)
class Study:
    """items: JSONL of {id, task, original, reference?, text?, outputs: {method: file}}, files beside it.
    methods: that are compared. participants: how many are expected. each: items of one participant. both:
    whether a participant sees an item by all methods, the screens of one item `apart` others apart; else by
    one. question: what is asked. consent: a text file that participants agree to first."""

    items: str
    methods: tuple[str, ...]
    participants: int = 50
    each: int = 20
    both: bool = True
    apart: int = 10
    seed: int = 0
    question: str = "How well does the result do what the reference asks for?"
    consent: str | None = None

    def __post_init__(self) -> None:
        if len(self.methods) < 2 or len(set(self.methods)) != len(self.methods):
            raise ConfigError("methods: expected two or more names, each once")
        for name, low, high in (("participants", 1, 10_000), ("each", 1, 1000), ("apart", 0, 1000)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} {getattr(self, name)!r:.40}: expected {low} to {high:,}")
        if self.both and self.each > 1 and self.apart >= self.each:
            raise ConfigError(f"apart {self.apart}: expected less than each, {self.each}")


@dataclass(frozen=True)
class Item:
    """files: the original, the references, then one output a method, in the study's order."""

    id: str
    task: str
    text: str
    original: str
    references: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Screen:
    """What is rated at once."""

    item: str
    method: str


def load_study(path: Path) -> tuple[Study, list[Item], Path]:
    """(the study, its items, the folder of their files). Raises ConfigError, RecordError."""
    study = build(Study, read_yaml(path))
    file = path.parent / study.items
    if not file.is_file():
        raise ConfigError(f"items: {file} is no file")
    found: dict[str, Item] = {}
    for line, data in read_lines(file):
        if isinstance(data, RecordError):
            raise RecordError(f"{file}, line {line}: {data}")
        try:
            item = _item(data, study, file.parent)
        except (RecordError, ConfigError) as error:
            raise RecordError(f"{file}, line {line}: {error}") from None
        if item.id in found:
            raise RecordError(f"{file}, line {line}: {item.id!r:.80} comes twice")
        found[item.id] = item
    counts = Counter(item.task for item in found.values())
    if not counts:
        raise RecordError(f"{file}: no item")
    if study.each % len(counts):
        raise ConfigError(f"each {study.each}: expected a multiple of the {len(counts)} tasks")
    least = min(counts, key=lambda task: counts[task])
    if counts[least] < study.each // len(counts):
        raise ConfigError(
            f"{least}: {counts[least]} items, and each participant is to see {study.each // len(counts)}"
        )
    return study, list(found.values()), file.parent


def assign(study: Study, items: Sequence[Item]) -> list[list[Screen]]:
    """The screens of each participant, in order. The same study and items give the same."""
    rng = random.Random(f"study {study.seed}")
    tasks = sorted({item.task for item in items})
    share = study.each // len(tasks)
    uses: Counter[str] = Counter()
    shown: Counter[tuple[str, str]] = Counter()
    plans = []
    for _ in range(study.participants):
        chosen: list[str] = []
        for task in tasks:
            deck = [item.id for item in items if item.task == task]
            rng.shuffle(deck)
            chosen += sorted(deck, key=lambda name: uses[name])[:share]
        uses.update(chosen)
        rng.shuffle(chosen)
        plans.append(_screens(study, chosen, shown, rng))
    return plans


def _screens(
    study: Study, chosen: list[str], shown: Counter[tuple[str, str]], rng: random.Random
) -> list[Screen]:
    if not study.both:
        screens = []
        for item in chosen:
            methods = rng.sample(study.methods, len(study.methods))
            method = min(methods, key=lambda name: shown[item, name])
            shown[item, method] += 1
            screens.append(Screen(item, method))
        return screens
    orders = {item: rng.sample(study.methods, len(study.methods)) for item in chosen}
    screens, size = [], max(1, len(chosen) - study.apart)
    for turn in range(len(study.methods)):
        block = list(chosen)
        for start in range(0, len(block) if turn else 0, size):  # an item moves within its part alone
            part = block[start : start + size]
            rng.shuffle(part)
            block[start : start + size] = part
        screens += [Screen(item, orders[item][turn]) for item in block]
        chosen = block
    return screens


def _item(data: Any, study: Study, folder: Path) -> Item:
    known = {"id", "task", "original", "reference", "text", "outputs"}
    if not isinstance(data, dict) or not {"id", "task", "original", "outputs"} <= set(data) <= known:
        raise RecordError(f"expected an object of {', '.join(sorted(known))}, got {data!r:.80}")
    for name in ("id", "task", "text"):
        if not isinstance(data.get(name, ""), str) or not data.get(name, "x"):
            raise RecordError(f"{name} {data.get(name)!r:.40}: expected text")
    outputs = data["outputs"]
    if not isinstance(outputs, dict) or set(outputs) != set(study.methods):
        raise RecordError(f"outputs: expected one file of each of {', '.join(study.methods)}")
    references = data.get("reference") or []
    references = references if isinstance(references, list) else [references]
    for file in [data["original"], *references, *outputs.values()]:
        if not isinstance(file, str) or Path(file).suffix.lower() not in KINDS:
            raise RecordError(f"{file!r:.80}: expected a file that browsers show ({', '.join(KINDS)})")
        if not inside(folder, file).is_file():
            raise RecordError(f"{file!r:.80}: no such file in {folder}")
    return Item(data["id"], data["task"], data.get("text", ""), data["original"], tuple(references),
                tuple(outputs[name] for name in study.methods))  # fmt: skip
