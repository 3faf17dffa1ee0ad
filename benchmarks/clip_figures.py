"""The clips of `clip_edit`, and what is measured of an edited one. Nothing here knows an editor."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.world.clip_steadiness import flicker, warp_errors
from trainer.world.clips import ClipEdit, random_film
from trainer.world.edits import recolour, retexture
from trainer.world.scene import CENTRES, COLOURS, TEXTURES, random_scene


def questions(count: int, frames: int, seed: int) -> Iterator[ClipEdit]:
    """Clips in which a thing that gets a new colour or texture moves over at least three cells, turns, or is
    hidden or away."""
    rng = random.Random(seed)
    while count:
        scene = random_scene(rng, weather="clear")
        film = random_film(rng, scene, 0, frames)
        thing = rng.choice(scene.things)
        if rng.random() < 0.5:
            edit = recolour(scene, thing, rng.choice([c for c in COLOURS if c != thing.colour]))
        else:
            edit = retexture(scene, thing, rng.choice([t for t in TEXTURES if t != thing.texture]))
        index = scene.things.index(thing)
        poses = [film.pose(index, frame) for frame in range(frames)]
        seen, whole = film.masks(thing)
        area, all_of = seen.sum((1, 2)), whole.sum((1, 2))
        way = max(abs(pose.x - poses[0].x) + abs(pose.y - poses[0].y) for pose in poses)
        turned = abs(poses[-1].angle - poses[0].angle) > 0.5
        hidden = bool((area < 0.5 * max(all_of.max(), 1)).any())
        if area.max() >= 24 and (way >= 2 * (CENTRES[1] - CENTRES[0]) or turned or hidden):
            count -= 1
            yield ClipEdit(film, edit)


def measured(clip: ClipEdit, edited: Tensor, borders: Sequence[int]) -> dict[str, Any]:
    """What is written of an edited clip [F, H, W, 3] in 0..1. borders: frames with which windows begin."""
    from trainer.world.clip_reader import frames_right

    source, truth = (torch.from_numpy(each).float() / 255 for each in clip.pictures())
    regions = clip.regions()
    assert regions is not None
    mask = torch.from_numpy(regions)
    assert torch.equal(edited[~mask], source[~mask])
    verdicts = frames_right(edited.numpy(), clip)
    told = [each for each in verdicts if each is not None]
    warps, own = (warp_errors(clip.film, frames, mask) for frames in (edited, source))
    at = {border - 1 for border in borders}
    return {
        "right": mean([float(each) for each in told]),
        "every": float(all(told)),
        "wrong": [frame for frame, each in enumerate(verdicts) if each is False],
        "excess": 1000 * (mean(list(warps.values())) - mean(list(own.values()))),
        "flicker": 255 * flicker(edited - truth, mask),
        "error": float((edited - truth).abs().mean(-1)[mask].mean()),
        "border_pairs": [1000 * value for frame, value in warps.items() if frame in at],
        "other_pairs": [1000 * value for frame, value in warps.items() if frame not in at],
    }


def interval(values: Any, seed: int = 0) -> tuple[float, float]:
    """95 % of the means of resampled values [N]."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (10_000, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
