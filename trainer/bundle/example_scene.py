"""The scene of Gaussians that is bundled: solids of the 3D world, fitted to exact views of them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import torch

from evlm.scene import Camera, Gaussians, Points
from evlm.scene.files import save_gaussians
from evlm.scene.fit import FitSettings, Fitting, from_points
from trainer.world.raytrace import SKY_RGB, surface, view
from trainer.world.solid import SolidScene, random_solids
from trainer.world.solid_cameras import ring

SCENE = ("evlm_solids.spz", "sample scene 2")
VIEWS, SIDE, COUNT, ITERATIONS = 24, 96, 3000, 600
# The world has z upward; viewers, and an orbit that is not told otherwise, take -y for it.
UPRIGHT = torch.tensor([[1.0, 0, 0, 0], [0, 0, -1, 0], [0, 1, 0, 0], [0, 0, 0, 1]], dtype=torch.float64)


def sample_solids() -> SolidScene:
    """What stands in it."""
    return random_solids(random.Random(SCENE[1]), 3)


def sample_scene(iterations: int = ITERATIONS) -> Gaussians:
    """float32 [COUNT], fitted; a minute and a half of one thread."""
    solids, seen = sample_solids(), ring(VIEWS, SIDE)
    pictures = [torch.from_numpy(view(solids, camera).picture).float() / 255 for camera in seen]
    cloud = surface(solids, seen, COUNT, noise=0.01)
    places = torch.from_numpy(cloud.points) @ UPRIGHT[:3, :3].T
    start = from_points(Points(places.float(), torch.from_numpy(cloud.colours).float()))
    settings = FitSettings(iterations, SKY_RGB[solids.sky])
    return Fitting(
        start, [turned(camera) for camera in seen], [lambda p=p: p for p in pictures], settings
    ).run()


def turned(camera: Camera) -> Camera:
    """The same camera in the scene's own frame, -y upward."""
    return replace(camera, view=camera.view @ UPRIGHT.T)


def write_scene(folder: Path) -> Path:
    """Write it as a .spz; returns the file."""
    path = folder / SCENE[0]
    save_gaussians(path, sample_scene())
    return path
