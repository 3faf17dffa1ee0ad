"""Labels to boxes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import host, sockets
from .checks import checked

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.boxes import Box
    from ..evlm.plan.trace import Trace

KEEP = ["best", "all"]
SIDES = (256, 1024)  # pixels, the smallest and the largest side of a preview


class Ground(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_Ground",
            display_name="EVLM Ground Targets",
            category=sockets.CATEGORY,
            description="Finds the plan's targets, or any labels, in each frame. Without a detector the box "
            "that the plan itself draws is given. Nothing found is an empty list.",
            inputs=[
                io.Image.Input("image", tooltip="Where to look."),
                io.String.Input(
                    "targets",
                    default="",
                    tooltip="Labels parted by ';', instead of the plan's; its place is then not asked. They "
                    "may say which and how many: left cup; both cups; all cups but the red one.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Least score of a box; 0 is the detector's own.",
                ),
                io.Float.Input(
                    "text_threshold",
                    default=0.25,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="GroundingDINO only: how likely a word must be to count as part of a label.",
                ),
                io.Combo.Input("keep", options=KEEP, tooltip="One box for each label in a frame, or all."),
                sockets.Detector.Input(
                    "detector",
                    optional=True,
                    tooltip="From Load EVLM Detector; without one the plan's own box counts.",
                ),
                sockets.Plan.Input("plan", optional=True, tooltip="Whose targets are looked for."),
            ],
            outputs=[
                sockets.BoxesOut.Output(
                    "boxes",
                    display_name="boxes",
                    tooltip="Where the targets are, in pixels, with label and score; of a plan of several "
                    "edits with the step, too.",
                ),
                io.Float.Output(
                    "scores",
                    display_name="scores",
                    is_output_list=True,
                    tooltip="Of the boxes, in their order; 0 for the plan's own box, which no detector saw.",
                ),
                io.Image.Output("preview", display_name="preview", tooltip="The picture with its boxes."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        image: Tensor,
        targets: str,
        threshold: float,
        text_threshold: float,
        keep: str,
        detector: Any = None,
        plan: Trace | None = None,
    ) -> io.NodeOutput:
        from ..evlm.errors import RequestError
        from ..evlm.ground.which import find
        from ..evlm.place import ground_steps

        frames, labels = image, sockets.split_labels(targets)
        sockets.check_pair(plan, frames)
        least = threshold or None
        how: dict[str, Any] = {"text_threshold": text_threshold, "keep": sockets.choice("keep", keep, KEEP)}
        with nullcontext(None) if detector is None else detector.use() as grounder:
            host.check_cancelled()
            if labels:
                if grounder is None:
                    raise RequestError(f"targets {targets!r:.80} need a detector; connect Load EVLM Detector")
                boxes, notes = find(grounder, frames, labels, least, **how)
            elif plan is not None:
                grounded = ground_steps(grounder, frames, plan.plan, least, **how)
                boxes = [box for each in grounded for box in each.boxes]
                notes = [note for each in grounded for note in each.notes]
            else:
                raise RequestError("nothing to look for: connect a plan, or write labels into `targets`")
        host.tell(notes)
        preview = drawn(frames, None, boxes)
        several = plan is not None and bool(plan.plan.several) and not labels
        return io.NodeOutput(
            sockets.from_boxes(boxes, len(frames), several),
            [box.score for box in boxes],
            preview,
            ui=host.preview(preview, cls),
        )


def drawn(
    frames: Tensor, mask: Tensor | None, boxes: list[Box], steps: Sequence[Tensor | None] = ()
) -> Tensor:
    """Frames [F, H, W, 3] with boxes, and what lies outside the mask [F, H, W] darkened: [F, S, S, 3]. steps:
    of a plan of several edits the mask of each, None for the whole frame."""
    from ..evlm.files.pictures import from_pil
    from ..evlm.viz.sheet import overlay

    side = min(max(*frames.shape[1:3], SIDES[0]), SIDES[1])
    tiles = []
    for f, frame in enumerate(frames):
        here = [replace(box, frame=0) for box in boxes if box.frame == f]
        outlines = [None if step is None else step[f] for step in steps]
        place = None if mask is None else mask[f]
        tiles.append(from_pil(overlay(frame, place, here, side, unmasked="", steps=outlines)))
    return torch.cat(tiles)
