"""Edits that change a shape: what goes, what comes in its place, and where views may be painted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import SceneError
from ...plan.operation import Operation
from ..camera import Camera
from ..gaussians import Gaussians, joined
from ..motion import Motion, posed
from .holes import closing
from .places import Place, around
from .views import EditView, edit_views, seen, widened

GROWTH = 2.5  # times the selected rows that there may be in the end
STEPS = 12  # of Adam, a view and round, at the least: a shape takes longer than a colour
WIDER = 1  # pixels by which masks are wider than a thing that goes is seen: what is half of it stays frozen
FEWEST = 200  # new rows that a hole may take, however few went


@dataclass(frozen=True, eq=False)
class Shape:
    """What is fitted. gaussians: [M]; selection: bool [M], rows that may change; home: [M], each one's number
    in the scene before, -1 of a new one; views: what is painted, and shows the scene as it was before."""

    gaussians: Gaussians
    selection: Tensor
    home: Tensor
    views: list[EditView]


def reshaped(
    kind: Operation,
    gaussians: Gaussians,
    selection: Tensor,
    cameras: Sequence[Camera],
    photographs: Sequence[Tensor] | None = None,
    background: Tensor | None = None,
    place: Place | None = None,
    seed: int = 0,
    on_view: Callable[[int, int], None] | None = None,
    motion: Motion | None = None,
) -> Shape:
    """The scene before an edit of a kind is painted and fitted.

    remove: the selected rows go, and the hole behind them is closed by what lies around it. replace: they
    stay, to be changed, and behind them it is closed likewise. add: faint ones come all over `place`. move:
    as remove, then as add. repaint: nothing goes or comes. motion: of a scene that moves; what is new stands
    still. Other arguments as `edit_views` has them. Rows that are not selected keep their bits and their
    order; new ones come last. on_view: hears how many times views have been looked at, and how many times
    that will be; what it raises stops the work. Raises SceneError as `edit_views`, and where nothing would be
    left.
    """
    placed, goes = kind != "repaint", kind in ("remove", "replace", "move")
    done, total = 0, len(cameras) * (1 + (placed and (place is not None or kind == "replace")) + 2 * goes)

    def looked() -> None:
        nonlocal done
        if on_view is not None:
            on_view(done, total)
        done += 1

    empty = gaussians.rows(torch.zeros_like(selection))
    rooms, parts = None, [empty]
    stays = torch.ones_like(selection)
    if kind == "replace" and place is None:
        place = around(gaussians, selection)
    if kind in ("remove", "move"):
        stays = ~selection
    without = gaussians.rows(~selection)
    rest = None if motion is None else motion.taken((~selection).nonzero().flatten())
    if place is not None and placed:
        rooms = []
        for camera in cameras:
            looked()
            rooms.append(place.room(posed(without, camera, rest), camera))
    if goes:
        masks = []
        for camera in cameras:
            looked()
            masks.append(widened(seen(gaussians, selection, camera, motion), WIDER))
        parts.append(closing(without, cameras, masks, max(FEWEST, 2 * int(selection.sum())), looked, rest))
    if kind in ("add", "move") and place is not None:
        parts.append(place.seeds(gaussians, seed))
    new = joined(parts)
    if not len(new) and not bool(stays.any()):
        raise SceneError("all of the scene is selected: nothing would be left of it")
    return Shape(
        joined([gaussians.rows(stays), new]) if len(new) else gaussians.rows(stays),
        torch.cat([selection[stays], selection.new_ones(len(new))]),
        torch.cat([stays.nonzero().flatten(), torch.full((len(new),), -1, device=selection.device)]),
        edit_views(
            gaussians,
            selection,
            cameras,
            photographs,
            background,
            0 if kind == "repaint" else WIDER,
            rooms,
            looked,
            motion,
        ),
    )
