"""Lenses that bend: OpenCV's models, and pictures as a pinhole would have taken them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import SceneError
from ..camera import Camera

_MOST_ZOOM = 8.0
_STEPS = 40


def distort(camera: Camera, rays: Tensor) -> Tensor:
    """rays: [..., 2] as x / z, y / z of a pinhole -> the same as the camera's lens bends them.

    OpenCV's k1 k2 p1 p2 (k3 (k4 k5 k6)), or its fisheye's k1 .. k4; missing ones are 0.
    """
    x, y = rays.unbind(-1)
    square = x * x + y * y
    if camera.fisheye:
        k1, k2, k3, k4 = (*camera.distortion, 0.0, 0.0, 0.0, 0.0)[:4]
        radius = square.sqrt()
        angle = radius.atan()
        a2 = angle * angle
        bent = angle * (1 + a2 * (k1 + a2 * (k2 + a2 * (k3 + a2 * k4))))
        scale = torch.where(radius > 1e-9, bent / radius.clamp(min=1e-9), torch.ones_like(radius))
        return rays * scale[..., None]
    k1, k2, p1, p2, k3, k4, k5, k6 = (*camera.distortion, *[0.0] * 8)[:8]
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    radial = radial / (1 + square * (k4 + square * (k5 + square * k6)))
    cross = 2 * x * y
    return torch.stack(
        [
            x * radial + p1 * cross + p2 * (square + 2 * x * x),
            y * radial + p1 * (square + 2 * y * y) + p2 * cross,
        ],
        -1,
    )


def undistorted(camera: Camera) -> Camera:
    """The pinhole at the same place with the same picture size and axis, as wide as the bent picture fills.

    A camera without distortion is returned as it is. Raises SceneError: a distortion that folds the picture.
    """
    if not camera.fisheye and not any(camera.distortion):
        return replace(camera, distortion=()) if camera.distortion else camera
    numbers = (camera.fx, camera.fy, camera.cx, camera.cy)
    zoom = _zoom(camera.width, camera.height, numbers, camera.distortion, camera.fisheye)
    if zoom is None:
        raise SceneError(
            f"camera {camera.name!r}: its distortion {camera.distortion} folds the picture; undistort the "
            "photographs with the program that made the cameras"
        )
    return replace(_zoomed(camera, zoom), distortion=(), fisheye=False)


def undistort(picture: Tensor, source: Camera, target: Camera) -> Tensor:
    """picture: [H, W, C] of `source`'s size -> [h, w, C], as `target`, its pinhole, sees it."""
    across = (torch.arange(target.width, dtype=torch.float64) + 0.5 - target.cx) / target.fx
    down = (torch.arange(target.height, dtype=torch.float64) + 0.5 - target.cy) / target.fy
    y, x = torch.meshgrid(down, across, indexing="ij")
    bent = _pixels(source, torch.stack([x, y], -1))
    size = torch.tensor([source.width, source.height], dtype=torch.float64)
    grid = (bent / size * 2 - 1).to(picture.dtype)
    planes = picture.permute(2, 0, 1)[None]
    taken = functional.grid_sample(
        planes, grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )
    return taken[0].permute(1, 2, 0)


@lru_cache(maxsize=256)
def _zoom(
    width: int, height: int, numbers: tuple[float, ...], distortion: tuple[float, ...], fisheye: bool
) -> float | None:
    """The least zoom at which a pinhole sees only what is in the bent picture; None where none does. Found
    once for all photographs of a lens."""
    fx, fy, cx, cy = numbers
    intrinsics = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(torch.eye(4, dtype=torch.float64), intrinsics, width, height, distortion, fisheye)
    low, high = 1.0, _MOST_ZOOM
    if not _fills(camera, high):
        return None
    if _fills(camera, low):
        return low
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if _fills(camera, middle) else (middle, high)
    return high


def _pixels(camera: Camera, rays: Tensor) -> Tensor:
    focal = torch.tensor([camera.fx, camera.fy], dtype=torch.float64)
    return distort(camera, rays) * focal + torch.tensor([camera.cx, camera.cy], dtype=torch.float64)


def _zoomed(camera: Camera, zoom: float) -> Camera:
    factor = torch.tensor([[zoom, 1.0, 1.0], [1.0, zoom, 1.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    return replace(camera, intrinsics=camera.intrinsics * factor)


def _fills(camera: Camera, zoom: float) -> bool:
    """Whether a pinhole with that zoom sees only what is in the bent picture, without a fold."""
    pinhole = _zoomed(camera, zoom)
    along = torch.linspace(0, 1, 33, dtype=torch.float64)
    zero, one = torch.zeros_like(along), torch.ones_like(along)
    edge = torch.cat(
        [torch.stack(each, -1) for each in ((along, zero), (along, one), (zero, along), (one, along))]
    )
    size = torch.tensor([camera.width, camera.height], dtype=torch.float64)
    middle = torch.tensor([pinhole.cx, pinhole.cy], dtype=torch.float64)
    focal = torch.tensor([pinhole.fx, pinhole.fy], dtype=torch.float64)
    rim = (edge * size - middle) / focal
    parts = rim[:, None] * torch.linspace(0.05, 1, 20, dtype=torch.float64)[:, None]
    bent = _pixels(camera, parts)
    inside = ((bent >= -1e-6) & (bent <= size + 1e-6)).all()
    away = ((bent - middle) / focal).norm(dim=-1)
    return bool(inside and torch.isfinite(bent).all() and (away.diff(dim=1) >= 0).all())
