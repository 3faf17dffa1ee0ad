"""Measures how the bundled editor edits clips of the moving world: true instruction, true masks, the engine's
public path with its defaults, read exactly in every frame."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from evlm.edit.ip2p import IP2P

from ..world.clip_reader import frames_right
from ..world.clip_rows import clip_at
from ..world.clip_steadiness import flicker, warp_errors
from ..world.clips import ClipEdit
from ..world.rows import Recipe
from .check_solids import load_editor
from .parallel_map import parallel_map

KINDS = ("recolour", "retexture", "remove")
PAINTS = ("recolour", "retexture")  # what stays in its place, and so can be compared along its motion


class Painted(NamedTuple):
    """Of one clip. right: of its frames in which it can be told. excess: warp error along the true motion,
    times 1000, less the source's own, None where nothing can be compared. flicker: of 255. outside: the
    greatest difference outside the mask. seconds: of CPU."""

    right: tuple[bool, ...]
    excess: float | None
    flicker: float
    outside: float
    seconds: float


def check(
    folder: Path,
    rows: int = 500,
    seed: int = 1,
    log: Callable[[str], None] = print,
    jobs: int | None = None,
) -> dict[str, float]:
    """Over `rows // 10` held-out clips of 16 frames of each kind, by name: share of clips that are right in
    every frame (`recolour`, ...), of frames (`recolour, frames`, ...), means of `excess` and `flicker` over
    what is recoloured and retextured, and the greatest `outside`. `folder` holds editor/."""
    drawn = [
        clip_at(Recipe(seed=seed, split="test", op=op), number)[1]
        for number in range(max(1, rows // 10))
        for op in KINDS
    ]
    make, tell = partial(load_editor, folder / "editor"), lambda text: log(f"clips: {text}")
    return shares(drawn, parallel_map(make, paint_clip, drawn, tell, jobs))


def paint_clip(editor: object, clip: ClipEdit) -> Painted:
    """A clip edited in its true masks by the defaults."""
    from evlm.video.clip import edit_clip

    assert isinstance(editor, IP2P)
    source, truth = (torch.from_numpy(each).float() / 255 for each in clip.pictures())
    regions = clip.regions()
    assert regions is not None
    mask = torch.from_numpy(regions)
    began = time.process_time()
    frames = edit_clip(editor, source, clip.edit.instruction, mask.float()).frames
    seconds = time.process_time() - began
    warps, own = (warp_errors(clip.film, each, mask) for each in (frames, source))
    more = [warps[frame] - own[frame] for frame in warps]
    return Painted(
        tuple(told for told in frames_right(frames.numpy(), clip) if told is not None),
        1000 * float(np.mean(more)) if more else None,
        255 * flicker(frames - truth, mask),
        float((frames - source).abs().amax(-1)[~mask].max()),
        seconds,
    )


def shares(drawn: list[ClipEdit], painted: list[Painted]) -> dict[str, float]:
    """As `check` gives them. Clips of which no frame tells anything count nowhere."""
    found: dict[str, list[float]] = defaultdict(list)
    for clip, result in zip(drawn, painted, strict=True):
        if not result.right:
            continue
        found[clip.edit.op].append(float(all(result.right)))
        found[f"{clip.edit.op}, frames"].append(float(np.mean(result.right)))
        found["seconds a clip"].append(result.seconds)
        if clip.edit.op in PAINTS:
            found["flicker"].append(result.flicker)
            found["excess"] += [] if result.excess is None else [result.excess]
    return {
        **{name: float(np.mean(values)) for name, values in sorted(found.items())},
        "outside": max(result.outside for result in painted),
    }
