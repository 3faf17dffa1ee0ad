"""Pictures of a scene on their way to the browser: which cameras, where they are drawn, what they show."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import clips, host, scene_folders
from .patcher import make_room

if TYPE_CHECKING:
    from ..evlm.scene import Camera, Gaussians, SplatScene

TINT = (0.1, 0.8, 1.0)  # of what is selected
TINTED = 0.45  # of it
BYTES = 4 * 40  # of a Gaussian and of what is kept of it while a picture is drawn, without harmonics


@dataclass
class Watch(clips.Watch):
    """As for clips, with the picture [1, H, W, 3] in 0..1 that is being made."""

    picture: Tensor | None = None

    def __post_init__(self) -> None:
        progress = host.Progress(1000)
        self.bar = lambda done, total: progress(done, total, self.picture)


@contextmanager
def learning() -> Iterator[None]:
    """Gradients, which ComfyUI switches off while a node runs. What nodes before it made takes part only as a
    copy made in here: `own`, `own_camera`."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def own(gaussians: Gaussians) -> Gaussians:
    """A copy that can be learnt from."""
    return gaussians.map(lambda tensor: tensor.detach().clone())


def own_camera(camera: Camera) -> Camera:
    """A copy that gradients can pass."""
    return replace(camera, view=camera.view.clone(), intrinsics=camera.intrinsics.clone())


def on_device(gaussians: Gaussians) -> Gaussians:
    """Where ComfyUI computes; its models make room. Raises SceneError: more than are drawn there in bearable
    time."""
    from ..evlm.scene.raster import check_bearable

    device = torch.device(host.device_name())
    if gaussians.means.device != device:
        make_room(len(gaussians) * (BYTES + 12 * gaussians.sh.shape[1]))
    there = gaussians.to(device)
    check_bearable(there)
    return there


def cameras_of(scene: SplatScene, said: str, size: int) -> tuple[Camera, ...]:
    """The scene's own cameras, or those that words say; all pictures of one size, whose longer side is at
    most `size` pixels. Raises SceneError."""
    from ..evlm.errors import SceneError
    from ..evlm.scene.poses import load_cameras

    if said.strip():
        if not scene_folders.WORDS.fullmatch(said.strip()):
            raise SceneError(
                f"cameras {said!r:.80}: expected orbit:24 or cone:12, or nothing for the scene's own; "
                "a file of cameras goes into EVLM Load Scene"
            )
        return load_cameras(said.strip(), scene.gaussians, size=size).cameras
    if not scene.cameras:
        raise SceneError("the scene has no cameras of its own: write orbit:24 into `cameras`")
    return alike([camera.within(size) for camera in scene.cameras])


def in_time(scene: SplatScene, views: Sequence[Camera], own: bool, times: str) -> tuple[Camera, ...]:
    """Cameras that know their time. own: they are the scene's, of which the first then sees all times.
    Raises SceneError: times of a scene that stands still, or none."""
    from ..evlm.scene.moving import paired, times_of

    if scene.motion is None and not times.strip():
        return tuple(views)
    return paired(views[:1] if own else views, times_of(times.strip() or "all", scene.motion))


def first(scene: SplatScene, size: int = 512) -> Tensor:
    """[1, H, W, 3]: what the scene's first camera sees, by which an edit of it is planned; its photograph,
    where there is one. Raises SceneError: no cameras."""
    from ..evlm.edit.crop import resize
    from ..evlm.errors import SceneError

    if not scene.cameras:
        raise SceneError("the scene has no cameras: write orbit:24 into `cameras` of EVLM Load Scene")
    camera = scene.cameras[0].within(size)
    if scene.photographs is not None:
        picture = scene.photographs[0]()[None].float().cpu()
        return resize(picture, camera.height, camera.width).clamp(0, 1)
    plain = replace(scene, selection=None)
    return next(drawn(plain, on_device(scene.gaussians), [camera]))[0][None]


def alike(cameras: Sequence[Camera]) -> tuple[Camera, ...]:
    """Pictures of one size: the smaller ones see more of the scene around their own."""
    width, height = max(each.width for each in cameras), max(each.height for each in cameras)
    made = []
    for each in cameras:
        left, top = (width - each.width) // 2, (height - each.height) // 2
        same = (each.width, each.height) == (width, height)
        made.append(each if same else replace(each.cropped(-left, -top, width, height), part_of=None))
    return tuple(made)


def drawn(
    scene: SplatScene, gaussians: Gaussians, cameras: Sequence[Camera], antialias: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each camera (picture [H, W, 3], how much of what is seen is selected [H, W]), both in 0..1 on the
    CPU. gaussians: the scene's, where they are drawn; of a scene that moves each camera sees its own time."""
    from ..evlm.scene.motion import posed
    from ..evlm.scene.raster import rasterize
    from ..evlm.scene.raster.harmonics import colours

    chosen = None if scene.selection is None else scene.selection.to(gaussians.means)[:, None]
    background = torch.tensor([*scene.background, 0.0]).to(gaussians.means)
    still = gaussians
    motion = None if scene.motion is None else scene.motion.to(gaussians.means.device)
    for camera in cameras:
        with torch.no_grad():
            gaussians = posed(still, camera, motion)
            if chosen is None:
                shown = rasterize(gaussians, camera, background[:3], antialias=antialias).image
                mask = torch.zeros(shown.shape[:2])
            else:
                plain = colours(
                    gaussians.sh, gaussians.means, camera.centre.to(gaussians.means), gaussians.degree
                )
                both = torch.cat([plain, chosen], 1)
                four = rasterize(gaussians, camera, background, both, antialias=antialias).image
                shown, mask = four[..., :3], four[..., 3].clamp(0, 1).float().cpu()
        yield shown.clamp(0, 1).float().cpu(), mask


def tinted(picture: Tensor, mask: Tensor) -> Tensor:
    """A picture [..., H, W, 3] with what is selected in colour. mask: [..., H, W] in 0..1."""
    share = TINTED * mask[..., None]
    return picture * (1 - share) + share * torch.tensor(TINT)


def strip(pictures: Sequence[Tensor], most: int = 4) -> Tensor:
    """At most so many of the pictures [H, W, 3], spread evenly, as a batch [n, H, W, 3]."""
    some = sorted({math.floor(at * len(pictures) / most) for at in range(most)})
    return torch.stack([pictures[at] for at in some])
