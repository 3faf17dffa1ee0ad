"""gsplat (Apache-2.0) as the rasterizer, where its CUDA extension is there and answers.

Its kernels were **never run by us on a card**: what is tested is the probe's refusals and the arguments that
it is given, against a stand-in. The probe compares one Gaussian with the torch backend before it is believed.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ...errors import one_line
from ..camera import Camera, pinhole
from .drawn import Drawn
from .project import NEAR, OPACITY_MAX
from .torch_backend import draw as draw_by_torch


def draw(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    values: Tensor,
    camera: Camera,
    antialias: bool,
) -> Drawn:
    """As torch_backend.draw; float32 inside, and what comes back has the means' float type."""
    if camera.part_of is not None:
        return _part(means, quats, scales, opacities, values, camera, antialias)
    from gsplat import rasterization

    def single(tensor: Tensor) -> Tensor:
        return tensor.to(means.device, torch.float32)

    pictures, alphas, meta = rasterization(
        means=single(means),
        quats=single(quats),
        scales=single(scales),
        # Up to 1.5.3 gsplat lets alpha grow to .999, later versions to .99; capped opacities make both agree.
        opacities=single(opacities.clamp(max=OPACITY_MAX)),
        colors=single(values),
        viewmats=single(camera.view)[None],
        Ks=single(camera.intrinsics)[None],
        width=camera.width,
        height=camera.height,
        near_plane=NEAR,
        packed=False,
        render_mode="RGB+ED",
        rasterize_mode="antialiased" if antialias else "classic",
    )
    reach = meta["radii"][0]
    reach = (reach if reach.ndim == 2 else reach[:, None].expand(-1, 2)).to(means.dtype)
    picture = pictures[0].to(means.dtype)
    return Drawn(
        values=picture[..., :-1],
        alpha=alphas[0, ..., 0].to(means.dtype),
        depth=picture[..., -1],
        pixels=meta["means2d"][0],
        reach=reach,
        drawn=(reach > 0).all(-1),
    )


def _part(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    values: Tensor,
    camera: Camera,
    antialias: bool,
) -> Drawn:
    """gsplat bounds what lies aside by the picture that it draws, the torch backend by the whole one: that is
    drawn, and cut. What reaches out of it is left to torch."""
    left, top, width, height = camera.part_of or (0, 0, camera.width, camera.height)
    given = (means, quats, scales, opacities, values)
    right, bottom = left + camera.width, top + camera.height
    if left < 0 or top < 0 or right > width or bottom > height:
        return draw_by_torch(*given, camera, antialias)
    whole = replace(camera.cropped(-left, -top, width, height), part_of=None)
    drawn = draw(*given, whole, antialias)
    return Drawn(
        values=drawn.values[top:bottom, left:right],
        alpha=drawn.alpha[top:bottom, left:right],
        depth=drawn.depth[top:bottom, left:right],
        pixels=drawn.pixels - drawn.pixels.new_tensor([left, top]),
        reach=drawn.reach,
        drawn=drawn.drawn,
    )


@lru_cache(maxsize=1)
def why_not() -> str | None:
    """Why gsplat cannot draw here, in words; None where it can. Asked once a process."""
    try:
        import gsplat  # noqa: F401
    except ImportError:
        return "gsplat is not installed"
    if not torch.cuda.is_available():
        return "gsplat draws on CUDA alone, and torch sees no CUDA device"
    try:
        off = _disagreement("cuda")
    except (
        Exception
    ) as error:  # a missing compiler, a wheel for another torch: whatever it is, it is the reason
        return f"gsplat's CUDA extension does not answer: {one_line(str(error)) or type(error).__name__}"
    return None if off <= 1e-3 else f"gsplat draws one Gaussian {off:.3g} off what this project draws"


def _disagreement(device: str) -> float:
    """The largest difference in one Gaussian's picture of 16 x 16 pixels, colour, alpha or depth."""
    view = torch.eye(4, dtype=torch.float64)
    camera = Camera(view=view, intrinsics=pinhole(16.0, 16, 16), width=16, height=16)
    given: dict[str, Any] = {
        "means": torch.tensor([[0.1, -0.2, 2.0]]),
        "quats": torch.tensor([[0.9, 0.1, -0.3, 0.2]]),
        "scales": torch.tensor([[0.3, 0.1, 0.2]]),
        "opacities": torch.tensor([0.8]),
        "values": torch.tensor([[0.2, 0.5, 0.9]]),
    }
    ours = draw_by_torch(**given, camera=camera, antialias=False)
    there = {name: tensor.to(device) for name, tensor in given.items()}
    theirs = draw(**there, camera=camera, antialias=False)
    off = [
        (ours.values - theirs.values.cpu()).abs().max(),
        (ours.alpha - theirs.alpha.cpu()).abs().max(),
        (ours.depth * ours.alpha - (theirs.depth * theirs.alpha).cpu()).abs().max(),
    ]
    return float(torch.stack(off).max().nan_to_num(float("inf")))
