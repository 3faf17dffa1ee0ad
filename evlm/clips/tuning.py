"""The editor of a clip's job tuned to that clip (evlm/video/tune.py), saved and gone on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..edit.crop import extract
from ..files.selection import spread
from ..video.clip import largest
from ..video.tune import check_tunable, tune, tuned
from .frames import FileFrames
from .steps import ClipStep, step_routes

if TYPE_CHECKING:
    from ..edit.protocol import EditSettings
    from ..files.clip_reader import ClipFile
    from ..video.settings import VideoSettings
    from .masks import MaskStore

SHOWN = 24
"""Frames of a clip that are learned from, evenly spread, as in the paper's configurations."""


@contextmanager
def tuned_to_clip(
    editor: Any,
    clip: ClipFile,
    steps: Sequence[ClipStep],
    masks: MaskStore,
    settings: EditSettings,
    video: VideoSettings,
    tunings: int,
    path: Path,
    tell: Callable[[int, int], None],
) -> Iterator[None]:
    """The editor tuned in `tunings` steps to what it is going to paint; afterwards it is as it was.

    Of each step of the plan the crops of its largest place are learned, as the file has them. path: for what
    is learned; an earlier run's is gone on from. Raises EVLMError for an editor that is not open in latents.
    """
    check_tunable(editor)
    crops = _crops(editor, clip, steps, masks, settings)
    if not crops:  # nothing is going to be painted
        yield
        return
    weights = tune(editor, crops, tunings, video, settings.seed, path, tell)
    with tuned(editor.unet, weights):
        yield


def _crops(
    editor: Any, clip: ClipFile, steps: Sequence[ClipStep], masks: MaskStore, settings: EditSettings
) -> list[Tensor]:
    """[F, h, w, 3] in 0..1 of each step that has something to paint."""
    places = [largest(routes) for step in steps if (routes := step_routes(editor, step, masks, settings, []))]
    chosen = [[sorted(place.boxes)[at] for at in spread(len(place.boxes), SHOWN)] for place in places]
    found: list[list[Tensor]] = [[] for _ in places]
    reader = FileFrames(clip)
    for frame in sorted({each for which in chosen for each in which}):
        picture = reader.read(frame, frame + 1)
        for place, which, crops in zip(places, chosen, found, strict=True):
            if frame in which:
                crops.append(extract(picture, place.boxes[frame]))
    return [torch.cat(crops) for crops in found]
