"""A scene: Gaussians, the cameras that saw it, their photographs, and what of it is selected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import SceneError
from .camera import Camera
from .gaussians import Gaussians

if TYPE_CHECKING:
    from .files.loaded import PlySource
    from .motion import Motion


@dataclass(frozen=True, eq=False)
class SplatScene:
    """What nodes call EVLM_SCENE.

    gaussians: [N]. cameras: none for a scene that came alone. photographs: for each camera a function that
    gives its picture [H, W, 3] in 0..1 when it is asked for (so that a folder of photographs is never held
    whole), or None: then the scene's own renderings take their place. selection: bool [N] or None, what an
    edit may change. background: RGB in 0..1, what is behind everything. notes: what was dropped or guessed on
    the way, in words. source: of a .ply, what `save_gaussians` needs to write untouched rows as they were.
    motion: how the Gaussians move, or None where they stand still; cameras then know their time.

    Raises SceneError: a selection or a motion of another length, photographs of another count than cameras.
    """

    gaussians: Gaussians
    cameras: tuple[Camera, ...] = ()
    photographs: tuple[Callable[[], Tensor], ...] | None = None
    selection: Tensor | None = None
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    notes: tuple[str, ...] = ()
    source: PlySource | None = None
    motion: Motion | None = None

    @property
    def extent(self) -> float:
        """In world units: how far the cameras stand apart, else how far most of the Gaussians do."""
        places = [camera.centre for camera in self.cameras]
        for points in (
            torch.stack(places) if len(places) > 1 else None,
            self.gaussians.means.detach().cpu().double(),
        ):
            if points is None or not len(points):
                continue
            away = (points - points.median(0).values).norm(dim=1)
            found = 2.0 * float(away.quantile(0.9) if len(away) < 1_000_000 else away.median())
            if found > 1e-6:  # cameras of a tripod stand in one place
                return found
        return 1.0

    def __post_init__(self) -> None:
        n = len(self.gaussians)
        if self.selection is not None and (
            self.selection.dtype != torch.bool or tuple(self.selection.shape) != (n,)
        ):
            raise SceneError(
                f"the selection is {list(self.selection.shape)} {self.selection.dtype}, the scene has "
                f"{n} Gaussians: select again in this scene"
            )
        if self.photographs is not None and len(self.photographs) != len(self.cameras):
            raise SceneError(f"{len(self.photographs)} photographs for {len(self.cameras)} cameras")
        if self.motion is not None and len(self.motion.moving) != n:
            raise SceneError(f"the motion is of {len(self.motion.moving)} Gaussians, the scene has {n}")

    def __len__(self) -> int:
        return len(self.gaussians)

    def at(self, time: float | None) -> Gaussians:
        """The Gaussians as they lie at a time in 0..1; None is the beginning."""
        return self.gaussians if self.motion is None else self.motion.at(self.gaussians, time or 0.0)

    def to(self, target: torch.device | str) -> SplatScene:
        """Gaussians, motion and selection on another device."""
        chosen = None if self.selection is None else self.selection.to(target)
        motion = None if self.motion is None else self.motion.to(target)
        return replace(self, gaussians=self.gaussians.to(target), selection=chosen, motion=motion)

    def with_cameras(
        self, cameras: Sequence[Camera], photographs: Sequence[Callable[[], Tensor]] | None = None
    ) -> SplatScene:
        """The same Gaussians seen by other cameras."""
        pictures = None if photographs is None else tuple(photographs)
        return replace(self, cameras=tuple(cameras), photographs=pictures)

    def with_selection(self, selection: Tensor | None) -> SplatScene:
        return replace(self, selection=selection)

    def noted(self, *notes: str) -> SplatScene:
        """With further notes, each once."""
        return replace(self, notes=tuple(dict.fromkeys([*self.notes, *notes])))
