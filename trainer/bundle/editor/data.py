"""Pairs to train the editor on: exact source and result, cut out by the crop that masked editing uses at
work."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evlm.boxes import bounding_box
from evlm.edit.crop import CropBox, crop_box, extract, extract_mask
from trainer.world.clips import ClipEdit, random_film
from trainer.world.edits import Edit, random_edit, random_move_to
from trainer.world.render import render
from trainer.world.scene import COLOURS, GROUNDS, TEXTURES, WEATHERS, Split, random_scene
from trainer.world.solid_stills import SolidStill, draw_still

from .models import MULTIPLE

FRAME = 64  # pixels; whole frames of the world
LOCAL = {"replace": 0.36, "retexture": 0.18, "add": 0.17, "move": 0.13, "recolour": 0.08, "remove": 0.08}
WHOLE = {"weather": 0.42, "ground": 0.33, "restyle": 0.25}
FRAMES = 4  # of a moving scene
ON_THE_WAY = ("recolour", "retexture", "replace", "remove")  # what is done to a thing in a frame of a clip
SEEN = 12  # pixels of a frame's region, at least


@dataclass
class Pair:
    """One training pair: source and result float32 [h, w, 3] in 0..1, the part that changes [h, w] in
    0..1."""

    edit: Edit | SolidStill
    source: Tensor
    result: Tensor
    mask: Tensor


def draw_edit(
    rng: random.Random, op: str, split: Split = "train", moving: float = 0.2, far: float = 0.0
) -> tuple[Edit, int]:
    """A random edit of a kind in a split, and how many frames its scene has (1 or FRAMES). far: share of
    moves that go to a named cell anywhere, as what falls, rolls or is pushed does; the others go one cell."""
    while True:
        frames = FRAMES if op not in ("add", "move") and rng.random() < moving else 1
        sign = rng.choice(COLOURS + TEXTURES + WEATHERS + GROUNDS) if rng.random() < 0.1 else None
        scene = random_scene(rng, sign=sign, moving=frames > 1, frames=FRAMES)
        if far and op == "move" and rng.random() < far:
            edit: Edit | None = random_move_to(rng, scene)
        else:
            edit = random_edit(rng, op, scene)
        if edit is not None and edit.split == split:
            return edit, frames


def draw_pair(rng: random.Random, op: str, best: int) -> Pair:
    """A training pair; a local edit's crop is cut around its region, half the time a little carelessly."""
    edit, frames = draw_edit(rng, op)
    frame = rng.randrange(frames)
    before, after = render(edit.source, FRAME, frame), render(edit.result, FRAME, frame)
    region = edit.region(FRAME, frames)
    if region is not None:
        after = np.where(region[..., None], after, before)
    return _pair(rng, edit, before[None], after[None], region, best)


def draw_solid_pair(rng: random.Random, op: str, best: int) -> Pair:
    """Likewise of a still of solids, from anywhere around; a style is their sky."""
    edit = draw_still(rng, {"restyle": "sky"}.get(op, op), "train")
    return _pair(rng, edit, *edit.pictures(FRAME), edit.region(FRAME), best)


def draw_clip_pair(rng: random.Random, op: str, best: int) -> Pair:
    """Likewise of a frame of a clip, where the thing stands anywhere, turned, grown or half hidden."""
    while True:
        edit, _ = draw_edit(rng, op, moving=0)
        if edit.source.sign is not None:
            continue
        clip = ClipEdit(random_film(rng, edit.source), edit)
        frame = rng.randrange(clip.film.frames)
        region = clip.regions(FRAME, [frame])
        assert region is not None
        if region.sum() >= SEEN:
            break
    before, after = (film.render_frame(frame, FRAME) for film in (clip.film, clip.result))
    after = np.where(region[0][..., None], after, before)
    return _pair(rng, edit, before[None], after[None], region[0], best)


def _pair(
    rng: random.Random,
    edit: Edit | SolidStill,
    before: NDArray[np.uint8],
    after: NDArray[np.uint8],
    region: NDArray[np.bool_] | None,
    best: int,
) -> Pair:
    """before, after: [1, FRAME, FRAME, 3]."""
    source, result = (torch.from_numpy(p).float() / 255 for p in (before, after))
    if region is None:
        return Pair(edit, source[0], result[0], torch.ones(FRAME, FRAME))
    mask = torch.from_numpy(region)[None].float()
    box = crop_box(_careless(rng, mask), best_resolution=best, multiple=MULTIPLE)
    assert box is not None  # a region is never empty
    return Pair(edit, *_cut(source, result, mask, box))


def draw_pairs(
    rng: random.Random,
    mix: dict[str, float],
    count: int,
    best: int,
    solids: float = 0.0,
    clips: float = 0.0,
) -> list[Pair]:
    """solids, clips: shares of pairs that are stills of solids, and frames of clips (of the kinds of edits in
    ON_THE_WAY; the others are of stills then)."""
    ops = rng.choices(list(mix), list(mix.values()), k=count)
    pairs = []
    for op in ops:
        dice = rng.random() if solids or clips else 1.0
        if dice < solids:
            pairs.append(draw_solid_pair(rng, op, best))
        elif dice < solids + clips and op in ON_THE_WAY:
            pairs.append(draw_clip_pair(rng, op, best))
        else:
            pairs.append(draw_pair(rng, op, best))
    return pairs


def batches(rng: random.Random, sizes: list[tuple[int, int]], size: int) -> Iterator[list[int]]:
    """Numbers of the pairs in batches of equal picture size, in random order; a size's last batch may be
    small."""
    buckets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, shape in enumerate(sizes):
        buckets[shape].append(number)
    out: list[list[int]] = []
    for numbers in buckets.values():
        rng.shuffle(numbers)
        out += [numbers[i : i + size] for i in range(0, len(numbers), size)]
    rng.shuffle(out)
    yield from out


def _cut(source: Tensor, result: Tensor, mask: Tensor, box: CropBox) -> tuple[Tensor, Tensor, Tensor]:
    return extract(source, box)[0], extract(result, box)[0], extract_mask(mask, box)[0]


def _careless(rng: random.Random, mask: Tensor) -> Tensor:
    """The mask [1, H, W], half the time grown by up to two pixels on each side: masks at work are not
    exact."""
    if rng.random() < 0.5:
        return mask
    corners = bounding_box(mask[0])
    assert corners is not None  # a region is never empty
    grown = mask.clone()
    # drawn in this order: the pairs of a seed stay what they are
    y0, y1 = max(0, corners[1] - rng.randint(0, 2)), corners[3] + rng.randint(0, 2)
    x0, x1 = max(0, corners[0] - rng.randint(0, 2)), corners[2] + rng.randint(0, 2)
    grown[:, y0:y1, x0:x1] = 1
    return grown
