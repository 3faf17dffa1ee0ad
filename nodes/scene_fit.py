"""Photographs with cameras become a scene of Gaussians."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import host, scene_folders, scene_views, sockets, unfinished
from .checks import checked
from .scene_load import BACKGROUND, about, colour
from .scene_photographs import Seen, begin, look

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.scene import Gaussians, SplatScene
    from ..evlm.scene.fit.fitting import FitStep, Fitting

STATE = "fit.safetensors"


class FitScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_FitScene",
            display_name="EVLM Fit Scene",
            category=sockets.CATEGORY,
            description="Makes a scene of Gaussians from photographs whose cameras are known, or brings a "
            "scene nearer to pictures of it. Cancelled, it goes on when the same is queued again.",
            inputs=[
                io.String.Input(
                    "cameras",
                    default="",
                    tooltip="A file or folder of cameras in ComfyUI's input folder: COLMAP, transforms.json, "
                    "poses_bounds.npy, cameras.json. Empty: the scene's.",
                ),
                io.Int.Input(
                    "iterations",
                    default=400,
                    min=1,
                    max=1_000_000,
                    tooltip="One photograph each. Above 2,000 with the rates of 3D Gaussian Splatting, and "
                    "growth.",
                ),
                io.Int.Input(
                    "max_gaussians",
                    display_name="max gaussians",
                    default=20_000,
                    min=1,
                    max=50_000_000,
                    tooltip="Of the points at most so many are begun with.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=16,
                    max=8192,
                    tooltip="The longer side of a photograph is at most this, in pixels.",
                ),
                io.Int.Input(
                    "degree",
                    default=0,
                    min=0,
                    max=3,
                    tooltip="Of harmonics; 0: a colour is the same from every side.",
                ),
                io.String.Input("background", default="#000000", tooltip=BACKGROUND),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=True,
                    tooltip="Of the photographs' order, and of growth.",
                ),
                io.String.Input(
                    "points",
                    default="",
                    tooltip="A .ply of points in the input folder to begin with, where the "
                    "cameras bring none.",
                ),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The photographs, without distortion, one for each camera: in the order of the "
                    "names of a file's cameras, or of the scene's. Without them they are read from beside "
                    "the cameras.",
                ),
                sockets.Scene.Input(
                    "scene",
                    optional=True,
                    tooltip="Begin with its Gaussians instead of with points; only what is selected moves, "
                    "where something is.",
                ),
            ],
            outputs=[
                sockets.Scene.Output(
                    "scene_out", display_name="scene", tooltip="The fitted Gaussians and the cameras."
                ),
                io.Image.Output(
                    "preview",
                    display_name="preview",
                    tooltip="Some of the views: the photograph on the left, the scene on the right.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, cameras: Any) -> bool | str:  # of one: an error is said at each that is named
        return (scene_folders.problem(scene_folders.cameras, cameras) if cameras else None) or True

    @classmethod
    def fingerprint_inputs(cls, cameras: Any, points: Any, **rest: Any) -> str:
        said = [scene_folders.fingerprint_cameras(scene_folders.cameras(cameras))] if cameras else []
        said += [scene_folders.fingerprint(scene_folders.points(points))] if points else []
        return " ".join(said)

    @classmethod
    @checked
    def execute(
        cls,
        cameras: str,
        iterations: int,
        max_gaussians: int,
        size: int,
        degree: int,
        background: str,
        seed: int,
        points: str,
        images: Tensor | None = None,
        scene: SplatScene | None = None,
    ) -> io.NodeOutput:
        from ..evlm.errors import SceneError
        from ..evlm.scene import SplatScene
        from ..evlm.scene.fit import FitSettings, Fitting, Growth
        from ..evlm.scene.fit.rates import SHORT

        for name, value, low, high in (
            ("iterations", iterations, 1, 1_000_000),
            ("max_gaussians", max_gaussians, 1, 50_000_000),
            ("size", size, 16, 8192),
            ("degree", degree, 0, 3),
            ("seed", seed, 0, 2**31 - 1),
        ):
            sockets.within(name, value, low, high)
        if scene is not None and scene.motion is not None:
            raise SceneError(
                "scene: it moves, and pictures here know no time; `python -m evlm scene fit` fits it anew"
            )
        seen = look(cameras, images, scene, size)
        behind = colour(background) if scene is None else scene.background
        rows = None
        if scene is None:
            start = begin(points, seen, max_gaussians, degree, seed)
        else:
            start, rows = scene.gaussians, scene.selection
        grows = iterations > SHORT and scene is None
        settings = FitSettings(
            iterations,
            behind,
            growth=Growth(every=100, share=0.05, limit=4.0) if grows else None,
            seed=seed,
        )
        with scene_views.learning():
            there = scene_views.own(scene_views.on_device(start))
            views = [scene_views.own_camera(camera) for camera in seen.cameras]
            chosen = None if rows is None else rows.to(there.means.device, copy=True)
            fitted = _fitted(Fitting(there, views, seen.photographs, settings, chosen), images)
        made = SplatScene(fitted.to("cpu"), seen.cameras, seen.photographs, background=behind)
        if scene is not None:
            made = replace(scene, gaussians=made.gaussians, photographs=None)
            made = made if seen.own else made.with_cameras(seen.cameras)
        made = made.noted(*seen.notes)
        pairs, told = _compared(made, fitted, seen)
        host.tell([f"{about(made)}; {told}", *made.notes])
        return io.NodeOutput(made, pairs, ui=host.preview(pairs, cls))


def _fitted(fitting: Fitting, images: Tensor | None) -> Gaussians:
    """All iterations; what was done of the same fit before is gone on from."""
    from ..evlm.scene.fit.state import fingerprint, write_state

    watch, known = scene_views.Watch(), fingerprint(fitting)
    begun, between = 0, False

    def told(step: FitStep) -> None:
        nonlocal begun, between
        between = True
        if not begun:
            begun = step.done
            if begun > 1:
                host.tell([f"{begun - 1} of {step.total} iterations are from the run before"])
        watch.picture = step.picture[None].clamp(0, 1)
        watch("fitting", step.done, step.total)
        between = False

    def worth(folder: Path) -> bool:
        return (folder / STATE).is_file()

    with unfinished.work_folder(unfinished.key_of(known, images), worth) as folder:
        try:
            fitted = fitting.run(told, folder / STATE)
        except BaseException:
            if between and fitting.done > begun:  # within a step it is half of two states
                write_state(folder / STATE, fitting, known)
                host.tell(
                    [
                        f"{fitting.done} iterations are done, and kept: queue the same again, and it goes "
                        "on there"
                    ]
                )
            raise
        (folder / STATE).unlink(missing_ok=True)
    return fitted


def _compared(scene: SplatScene, there: Gaussians, seen: Seen) -> tuple[Tensor, str]:
    """(some views beside their photographs [n, H, 2 W, 3], the smaller ones in black, how near they are in
    words)."""
    from ..evlm.scene.fit.losses import psnr

    cameras = scene_views.alike(seen.cameras)
    some = [at * len(cameras) // 4 for at in range(4)] if len(cameras) > 4 else range(len(cameras))
    pairs, near = [], []
    for at in some:
        shown = next(scene_views.drawn(replace(scene, selection=None), there, [seen.cameras[at]]))[0]
        photograph = seen.photographs[at]().float().cpu()
        near.append(float(psnr(shown, photograph)))
        pairs.append(torch.cat([photograph, shown], 1))
    height, width = (max(each.shape[side] for each in pairs) for side in (0, 1))
    whole = torch.zeros(len(pairs), height, width, 3)
    for row, pair in zip(whole, pairs, strict=True):
        row[: pair.shape[0], : pair.shape[1]] = pair
    return whole, f"{sum(near) / len(near):.1f} dB to the photographs"
