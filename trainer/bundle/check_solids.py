"""Measures the bundled models on stills of solids: held-out looks in scenes and from heights that no training
saw, each model alone, through the engine's public path and by the exact reader."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from evlm.plan.mask_codec import mask_iou

from ..world.solid_edits import OPERATIONS, WHOLE
from ..world.solid_questions import CATEGORIES, ask_solid
from ..world.solid_reader import edit_right
from ..world.solid_stills import SolidStill, can_be_read, draw_still
from .check_reasoner import ask_one, load_reasoner
from .detector import pair_iou
from .objects import draw_solids, targets
from .parallel_map import parallel_map

LOCAL = ("recolour", "retexture", "replace", "remove", "add")  # what the editor has bars for, and WHOLE


def check(
    folder: Path,
    rows: int = 500,
    seed: int = 1,
    log: Callable[[str], None] = print,
    jobs: int | None = None,
) -> dict[str, float]:
    """Shares in 0..1 by name: `rows` questions for the reasoner, as many edits for the editor, the kinds in
    turn, and `rows // 2` stills for detector and segmenter. `folder` holds the models' folders."""
    places = find_places(folder, max(1, rows // 2), seed)
    log(f"solids: recall {places['recall']:.3f}, IoU from true boxes {places['iou']:.3f}")
    return {**places, **plans(folder, rows, seed, log, jobs), **paintings(folder, rows, seed, log, jobs)}


def find_places(folder: Path, rows: int, seed: int) -> dict[str, float]:
    """Of the things of held-out looks: `recall` at IoU 0.5 and mean IoU (`box_iou`) of the best box of the
    full label; IoU of the mask from the true box (`iou`), and from the boxes that the detector finds
    (`iou_detected`), where what is not found counts as 0."""
    from evlm.ground.grounder import Grounder
    from evlm.segment.segmenter import Segmenter

    grounder, segmenter = Grounder.load(folder / "detector"), Segmenter.load(folder / "segmenter")
    rng = random.Random(f"solid places {seed}")
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rows):
        sample = draw_solids(rng, "test")
        picture = torch.from_numpy(sample.picture).float()[None] / 255
        wanted = targets(sample.things, "test")
        truth = torch.from_numpy(sample.silhouettes[wanted]).float()
        boxes = torch.from_numpy(sample.boxes[wanted])
        masks = segmenter.segment(picture, boxes=boxes).masks[:, 0]
        found["iou"] += [mask_iou(a, b) for a, b in zip(masks, truth, strict=True)]
        for i, box, mask in zip(wanted, boxes, truth, strict=True):
            best = grounder.ground(picture, [sample.things[i].label], keep="best")
            got = torch.tensor([[b.x0, b.y0, b.x1, b.y1] for b in best]).reshape(-1, 4)[:1]
            found["box_iou"].append(float(pair_iou(got, box[None])[0]) if len(got) else 0.0)
            shown = segmenter.segment(picture, boxes=best).masks[:, 0] if best else None
            found["iou_detected"].append(0.0 if shown is None else mask_iou(shown[0], mask))
    recall = float(np.mean([iou >= 0.5 for iou in found["box_iou"]]))
    return {"recall": recall, **{name: float(np.mean(values)) for name, values in found.items()}}


def plans(
    folder: Path, rows: int, seed: int, log: Callable[[str], None], jobs: int | None
) -> dict[str, float]:
    """`exact`: instruction and targets right; and by category and operation."""
    asked = [ask_solid(random.Random(f"solid questions {seed} {i}"), "test") for i in range(rows)]
    make, tell = partial(load_reasoner, folder / "reasoner"), lambda text: log(f"solids, reasoner: {text}")
    answers = parallel_map(make, ask_one, asked, tell, jobs)
    right: dict[str, list[bool]] = defaultdict(list)
    for question, plan in zip(asked, answers, strict=True):
        good = plan is not None and (plan.instruction, plan.targets) == (
            question.edit.instruction,
            question.edit.targets,
        )
        for name in ("exact", f"exact, {question.category}", f"exact, {question.edit.op}"):
            right[name].append(good)
    return {name: float(np.mean(values)) for name, values in sorted(right.items())}


def worst_categories() -> tuple[str, ...]:
    """Names of `plans` by category."""
    return tuple(f"exact, {category}" for category in CATEGORIES)


def paintings(
    folder: Path, rows: int, seed: int, log: Callable[[str], None], jobs: int | None
) -> dict[str, float]:
    """Right by the exact reader, of the true instruction in the true mask: by operation, and `global`."""
    kinds = [*LOCAL, *(op for op in OPERATIONS if op in WHOLE)]
    drawn = [_readable(random.Random(f"solid edits {seed} {i}"), kinds[i % len(kinds)]) for i in range(rows)]
    make, tell = partial(load_editor, folder / "editor"), lambda text: log(f"solids, editor: {text}")
    right: dict[str, list[bool]] = defaultdict(list)
    for edit, good in zip(drawn, parallel_map(make, paint_one, drawn, tell, jobs), strict=True):
        right[f"editor, {edit.op}"].append(good)
        if edit.op in WHOLE:
            right["editor, global"].append(good)
    return {name: float(np.mean(values)) for name, values in sorted(right.items())}


def _readable(rng: random.Random, op: str) -> SolidStill:
    while not can_be_read(drawn := draw_still(rng, op, "test")):
        pass
    return drawn


def paint_one(editor: object, drawn: SolidStill) -> bool:
    """Whether an editor's picture of a still is right."""
    from evlm.edit.ip2p import IP2P

    assert isinstance(editor, IP2P)
    source = torch.from_numpy(drawn.pictures()[0]).float() / 255
    region = drawn.region()
    mask = None if region is None else torch.from_numpy(region)[None].float()
    painted = editor.edit(source, drawn.instruction, mask).frames
    try:
        return edit_right([painted[0].numpy()], drawn.edit, [drawn.stand.camera(64)])
    except ValueError:  # two answers are equally far from it
        return False


def load_editor(folder: Path) -> object:
    from evlm.edit.ip2p import IP2P

    return IP2P.load(folder, device="cpu")
