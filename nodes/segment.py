"""Boxes, points or rough masks to outlines."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import host, sockets
from .checks import checked
from .ground import drawn

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.plan.trace import Trace


MOST_POINTS = 1000  # a click is an attention token of SAM 2's decoder


class Segment(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_Segment",
            display_name="EVLM Segment",
            category=sockets.CATEGORY,
            description="Outlines of what boxes, points or a rough mask show. With a plan, its own region "
            "decides: a rectangle stays one, a rough outline is sharpened, a global plan takes everything.",
            inputs=[
                sockets.Segmenter.Input("segmenter", tooltip="From Load SAM 2."),
                io.Image.Input("image", tooltip="What is segmented."),
                io.String.Input(
                    "points",
                    default="",
                    tooltip='Clicks on one object: [{"x": 10, "y": 20, "on": true}], in pixels; "on" false '
                    "says what does not belong to it.",
                ),
                io.Boolean.Input("fill_holes", default=True, tooltip="Close holes in the mask."),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-1024,
                    max=1024,
                    tooltip="Pixels by which the mask grows; negative shrinks it.",
                ),
                sockets.BoxesIn.Input(
                    "boxes", optional=True, tooltip="From EVLM Ground Targets or another pack's detector."
                ),
                io.Mask.Input(
                    "rough_mask",
                    display_name="rough mask",
                    optional=True,
                    tooltip="A rough mask that is sharpened.",
                ),
                sockets.Plan.Input("plan", optional=True, tooltip="Whose own region then decides."),
            ],
            outputs=[
                io.Mask.Output("mask", display_name="mask", tooltip="All objects in one mask."),
                io.Mask.Output(
                    "objects", display_name="objects", tooltip="One mask for each object (and frame)."
                ),
                io.Image.Output(
                    "preview", display_name="preview", tooltip="The picture, darkened outside the mask."
                ),
                io.Mask.Output(
                    "step_masks",
                    display_name="step_masks",
                    tooltip="The place of each step of a plan of several edits, one behind the other: for "
                    "the mask of EVLM Edit. Else the mask.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        segmenter: Any,
        image: Tensor,
        points: str,
        fill_holes: bool,
        grow: int,
        boxes: Any = None,
        rough_mask: Tensor | None = None,
        plan: Trace | None = None,
    ) -> io.NodeOutput:
        from ..evlm import masks
        from ..evlm.place import segment_steps

        frames = image
        sockets.check_pair(plan, frames)
        notes: list[str] = []
        rough = None if rough_mask is None else masks.fit_mask(rough_mask, frames, "rough_mask", notes)
        host.tell(notes)
        prompt_boxes = None if boxes is None else sockets.to_boxes(boxes)
        clicks = _points(points)
        with segmenter.use() as engine:
            host.check_cancelled()
            if plan is not None and clicks is None and rough is None:
                placed = segment_steps(engine, frames, plan.plan, prompt_boxes or [])
                host.tell([note for region, _ in placed for note in region.notes])
                everywhere = torch.ones(frames.shape[:3])
                each_step = [everywhere if region.mask is None else region.mask for region, _ in placed]
                objects = torch.cat([found for _, found in placed])
            else:
                prompt = None if rough is None else rough.expand(len(frames), -1, -1)
                objects = engine.segment(frames, boxes=prompt_boxes, points=clicks, mask=prompt).masks
                each_step = [masks.union(objects)] * (1 if plan is None else len(plan.plan.steps))
        if fill_holes:
            each_step = [masks.fill_holes(each) if bool(each.any()) else each for each in each_step]
        if grow:
            each_step = [masks.grow(each, grow) for each in each_step]
        mask = torch.stack(each_step).amax(0)
        each = objects.flatten(0, 1) if len(objects) else torch.zeros_like(mask)
        preview = drawn(frames, mask, prompt_boxes or [], each_step)
        step_masks = torch.cat(each_step)
        return io.NodeOutput(mask, each, preview, step_masks, ui=host.preview(preview, cls))


def _rows(text: str) -> Any:
    """JSON, or Python's own writing of a list, as other packs' point editors send it. Raises ValueError."""
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, MemoryError) as error:
            raise ValueError(str(error)) from error


def rows_of(text: str, frame: int = 0) -> dict[int, tuple[Tensor, Tensor]]:
    """Clicks from JSON, by frame: (xy [P, 2], labels [P]); none for an empty text. frame: of a click that
    names none. Raises RequestError."""
    from ..evlm.errors import RequestError

    if not text.strip():
        return {}
    expected = 'expected [{"x": 10, "y": 20, "on": true}, ...] in pixels'
    try:
        rows = _rows(text)
        xy = [[float(row["x"]), float(row["y"])] for row in rows]
        on = [bool(row.get("on", True)) for row in rows]
        at = [int(row.get("frame", frame)) for row in rows]
        places, kinds = torch.tensor(xy), torch.tensor(on).long()
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise RequestError(f"points {text!r:.100}: {expected} ({type(error).__name__})") from error
    if not xy or not places.abs().max() <= 1e6:
        raise RequestError(f"points {text!r:.100}: {expected}")
    if len(xy) > MOST_POINTS:
        raise RequestError(f"points: {len(xy):,} of them, at most {MOST_POINTS:,} are taken")
    frames = {each: [n for n, other in enumerate(at) if other == each] for each in dict.fromkeys(at)}
    return {each: (places[which], kinds[which]) for each, which in frames.items()}


def _points(text: str) -> tuple[Tensor, Tensor] | None:
    """(xy [1, P, 2], labels [1, P]) from JSON; None for an empty text. Raises RequestError."""
    clicks = rows_of(text)
    if not clicks:
        return None
    xy, labels = (torch.cat(each) for each in zip(*clicks.values(), strict=True))
    return xy[None], labels[None]
