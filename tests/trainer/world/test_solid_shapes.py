"""Shapes of a fitted scene changed by an exact painter: the exact reader sees what was ordered."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from evlm.scene import Gaussians
from evlm.scene.edit import SceneEdit, edit_shape
from evlm.scene.edit.places import lifted
from evlm.scene.edit.reshape import GROWTH, STEPS, reshaped
from evlm.scene.fit import FitSettings, Fitting, from_points
from evlm.scene.points import Points
from evlm.scene.raster import rasterize
from trainer.world.raytrace import SKY_RGB, surface, view
from trainer.world.solid import Solid, SolidScene
from trainer.world.solid_cameras import ring
from trainer.world.solid_edits import SolidEdit, add, place_box, remove, swap_solid
from trainer.world.solid_painters import NoisyPainter
from trainer.world.solid_reader import edit_right

SIZE, VIEWS = 40, 8
BALL = Solid("ball", "red", "plain", "large", 0.0, 0.0)
SCENE = SolidScene((BALL, Solid("box", "blue", "plain", "small", 1.25, -1.25)))
SKY = torch.tensor(SKY_RGB[SCENE.sky])
EDITS = {
    "remove": remove(SCENE, BALL),
    "replace": swap_solid(SCENE, BALL, ("box", "green", "plain")),
    "add": add(SCENE, Solid("ball", "yellow", "plain", "large", 0.0, 1.25)),
}


@cache
def fitted() -> tuple[Gaussians, Tensor]:
    """The scene from exact views, and the ball's rows."""
    cameras = ring(VIEWS, SIZE)
    pictures = [torch.from_numpy(view(SCENE, camera).picture).float() / 255 for camera in cameras]
    seen = surface(SCENE, cameras, 1200, 0.01, 0)
    points = Points(torch.from_numpy(seen.points).float(), torch.from_numpy(seen.colours).float())
    settings = FitSettings(120, (float(SKY[0]), float(SKY[1]), float(SKY[2])))
    fitting = Fitting(from_points(points), cameras, [lambda p=p: p for p in pictures], settings)
    return fitting.run(), torch.from_numpy(seen.owners) == 0


def drawn(gaussians: Gaussians) -> list[Tensor]:
    """Views held out."""
    with torch.no_grad():
        held = ring(5, SIZE, held_out=True)
        return [rasterize(gaussians, camera, SKY).image.clamp(0, 1) for camera in held]


def outside(pictures: list[Tensor], edit: SolidEdit) -> float:
    """Mean squared error of what the edit does not touch."""
    apart = []
    for picture, camera in zip(pictures, ring(5, SIZE, held_out=True), strict=True):
        truth = torch.from_numpy(edit.views(camera)[1].picture).float() / 255
        region = edit.region(camera)
        assert region is not None
        apart.append((picture - truth).square()[~torch.from_numpy(region)].mean())
    return float(torch.stack(apart).mean())


@pytest.mark.slow  # a scene is fitted, and each edit too
@pytest.mark.parametrize("kind", EDITS)
def test_the_reader_sees_what_was_ordered(kind: str) -> None:
    edit, (gaussians, ball), cameras = EDITS[kind], fitted(), ring(VIEWS, SIZE)
    selected, place = ball, None
    if kind == "add":
        assert edit.outcome is not None
        box = place_box(edit.outcome, cameras[0])
        assert box is not None
        mask = torch.zeros(SIZE, SIZE)
        mask[box[1] : box[3], box[0] : box[2]] = 1
        selected, place = torch.zeros_like(ball), lifted(gaussians, cameras[0], mask)
    shape = reshaped(kind, gaussians, selected, cameras, None, SKY, place)  # type: ignore[arg-type]
    settings = replace(SceneEdit(), steps=STEPS, growth=GROWTH, strengths=(1.0, 0.6), settled=0)
    edited = edit_shape(shape.gaussians, shape.selection, shape.views, NoisyPainter(edit, 0.0), settings, SKY)
    before, after = drawn(gaussians), drawn(edited.gaussians)
    held = ring(5, SIZE, held_out=True)
    assert not edit_right([picture.numpy() for picture in before], edit, held)
    assert edit_right([picture.numpy() for picture in after], edit, held)
    assert outside(after, edit) < 2.5 * outside(
        before, edit
    )  # 8 views of 40 pixels: 1.94 of the replaced ball
    home = torch.where(edited.home >= 0, shape.home[edited.home.clamp(min=0)], -1)
    kept = (home >= 0) & ~selected[home.clamp(min=0)]
    assert torch.equal(home[kept], (~selected).nonzero().flatten())
    for name, tensor in edited.gaussians.tensors().items():
        assert torch.equal(tensor[kept], gaussians.tensors()[name][~selected])
