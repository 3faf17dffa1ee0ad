"""Which of many cameras an edit looks from, and what they see."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import SceneError
from ..camera import Camera
from ..gaussians import Gaussians

SHARE = 0.005  # of a selection that a view must have in its picture
_FEW = 50_000  # points are enough to say how much is in a picture


def farthest(cameras: Sequence[Camera], count: int) -> list[int]:
    """Numbers of `count` cameras (or of all) that differ most, in their own order: each next one is farthest
    from those before it, by place (in units of the cameras' spread) and direction. The first is that which is
    nearest to the middle of all. Raises SceneError: none, or a count below 1."""
    if not cameras or count < 1:
        raise SceneError(f"{count} of {len(cameras)} cameras: expected at least one of one")
    if count >= len(cameras):
        return list(range(len(cameras)))
    centres = torch.stack([camera.centre for camera in cameras])
    spread = (centres - centres.mean(0)).norm(dim=1).mean().clamp(min=1e-12)
    places = torch.cat([centres / spread, torch.stack([camera.direction for camera in cameras])], 1)
    chosen = [int((places - places.mean(0)).norm(dim=1).argmin())]
    away = (places - places[chosen[0]]).norm(dim=1)
    while len(chosen) < count:
        away[chosen[-1]] = -1.0
        chosen.append(int(away.argmax()))
        away = torch.minimum(away, (places - places[chosen[-1]]).norm(dim=1))
    return sorted(chosen)


def share_seen(camera: Camera, points: Tensor) -> float:
    """What part of points [N, 3] lies before a camera and in its picture, whatever stands before them; 0
    of no points."""
    if not len(points):
        return 0.0
    pixels, depth = camera.project(points)
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    inside = (pixels >= 0).all(1) & (pixels < size).all(1) & (depth > 1e-9)
    return float(inside.double().mean())


def views_that_see(cameras: Sequence[Camera], points: Tensor, least: float = SHARE) -> list[int]:
    """Numbers of the cameras that have at least that share of points [N, 3] in their pictures."""
    some = thinned(points)
    return [number for number, camera in enumerate(cameras) if share_seen(camera, some) >= least]


def must_see(cameras: Sequence[Camera], gaussians: Gaussians, said: str) -> None:
    """Raises SceneError where no camera has any of the Gaussians in its picture, with where they stand."""
    means = thinned(gaussians.means.detach().cpu()[gaussians.finite().cpu()])
    if not len(means) or any(share_seen(camera, means) > 0 for camera in cameras):
        return
    centres = torch.stack([camera.centre for camera in cameras])
    raise SceneError(
        f"{said}: none of the {len(cameras)} cameras sees the scene. They stand around {_point(centres)} and "
        f"look to {_point(torch.stack([camera.direction for camera in cameras]))}; the scene lies around "
        f"{_point(means)}: are they another scene's, or in other units or axes? orbit:24 needs no file"
    )


def thinned(points: Tensor) -> Tensor:
    """At most some ten thousand of points [N, 3], evenly."""
    return points[:: max(1, len(points) // _FEW)].double()


def _point(points: Tensor) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in points.double().median(0).values.tolist()) + ")"
