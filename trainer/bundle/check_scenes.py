"""Measures the whole chain on scenes of Gaussians: from a request to a .ply, read on views held out.

A scene of solids is fitted from its exact views; then the bundled models plan, select and paint as
`python -m evlm scene edit` does, the result is written and read again, and the exact reader looks at it from
between the views. Left out are edits of the sky and the weather, which change what is behind the Gaussians,
and moves, whose direction is the first view's alone.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evlm.errors import EVLMError
from evlm.scene import Camera, Gaussians, Points, SplatScene
from evlm.scene.raster import rasterize

from ..world.raytrace import SKY_RGB, surface, under, view
from ..world.rows import to_request
from ..world.solid import SolidScene
from ..world.solid_cameras import HEIGHTS, ring
from ..world.solid_edits import MIX
from ..world.solid_questions import SolidQuestion, ask_solid
from ..world.solid_reader import edit_right
from ..world.solid_stills import Stand
from .parallel_map import parallel_map

VIEWS, HELD, SIDE = 24, 8, 64
POINTS, NOISE, STEPS = 3000, 0.01, 400  # of the fit
OPERATIONS = ("recolour", "replace", "remove", "add", "retexture")


@dataclass(frozen=True)
class Outcome:
    """right: by the exact reader; planned: the instruction; frozen: every row that was not selected has its
    bits; fit, seconds: CPU time of the fit, and from the request to the file."""

    right: bool
    planned: bool
    frozen: bool
    fit: float
    seconds: float


def check(
    folder: Path,
    rows: int = 12,
    seed: int = 1,
    log: Callable[[str], None] = print,
    jobs: int | None = None,
) -> dict[str, float]:
    """Shares in 0..1 by name over `rows` scenes, and seconds. `folder` holds the models' folders."""
    asked = [ask_scene(seed, number) for number in range(rows)]
    outcomes = parallel_map(
        partial(_load, folder), edit_scene, asked, lambda text: log(f"scenes: {text}"), jobs
    )
    right: dict[str, list[bool]] = defaultdict(list)
    for question, outcome in zip(asked, outcomes, strict=True):
        right["scene"].append(outcome.right)
        right[f"scene, {question.edit.op}"].append(outcome.right)
        right["scene, plan"].append(outcome.planned)
        right["scene, frozen"].append(outcome.frozen)
    return {
        **{name: float(np.mean(values)) for name, values in sorted(right.items())},
        "scene, seconds": float(np.median([outcome.seconds for outcome in outcomes])),
        "scene, seconds of the fit": float(np.median([outcome.fit for outcome in outcomes])),
    }


def ask_scene(seed: int, number: int) -> SolidQuestion:
    """A question of the test split whose original is the ring's first view; the operations follow the world's
    shares."""
    rng = random.Random(f"scene {seed} {number}")
    op = rng.choices(OPERATIONS, [MIX[op] for op in OPERATIONS])[0]
    return ask_solid(rng, "test", op, stand=Stand(0.0, HEIGHTS[0]))


def edit_scene(pipeline: Any, question: SolidQuestion) -> Outcome:
    """One scene, fitted and edited. No plan at all, or nothing selected, is wrong."""
    from evlm.scene.edit import SceneEdit
    from evlm.scene.files import load_gaussians, save_gaussians
    from evlm.scene_job import SceneJob

    edit, began = question.edit.edit, time.process_time()
    scene = fitted(edit.source)
    fit, began = time.process_time() - began, time.process_time()
    request = to_request(question, SIDE)
    settings = SceneEdit(views=VIEWS, longest=SIDE)
    job = SceneJob(scene, pipeline, request.prompt, request.references, settings)
    planned = False
    try:
        looks = job.looks()
        reasoned = job.reason(looks)
        planned = reasoned.trace.plan.instruction == edit.instruction
        chosen = job.select_all(reasoned, looks)
        edited = job.paint(chosen, looks)
    except EVLMError:
        return Outcome(False, planned, True, fit, time.process_time() - began)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "edited.ply"
        save_gaussians(path, edited.gaussians)
        shown = load_gaussians(path).gaussians
    seconds = time.process_time() - began
    cameras = ring(HELD, SIDE, held_out=True)
    background = torch.tensor(scene.background)
    pictures = [picture_of(shown, camera, background).numpy() for camera in cameras]
    try:
        right = edit_right(pictures, edit, cameras)
    except ValueError:  # it cannot be told in any view
        right = False
    assert job.home is not None  # `paint` says where each row comes from
    rows = torch.stack([each.rows for each in chosen]).any(0) if chosen else torch.zeros(len(scene)).bool()
    return Outcome(right, planned, frozen(scene.gaussians, edited.gaussians, rows, job.home), fit, seconds)


def fitted(scene: SolidScene) -> SplatScene:
    """Gaussians of a scene of solids with its ring of cameras, fitted to its exact views."""
    from evlm.scene.fit import FitSettings, Fitting, from_points

    cameras = ring(VIEWS, SIDE)
    pictures = [torch.from_numpy(view(scene, camera).picture).float() / 255 for camera in cameras]
    seen = surface(scene, cameras, POINTS, NOISE)
    points = Points(torch.from_numpy(seen.points).float(), torch.from_numpy(seen.colours).float())
    settings = FitSettings(STEPS, behind(scene))
    gaussians = Fitting(from_points(points), cameras, [lambda p=p: p for p in pictures], settings).run()
    return SplatScene(gaussians, cameras, background=settings.background)


def behind(scene: SolidScene) -> tuple[float, float, float]:
    """The sky's colour under the weather."""
    red, green, blue = under(scene.weather, np.array([SKY_RGB[scene.sky]]), np.zeros((1, 3)))[0].tolist()
    return min(1.0, red), min(1.0, green), min(1.0, blue)


def picture_of(gaussians: Gaussians, camera: Camera, background: Tensor) -> Tensor:
    """[H, W, 3] in 0..1."""
    with torch.no_grad():
        return rasterize(gaussians, camera, background).image.clamp(0, 1)


def frozen(before: Gaussians, after: Gaussians, selected: Tensor, home: Tensor) -> bool:
    """Whether every row that was not selected (bool [N]) is still there, in order, with its bits. home: int64
    [M], which row each of `after` was, -1 for new ones."""
    stays = (~selected).nonzero().flatten()
    there = torch.isin(home, stays).nonzero().flatten()
    return torch.equal(home[there], stays) and all(
        torch.equal(before.tensors()[name][stays], tensor[there]) for name, tensor in after.tensors().items()
    )


def _load(folder: Path) -> Any:
    from evlm.pipeline import Pipeline

    roles = ("reasoner", "detector", "segmenter", "editor")
    return Pipeline.load({role: folder / role for role in roles}, device="cpu")
