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
NEIGHBOURS, ALIKE = 8, 0.1  # of a row; of a colour, to be of one piece
PART, LARGE = 0.35, 0.25  # of a piece, that has to move for all of it to; of the scene, that is no thing
HELD = 512 << 20  # bytes of pictures in memory, and as much for their median; beyond it they are read again
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
        changed = _changed([photographs[number] for number in looked], frozen.means)
        within, whole = weigh(frozen, cameras[numbers[0]], changed.float(), backend)
        inside += within
        seen += whole
    if not bool(seen.any()):
        note = "no camera stands still: which parts of the scene move is not known, all may"
        return torch.ones(len(frozen), dtype=torch.bool, device=frozen.means.device), (note,)
    still = (inside / seen.clamp(min=1e-9) <= SURE) & (seen > SEEN)
    return _whole(frozen, ~still), ()


def _changed(photographs: Sequence[Callable[[], Tensor]], like: Tensor) -> Tensor:
    """bool [H, W]: where pictures [H, W, 3] of one camera leave their median in time. They are gone through
    once for as many of their lines as HELD has room for. like: whose device and numbers are used."""
    height, width, channels = photographs[0]().shape
    room = HELD // (len(photographs) * width * channels * like.element_size())
    lines, parts = max(1, min(height, room)), []
    for top in range(0, height, lines):
        clip = like.new_empty(len(photographs), min(lines, height - top), width, channels)
        for at, photograph in enumerate(photographs):
            clip[at] = photograph()[top : top + lines]  # a copy: a view would keep the whole picture
        median = clip.median(0).values
        apart = torch.maximum(clip.amax(0) - median, median - clip.amin(0))
        parts.append((apart > CHANGED).any(-1))
    return torch.cat(parts)


def _whole(gaussians: Gaussians, moving: Tensor) -> Tensor:
    """bool [N]: `moving`, and all of what is of one piece and one colour and moves for a good part: inside of
    a plain thing no picture changes, however far it goes."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import cKDTree

    count = len(gaussians)
    if count < 2 or not bool(moving.any()):
        return moving
    points = gaussians.means.cpu().double().numpy()
    _, near = cKDTree(points).query(points, min(NEIGHBOURS + 1, count))
    other = torch.from_numpy(near).flatten()
    one = torch.arange(count).repeat_interleave(near.shape[1])
    colours = gaussians.colours.cpu()
    alike = (colours[one] - colours[other]).abs().amax(1) < ALIKE
    ones = torch.ones(int(alike.sum())).numpy()
    pairs = coo_matrix((ones, (one[alike].numpy(), other[alike].numpy())), shape=(count, count))
    _, numbers = connected_components(pairs, directed=False)
    piece = torch.from_numpy(numbers).long()
    size = torch.bincount(piece).float()
    share = torch.bincount(piece, moving.cpu().float()) / size
    goes = (share > PART) & (size < LARGE * count)
    return moving | goes[piece].to(moving.device)


def standing(cameras: Sequence[Camera]) -> list[list[int]]:
    """Numbers of cameras that are one camera at TIMES times or more."""
    groups: dict[tuple[object, ...], list[int]] = {}
    for number, camera in enumerate(cameras):
        lens = (camera.width, camera.height, camera.distortion, camera.fisheye)
        place = tuple(camera.view.flatten().tolist() + camera.intrinsics.flatten().tolist())
        groups.setdefault((*place, *lens), []).append(number)
    return [numbers for numbers in groups.values() if len({cameras[n].time for n in numbers}) >= TIMES]
