"""How often a picture is right with a bridge: true plan, true mask, the engine's public path, the exact
readers as judges."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from evlm.edit.bridge_editor import BridgedIP2P
from evlm.edit.ip2p import IP2P

from ...statistics import interval
from ...world.reader import edit_right
from ...world.scene import Split
from ...world.woven import WovenEdit, woven_right
from .data import KINDS, Models, Sample, draw


def measure(
    folder: Path,
    editor: BridgedIP2P,
    rows: int = 300,
    seed: int = 1,
    split: Split = "test",
    log: Callable[[str], None] = print,
    others: Mapping[str, Callable[[Sample], IP2P]] | None = None,
) -> dict[str, float]:
    """Shares right of so many samples of each kind, each with the ends of its 95 % interval, and the median
    seconds of an edit with its cues looked up. others: by name, what gets
    the same without cues: the editor that a sample is edited with."""
    models, found, seconds = Models(folder, editor), dict[str, float](), list[float]()
    for kind in KINDS:
        rng = random.Random(f"bridge {split} {seed} {kind}")
        samples = [draw(rng, split, kind) for _ in range(rows)]
        right = []
        for sample in samples:
            began = time.perf_counter()
            right.append(_right(editor.with_cues(models.cues(sample)), sample))
            seconds.append(time.perf_counter() - began)
        found |= _shares(kind, right)
        for name, editor_of in (others or {}).items():
            found |= _shares(f"{kind}, {name}", [_right(editor_of(sample), sample) for sample in samples])
        log(f"bridge: {kind} {found[kind]:.3f}")
    found["seconds"] = sorted(seconds)[len(seconds) // 2]
    return found


def _right(editor: IP2P, sample: Sample) -> bool:
    before, _, mask = sample.frames()
    edited = editor.edit(before, sample.instruction, mask).frames[0].numpy()
    edit = sample.edit
    return woven_right(edited, edit) if isinstance(edit, WovenEdit) else edit_right(edited, edit)


def _shares(name: str, right: list[bool]) -> dict[str, float]:
    each = interval([float(one) for one in right], share=True)
    return {name: each.mean, f"{name}, low": each.low, f"{name}, high": each.high}
