"""Scripted editors of views: they paint the exact edit of a scene of solids, and err in ways that are known.

What a schedule of painting and fitting is worth is measured with them, apart from any model's gifts.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional

from evlm.scene.edit import EditView

from .raytrace import view as traced
from .solid_edits import SolidEdit

_EXACT: WeakKeyDictionary[EditView, tuple[SolidEdit, Tensor]] = WeakKeyDictionary()
STAINS = 5  # nodes a side of what varies slowly over a picture


class NoisyPainter:
    """Errs anew in every view and draw: a shift of colour and slow stains, each of deviation `sigma`. What it
    is shown, and what it paints beside, counts for nothing."""

    def __init__(self, edit: SolidEdit, sigma: float = 0.1, seed: int = 0, together: int = 8) -> None:
        self.edit, self.sigma, self.seed, self.together = edit, sigma, seed, together

    def paint(
        self, views: Sequence[EditView], current: Sequence[Tensor], strength: float, draw: int
    ) -> list[Tensor]:
        """As `ViewPainter.paint`: [H, W, 3] in 0..1 a view."""
        return [
            (exact(self.edit, view) + self.sigma * self._error(view, draw)).clamp(0, 1).to(view.source)
            for view in views
        ]

    def _error(self, view: EditView, draw: int) -> Tensor:
        generator = seeded(view, self.seed, draw)
        shift = torch.randn(3, generator=generator)
        return shift + stains(view, generator)


class LeaningPainter:
    """Errs by what it sees, as models do: the same in every draw of a view, differently from each side.

    The colour is off by a tint that turns with the way the camera looks, `sigma` at the most; views that are
    painted together agree on the mean of theirs. Each view has slow stains of its own of half of `sigma`. Of
    what it is shown it keeps `keeps`, the more the lower the strength.
    """

    def __init__(
        self, edit: SolidEdit, sigma: float = 0.1, seed: int = 0, together: int = 8, keeps: float = 0.5
    ) -> None:
        self.edit, self.sigma, self.seed, self.together, self.keeps = edit, sigma, seed, together, keeps

    def paint(
        self, views: Sequence[EditView], current: Sequence[Tensor], strength: float, draw: int
    ) -> list[Tensor]:
        """As `ViewPainter.paint`: [H, W, 3] in 0..1 a view."""
        turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(self.seed)))[
            0
        ].double()
        tint = torch.stack([turn @ view.camera.direction for view in views]).mean(0).float()
        painted = []
        for view, shown in zip(views, current, strict=True):
            wanted = exact(self.edit, view)
            kept = self.keeps * (1 - strength) * (shown.detach().cpu().float() - wanted)
            stain = stains(view, seeded(view, self.seed, 0)) / 2
            painted.append((wanted + kept + self.sigma * (tint + stain)).clamp(0, 1).to(view.source))
        return painted


def exact(edit: SolidEdit, view: EditView) -> Tensor:
    """[H, W, 3] in 0..1: what the edited scene shows there. Kept as long as the view is: draws ask again."""
    kept = _EXACT.get(view)
    if kept is None or kept[0] is not edit:
        picture = traced(edit.result, view.camera).picture
        kept = _EXACT[view] = (edit, torch.from_numpy(picture).float() / 255)
    return kept[1]


def seeded(view: EditView, seed: int, draw: int) -> torch.Generator:
    """A generator of that view, seed and draw, whatever other views there are."""
    own = zlib.crc32(view.camera.view.numpy().tobytes())
    return torch.Generator().manual_seed(own ^ (seed * 1_000_003 + draw * 7_919) << 8)


def stains(view: EditView, generator: torch.Generator) -> Tensor:
    """[H, W, 3] of deviation about 1 that varies slowly."""
    nodes = torch.randn(1, 3, STAINS, STAINS, generator=generator)
    size = (view.camera.height, view.camera.width)
    return functional.interpolate(nodes, size=size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0)
