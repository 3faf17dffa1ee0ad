"""A scene that moves as if it stood still: each camera's whole clip is one view of it (Mou et al. 2024,
Instruct 4D-to-4D, arXiv 2406.09402, section 4), written from the text.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from .carry import carry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .schedules import EditJob
    from .views import EditView


def pseudo3d(job: EditJob, carried: float) -> None:
    """One camera's clip, the key, is painted as a whole; each other camera's begins from it, carried across
    by depth, and is painted at the strength `carried` at the most. Then the scene is fitted to all, and from
    what it shows the key is painted again. What the scene is fitted to is the mean of a view's paintings."""
    settings, count = job.settings, len(job.views)
    clips = clips_of(job.views)
    key, others = clips[0], clips[1:]
    strengths = (settings.strengths[0], *settings.strengths[2:])
    job.all = count * len(strengths)
    total = [torch.zeros_like(view.source) for view in job.views]
    before = float("inf")
    for number, strength in enumerate(strengths, 1):
        painted: dict[int, Tensor] = {}
        for first in range(0, len(key), job.painter.together):
            window = key[first : first + job.painter.together]
            painted.update(zip(window, job.paint(window, strength, number), strict=True))
        for clip in others:
            for first in range(0, len(clip), job.painter.together):
                window = clip[first : first + job.painter.together]
                begun = partial(_begun, job, painted, key)
                pictures = job.paint(window, min(strength, carried), number, begun)
                for at, picture in zip(window, pictures, strict=True):
                    total[at] += picture
        for at in key:
            total[at] += painted[at]
        now = job.fit_mean(total, number)
        if now > (1 - settings.settled) * before:
            break
        before = now


def clips_of(views: Sequence[EditView]) -> list[list[int]]:
    """Numbers of the views of each place, by time; that which shows most of the selection first."""
    found: dict[tuple[float, ...], list[int]] = {}
    for at, view in enumerate(views):
        camera = view.camera
        place = (*camera.view.flatten().tolist(), *camera.intrinsics.flatten().tolist())
        found.setdefault(place, []).append(at)
    clips = [sorted(each, key=lambda at: (views[at].camera.time or 0.0, at)) for each in found.values()]
    return sorted(clips, key=lambda clip: -sum(float(views[at].mask.float().mean()) for at in clip))


def _begun(job: EditJob, painted: dict[int, Tensor], key: Sequence[int], at: int) -> Tensor:
    """[H, W, 3]: what the scene shows in a view, and over it the key's painting of the nearest time."""
    view = job.views[at]
    time = view.camera.time or 0.0
    nearest = min(key, key=lambda each: (abs((job.views[each].camera.time or 0.0) - time), each))
    whole = job.rows.whole().detached()
    colours, known = carry(whole, job.motion, job.views[nearest], painted[nearest], view)
    return torch.where(known[..., None], colours, job.shown(view))
