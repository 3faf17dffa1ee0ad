"""A bundled scene of Gaussians with a request, so that a workflow runs straight after installation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from . import folders, host, scene_views, sockets
from .checks import checked
from .scene_load import about, colour

SCENES = folders.PACK / "evlm" / "bundled" / "scenes"
SHOWN = 4  # views


class ExampleScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_ExampleScene",
            display_name="EVLM Example Scene",
            category=sockets.CATEGORY,
            description="A small scene of Gaussians from the drawn world that the bundled models know, with "
            "cameras before it, and what might be asked of it.",
            inputs=[
                io.Combo.Input("which", options=list(_scenes()), tooltip="Which of the bundled scenes."),
                io.Int.Input(
                    "size",
                    default=256,
                    min=16,
                    max=4096,
                    tooltip="The side of its cameras' pictures, in pixels.",
                ),
            ],
            outputs=[
                sockets.Scene.Output("scene_out", display_name="scene", tooltip="Gaussians and cameras."),
                io.String.Output("prompt", display_name="prompt", tooltip="What is asked, in words."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, which: Any, size: Any) -> str:
        return f"{which} {size}"

    @classmethod
    @checked
    def execute(cls, which: str, size: int) -> io.NodeOutput:
        from ..evlm.scene import SplatScene
        from ..evlm.scene.files import load_gaussians
        from ..evlm.scene.motion import load_motion
        from ..evlm.scene.poses import load_cameras

        known = _scenes()
        sockets.within("size", size, 16, 4096)
        folder = known[sockets.choice("which", which, list(known))]
        said = json.loads((folder / "request.json").read_text(encoding="utf-8"))
        gaussians = load_gaussians(folder / "scene.spz").gaussians
        places = folder.parent / said.get("cameras", folder.name) / "transforms.json"
        found = load_cameras(places, gaussians).cameras
        way = folder / "motion.safetensors"
        motion = load_motion(way, len(gaussians)) if way.is_file() else None
        cameras = tuple(camera.resized(size, size) for camera in found)
        scene = SplatScene(gaussians, cameras, background=colour(said["background"]), motion=motion)
        host.tell([about(scene)])
        pictures = [each for each, _ in scene_views.drawn(scene, gaussians, cameras[:SHOWN])]
        return io.NodeOutput(scene, said["prompt"], ui=host.preview(scene_views.strip(pictures), cls))


def _scenes() -> dict[str, Path]:
    """name -> folder, of every bundled scene."""
    return {path.parent.name: path.parent for path in sorted(SCENES.glob("*/request.json"))}
