"""How often a picture is right with a bridge: true plan, true mask, the engine's public path, the exact
readers as judges."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from evlm.edit.bridge import Seen
from evlm.edit.bridge_editor import BridgedIP2P
from evlm.edit.ip2p import IP2P

from ...statistics import interval
from ...world.reader import edit_right
from ...world.scene import Split
from ...world.woven import WovenEdit, woven_right
from .data import KINDS, Models, Sample, draw, fill, together
from .train import Recipe, velocity_loss

SMALLEST = (12, 12)  # latents of the crop of most things


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


@torch.no_grad()
def cue_losses(folder: Path, editor: BridgedIP2P, rows: int = 192, seed: int = 1) -> dict[str, float]:
    """What an editor's training would make of held-out weaves, the same noise and times each: the mean loss
    of v with their own cues, with those of the next weave, and with none. Of crops of one size."""
    rng, models = random.Random(f"bridge losses {seed}"), Models(folder, editor)
    pool = fill(models, [])
    while len(pool) < rows:
        more = fill(models, [draw(rng, "test", "woven") for _ in range(rows)])
        for at in [at for at, size in enumerate(more.sizes) if size == SMALLEST][: rows - len(pool)]:
            for name, values in vars(pool).items():
                values.append(getattr(more, name)[at])
    source, result, place, text = (
        torch.stack(part).float() for part in (pool.source, pool.result, pool.place, pool.text)
    )
    told = Seen(text, torch.ones(text.shape[:2], dtype=torch.bool))
    tokens = editor.bridge(replace(together(pool.cues), text=told))
    gate = {"gate": editor.bridge.gate.expand(rows, -1)}
    found = {}
    for name, heard in {"own": tokens, "another's": tokens.roll(1, 0), "none": None}.items():
        torch.manual_seed(seed)
        with_it = text if heard is None else torch.cat([text, heard], 1)
        words = {"cross_attention_kwargs": gate} if heard is not None else {}
        found[f"loss, {name}"] = float(
            velocity_loss(
                editor.unet, source, result, place, Recipe(half=False), encoder_hidden_states=with_it, **words
            )
        )
    return found


def _right(editor: IP2P, sample: Sample) -> bool:
    before, _, mask = sample.frames()
    edited = editor.edit(before, sample.instruction, mask).frames[0].numpy()
    edit = sample.edit
    return woven_right(edited, edit) if isinstance(edit, WovenEdit) else edit_right(edited, edit)


def _shares(name: str, right: list[bool]) -> dict[str, float]:
    each = interval([float(one) for one in right], share=True)
    return {name: each.mean, f"{name}, low": each.low, f"{name}, high": each.high}
