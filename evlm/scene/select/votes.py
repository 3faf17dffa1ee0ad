"""Masks of many views -> how much of each Gaussian lies inside them.

A Gaussian's weight in a pixel is its alpha times the light that reaches it, which is the gradient of that
pixel by the Gaussian's colour. So one backward pass a view gives the sums over the mask and over the whole
picture at once, by two channels, and no rasterizer needs to know of votes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import SceneError
from ..camera import Camera
from ..gaussians import Gaussians
from ..motion import Motion, posed
from ..raster import rasterize

SCORE = 0.5  # of a track or a detection, below which a view does not know where the thing is
PIXELS = 16.0  # of a mask, below which it says nothing


@dataclass(frozen=True, eq=False)
class Votes:
    """inside, seen [N]: pixels that each Gaussian fills inside the masks, and in all pictures that voted.
    abstained: numbers of the views that did not, with why, in words."""

    inside: Tensor
    seen: Tensor
    abstained: tuple[tuple[int, str], ...] = ()

    @property
    def share(self) -> Tensor:
        """[N] in 0..1, 0 for what no view sees."""
        return self.inside / self.seen.clamp(min=1e-9)


def vote(
    gaussians: Gaussians,
    cameras: Sequence[Camera],
    masks: Sequence[Tensor | None],
    scores: Sequence[float] | None = None,
    backend: str = "auto",
    on_view: Callable[[int, int], None] | None = None,
    motion: Motion | None = None,
) -> Votes:
    """masks: for each camera [H, W] in 0..1, or None where nobody looked. scores: how sure each mask is.

    A view abstains whose mask is missing or covers less than PIXELS pixels, or whose score is below SCORE: a
    thing that was lost there is not a thing that is not there. on_view: hears (views done, views); what it
    raises (errors.Cancelled) stops the work. motion: of a scene that moves; cameras then know their time, and
    the votes of all times are of one row. Raises SceneError: numbers or sizes that do not fit, or that all
    abstain.
    """
    if len(masks) != len(cameras) or (scores is not None and len(scores) != len(cameras)):
        raise SceneError(
            f"{len(masks)} masks{f' and {len(scores)} scores' if scores is not None else ''} for "
            f"{len(cameras)} cameras: expected one for each"
        )
    frozen = gaussians.detached()
    inside = frozen.means.new_zeros(len(frozen))
    seen, abstained = torch.zeros_like(inside), []
    for number, (camera, mask) in enumerate(zip(cameras, masks, strict=True)):
        reason = _abstains(camera, mask, None if scores is None else scores[number])
        if reason is not None or mask is None:
            abstained.append((number, reason or "no mask"))
        else:
            within, whole = weigh(posed(frozen, camera, motion), camera, mask, backend)
            inside += within
            seen += whole
        if on_view is not None:
            on_view(number + 1, len(cameras))
    if len(abstained) == len(cameras):
        why = "; ".join(sorted({reason for _, reason in abstained})) or "there are none"
        raise SceneError(
            f"no view says where the thing is ({why}): give masks in which it covers at least "
            f"{PIXELS:g} pixels, from cameras that look at it"
        )
    return Votes(inside, seen, tuple(abstained))


def weigh(gaussians: Gaussians, camera: Camera, mask: Tensor, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Of Gaussians without a graph, pixels that each fills inside a mask [H, W] and in the whole picture:
    [N] each."""
    channels = gaussians.means.new_zeros(len(gaussians), 2).requires_grad_()
    picture = rasterize(gaussians, camera, channels=channels, backend=backend).image
    asked = torch.stack([mask.to(picture), torch.ones_like(picture[..., 0])], -1)
    (weights,) = torch.autograd.grad(picture, channels, asked)
    return weights[:, 0], weights[:, 1]


def _abstains(camera: Camera, mask: Tensor | None, score: float | None) -> str | None:
    if mask is None:
        return "no mask"
    if tuple(mask.shape) != (camera.height, camera.width):
        raise SceneError(
            f"camera {camera.name!r}: its mask is {list(mask.shape)}, its picture "
            f"[{camera.height}, {camera.width}]"
        )
    if score is not None and not score >= SCORE:
        return f"score below {SCORE:g}"
    covered = float(mask.sum())
    if covered == 0:
        return "empty mask"
    return None if covered >= PIXELS else f"mask below {PIXELS:g} pixels"
