"""Scenes: the torch rasterizer on the device beside itself on the CPU, and gsplat's kernels beside it."""

from __future__ import annotations

import time

import torch

from evlm.scene.raster import rasterize

from ..raster import camera_of, shell
from .steps import Bar, Setting, Step
from .turns import figures, in_turns

EQUAL = 1.5 / 255
"""Greatest difference of a pixel: a Gaussian at a threshold may fall on either side of it."""


def steps(setting: Setting) -> list[Step]:
    count, side = (300, 32) if setting.toy else (100_000, 512)
    equal = Bar("apart", EQUAL, True)
    return [
        Step("scenes: torch rasterizer, device and CPU", 1.0, lambda: on_both(setting), (equal,)),
        Step(
            f"scenes: gsplat and torch, {count:,} Gaussians at {side} px",
            2.0,
            lambda: kernels(setting, count, side),
            (equal, Bar("gradients apart", 1e-3, True), Bar("gsplat x", 1.0)),
            needs=("gsplat",),
            cuda=True,
        ),
    ]


def on_both(setting: Setting) -> dict[str, float]:
    """One scene on the device and on the CPU: how far apart, and how long on each."""
    count, side = (300, 32) if setting.toy else (10_000, 256)
    here = shell(count)
    there = here.map(lambda tensor: tensor.detach().to(setting.device))
    camera = camera_of(side)
    began = time.perf_counter()
    with torch.no_grad():
        one = rasterize(here, camera, backend="torch").image
        seconds = time.perf_counter() - began
        other = rasterize(there, camera, backend="torch").image
        timed = in_turns(
            {"device": lambda: rasterize(there, camera, backend="torch")}, setting.device, setting.rounds
        )
    return {
        "apart": float((one - other.cpu()).abs().max()),
        "cpu s": seconds,
        "device s": timed["device"].seconds,
    }


def kernels(setting: Setting, count: int, side: int) -> dict[str, float]:
    """Forward and backward by both backends."""
    gaussians = shell(count).map(lambda tensor: tensor.detach().to(setting.device).requires_grad_())
    camera = camera_of(side)

    def run(backend: str) -> tuple[torch.Tensor, torch.Tensor]:
        gaussians.means.grad = None
        picture = rasterize(gaussians, camera, backend=backend).image
        (picture - 0.5).square().sum().backward()
        assert gaussians.means.grad is not None
        return picture.detach(), gaussians.means.grad.clone()

    (ours, slope), (theirs, other) = run("torch"), run("gsplat")
    ways = {name: (lambda name=name: run(name)) for name in ("torch", "gsplat")}
    values = figures(in_turns(ways, setting.device, setting.rounds), "torch")
    values["apart"] = float((ours - theirs).abs().max())
    values["gradients apart"] = float((slope - other).norm() / slope.norm())
    return values
