"""Rows whose original is a clip of the moving world: the question and the plan are those of its first frame.

The original and the edited clip are frames in the row, as of every video; what only a clip has stands in the
row's meta: `clip`, from which `clip_of` draws it again with every truth, and the masks of all frames as runs.
Flow is not written: `Film.flow` gives it, exactly, from the same few numbers.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evlm.errors import RecordError
from evlm.records import Row

from .chain import Chain
from .clips import FPS, OPERATIONS, ClipEdit, Film, random_film
from .paths import Path
from .questions import Question, ask
from .rows import Recipe, completion_row, edit_from_json, pictures_of, place_of, thing_from_json
from .scene import Scene

CATEGORY = "image->video"


def clip_rows(recipe: Recipe, start: int, stop: int) -> Iterator[tuple[Row, dict[str, Tensor]]]:
    """Rows start ... stop - 1 of a recipe, each with all pictures of its question: path -> [S, S, 3], the
    mask [S, S], in 0..1. Of the recipe's mix nothing is taken."""
    for index in range(start, stop):
        number, completion = place_of(index, recipe.undesired)
        question, clip = clip_at(recipe, number)
        yield _row(recipe, number, question, clip, completion)


def clip_at(recipe: Recipe, number: int) -> tuple[Question, ClipEdit]:
    """Question `number` and its clip; every fifth has a cut. The question is of the first frame, a still."""
    rng = random.Random(f"clip {recipe.seed} {recipe.split} {number}")
    while True:
        question = ask(rng, recipe.split, recipe.op, CATEGORY)
        if question.edit.op in OPERATIONS and question.edit.source.sign is None:
            break
    film = random_film(rng, question.edit.source, number)
    return replace(question, category="image"), ClipEdit(film, question.edit)


def clip_of(row: Row) -> ClipEdit:
    """The clip that a row is about, with every truth. Raises RecordError where it is about none."""
    try:
        edit = edit_from_json(row.meta["edit"])
        if isinstance(edit, Chain):
            raise ValueError("several edits")
        return ClipEdit(_film(row.meta["clip"], edit.source), edit)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise RecordError(
            f"row {row.id!r:.80}: no clip of the world ({type(error).__name__}: {error!s:.120})"
        ) from None


def film_json(film: Film) -> dict[str, Any]:
    """A film as JSON, but for its first scene, which is the edit's."""
    after = None if film.after is None else {**film_json(film.after), "scene": asdict(film.after.scene)}
    paths = [asdict(path) for path in film.paths]
    return {"paths": paths, "frames": film.frames, "pan": list(film.pan), "cut": film.cut, "after": after}


def runs(mask: NDArray[np.bool_]) -> list[int]:
    """A mask [H, W] as the lengths of its runs, off and on in turn, row after row; the first may be 0."""
    flat = np.concatenate([[False], np.ravel(mask), [not mask.flat[-1]]])
    return np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist() if mask.size else []


def mask_of_runs(lengths: Sequence[int], height: int, width: int) -> NDArray[np.bool_]:
    """The mask [H, W] of `runs`. Raises RecordError where they do not fill it."""
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in lengths):
        raise RecordError("runs of a mask: expected whole numbers of 0 or more")
    if sum(lengths) != height * width:
        raise RecordError(f"runs of {sum(lengths)} pixels for a mask of {height} x {width}")
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(height, width)


def _row(
    recipe: Recipe, number: int, question: Question, clip: ClipEdit, completion: int
) -> tuple[Row, dict[str, Tensor]]:
    still = completion_row(recipe, number, question, completion)
    folder = f"pictures/{recipe.name}/{number:06d}/"

    def moved(path: str) -> str:
        return path.replace("pictures/", "pictures/clip-", 1)

    pictures = {moved(path): picture for path, picture in pictures_of(recipe, number, question).items()}
    for name in ("original", "edited"):
        pictures.pop(moved(f"{folder}{name}.png"))
    both = clip.pictures(recipe.size)
    paths: dict[str, tuple[str, ...]] = {}
    for name, frames in zip(("original", "edited"), both, strict=True):
        paths[name] = tuple(moved(f"{folder}{name}-{frame:02d}.png") for frame in range(len(frames)))
        pictures |= zip(paths[name], torch.from_numpy(frames).float() / 255, strict=True)
    references = tuple(
        {**reference, "frames": [moved(path) for path in reference["frames"]]}
        if "frames" in reference
        else reference
        for reference in still.references
    )
    row = replace(
        still,
        id=still.id.replace("world-", "clip-", 1),
        question=still.question.replace("world-", "clip-", 1),
        category=CATEGORY,
        original=paths["original"],
        edited=paths["edited"],
        mask=None if still.mask is None else moved(still.mask),
        references=references,
        fps=float(FPS),
        meta={**still.meta, "clip": film_json(clip.film), "masks": _masks(clip, recipe.size)},
    )
    return row, pictures


def _masks(clip: ClipEdit, size: int) -> dict[str, Any]:
    """Of every frame what may change, and where the target is seen and is, as runs."""
    regions, target = clip.regions(size), clip.edit.target
    found: dict[str, Any] = {"size": [size, size]}
    if regions is not None:
        found["region"] = [runs(mask) for mask in regions]
    if target is not None:
        for name, masks in zip(("visible", "whole"), clip.film.masks(target, size), strict=True):
            found[name] = [runs(mask) for mask in masks]
    return found


def _film(data: Mapping[str, Any], scene: Scene) -> Film:
    after = data["after"]
    if after is not None:
        graph = dict(after["scene"])
        things = tuple(thing_from_json(thing) for thing in graph["things"])
        after = _film(after, Scene(**{**graph, "things": things}))
    paths = tuple(Path(**{**path, "to": tuple(path["to"])}) for path in data["paths"])
    frames, cut, pan = data["frames"], data["cut"], tuple(data["pan"])
    if not 1 <= frames <= 4096 or len(pan) != 2 or (cut is not None) != (after is not None):
        raise ValueError(f"{frames} frames, a pan of {pan}, a cut at {cut}")
    if cut is not None and (not 0 < cut < frames or after.frames != frames - cut):
        raise ValueError(f"a cut at {cut} of {frames} frames")
    film = Film(scene, paths, frames, pan, cut, after)
    for index in range(len(scene.things)):
        film.pose(index, frames - 1)
    return film
