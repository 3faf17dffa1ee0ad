"""Cameras for a scene that came without: around its middle, or, where one side of it was seen, before it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ...errors import SceneError
from ..camera import Camera, looking_at, pinhole
from ..gaussians import Gaussians

FOV = 50.0  # degrees, over the picture's side
ELEVATIONS = (0.0, 25.0)  # degrees over the horizon; views take them in turn
CONE = 20.0  # degrees from the axis; a splat of one photograph holds together to about 25
OPAQUE = 0.5
EXTENT = 0.9  # of the opaque Gaussians lie within it
MARGIN = 1.15
MOST = 1000
AGREED = 0.3  # length of the mean of their ups, below which cameras know no common one
UPS = {
    f"{sign}{axis}": tuple(float(value) * (axis == each) for each in "xyz")
    for axis in "xyz"
    for sign, value in (("", 1), ("-", -1))
}
_FORM = (
    "orbit:VIEWS[:ELEVATIONS[:UP]] or cone:VIEWS[:DEGREES], as orbit:24, orbit:24:-10,20,45, orbit:24:20:z, "
    "cone:12:15"
)


def middle_of(gaussians: Gaussians) -> tuple[Tensor, float]:
    """([3] float64 median of the opaque Gaussians, of all where none is; radius around it that holds nine
    tenths of them; three standard deviations of the largest, where these lie in one point). Raises
    SceneError: no Gaussians."""
    finite = gaussians.finite().cpu()
    means, scales = (each.detach().cpu().double()[finite] for each in (gaussians.means, gaussians.scales))
    opaque = gaussians.opacities.detach().cpu()[finite] > OPAQUE
    means, scales = (means[opaque], scales[opaque]) if opaque.any() else (means, scales)
    if not len(means):
        raise SceneError("the scene has no Gaussians to put cameras around")
    centre = means.median(0).values
    away = (means - centre).norm(dim=1).sort().values
    radius = away[min(len(away) - 1, int(EXTENT * len(away)))].item()
    if radius <= 0:  # as of one Gaussian alone: to where it fades
        radius = 3 * scales.max().item()
    return centre, radius


def orbit(
    gaussians: Gaussians,
    views: int,
    elevations: Sequence[float] = ELEVATIONS,
    up: str | Sequence[float] = "-y",
    size: int = 512,
) -> tuple[Camera, ...]:
    """Cameras all around the scene's middle, in the order of their angle.

    elevations: degrees over the horizon, taken in turn. up: which axis of the scene points up, "-y" in scenes
    of photographs and of ComfyUI's viewers; or a direction of three numbers. size: pixels a side. Raises
    SceneError.
    """
    _checked(views, 2)
    above = _upward(up)
    for each in elevations:
        if not -89 <= each <= 89:
            raise SceneError(f"elevation {each:g}: expected degrees from -89 to 89")
    if not elevations:
        raise SceneError("no elevations; expected one or more, in degrees")
    centre, radius = middle_of(gaussians)
    first = torch.tensor([1.0, 0, 0] if abs(above[2]) > 0.9 else [0, 0, -1.0]).double()  # towards the front
    first = first - above * (above @ first)
    first = first / first.norm()
    side = torch.linalg.cross(above, first)
    away = radius * MARGIN / math.sin(math.radians(FOV) / 2)
    cameras = []
    for number in range(views):
        angle, high = 2 * math.pi * number / views, math.radians(elevations[number % len(elevations)])
        around = first * math.cos(angle) + side * math.sin(angle)
        eye = centre + away * (around * math.cos(high) + above * math.sin(high))
        cameras.append(_camera(eye, centre, above, size, f"orbit_{number:03d}"))
    return tuple(cameras)


def common_up(cameras: Sequence[Camera]) -> tuple[float, float, float] | None:
    """Which way is up in the pictures of most cameras, as a direction of length 1; None where they do not
    agree, or there are none."""
    if not cameras:
        return None
    mean = torch.stack([-camera.rotation[1] for camera in cameras]).mean(0)
    if float(mean.norm()) < AGREED:
        return None
    x, y, z = (mean / mean.norm()).tolist()
    return x, y, z


def _upward(up: str | Sequence[float]) -> Tensor:
    """[3] float64 of length 1."""
    if isinstance(up, str):
        if up not in UPS:
            raise SceneError(f"up is {up!r}, expected one of {', '.join(UPS)}")
        up = UPS[up]
    above = torch.tensor(list(up), dtype=torch.float64)
    if tuple(above.shape) != (3,) or not bool(torch.isfinite(above).all()) or not float(above.norm()) > 0:
        raise SceneError(f"up is {list(up)}, expected three numbers that are not all 0")
    return above / above.norm()


def cone(gaussians: Gaussians, views: int, degrees: float = CONE, size: int = 512) -> tuple[Camera, ...]:
    """Cameras before a scene that was made from one photograph: the photograph's own place, which is the
    scene's origin, looking along +z, then others around it, at most `degrees` off its axis.

    Raises SceneError: a scene that does not lie before its origin.
    """
    _checked(views, 1)
    if not 0 < degrees <= 60:
        raise SceneError(f"{degrees:g} degrees: expected more than 0, at most 60, off the axis of the cone")
    centre, radius = middle_of(gaussians)
    if not one_sided(gaussians):
        raise SceneError(
            f"the scene lies around {[round(x, 3) for x in centre.tolist()]}, not before its origin along +z "
            "as one of a single photograph does: take orbit:24"
        )
    far = centre.norm().item()
    axis = centre / far
    above = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    right = torch.linalg.cross(axis, above)
    right = right / right.norm()
    upward = torch.linalg.cross(right, axis)
    focal = size / 2 / math.tan(math.radians(FOV) / 2)
    wide = 2 * math.atan(radius / far)
    if wide > math.radians(FOV):  # nearer than an orbit would stand: a wider lens, not another place
        focal = size / 2 / math.tan(min(wide, math.radians(110)) / 2)
    cameras = [_camera(torch.zeros(3).double(), centre, above, size, "cone_000", focal)]
    for number in range(1, views):
        angle = 2.399963229728653 * number  # the golden angle: even over the disc at any count
        off = math.radians(degrees) * math.sqrt(number / max(1, views - 1))
        tilt = right * math.cos(angle) + upward * math.sin(angle)
        eye = centre + far * (-axis * math.cos(off) + tilt * math.sin(off))
        cameras.append(_camera(eye, centre, above, size, f"cone_{number:03d}", focal))
    return tuple(cameras)


def one_sided(gaussians: Gaussians) -> bool:
    """Whether a scene lies as one made from a single photograph: all but a few of its Gaussians before the
    origin, within the cone that a lens of 120 degrees sees."""
    means = gaussians.means.detach().cpu().double()[gaussians.finite().cpu()]
    if not len(means):
        return False
    seen = means[:, 2] > means.norm(dim=1) * 0.5
    return bool(seen.double().mean() > 0.99)


def from_spec(spec: str, gaussians: Gaussians | None, size: int = 512) -> tuple[Camera, ...]:
    """Cameras by words: `orbit:24`, `orbit:24:-10,20,45:z`, `cone:12:15`. Raises SceneError."""
    kind, *parts = [part.strip() for part in spec.split(":")]
    most = {"orbit": 3, "cone": 2}.get(kind, 0)
    if not 1 <= len(parts) <= most or not parts[0].isdecimal() or len(parts[0]) > 6:
        raise SceneError(f"cameras {spec!r:.80}: expected {_FORM}")
    if gaussians is None:
        raise SceneError(f"cameras {spec!r:.80} stand around a scene, and none is given")
    views = int(parts[0])
    if kind == "cone":
        return cone(gaussians, views, _numbers(parts[1], spec)[0] if len(parts) > 1 else CONE, size)
    elevations = _numbers(parts[1], spec) if len(parts) > 1 else ELEVATIONS
    return orbit(gaussians, views, elevations, parts[2] if len(parts) > 2 else "-y", size)


def _numbers(part: str, spec: str) -> tuple[float, ...]:
    try:
        return tuple(float(each) for each in part.split(","))
    except ValueError as error:
        raise SceneError(f"cameras {spec!r:.80}: {part!r:.40} are no degrees; expected {_FORM}") from error


def _checked(views: int, least: int) -> None:
    if not least <= views <= MOST:
        raise SceneError(f"{views} views: expected {least} to {MOST}")


def _camera(
    eye: Tensor, target: Tensor, up: Tensor, size: int, name: str, focal: float | None = None
) -> Camera:
    focal = size / 2 / math.tan(math.radians(FOV) / 2) if focal is None else focal
    return Camera(looking_at(eye, target, up), pinhole(focal, size, size), size, size, name=name)
