"""Thumbs up or down: an edit becomes a row of a dataset that the trainer reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import clips, folders, host, scene_views, sockets
from .checks import checked
from .clips import Clip, ClipOrScene

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.plan.trace import Trace
    from ..evlm.request import Reference

UNRATED = "not rated"
VERDICTS = [UNRATED, "good", "bad"]
LONGEST = 512  # pixels of a scene's views
REPLACED = "this edit was rated before: the new rating takes the place of the earlier one"


class RateEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_RateEdit",
            display_name="EVLM Rate Edit",
            category=sockets.CATEGORY,
            description="Keeps an edit with your verdict as a row of a dataset in ComfyUI's output folder, "
            "to train from. Unrated, nothing is written.",
            inputs=[
                sockets.Plan.Input("plan", tooltip="The plan that is rated."),
                clips.clip_input("original", "The picture, clip or scene before.", sockets.Scene),
                clips.clip_input("edited", "The picture, clip or scene after.", sockets.Scene),
                io.String.Input("prompt", default="", tooltip="What was asked."),
                io.Combo.Input(
                    "verdict",
                    options=VERDICTS,
                    tooltip="good: desired; bad: non-desired. The thumbs below set it.",
                ),
                io.String.Input("note", default="", tooltip="Why, in your words."),
                io.String.Input("dataset", default="evlm_ratings", tooltip="A folder in the output folder."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where it was edited, of a clip one for each frame; of a plan of several "
                    "edits the step_masks, so that each keeps its own.",
                ),
                sockets.References.Input("references", optional=True, tooltip="What the reasoner saw."),
            ],
            outputs=[
                io.String.Output(
                    "folder", display_name="folder", tooltip="The dataset's folder, for EVLM Train."
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, dataset: Any) -> bool | str:
        from ..evlm.errors import RecordError

        if dataset is not None:
            try:
                folders.dataset(dataset)
            except RecordError as error:
                return folders.shortened(str(error))
        return True

    @classmethod
    def fingerprint_inputs(cls, dataset: Any, **rest: Any) -> str:
        """Rows that somebody took away are written again, and the counts are those of the folder. What a run
        has written itself is no change."""
        if dataset is None:
            return "linked"
        folder = folders.dataset(dataset)
        now = _print_of(folder)
        asked = _ASKED.get(folder)
        if asked is None or asked.left != now:
            asked = _ASKED[folder] = _Asked(0 if asked is None else asked.changes + 1, now)
        return f"changed {asked.changes} times"

    @classmethod
    @checked
    def execute(
        cls,
        plan: Trace,
        original: ClipOrScene,
        edited: ClipOrScene,
        prompt: str,
        verdict: str,
        note: str,
        dataset: str,
        mask: Tensor | None = None,
        references: tuple[Reference, ...] | None = None,
    ) -> io.NodeOutput:
        from ..evlm.ratings import merged, rated_row
        from ..evlm.records import RowWriter

        folder = folders.dataset(dataset)
        seen = _seen(*_seen_from_around(original, edited))
        sockets.check_pair(plan, range(seen.count), "original")
        places = [None] if mask is None else _places(mask, seen, len(plan.plan.steps))
        # One mask for all steps is none of them's own.
        each_its_own = mask is not None and len(mask) > seen.count
        written = False
        if sockets.choice("verdict", verdict, VERDICTS) != UNRATED:
            row, pictures = rated_row(
                plan,
                seen.before,
                seen.after,
                prompt,
                verdict == "good",
                note,
                places if each_its_own else places[0],
                references or (),
                seen.times,
            )
            new, gone = merged(row, _rows(folder))
            if new is not None:
                RowWriter(folder).replace(gone, new, pictures)
                host.tell([REPLACED] if gone else [])
                written = True
                if folder in _ASKED:
                    _ASKED[folder] = replace(_ASKED[folder], left=_print_of(folder))
        labels = [row.label for row in _rows(folder)]
        counts = {
            "rows": len(labels),
            "good": sum(labels),
            "bad": len(labels) - sum(labels),
            "folder": dataset,
            "written": written,
            **_by(verdict),
        }
        return io.NodeOutput(str(folder), ui={"evlm_rating": [counts]})


@dataclass(frozen=True)
class _Asked:
    """Of a dataset's rows. changes: how often somebody else was found to have changed them. left: the file's
    fingerprint when ComfyUI last asked, or after our own last write since."""

    changes: int
    left: str


_ASKED: dict[Path, _Asked] = {}  # by folder


def _print_of(folder: Path) -> str:
    from ..evlm.records import ROWS_FILE

    rows = folder / ROWS_FILE
    return folders.fingerprint(rows if rows.is_file() else None)


def _by(verdict: str) -> dict[str, Any]:
    """By which verdict of which workflow, so that the page takes it back; nothing outside a run."""
    place = host.place()
    queued = None if place is None else host.running().get(place.prompt)
    return {} if queued is None else {"verdict": verdict, "workflow": queued.workflow}


@dataclass(frozen=True)
class _Seen:
    """What the row keeps. before, after: [n, H, W, 3] in 0..1. count: frames that were given. which: of them
    were taken. times: the second at which each of those begins; empty where nobody says."""

    before: Tensor
    after: Tensor
    count: int
    which: list[int]
    times: tuple[Fraction, ...] = ()


def _seen_from_around(original: ClipOrScene, edited: ClipOrScene) -> tuple[Clip, Clip]:
    """Of scenes pictures [V, H, W, 3] from some of the first one's cameras, or around it where it has none;
    all else as it is. Raises RequestError, SceneError."""
    from ..evlm.errors import RequestError
    from ..evlm.files.selection import spread
    from ..evlm.reason.messages import MAX_FRAMES
    from ..evlm.scene import SplatScene

    if not isinstance(original, SplatScene) and not isinstance(edited, SplatScene):
        return original, edited
    if not isinstance(original, SplatScene) or not isinstance(edited, SplatScene):
        raise RequestError(
            "one of original and edited is a scene: connect the scene before and the scene after"
        )
    own = scene_views.cameras_of(original, "" if original.cameras else f"orbit:{MAX_FRAMES}", LONGEST)
    cameras = [own[at] for at in spread(len(own), MAX_FRAMES)]
    host.tell([f"{len(cameras)} views of the scenes are kept"])
    shown = []
    for scene in (original, edited):
        drawn = scene_views.drawn(
            replace(scene, selection=None), scene_views.on_device(scene.gaussians), cameras
        )
        shown.append(torch.stack([picture for picture, _ in drawn]).clamp(0, 1))
    return shown[0], shown[1]


def _seen(original: Clip, edited: Clip) -> _Seen:
    """Of a VIDEO as many frames as a reasoner sees, the same of both. Raises PictureError, RequestError."""
    from ..evlm.errors import RequestError
    from ..evlm.files.selection import spread
    from ..evlm.reason.messages import MAX_FRAMES

    if isinstance(original, torch.Tensor) and isinstance(edited, torch.Tensor):
        _check_alike(original, edited)
        return _Seen(original, edited, len(original), list(range(len(original))))
    with clips.opened(original, "original") as first, clips.opened(edited, "edited") as second:
        sizes = [f"{each.file.width} x {each.file.height}" for each in (first, second)]
        if sizes[0] != sizes[1]:
            raise RequestError(
                f"edited: frames of {sizes[1]}, but original has {sizes[0]}: expected the same"
            )
        told: list[str] = []
        count = first.file.count
        if count == second.file.count:
            before, times = first.some(MAX_FRAMES)
            after, others = second.some(MAX_FRAMES)
        if count != second.file.count or len(before) != len(after):
            timed = not any(isinstance(each, torch.Tensor) for each in (original, edited))
            count = _common(first, second, timed, told)
            before, times = first.these(spread(count, MAX_FRAMES))
            after, others = second.these(spread(count, MAX_FRAMES))
        if isinstance(original, torch.Tensor):  # frames alone say no times
            times = others
    host.tell([*told, f"{len(before)} of the clip's {count} frames are kept"])
    return _Seen(before, after, count, spread(count, MAX_FRAMES), tuple(times))


def _check_alike(original: Tensor, edited: Tensor) -> None:
    """Frames [F, H, W, 3] of one edit. Raises RequestError."""
    from ..evlm.errors import RequestError

    if len(original) != len(edited):
        raise RequestError(
            f"edited: {len(edited)} pictures, but original has {len(original)}: expected as many. Of several "
            "variations choose one by core's Image From Batch"
        )
    sizes = [f"{each.shape[2]} x {each.shape[1]}" for each in (original, edited)]
    if sizes[0] != sizes[1]:
        raise RequestError(
            f"edited: {sizes[1]}, but original has {sizes[0]}: expected the same. EVLM Composite in Mask "
            "makes them alike"
        )


def _common(original: clips.Opened, edited: clips.Opened, timed: bool, told: list[str]) -> int:
    """How many frames two clips have in common from their beginning on, where a file is cut off or promises
    more than can be decoded. timed: both say when they are shown. told: grows. Raises RequestError where one
    is not the beginning of the other."""
    from ..evlm.errors import RequestError

    starts = [each.starts() for each in (original, edited)]
    lengths = [len(each) for each in starts]
    count = min(lengths)
    if lengths[0] == lengths[1]:
        told.append(
            f"the original is damaged or cut off: {count} frames of it can be read, all of them are rated"
        )
        return count
    said = f"edited: {lengths[1]} frames, but original has {lengths[0]}"
    if not timed:
        raise RequestError(f"{said}: expected as many")
    gap = min((b - a for each in starts for a, b in pairwise(each)), default=Fraction(1))
    if any(abs(a - b) >= gap / 2 for a, b in zip(*starts, strict=False)):
        raise RequestError(
            f"{said}, and they are not shown at the same times: expected the same frames, or the first ones"
        )
    told.append(f"{said}: the first {count} of both are rated")
    return count


def _places(mask: Tensor, seen: _Seen, steps: int) -> list[Tensor | None]:
    """By step, the masks of the frames that were taken. Raises PictureError."""
    from ..evlm.masks import fit_step_masks

    notes: list[str] = []
    whole = torch.zeros(1).expand(seen.count, *seen.before.shape[1:])  # for its size; it takes no memory
    found = fit_step_masks(mask, whole, steps, notes=notes)
    host.tell(notes)
    return [each if each is None or len(each) == 1 else each[seen.which] for each in found]


def _rows(folder: Path) -> list[Any]:
    from ..evlm.records import ROWS_FILE, read_rows

    if not (folder / ROWS_FILE).is_file():
        return []
    return list(read_rows(folder, on_problem=lambda error: None, check_files=False))
