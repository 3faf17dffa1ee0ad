"""A mask that goes with a thing through a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import clips, host, sockets
from .borrowed import Borrowed
from .checks import checked
from .clips import Clip
from .ground import drawn
from .segment import rows_of
from .tracking import tracker_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.boxes import Box
    from ..evlm.place_clip import ClipPlace
    from ..evlm.plan.trace import Trace
    from ..evlm.segment.tracker import Prompt

LONG = (
    "Leave EVLM Track out, and connect detector and segmenter to EVLM Edit Video, which reads such a "
    "clip window by window"
)
PREVIEWS = 16  # frames
ALONG = "this segmenter has no memory: what was shown by hand is carried along the motion"
HAND = "hand"  # the name of what clicks or a mask by hand show


class Track(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_Track",
            display_name="EVLM Track",
            category=sockets.CATEGORY,
            description="A mask that follows things through a clip. A plan's targets, labels, boxes, clicks "
            "or a mask by hand say what; SAM 2 follows it, or else draws it in every frame.",
            inputs=[
                sockets.Segmenter.Input(
                    "segmenter",
                    tooltip="From Load SAM 2. One that can track is best; others draw each frame.",
                ),
                clips.clip_input("clip", "The clip: a video, or its frames as images."),
                io.String.Input(
                    "targets",
                    default="",
                    tooltip="Labels parted by ';', instead of the plan's; needs a detector.",
                ),
                io.String.Input(
                    "points",
                    default="",
                    tooltip='Clicks in any frames: [{"x": 10, "y": 20, "frame": 0, "on": true}], in pixels; '
                    '"on" false says what does not belong to it.',
                ),
                io.Int.Input(
                    "frame",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    tooltip="The frame that a single mask by hand, or a click without a frame, belongs to.",
                ),
                io.Int.Input(
                    "grow",
                    default=0,
                    min=-1024,
                    max=1024,
                    tooltip="Pixels by which the mask grows; negative shrinks it.",
                ),
                sockets.Plan.Input("plan", optional=True, tooltip="Whose targets are followed."),
                sockets.Detector.Input(
                    "detector",
                    optional=True,
                    tooltip="Finds the targets; without one the plan's own box in the first frame counts.",
                ),
                sockets.BoxesIn.Input(
                    "boxes", optional=True, tooltip="Instead of the detector's, in their frames."
                ),
                io.Mask.Input(
                    "hand_mask",
                    display_name="hand mask",
                    optional=True,
                    tooltip="What is followed, drawn in one frame, or in several: one mask for each frame, "
                    "empty where nothing is said.",
                ),
            ],
            outputs=[
                io.Mask.Output(
                    "mask", display_name="mask", tooltip="Everything in one mask, for each frame."
                ),
                io.Mask.Output(
                    "step_masks",
                    display_name="step_masks",
                    tooltip="The place of each step of a plan of several edits, one behind the other, for "
                    "the mask of EVLM Edit Video. Else the mask.",
                ),
                io.Image.Output(
                    "preview", display_name="preview", tooltip="Some frames, darkened outside the mask."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        segmenter: Any,
        clip: Clip,
        targets: str,
        points: str,
        frame: int,
        grow: int,
        plan: Trace | None = None,
        detector: Any = None,
        boxes: Any = None,
        hand_mask: Tensor | None = None,
    ) -> io.NodeOutput:
        from ..evlm import masks

        watch = clips.Watch()
        given = None if boxes is None else sockets.to_boxes(boxes)
        labels = sockets.split_labels(targets)
        with clips.opened(clip, "clip") as source:
            frames, durations = source.together(LONG)
        _check_frames(given or (), frame, len(frames))
        prompts = _prompts(points, hand_mask, frame, frames)
        tracker = tracker_of(segmenter)

        def told(done: int, total: int) -> None:
            watch("following", done, total)

        if prompts:
            each_step = [_by_hand(tracker, segmenter, frames, prompts, told)]
        else:
            asked = _asked(plan, labels, detector, given)
            follows = None if tracker is None else Borrowed(tracker, "track")
            placed = _placed(asked, frames, given, detector, follows, Borrowed(segmenter, "segment"), told)
            host.tell(note for place in placed for note in place.notes)
            everywhere = torch.ones(frames.shape[:3])
            each_step = [everywhere if place.mask is None else place.mask for place in placed]
        if grow:
            each_step = [masks.grow(each, grow) for each in each_step]
        mask = torch.stack(each_step).amax(0)
        empty = int((~(mask > 0).flatten(1).any(1)).sum())
        seconds = float(sum(durations))
        host.tell(
            [
                f"{len(frames)} frames, {seconds:.2f} s"
                + (f"; in {empty} of them it is not there" * bool(empty))
            ]
        )
        preview = _preview(frames, mask, each_step)
        step_masks = torch.cat(each_step) if prompts is None or len(each_step) > 1 else mask
        ui = clips.play(clips.masked(frames, mask), durations, "mask")
        return io.NodeOutput(mask, step_masks, preview, ui=ui)


def _asked(plan: Trace | None, labels: tuple[str, ...], detector: Any, boxes: Sequence[Box] | None) -> Any:
    """The plan of what is followed: the plan's own, or one made of labels. Raises RequestError."""
    from ..evlm.errors import RequestError
    from ..evlm.plan.trace import Plan

    if labels and detector is None and boxes is None:
        raise RequestError(f"targets {labels[0]!r:.80} need a detector; connect Load EVLM Detector")
    if labels:
        return Plan("follow it", labels)
    if plan is not None:
        return plan.plan
    if boxes is not None:
        return Plan("follow it", tuple(dict.fromkeys(box.label for box in boxes if box.label)))
    raise RequestError(
        "nothing to follow: connect a plan, boxes or a mask by hand, or write labels into `targets` or "
        "clicks into `points`"
    )


def _placed(
    plan: Any,
    frames: Tensor,
    boxes: Sequence[Box] | None,
    detector: Any,
    tracker: Any,
    segmenter: Any,
    on_frame: Any,
) -> list[ClipPlace]:
    from ..evlm.place_clip import place_clip_steps

    return place_clip_steps(
        plan,
        frames,
        boxes,
        grounder=None if detector is None else Borrowed(detector, "ground"),
        tracker=tracker,
        segmenter=segmenter,
        on_frame=on_frame,
    )


def _prompts(points: str, mask: Tensor | None, frame: int, frames: Tensor) -> dict[int, list[Prompt]] | None:
    """Clicks and masks by hand, by frame, all of one object; None without any. Raises RequestError."""
    from ..evlm.errors import RequestError
    from ..evlm.masks import fit_mask
    from ..evlm.segment.tracker import Prompt

    found: dict[int, list[Prompt]] = {}
    if mask is not None:
        notes: list[str] = []
        drawn_masks = fit_mask(mask, frames, "hand_mask", notes)
        host.tell(notes)
        for number, each in enumerate([] if drawn_masks is None else drawn_masks):
            if bool((each >= 0.5).any()):
                at = frame if drawn_masks is not None and len(drawn_masks) == 1 else number
                found[at] = [Prompt(HAND, mask=each)]
        if not found and not points.strip():
            raise RequestError("hand_mask: nothing is drawn in it; draw what is to be followed")
    for at, clicks in rows_of(points, frame).items():
        if not 0 <= at < len(frames):
            raise RequestError(
                f"points: a click in frame {at}, and the clip has frames 0 to {len(frames) - 1}"
            )
        if at in found:
            raise RequestError(f"frame {at} has clicks and a mask by hand: give one of the two")
        found[at] = [Prompt(HAND, points=clicks)]
    return found or None


def _by_hand(
    tracker: Any, segmenter: Any, frames: Tensor, prompts: dict[int, list[Prompt]], on_frame: Any
) -> Tensor:
    """The mask [F, H, W] of what a person showed: by SAM 2's memory, else along the motion. Raises
    RequestError."""
    from ..evlm.segment.flow_tracker import FlowTracker

    follows: Any = FlowTracker() if tracker is None else Borrowed(tracker, "track")
    if tracker is None:
        prompts = {frame: [_outlined(segmenter, frames, frame, *each)] for frame, each in prompts.items()}
        host.tell([ALONG])
    tracks = follows.track(frames, prompts, on_frame=on_frame)
    host.tell(tracks.notes)
    mask: Tensor = tracks.union().float()
    return mask


def _outlined(segmenter: Any, frames: Tensor, frame: int, prompt: Prompt) -> Prompt:
    """Clicks in a frame as the mask that the segmenter draws there. Raises RequestError."""
    from ..evlm.errors import RequestError
    from ..evlm.segment.tracker import Prompt

    if prompt.points is None:
        return prompt
    xy, kinds = prompt.points
    if not bool((kinds == 1).any()):
        raise RequestError(
            f"points: all clicks in frame {frame} say what does not belong to it. This segmenter remembers "
            "nothing of other frames: click on the thing there, too, or choose one that can track"
        )
    drawn_by: Any = Borrowed(segmenter, "segment")
    masks = drawn_by.segment(frames[frame : frame + 1], points=(xy[None], kinds[None])).masks
    return Prompt(prompt.name, mask=masks[0, 0])


def _check_frames(boxes: Sequence[Box], frame: int, count: int) -> None:
    """Raises RequestError for what is shown in a frame that the clip has not."""
    from ..evlm.errors import RequestError

    outside = [box.frame for box in boxes if not 0 <= box.frame < count]
    if outside or frame >= count:
        at = outside[0] if outside else frame
        raise RequestError(f"frame {at}: the clip has frames 0 to {count - 1}")


def _preview(frames: Tensor, mask: Tensor, steps: Sequence[Tensor]) -> Tensor:
    from ..evlm.files.selection import spread

    some = spread(len(frames), PREVIEWS)
    return drawn(frames[some], mask[some], [], [each[some] for each in steps])
