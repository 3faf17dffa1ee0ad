"""A scene of Gaussians as pictures and as a clip."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from . import clips, host, scene_views, sockets
from .checks import checked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from ..evlm.scene import SplatScene

FEWER = "Draw fewer views (cameras: orbit:24), or smaller ones (size)"


class RenderScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_RenderScene",
            display_name="EVLM Render Scene",
            category=sockets.CATEGORY,
            description="Draws a scene as its cameras see it, or all around: pictures, a clip, and where the "
            "selection is in them.",
            inputs=[
                sockets.Scene.Input("scene", tooltip="What is drawn."),
                io.String.Input(
                    "cameras",
                    default="",
                    tooltip="orbit:24, orbit:24:-10,20:z or cone:12; empty: the scene's own.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=16,
                    max=8192,
                    tooltip="The longer side of a picture is at most this, in pixels.",
                ),
                io.Boolean.Input(
                    "show_selection",
                    display_name="show selection",
                    default=False,
                    tooltip="What is selected is drawn in blue.",
                ),
                io.Boolean.Input(
                    "antialias",
                    default=False,
                    tooltip="Draws what is smaller than a pixel thinner instead of larger.",
                ),
                io.Float.Input(
                    "fps", default=12.0, min=1.0, max=120.0, step=1.0, tooltip="Views a second in the clip."
                ),
                io.String.Input(
                    "times",
                    default="",
                    tooltip="Of a scene that moves: all (also when empty), how many, or 0.0,0.5,1.0. Its "
                    "first camera sees them all; an orbit goes around meanwhile.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="A picture for each camera."),
                io.Mask.Output(
                    "mask",
                    display_name="mask",
                    tooltip="For each how much of what is seen is selected; empty without a selection.",
                ),
                io.Video.Output("video", display_name="video", tooltip="The pictures as a clip."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        scene: SplatScene,
        cameras: str,
        size: int,
        show_selection: bool,
        antialias: bool,
        fps: float,
        times: str = "",
    ) -> io.NodeOutput:
        from ..evlm.files.clip_writer import write_clip

        sockets.within("size", size, 16, 8192)
        sockets.within("fps", fps, 1, 120)
        views = scene_views.cameras_of(scene, cameras, size)
        views = scene_views.in_time(scene, views, not cameras.strip(), times)
        height, width = views[0].height, views[0].width
        clips.check_size("scene", len(views), height, width, FEWER)
        gaussians = scene_views.on_device(scene.gaussians)
        images = torch.empty(len(views), height, width, 3)
        masks = torch.empty(len(views), height, width)
        watch = clips.Watch()  # no pictures on the way: a page goes on showing the last one, for the clip

        def pictures() -> Iterator[Tensor]:
            for at, (picture, mask) in enumerate(scene_views.drawn(scene, gaussians, views, antialias)):
                images[at] = scene_views.tinted(picture, mask) if show_selection else picture
                masks[at] = mask
                watch("drawing", at + 1, len(views))
                yield images[at : at + 1]

        path = clips.new_file("scene")
        lasting = [1 / Fraction(fps).limit_denominator(1001)] * len(views)
        notes = write_clip(path, pictures(), "h264", lasting)
        host.tell([f"{len(views)} views of {len(scene):,} Gaussians, {width} x {height}", *notes])
        small = max(height, width) < clips.SHOWN  # too small to be looked at
        ui = clips.play(iter(images.split(clips.AT_ONCE)), lasting, "shown") if small else clips.playing(path)
        return io.NodeOutput(images, masks, clips.video_of(path), ui=ui)
