"""The pack's own socket types, and what crosses between them and ComfyUI's."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence, Sized
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

if TYPE_CHECKING:
    from ..evlm.boxes import Box
    from ..evlm.plan.trace import Plan as EnginePlan
    from ..evlm.plan.trace import Trace

_log = logging.getLogger(__name__)

Model = io.Custom("EVLM_MODEL")
References = io.Custom("EVLM_REFERENCES")
Plan = io.Custom("EVLM_PLAN")  # carries an evlm.plan.trace.Trace: the plan with its reasons
Detector = io.Custom("EVLM_DETECTOR")
Segmenter = io.Custom("EVLM_SEGMENTER")
Editor = io.Custom("EVLM_EDITOR")
Keys = io.Custom("EVLM_KEYS")  # carries an evlm.video.handed_out.Keys
Pipe = io.Custom("EVLM_PIPE")  # carries a nodes.quick.Pipe: a model for each role
Scene = io.Custom("EVLM_SCENE")  # carries an evlm.scene.SplatScene
# Core has a type for Gaussians since 0.23: see splats.py.
Splat = io.Splat if hasattr(io, "Splat") else io.Custom("SPLAT")
# Core has a type of its own for boxes since 0.14; what older packs make and take is BBOX.
CORE_BOXES = hasattr(io, "BoundingBox")
BoxesOut = io.Custom("BOUNDING_BOX,BBOX") if CORE_BOXES else io.BBOX
BoxesIn = io.Custom("BOUNDING_BOX,BOUNDING_BOXES,BBOX") if CORE_BOXES else io.BBOX
# Fits every list to choose from; core's Combo.Output fits only one with its options.
Choice = io.Custom("COMBO")

CATEGORY = "EVLM"


def from_boxes(boxes: Sequence[Box], frames: int, several: bool = False) -> list[Any]:
    """Boxes as ComfyUI's bounding boxes (x, y, width, height in pixels), with label, score and frame, with
    `by_plan` where no detector gave them, and with `step` where the plan has several: a list for each of the
    frames where core has a type for boxes, for so its nodes take them; else one for all."""
    made = [
        {
            "x": box.x0,
            "y": box.y0,
            "width": box.x1 - box.x0,
            "height": box.y1 - box.y0,
            "label": box.label,
            "score": box.score,
            "frame": box.frame,
            **({"by_plan": True} if box.by_plan else {}),
            **({"step": box.step} if several else {}),
        }
        for box in boxes
    ]
    return [[each for each in made if each["frame"] == f] for f in range(frames)] if CORE_BOXES else made


def to_boxes(value: Any) -> list[Box]:
    """Any pack's boxes: dicts as above, core's drawn boxes (their description is the label), [x0, y0, x1, y1]
    in pixels, or one such list for each frame. One that does not say its step gets step 0.

    Raises RequestError.
    """
    from ..evlm.boxes import Box
    from ..evlm.errors import RequestError

    boxes, empty = [], 0
    flat = list(_flat(_plain(value)))
    for frame, each in flat:
        if isinstance(each, dict):
            try:
                x, y, wide, high = (float(each[key]) for key in ("x", "y", "width", "height"))
                sides = (x, y, x + wide, y + high)
                label, score = _label(each), float(each.get("score", 1.0))
                frame = int(each.get("frame", frame))
                by_plan, step = each.get("by_plan") is True, int(each.get("step", 0))
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise RequestError(f"box {each!r:.100}: expected x, y, width, height in pixels") from error
        else:
            label, score, by_plan, step = "", 1.0, False, 0
            sides = (float(each[0]), float(each[1]), float(each[2]), float(each[3]))
        finite = all(map(math.isfinite, (*sides, score)))
        if (
            finite
            and len(flat) > 1
            and empty + 1 < len(flat)
            and not (sides[0] < sides[2] and sides[1] < sides[3])
        ):
            empty += 1  # what a detector makes of a thing that is not there
            continue
        if not finite or sides[2] <= sides[0] or sides[3] <= sides[1]:
            raise RequestError(f"box {each!r:.100}: expected finite numbers and a box that is not empty")
        boxes.append(Box(label, score, *sides, frame=frame, by_plan=by_plan, step=step))
    if empty:
        _log.warning("%d of %d boxes are empty and left out", empty, len(flat))
    return boxes


def _plain(value: Any) -> Any:
    """Lists and numbers in place of arrays and tensors."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value


def _label(box: dict[str, Any]) -> str:
    about = box.get("metadata")
    described = about.get("desc") or about.get("text") if isinstance(about, dict) else None
    return str(box.get("label") or described or "")


def _flat(value: Any) -> Iterator[tuple[int, Any]]:
    from ..evlm.errors import RequestError

    if isinstance(value, dict) or _is_four(value):
        yield 0, value
        return
    if not isinstance(value, (list, tuple)):
        raise RequestError(f"boxes {value!r:.100}: expected a list of boxes")
    for at, each in enumerate(value):
        if isinstance(each, dict) or _is_four(each):
            yield 0, each
        elif isinstance(each, (list, tuple)):
            for inner in each:
                if not (isinstance(inner, dict) or _is_four(inner)):
                    raise RequestError(f"box {inner!r:.100}: expected [x0, y0, x1, y1] or a dict")
                yield at, inner
        else:
            raise RequestError(f"box {each!r:.100}: expected [x0, y0, x1, y1] or a dict")


def _is_four(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) >= 4
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in value[:4])
    )


def choice(name: str, value: object, options: Sequence[str]) -> str:
    """A combo's value. ComfyUI 0.3.64 does not hold V3 combos against their options.

    Raises RequestError."""
    from ..evlm.errors import RequestError

    if not isinstance(value, str) or value not in options:
        raise RequestError(f"{name} {value!r:.80}: expected one of {', '.join(options)}")
    return value


def within(name: str, value: float, low: float, high: float) -> float:
    """A number within its limits. ComfyUI does not hold a linked number against them. Raises RequestError."""
    from ..evlm.errors import RequestError

    if not low <= value <= high:
        raise RequestError(f"{name} {value!r:.40}: expected {low} to {high}")
    return value


def check_pair(plan: Trace | None, frames: Sized, name: str = "image") -> None:
    """Whether a plan is for so many frames, where it says so: each of four plans with all four
    pictures would be sixteen edits. Raises RequestError, which says which wire to move."""
    from ..evlm.errors import RequestError

    if plan is None or plan.planned_for is None:
        return
    planned, pictures = plan.planned_for
    if pictures > 1 and len(frames) != planned:
        raise RequestError(
            f"{name}: {len(frames)} pictures, and the plan is for one of the {pictures} that were planned. "
            "Move this wire to the `image` output of EVLM Reason: each plan's own picture comes out there. "
            "For plans of EVLM Quick Edit put core's Rebatch Images (batch_size 1) into this wire"
        )


def step_of(plan: EnginePlan, step: int) -> EnginePlan:
    """One of a plan's steps, from 1; 0 is the whole plan. Raises RequestError."""
    from ..evlm.errors import RequestError

    if not 0 <= step <= len(plan.steps):
        count = len(plan.steps)
        has = f"the plan has {count} step{'s' * (count > 1)}"
        raise RequestError(f"step {step!r:.40}: {has}; give 1 to {count}, or 0 for all")
    return replace(plan.steps[step - 1], repairs=plan.repairs) if step else plan


def split_labels(text: str) -> tuple[str, ...]:
    """Labels in a text, parted by ";" or one a line: "red car; dog"."""
    return tuple(label for line in text.splitlines() for part in line.split(";") if (label := part.strip()))
