"""Which Gaussians move, found before any motion is: where pictures of a camera that stands still change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..camera import Camera
from ..gaussians import Gaussians
from .votes import weigh

CHANGED = 12 / 255  # of a pixel from its median in time
SURE, SEEN = 0.5, 0.05  # share of a row's weight in changing pixels; pixels below which it was not seen
MOST = 48  # pictures of one camera that are looked at, evenly
TIMES = 3  # pictures of one camera, below which a median says nothing


def which_move(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    photographs: Sequence[Callable[[], Tensor]],
    backend: str = "auto",
) -> tuple[Tensor, tuple[str, ...]]:
    """(bool [N], notes). A row stands still of whose weight at most half lies in pixels that ever leave their
    median in time; a row that no camera saw may move. Cameras of one place and lens at several times are one
    that stands still; where there is none of them, all rows may move, with a note."""
    frozen = gaussians.detached()
    inside = frozen.means.new_zeros(len(frozen))
    seen = torch.zeros_like(inside)
    for numbers in standing(cameras):
        some = sorted({at * len(numbers) // MOST for at in range(MOST)}) if len(numbers) > MOST else None
        looked = numbers if some is None else [numbers[at] for at in some]
        clip = torch.stack([photographs[number]() for number in looked]).to(frozen.means)
        changed = ((clip - clip.median(0).values).abs().amax(-1) > CHANGED).any(0)
        within, whole = weigh(frozen, cameras[numbers[0]], changed.float(), backend)
        inside += within
        seen += whole
    if not bool(seen.any()):
        note = "no camera stands still: which parts of the scene move is not known, all may"
        return torch.ones(len(frozen), dtype=torch.bool, device=frozen.means.device), (note,)
    still = (inside / seen.clamp(min=1e-9) <= SURE) & (seen > SEEN)
    return ~still, ()


def standing(cameras: Sequence[Camera]) -> list[list[int]]:
    """Numbers of cameras that are one camera at TIMES times or more."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, camera in enumerate(cameras):
        lens = (camera.width, camera.height, camera.distortion, camera.fisheye)
        place = tuple(camera.view.flatten().tolist() + camera.intrinsics.flatten().tolist())
        groups.setdefault((*place, *lens), []).append(number)
    return [numbers for numbers in groups.values() if len({cameras[n].time for n in numbers}) >= TIMES]
