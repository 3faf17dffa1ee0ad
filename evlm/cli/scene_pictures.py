"""What `scene edit` and `scene select` write beside a scene: the selection, a clip, a sheet and a strip."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ..scene import SplatScene
    from ..scene_job import Looks, SceneJob, StepSelection

SHOWN = 6  # views on a sheet
ORBIT, RATE = 36, 12  # pictures of the turn around the scene, and how many a second


def write_selection(path: Path, selections: list[StepSelection]) -> None:
    """`rows`: bool [N], all that may change; `step_1` and so on: of each step."""
    import numpy as np
    import torch

    from ..files.pictures import write_atomically

    rows = {f"step_{n}": each.rows.cpu().numpy() for n, each in enumerate(selections, 1)}
    rows["rows"] = torch.stack([each.rows for each in selections]).any(0).cpu().numpy()
    write_atomically(path, lambda file: np.savez_compressed(file, allow_pickle=False, **rows))


def write_clip(path: Path, before: SplatScene, after: SplatScene) -> None:
    """A turn around the scene, or, where it moves, its time as the first camera sees it; before on the left
    and after on the right."""
    from fractions import Fraction

    import torch

    from ..files.clip_writer import write_clip
    from ..scene.moving import paired, times_of
    from ..scene.poses import common_up, orbit

    if before.motion is None:
        cameras = orbit(before.gaussians, ORBIT, up=common_up(before.cameras) or "-y", size=256)
    else:
        cameras = paired((before.cameras[0].within(256),), times_of(str(ORBIT), before.motion))

    def pictures() -> Any:
        for camera in cameras:
            yield torch.cat([shown(scene, camera) for scene in (before, after)], 1)[None]

    write_clip(path, pictures(), "h264", [Fraction(1, RATE)] * len(cameras))


def write_sheet(
    path: Path, job: SceneJob, edited: SplatScene, selections: list[StepSelection], looks: Looks
) -> None:
    import torch

    from ..files.pictures import write_atomically
    from ..scene.edit.views import seen
    from ..viz.clip_sheet import StripFrame, draw_clip_sheet

    some = range(0, len(looks.cameras), -(-len(looks.cameras) // SHOWN))
    changed = edited.selection
    assert changed is not None  # `SceneJob.paint` says what changed
    before = torch.stack([each.rows for each in selections]).any(0)

    def where(camera: Any) -> Tensor:
        either = seen(job.scene.gaussians, before, camera, job.scene.motion)
        either = either | seen(edited.gaussians, changed, camera, edited.motion)
        return either.float().cpu()

    tiles = [
        StripFrame(
            looks.pictures[at].cpu(),
            where(looks.cameras[at]),
            shown(edited, looks.cameras[at]),
            named(looks.cameras[at], at),
        )
        for at in some
    ]
    orders = " ; then ".join(each.plan.instruction for each in selections)
    image = draw_clip_sheet(tiles, orders, f"asked: “{job.prompt}”" if job.prompt else "")
    write_atomically(path, lambda file: image.save(file, format="PNG"))


def write_strip(path: Path, job: SceneJob, selections: list[StepSelection], looks: Looks) -> None:
    """The selection drawn into some views, and below each what is selected, alone."""
    from dataclasses import replace

    import torch

    from ..files.pictures import write_atomically
    from ..scene.edit.views import seen
    from ..viz.clip_sheet import StripFrame, draw_clip_sheet

    scene = job.scene
    rows = torch.stack([each.rows for each in selections]).any(0)
    motion = None if scene.motion is None else scene.motion.taken(rows.nonzero().flatten())
    alone = replace(scene, gaussians=scene.gaussians.rows(rows), selection=None, source=None, motion=motion)
    tiles = []
    for at in range(0, len(looks.cameras), -(-len(looks.cameras) // SHOWN)):
        camera, picture = looks.cameras[at], looks.pictures[at].cpu()
        mask = seen(scene.gaussians, rows, camera, scene.motion).float().cpu()
        below = shown(alone, camera) if bool(rows.any()) else torch.zeros_like(picture)
        tiles.append(StripFrame(picture, mask, below, named(camera, at)))
    orders = " ; then ".join(each.plan.instruction for each in selections)
    image = draw_clip_sheet(tiles, orders, f"{int(rows.sum()):,} of {len(rows):,} Gaussians are selected")
    write_atomically(path, lambda file: image.save(file, format="PNG"))


def named(camera: Any, number: int) -> str:
    """What a view is called on a sheet."""
    name = camera.name or f"view {number}"
    return name if camera.time is None else f"{name} at {camera.time:.2f}"


def shown(scene: SplatScene, camera: Any) -> Tensor:
    import torch

    from ..scene.raster import rasterize

    background = torch.tensor(scene.background).to(scene.gaussians.means)
    with torch.no_grad():
        return rasterize(scene.at(camera.time), camera, background).image.clamp(0, 1).float().cpu()
