"""Pictures of the moving world for tests: cameras that know their time, and what they see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from evlm.scene import Camera
from evlm.scene.points import Points
from trainer.world.moving import MovingScene, Way
from trainer.world.raytrace import surface, view
from trainer.world.solid import Solid, SolidScene
from trainer.world.solid_cameras import ring

BALL = Solid("ball", "red", "striped", "large", -1.2, -0.6)
BOX = Solid("box", "blue", "plain", "large", 1.0, 0.8)
ROLLING = MovingScene(SolidScene((BALL, BOX)), (Way(dx=0.9, dy=0.4), Way()))


def pictures(
    moving: MovingScene, views: int, times: int, size: int, held_out: bool = False
) -> tuple[list[Camera], list[Callable[[], Tensor]], list[Tensor]]:
    """(cameras, view by view; their pictures; coverage [solids, H, W] of each)."""
    cameras, shown, covers = [], [], []
    for camera in ring(views, size, held_out):
        for number in range(times):
            time = number / max(1, times - 1)
            seen = view(moving.at(time), camera)
            cameras.append(replace(camera, time=time))
            picture = torch.from_numpy(seen.picture).float() / 255
            shown.append(lambda picture=picture: picture)
            covers.append(torch.from_numpy(seen.coverage))
    return cameras, shown, covers


def points(moving: MovingScene, count: int, size: int = 48) -> Points:
    """Of time 0."""
    found = surface(moving.scene, ring(8, size), count, noise=0.01)
    return Points(torch.from_numpy(found.points).float(), torch.from_numpy(found.colours).float())
