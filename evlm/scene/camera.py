"""One camera, one convention: OpenCV's world to camera, pixel centres at + .5."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import SceneError


@dataclass(frozen=True, eq=False)
class Camera:
    """Where a picture of a scene is taken from, and through which lens.

    view: [4, 4] float64, world to camera; the camera looks along +z, x to the right, y down (OpenCV, COLMAP).
    intrinsics: [3, 3] float64 in pixels, without skew; the centre of the top left pixel is (.5, .5).
    width, height: pixels. distortion: OpenCV's k1 k2 p1 p2 (k3 ...), or of `fisheye` k1..k4; empty for a
    pinhole. fisheye: OpenCV's fisheye model. name: the photograph's, as its file says. time: 0..1 of a scene
    that moves, or None. part_of: of a picture that was cut out of another, its left and top in that one and
    the other's width and height; else None.

    Raises SceneError: numbers that are not finite, a view that is no rotation and translation, a focal length
    or a size that is not positive.
    """

    view: Tensor
    intrinsics: Tensor
    width: int
    height: int
    distortion: tuple[float, ...] = ()
    fisheye: bool = False
    name: str = ""
    time: float | None = None
    part_of: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        said = f"camera {self.name!r}" if self.name else "a camera"
        for label, tensor, shape in (("view", self.view, (4, 4)), ("intrinsics", self.intrinsics, (3, 3))):
            if tuple(tensor.shape) != shape or tensor.dtype != torch.float64:
                raise SceneError(
                    f"{said}: {label} is {list(tensor.shape)} {tensor.dtype}, expected {list(shape)} float64"
                )
            if not torch.isfinite(tensor).all():
                raise SceneError(f"{said}: {label} holds numbers that are not finite")
        if self.width < 1 or self.height < 1:
            raise SceneError(f"{said}: {self.width} x {self.height} pixels; both must be at least 1")
        if min(self.fx, self.fy) <= 0:
            raise SceneError(f"{said}: focal length {self.fx:g}, {self.fy:g}; both must be above 0")
        rotation = self.rotation
        bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
        off = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max().item()
        if off > 1e-3 or torch.linalg.det(rotation) < 0 or not torch.equal(self.view[3].cpu(), bottom):
            raise SceneError(
                f"{said}: its view is no rotation and translation (off by {off:.3g}); scale and mirror "
                "belong into the scene, not into the camera"
            )

    @property
    def fx(self) -> float:
        return float(self.intrinsics[0, 0])

    @property
    def fy(self) -> float:
        return float(self.intrinsics[1, 1])

    @property
    def cx(self) -> float:
        return float(self.intrinsics[0, 2])

    @property
    def cy(self) -> float:
        return float(self.intrinsics[1, 2])

    @property
    def rotation(self) -> Tensor:
        """[3, 3], world to camera."""
        return self.view[:3, :3]

    @property
    def centre(self) -> Tensor:
        """[3], where it stands in the world."""
        return -self.rotation.T @ self.view[:3, 3]

    @property
    def direction(self) -> Tensor:
        """[3], unit length: where it looks in the world."""
        return self.rotation[2]

    def resized(self, width: int, height: int) -> Camera:
        """The same camera whose picture has another size; the lens is scaled with it."""
        factor = torch.tensor([width / self.width, height / self.height, 1.0], dtype=torch.float64)
        intrinsics = self.intrinsics * factor[:, None]
        return replace(self, intrinsics=intrinsics, width=width, height=height, part_of=None)

    def within(self, longest: int) -> Camera:
        """The same camera with a longer side of at most `longest` pixels; its proportions to half a pixel."""
        return self if max(self.width, self.height) <= longest else self.sized(longest)

    def sized(self, longest: int) -> Camera:
        """The same camera with a longer side of `longest` pixels; its proportions to half a pixel."""
        scale = longest / max(self.width, self.height)
        return self.resized(max(1, round(self.width * scale)), max(1, round(self.height * scale)))

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """What lies in that rectangle of its picture, as a picture of its own."""
        intrinsics = self.intrinsics.clone()
        intrinsics[0, 2] -= left
        intrinsics[1, 2] -= top
        x, y, whole_width, whole_height = self.part_of or (0, 0, self.width, self.height)
        part = (x + left, y + top, whole_width, whole_height)
        return replace(self, intrinsics=intrinsics, width=width, height=height, part_of=part)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """points [N, 3] of the world -> (pixels [N, 2], depth along z [N]); without distortion."""
        view, intrinsics = self.view.to(points.device), self.intrinsics.to(points.device)
        seen = points.double() @ view[:3, :3].T + view[:3, 3]
        depth = seen[:, 2]
        pixels = seen[:, :2] / depth[:, None] * intrinsics.diagonal()[:2]
        return pixels + intrinsics[:2, 2], depth

    def unproject(self, pixels: Tensor, depth: Tensor) -> Tensor:
        """[N, 3] float64 of the world, of pixels [N, 2] at depths [N] along z; without distortion."""
        view, intrinsics = self.view.to(pixels.device), self.intrinsics.to(pixels.device)
        flat = (pixels.double() - intrinsics[:2, 2]) / intrinsics.diagonal()[:2]
        seen = torch.cat([flat * depth.double()[:, None], depth.double()[:, None]], 1)
        return (seen - view[:3, 3]) @ view[:3, :3]


def pinhole(focal: float, width: int, height: int) -> Tensor:
    """[3, 3] float64: intrinsics with square pixels whose axis goes through the picture's middle."""
    return torch.tensor(
        [[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]], dtype=torch.float64
    )


def looking_at(centre: Tensor, target: Tensor, up: Tensor) -> Tensor:
    """[4, 4] float64: the view of a camera at `centre` that looks at `target`, with `up` upward in its
    picture. All [3]. Raises SceneError: target at the centre, or up along the line of sight."""
    centre, target, up = centre.double(), target.double(), up.double()
    forward = target - centre
    right = torch.linalg.cross(forward, up)
    if forward.norm() < 1e-12 or right.norm() < 1e-9 * forward.norm() * up.norm().clamp(min=1e-300):
        raise SceneError(
            f"no camera at {centre.tolist()} looks at {target.tolist()} with {up.tolist()} upward: "
            "the line of sight must have a length and not lie along up"
        )
    forward, right = forward / forward.norm(), right / right.norm()
    rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
    view = torch.eye(4, dtype=torch.float64)
    view[:3, :3], view[:3, 3] = rotation, -rotation @ centre
    return view
