"""The front door: Gaussians and a camera -> a picture, differentiable in all that the Gaussians are."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...errors import SceneError
from ..camera import Camera
from ..gaussians import Gaussians
from . import gsplat_backend, torch_backend
from .harmonics import colours

BACKENDS = ("auto", "torch", "gsplat")


@dataclass(frozen=True, eq=False)
class Meta:
    """What was drawn, without gradients. pixels [N, 2]: the centres; reach [N, 2]: pixels in x and y beyond
    which nothing of a Gaussian is seen; drawn [N], bool: whether anything of it may be in the picture;
    backend: "torch" or "gsplat". Rows that are not drawn hold anything."""

    pixels: Tensor
    reach: Tensor
    drawn: Tensor
    backend: str


@dataclass(frozen=True, eq=False)
class Rendering:
    """image [H, W, C], background included, not clamped at 1; alpha [H, W] in 0..1; depth [H, W]: the mean
    along the camera's axis of what is there, in world units, 0 where nothing is."""

    image: Tensor
    alpha: Tensor
    depth: Tensor
    meta: Meta


def rasterize(
    gaussians: Gaussians,
    camera: Camera,
    background: Tensor | None = None,
    channels: Tensor | None = None,
    sh_degree: int | None = None,
    antialias: bool = False,
    backend: str = "auto",
) -> Rendering:
    """One picture, front to back, of the size of the camera's.

    background: [C] or [H, W, C], black without it. channels: [N, C], drawn in place of the Gaussians' own
    colours (C of those is 3). sh_degree: harmonics above it are left out; all of the Gaussians' by default.
    antialias: Gaussians smaller than a pixel are drawn thinner instead of larger (Mip-Splatting). backend:
    "torch", "gsplat", or "auto": gsplat for Gaussians on CUDA where it works, else torch.

    The float type and device are the Gaussians'. Nothing is kept for the backward pass but the picture.
    Raises SceneError: a distorted camera, channels or a background of another shape, a missing backend.
    """
    if any(camera.distortion) or camera.fisheye:
        raise SceneError(
            f"camera {camera.name!r} has a distorted lens; only pinholes are drawn: undistort its photograph "
            "first"
        )
    degree = gaussians.degree if sh_degree is None else sh_degree
    if not 0 <= degree <= gaussians.degree:
        raise SceneError(
            f"sh_degree {degree}: these Gaussians have harmonics of degree 0 to {gaussians.degree}"
        )
    if channels is None:
        channels = colours(gaussians.sh, gaussians.means, camera.centre.to(gaussians.means), degree)
    elif channels.ndim != 2 or len(channels) != len(gaussians):
        raise SceneError(f"channels are {list(channels.shape)}, expected [{len(gaussians)}, C]")
    name = _chosen(backend, gaussians)
    draw = gsplat_backend.draw if name == "gsplat" else torch_backend.draw
    drawn = draw(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        channels.to(gaussians.means),
        camera,
        antialias,
    )
    image = drawn.values
    if background is not None:
        allowed = ((image.shape[-1],), tuple(image.shape))
        if tuple(background.shape) not in allowed:
            raise SceneError(
                f"the background is {list(background.shape)}, expected {list(allowed[0])} or "
                f"{list(allowed[1])}"
            )
        image = image + (1 - drawn.alpha)[..., None] * background.to(image)
    meta = Meta(drawn.pixels.detach(), drawn.reach, drawn.drawn, name)
    return Rendering(image, drawn.alpha, drawn.depth, meta)


def _chosen(backend: str, gaussians: Gaussians) -> str:
    if backend not in BACKENDS:
        raise SceneError(f"backend {backend!r}; there are {', '.join(BACKENDS)}")
    if backend == "gsplat":
        reason = gsplat_backend.why_not()
        if reason is None and not gaussians.means.is_cuda:
            reason = f"gsplat draws Gaussians on CUDA, these lie on {gaussians.means.device}"
        if reason is not None:
            raise SceneError(f"{reason}; backend='torch' draws on every device")
        return "gsplat"
    usable = backend == "auto" and gaussians.means.is_cuda and gsplat_backend.why_not() is None
    return "gsplat" if usable else "torch"
