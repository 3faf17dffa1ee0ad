"""What an edit of a scene looks at: some of its cameras, what they show, where the selection is in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...boxes import bounding_box
from ...errors import SceneError
from ..camera import Camera
from ..gaussians import Gaussians
from ..motion import Motion, posed
from ..raster import rasterize

LEAST = 0.005  # of a view that the selection has to cover
MARGIN = 0.15  # of the mask's longer side, around it: what the fit of a view looks at


@dataclass(frozen=True, eq=False)
class EditView:
    """camera: in the size in which is painted. source: [H, W, 3] in 0..1, what is edited. mask: bool [H, W],
    where it may change. part: left, top, width, height of what the fit looks at: the mask and a margin."""

    camera: Camera
    source: Tensor
    mask: Tensor
    part: tuple[int, int, int, int]

    @property
    def close(self) -> Camera:
        """The camera of the part alone."""
        return self.camera.cropped(*self.part)

    def cut(self, picture: Tensor) -> Tensor:
        """[h, w, ...] of a picture [H, W, ...]: the part."""
        left, top, width, height = self.part
        return picture[top : top + height, left : left + width]


def edit_views(
    gaussians: Gaussians,
    selection: Tensor,
    cameras: Sequence[Camera],
    photographs: Sequence[Tensor] | None = None,
    background: Tensor | None = None,
    grow: int = 0,
    rooms: Sequence[Tensor] | None = None,
    on_view: Callable[[], None] | None = None,
    motion: Motion | None = None,
) -> list[EditView]:
    """The views in which the selection is seen.

    selection: bool [N]. cameras: without distortion, in the size in which is painted. photographs: [H, W, 3]
    in 0..1, of the cameras' sizes; None: the scene's own renderings. background: [3]. grow: pixels by which
    the masks are wider than the selection is seen (a shape that changes needs room). rooms: bool [H, W], one
    a camera, where the masks are as well; then nothing needs to be selected. on_view: called before each
    view. motion: of a scene that moves, each camera at its time.

    Raises SceneError: nothing is selected, or no camera sees it; photographs of another size.
    """
    if rooms is None and not bool(selection.any()):
        raise SceneError("nothing is selected: an edit needs Gaussians that may change; select some first")
    found: list[EditView] = []
    for at, camera in enumerate(cameras):
        if on_view is not None:
            on_view()
        mask = widened(seen(gaussians, selection, camera, motion), grow)
        if rooms is not None:
            mask = mask | rooms[at].to(mask.device)
        if float(mask.float().mean()) < LEAST:
            continue
        if photographs is None:
            with torch.no_grad():
                source = rasterize(posed(gaussians, camera, motion), camera, background).image.clamp(0, 1)
        else:
            source = photographs[at].to(gaussians.means)
            if tuple(source.shape) != (camera.height, camera.width, 3):
                raise SceneError(
                    f"the photograph of camera {camera.name!r} is {list(source.shape)}, expected "
                    f"{[camera.height, camera.width, 3]}: give photographs of the cameras' sizes"
                )
        found.append(EditView(camera, source, mask, _part(mask)))
    if not found:
        raise SceneError(
            f"of {len(cameras)} cameras none sees the {int(selection.sum())} selected Gaussians in "
            f"{LEAST:.1%} of its picture: choose cameras that look at them (cameras='orbit:24')"
        )
    return found


def seen(gaussians: Gaussians, selection: Tensor, camera: Camera, motion: Motion | None = None) -> Tensor:
    """bool [H, W]: where more than half of what a camera sees is of the selection."""
    with torch.no_grad():
        gaussians = posed(gaussians, camera, motion)
        shares = rasterize(gaussians, camera, channels=selection.to(gaussians.means)[:, None]).image
    return shares[..., 0] > 0.5


def widened(mask: Tensor, pixels: int) -> Tensor:
    """bool [H, W], grown by so many pixels in either direction."""
    if pixels == 0:
        return mask
    size = 2 * pixels + 1
    wide = torch.nn.functional.max_pool2d(mask.float()[None, None], size, 1, pixels)
    return wide[0, 0] > 0


def after(views: Sequence[EditView], edited: Sequence[Tensor]) -> list[EditView]:
    """The same views with other pictures as their sources."""
    return [replace(view, source=picture) for view, picture in zip(views, edited, strict=True)]


def _part(mask: Tensor) -> tuple[int, int, int, int]:
    box = bounding_box(mask)
    assert box is not None  # a view without the selection is none
    left, top, right, bottom = box
    margin = max(4, round(MARGIN * max(right - left, bottom - top)))
    height, width = mask.shape
    left, top = max(0, left - margin), max(0, top - margin)
    right, bottom = min(width, right + margin), min(height, bottom + margin)
    return left, top, right - left, bottom - top
