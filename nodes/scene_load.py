"""Scenes of Gaussians into the chain and out of it: files, and core's SPLAT."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from . import folders, host, scene_folders, sockets
from .checks import checked
from .splats import Splat, from_splat, to_splat

if TYPE_CHECKING:
    from ..evlm.scene import SplatScene

ORBIT = "orbit:24"
FORMATS = ["ply", "compressed.ply", "splat", "spz"]
BLACK = "#000000"
COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
BACKGROUND = "What is behind everything, a sky: #rrggbb."


class LoadScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_LoadScene",
            display_name="EVLM Load Scene",
            category=sockets.CATEGORY,
            description="A 3D scene of Gaussians with the cameras that look at it.",
            inputs=[
                io.Combo.Input(
                    "scene",
                    options=scene_folders.scenes(),
                    tooltip="A .ply (plain or compressed), .splat, .spz or .ksplat of ComfyUI's input "
                    "folder; of a scene that moves the canonical.ply in its folder.",
                ),
                io.String.Input(
                    "cameras",
                    default=ORBIT,
                    tooltip="Where it is looked at from: orbit:24 (views), orbit:24:-10,20:z (heights in "
                    "degrees, the axis upward), cone:12, or a file or folder of cameras in the input folder; "
                    "own: those of a scene that moves.",
                ),
                io.Int.Input(
                    "size",
                    default=512,
                    min=16,
                    max=8192,
                    tooltip="The longer side of the cameras' pictures is at most this, in pixels.",
                ),
                io.String.Input("background", default=BLACK, tooltip=BACKGROUND),
                io.Boolean.Input(
                    "photographs",
                    default=False,
                    tooltip="Edits begin from the photographs beside the file of cameras instead of from the "
                    "scene's own pictures.",
                ),
                sockets.Splat.Input(
                    "splat", optional=True, tooltip="Gaussians of core's nodes, in place of a file's."
                ),
            ],
            outputs=[
                sockets.Scene.Output("scene_out", display_name="scene", tooltip="Gaussians and cameras.")
            ],
        )

    @classmethod
    def validate_inputs(cls, scene: Any) -> bool | str:  # of one: an error is said at each that is named
        return scene_folders.problem(scene_folders.find, scene) or True

    @classmethod
    def fingerprint_inputs(cls, scene: Any, cameras: Any, **rest: Any) -> str:
        # What is linked is known by the node that makes it.
        file = "" if scene is None else scene_folders.whole(scene_folders.find(scene))
        seen = "" if cameras is None else scene_folders.cameras(cameras)
        return f"{scene_folders.fingerprint(file)} {scene_folders.fingerprint_cameras(seen)}"

    @classmethod
    @checked
    def execute(
        cls,
        scene: str,
        cameras: str,
        size: int,
        background: str,
        photographs: bool,
        splat: Splat | None = None,
    ) -> io.NodeOutput:
        from ..evlm.errors import SceneError
        from ..evlm.scene import SplatScene
        from ..evlm.scene.moving import load_scene
        from ..evlm.scene.poses import LoadedCameras, load_cameras

        sockets.within("size", size, 16, 8192)
        behind = colour(background)
        source, motion, own = None, None, ()
        if splat is None:
            loaded = load_scene(scene_folders.find(scene))
            gaussians, source, notes = loaded.gaussians, loaded.source, loaded.notes
            motion, own = loaded.motion, loaded.cameras
            if motion is not None and background.strip() == BLACK:  # as nobody has chosen another
                behind = loaded.background
        else:
            gaussians, notes = from_splat(splat)
        if cameras.strip() == scene_folders.OWN:
            if not own:
                raise SceneError(f"cameras {cameras!r}: the scene has none of its own; take {ORBIT}")
            found = LoadedCameras(own).within(size)
        else:
            found = load_cameras(scene_folders.cameras(cameras), gaussians, size=size).within(size)
        scene_folders.check_photographs(found.photographs)
        if photographs and found.photographs is None:
            raise SceneError(f"photographs: none lie beside {cameras!r:.80}; turn `photographs` off")
        made = SplatScene(
            gaussians,
            found.cameras,
            found.photographs if photographs else None,
            background=behind,
            source=source,
            motion=motion,
        ).noted(*notes, *found.notes)
        host.tell([about(made), *made.notes])
        return io.NodeOutput(made)


class SaveScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_SaveScene",
            display_name="EVLM Save Scene",
            category=sockets.CATEGORY,
            description="Writes a scene into ComfyUI's output folder, and a page beside it that shows it in "
            "any browser, with no network.",
            inputs=[
                sockets.Scene.Input("scene", tooltip="What is written."),
                io.String.Input(
                    "filename_prefix",
                    default="evlm/scene",
                    tooltip="A name, or folder/name; a number follows.",
                ),
                io.Combo.Input(
                    "format",
                    options=FORMATS,
                    tooltip="ply keeps every bit; compressed.ply and spz are small; splat has no harmonics. "
                    "A scene that moves is a folder, whatever is chosen here.",
                ),
                io.Boolean.Input(
                    "page", default=True, tooltip="Write the page, too: one .html that needs nothing else."
                ),
            ],
            outputs=[io.String.Output("file", display_name="file", tooltip="Where it was written.")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: Any) -> bool | str:
        return scene_folders.problem(scene_folders.new_names, filename_prefix, ()) or True

    @classmethod
    @checked
    def execute(cls, scene: SplatScene, filename_prefix: str, format: str, page: bool) -> io.NodeOutput:
        sockets.choice("format", format, FORMATS)
        if scene.motion is not None:
            return _saved_moving(scene, filename_prefix, page)
        file, beside = scene_folders.new_names(filename_prefix, [f".{format}", ".html"])
        notes = [*save(scene, file), *(save_page(scene, file, beside) if page else ())]
        size = file.stat().st_size
        text = "\n".join(
            [f"{folders.shortened(str(file))}: {len(scene):,} Gaussians, {size:,} bytes", *notes]
        )
        host.tell([text])
        return io.NodeOutput(str(file), ui={"text": [text]})


class SceneToSplat(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_SceneToSplat",
            display_name="EVLM Scene to Splat",
            category=sockets.CATEGORY,
            description="The Gaussians of a scene for core's nodes: previews, transforms, merges. They hold "
            "scales and opacities in another form, which rounds; EVLM Save Scene keeps the bits.",
            inputs=[
                sockets.Scene.Input("scene", tooltip="Whose Gaussians; cameras and selection stay here.")
            ],
            outputs=[
                sockets.Splat.Output(
                    "splat", display_name="splat", tooltip="Of a batch of one; rounded in the last digits."
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, scene: SplatScene) -> io.NodeOutput:
        return io.NodeOutput(to_splat(scene.gaussians))


def _saved_moving(scene: SplatScene, prefix: str, page: bool) -> io.NodeOutput:
    """The folder of a scene that moves, and a page beside it that plays."""
    from ..evlm.scene.moving import save_folder
    from ..evlm.scene.moving.folder import CANONICAL

    place, beside = scene_folders.new_names(prefix, [".scene", ".html"])
    place.parent.mkdir(parents=True, exist_ok=True)
    notes = [*save_folder(place, scene), *(save_page(scene, place, beside) if page else ())]
    size = sum(each.stat().st_size for each in place.iterdir())
    said = f"{folders.shortened(str(place))}: {len(scene):,} Gaussians that move, {size:,} bytes"
    text = "\n".join([said, *notes])
    host.tell([text])
    return io.NodeOutput(str(place / CANONICAL), ui={"text": [text]})


def colour(text: str) -> tuple[float, float, float]:
    """#rrggbb -> RGB in 0..1. Raises RequestError."""
    from ..evlm.errors import RequestError

    if not COLOUR.fullmatch(text.strip()):
        raise RequestError(f"background {text!r:.40}: expected #rrggbb, as #000000 or #9ebde0")
    red, green, blue = (int(text.strip()[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return red, green, blue


def about(scene: SplatScene) -> str:
    """What there is, in a line."""
    chosen = "" if scene.selection is None else f", {int(scene.selection.sum()):,} selected"
    views = f"{len(scene.cameras)} cameras" if len(scene.cameras) != 1 else "1 camera"
    moves = "" if scene.motion is None else f", {int(scene.motion.moving.sum()):,} of them move"
    return f"{len(scene):,} Gaussians{chosen}{moves}, {views}"


def save(scene: SplatScene, path: Path) -> tuple[str, ...]:
    """Writes the Gaussians; what the format lost, in words. Raises SceneError."""
    from ..evlm.scene.files import save_gaussians

    # After an edit that added or removed rows nobody knows which is which: then what else a file held goes.
    source = scene.source if scene.source is not None and len(scene.source) == len(scene) else None
    lost = ("what else the file held beside its Gaussians is not written: rows came or went",)
    return (*save_gaussians(path, scene.gaussians, source), *(lost if source is not scene.source else ()))


def save_page(scene: SplatScene, file: Path, path: Path) -> tuple[str, ...]:
    """Writes the page of a scene that lies in `file`; why not, where it is too large. Without room for it the
    file goes, too. Raises SceneError."""
    from ..evlm.errors import SceneError
    from ..evlm.scene.page import scene_page, write_page
    from ..evlm.scene.page.write import MOST

    if len(scene) > MOST:
        return (f"no page: it holds at most {MOST:,} Gaussians",)
    camera = scene.cameras[0] if scene.cameras else None
    try:
        write_page(
            path, scene_page(scene.gaussians, camera, file.name, scene.background, motion=scene.motion)
        )
    except SceneError:
        if file.is_dir():
            shutil.rmtree(file, ignore_errors=True)
        else:
            file.unlink(missing_ok=True)
        raise
    return ()
