"""Measures how clips of the moving world are edited, read exactly in every frame: by the bundled editor from
the true instruction in the true masks, and by detector, tracker and editor from the true plan. Both by the
engine's public path with its defaults."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from evlm.edit.ip2p import IP2P

from ..world.clip_reader import frames_right
from ..world.clip_rows import clip_at
from ..world.clip_steadiness import flicker, warp_errors
from ..world.clips import FPS, ClipEdit
from ..world.questions import Question
from ..world.rows import Recipe
from ..world.traces import write_trace
from .check_solids import load_editor
from .parallel_map import parallel_map

KINDS = ("recolour", "retexture", "remove")
PAINTS = ("recolour", "retexture")  # what stays in its place, and so can be compared along its motion


class Painted(NamedTuple):
    """Of one clip. right: of its frames in which it can be told. excess: warp error along the true motion,
    times 1000, less the source's own, None where nothing can be compared. flicker: of 255. outside: the
    greatest difference outside the mask."""

    right: tuple[bool, ...]
    excess: float | None
    flicker: float
    outside: float


def check(
    folder: Path,
    rows: int = 500,
    seed: int = 1,
    log: Callable[[str], None] = print,
    jobs: int | None = None,
) -> dict[str, float]:
    """Over `rows // 10` held-out clips of 16 frames of each kind, by name: share of clips that are right in
    every frame (`recolour`, ...), of frames (`recolour, frames`, ...), means of `excess` and `flicker` over
    what is recoloured and retextured, and the greatest `outside`. Of every fifth, from the true plan on:
    `planned`, as `recolour` of all kinds, and the median of CPU `seconds`. folder: holds the models.
    """
    asked = [
        clip_at(Recipe(seed=seed, split="test", op=op), number)
        for number in range(max(1, rows // 10))
        for op in KINDS
    ]
    drawn, tell = [clip for _, clip in asked], lambda text: log(f"clips: {text}")
    painted = parallel_map(partial(load_editor, folder / "editor"), paint_clip, drawn, tell, jobs)
    found = shares(drawn, painted)
    planned = parallel_map(partial(load_chain, folder), edit_planned, asked[::5], tell, jobs)
    told = [(all(right), seconds) for right, seconds in planned if right]
    return {
        **found,
        "planned": float(np.mean([right for right, _ in told])),
        "seconds": float(np.median([seconds for _, seconds in told])),
    }


class Knows:
    """Stands where a reasoner does, and answers with the world's own trace of the question at hand."""

    trace: Any = None

    def reason(self, *_: Any, **__: Any) -> Any:
        """As `AnyReasoner.reason`."""
        from evlm.reason.reasoner import Reasoned

        return Reasoned("", 1, 0.0, trace=self.trace)


def load_chain(folder: Path) -> Any:
    """A pipeline that is told what to plan."""
    from evlm.pipeline import Pipeline

    roles = ("detector", "segmenter", "editor")
    return Pipeline.load({role: folder / role for role in roles}, reasoner=Knows(), device="cpu")


def edit_planned(pipeline: Any, asked: tuple[Question, ClipEdit]) -> tuple[tuple[bool, ...], float]:
    """(for each frame in which it can be told, whether a clip is right by its true plan; CPU seconds)."""
    from evlm.request import Request

    question, clip = asked
    pipeline.reasoner.trace = write_trace(random.Random(0), question)
    frames = torch.from_numpy(clip.pictures()[0]).float() / 255
    began = time.process_time()
    edited = pipeline.run(Request(frames, clip.edit.instruction, (), float(FPS))).edited
    seconds = time.process_time() - began
    return tuple(told for told in frames_right(edited.numpy(), clip) if told is not None), seconds


def paint_clip(editor: object, clip: ClipEdit) -> Painted:
    """A clip edited in its true masks by the defaults."""
    from evlm.video.clip import edit_clip

    assert isinstance(editor, IP2P)
    source, truth = (torch.from_numpy(each).float() / 255 for each in clip.pictures())
    regions = clip.regions()
    assert regions is not None
    mask = torch.from_numpy(regions)
    frames = edit_clip(editor, source, clip.edit.instruction, mask.float()).frames
    warps, own = (warp_errors(clip.film, each, mask) for each in (frames, source))
    more = [warps[frame] - own[frame] for frame in warps]
    return Painted(
        tuple(told for told in frames_right(frames.numpy(), clip) if told is not None),
        1000 * float(np.mean(more)) if more else None,
        255 * flicker(frames - truth, mask),
        float((frames - source).abs().amax(-1)[~mask].max()),
    )


def shares(drawn: list[ClipEdit], painted: list[Painted]) -> dict[str, float]:
    """As `check` gives them. Clips of which no frame tells anything count nowhere."""
    found: dict[str, list[float]] = defaultdict(list)
    for clip, result in zip(drawn, painted, strict=True):
        if not result.right:
            continue
        found[clip.edit.op].append(float(all(result.right)))
        found[f"{clip.edit.op}, frames"].append(float(np.mean(result.right)))
        if clip.edit.op in PAINTS:
            found["flicker"].append(result.flicker)
            found["excess"] += [] if result.excess is None else [result.excess]
    return {
        **{name: float(np.mean(values)) for name, values in sorted(found.items())},
        "outside": max(result.outside for result in painted),
    }
