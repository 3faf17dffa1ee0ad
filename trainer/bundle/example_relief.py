"""The scene of Gaussians that the bundled models can edit: a picture of the flat world as a relief, fitted to
exact views of it, with its cameras and what is asked. A relief's views look nearly like the pictures that the
models were trained on; of solids they know neither the words nor the looks.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evlm.files.pictures import write_atomically
from evlm.request import EXAMPLES
from evlm.scene import Camera, Gaussians, Points
from evlm.scene.files import save_gaussians
from evlm.scene.fit import FitSettings, Fitting, FittingInTime, TimeFit, from_points
from evlm.scene.motion import Keys, Motion, RigidBases, save_motion
from trainer.world.question import Question
from trainer.world.questions import ask
from trainer.world.raytrace import rays
from trainer.world.relief import BOARD, cone, relief_view, trace_relief
from trainer.world.render import GROUND_RGB
from trainer.world.scene import Scene

RELIEF = ("relief", "sample relief 12")  # its folder, and what its question is drawn by
FOLDER = EXAMPLES.parent / "scenes"
MOVING, WALKS, WAY = "relief_moving", 1, (0.0, 18.0)  # its folder; which of its things goes, and how far
TIMES = 5
VIEWS, SIDE, COUNT, ITERATIONS = 13, 64, 3000, 130
THINGS = 0.6  # of the points that the fit begins with: they lie on things


def sample_question() -> Question:
    """What stands in it, and what is asked: of the test split, which no model saw."""
    return ask(random.Random(RELIEF[1]), "test", "recolour", "text")


def sample_relief(iterations: int = ITERATIONS) -> Gaussians:
    """float32 [COUNT], fitted; half a minute of one thread."""
    return fitted_relief(sample_question().edit.source, iterations)[0]


def fitted_relief(scene: Scene, iterations: int = ITERATIONS) -> tuple[Gaussians, Tensor]:
    """(float32 [COUNT], fitted to exact views of `cone(VIEWS)`; int [COUNT], the thing that each began on, or
    BOARD)."""
    cameras = cone(VIEWS, size=SIDE)
    pictures = [torch.from_numpy(relief_view(scene, camera)).float() / 255 for camera in cameras]
    seen = [trace_relief(scene, *rays(camera)) for camera in cameras]
    start, owners = _begun(seen, lambda owners: np.ones(len(owners), bool))
    settings = FitSettings(iterations, GROUND_RGB[scene.ground])
    return Fitting(start, cameras, [lambda p=p: p for p in pictures], settings).run(), owners


def _begun(seen: Sequence[tuple[Any, Any, Any]], taken: Callable[[Any], Any]) -> tuple[Gaussians, Tensor]:
    """(what a fit begins with, int [COUNT] whose each is), of what `trace_relief` gives of views. taken: of
    the owners [R] of all their rays, bool [R], those of things that count."""
    colours, points, owners = (np.concatenate(column) for column in zip(*seen, strict=True))
    draw = np.random.default_rng(0)
    on, off = np.flatnonzero(taken(owners) & (owners != BOARD)), np.flatnonzero(owners == BOARD)
    many = min(len(on), round(THINGS * COUNT))
    some = np.sort(np.concatenate([draw.choice(on, many, False), draw.choice(off, COUNT - many, False)]))
    start = from_points(
        Points(torch.from_numpy(points[some]).float(), torch.from_numpy(colours[some]).float())
    )
    return start, torch.from_numpy(owners[some])


def write_relief(folder: Path = FOLDER) -> Path:
    """Writes Gaussians, cameras and request; returns their folder."""
    question, home = sample_question(), folder / RELIEF[0]
    home.mkdir(parents=True, exist_ok=True)
    save_gaussians(home / "scene.spz", sample_relief())
    background = "#" + "".join(f"{round(255 * part):02x}" for part in GROUND_RGB[question.edit.source.ground])
    _write(home / "transforms.json", {"frames": [_frame(camera) for camera in cone(VIEWS)]})
    asked = {"title": "a relief", "prompt": question.prompt, "background": background}
    _write(home / "request.json", asked)
    return home


def moved(time: float) -> Scene:
    """What stands in the relief that moves, at a time in 0..1."""
    return gone(sample_question().edit.source, WALKS, WAY, time)


def gone(scene: Scene, number: int, way: tuple[float, float], time: float) -> Scene:
    """The scene when one of its things has gone its way, to an end at time 1."""
    goes = scene.things[number]
    x, y = goes.dx + way[0] * time, goes.dy + way[1] * time  # not whole, which only pictures ask for
    goes = replace(goes, dx=x, dy=y)  # type: ignore[arg-type]
    return replace(scene, things=(*scene.things[:number], goes, *scene.things[number + 1 :]))


def sample_moving(iterations: int = 500) -> tuple[Gaussians, Motion]:
    """float32 [COUNT] and how they move, fitted to exact views of TIMES times; a minute of one thread."""
    return fitted_moving(sample_question().edit.source, WALKS, WAY, iterations)[:2]


def fitted_moving(
    scene: Scene, number: int, way: tuple[float, float], iterations: int = 500
) -> tuple[Gaussians, Motion, Tensor]:
    """(float32 [COUNT], how they move, int [COUNT], the thing that each began on), where one thing goes its
    way. The fit begins with that way."""
    times = torch.linspace(0, 1, TIMES, dtype=torch.float64).tolist()
    cameras = [replace(camera, time=time) for time in times for camera in cone(VIEWS, size=SIDE)]
    at = partial(gone, scene, number, way)
    pictures = [relief_view(at(float(each.time or 0)), each) for each in cameras]
    shown = [torch.from_numpy(picture).float() / 255 for picture in pictures]
    ends = [each for each in cameras if each.time in (0, 1)]
    seen = [trace_relief(at(float(each.time or 0)), *rays(each)) for each in ends]
    late = np.concatenate(
        [np.full(len(owners), each.time) for each, (_, _, owners) in zip(ends, seen, strict=True)]
    )
    start, owners = _begun(seen, lambda _: late == 0)  # the board from both, what stands on it from one
    motion = RigidBases.begin(start, owners == number, Keys.even(TIMES), count=1)
    motion.shifts[0, :, :2] = torch.tensor(way) * torch.linspace(0, 1, TIMES)[:, None]
    settings = TimeFit(iterations, opening=0, background=GROUND_RGB[scene.ground])
    return *FittingInTime(start, motion, cameras, [lambda p=p: p for p in shown], settings).run(), owners


def write_moving(folder: Path = FOLDER) -> Path:
    """Writes Gaussians, motion and request of the relief in which a thing moves, which has the cameras of the
    one that stands still; their folder."""
    home = folder / MOVING
    home.mkdir(parents=True, exist_ok=True)
    gaussians, motion = sample_moving()
    save_gaussians(home / "scene.spz", gaussians)
    save_motion(home / "motion.safetensors", motion)
    said = json.loads((folder / RELIEF[0] / "request.json").read_text(encoding="utf-8"))
    _write(home / "request.json", {**said, "title": "a relief that moves", "cameras": RELIEF[0]})
    return home


def _frame(camera: Camera) -> dict[str, Any]:
    """A camera as nerfstudio's transforms.json says it: camera to world, y up and z backward."""
    pose = torch.linalg.inv(camera.view) * torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    lens = {"fl_x": camera.fx, "fl_y": camera.fy, "cx": camera.cx, "cy": camera.cy}
    return {
        "file_path": camera.name,
        "w": camera.width,
        "h": camera.height,
        **{name: round(value, 6) for name, value in lens.items()},
        "transform_matrix": [[round(value, 9) for value in row] for row in pose.tolist()],
    }


def _write(path: Path, value: dict[str, Any]) -> None:
    text = json.dumps(value, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
