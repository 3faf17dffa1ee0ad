"""One request from picture to picture: the engine's five steps in one node."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import host, sockets
from .asking import asks, below_input
from .checks import checked
from .edit import own_values
from .ground import drawn
from .reason import BATCH, PROMPT, as_json
from .story import STORY

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.boxes import Box
    from ..evlm.request import Reference as EngineReference
    from .load_all import Pipe

STOP = ["paint", "stop at the plan", "paint anyway"]
MOST_VARIATIONS = 16
REMEDY = (
    "to paint all the same, name what is meant in `targets`, draw a mask, or choose 'paint anyway' in `stop`"
)
ASK = (
    "Say more in the prompt or add a reference; 'stop at the plan' in `stop` shows its place, 'paint anyway' "
    "paints it, and so does an `instruction` of your own"
)


class QuickEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_QuickEdit",
            display_name="EVLM Quick Edit",
            category=sockets.CATEGORY,
            description="Picture, references and a few words in, edited picture out; outside the mask "
            "nothing changes. Stop at the plan to look at it first; change its words, connect boxes or a "
            "mask, and go on without reasoning again.",
            inputs=[
                sockets.Pipe.Input("pipe", tooltip="From EVLM Load All."),
                io.Image.Input("image", tooltip="What is to be edited."),
                io.String.Input("prompt", default="", multiline=True, tooltip=PROMPT),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Of the painting. The plan does not depend on it.",
                ),
                io.Combo.Input(
                    "stop",
                    options=STOP,
                    tooltip="'stop at the plan' paints nothing yet; 'paint anyway' follows a doubtful plan, "
                    "too.",
                ),
                io.Int.Input(
                    "variations",
                    default=1,
                    min=1,
                    max=MOST_VARIATIONS,
                    tooltip="Paint so many times, with seed, seed + 1, ...; the pictures come as a batch.",
                ),
                io.String.Input(
                    "instruction",
                    default="",
                    multiline=True,
                    tooltip="Instead of the plan's instruction; the reasoner is not asked again.",
                ),
                io.String.Input(
                    "targets",
                    default="",
                    tooltip="Instead of the plan's labels, parted by ';'. Its own place is then not asked.",
                ),
                io.Combo.Input(
                    "batch",
                    options=BATCH,
                    tooltip="A batch is several pictures, each with its own plan, or one video's frames.",
                ),
                io.Int.Input("steps", default=0, min=0, max=1000, tooltip="0 is the model's own."),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Weight of the instruction; 0 is the model's own.",
                ),
                io.Float.Input(
                    "image_guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="Weight of the original: higher stays closer to it; 0 is the model's own.",
                ),
                sockets.References.Input("references", optional=True, tooltip="Things to look at."),
                sockets.BoxesIn.Input("boxes", optional=True, tooltip="Instead of the detector's."),
                io.Mask.Input("mask", optional=True, tooltip="Where to edit, instead of the plan's place."),
                below_input(),
            ],
            outputs=[
                io.Image.Output("edited", display_name="image", tooltip="The original where stopped."),
                io.Mask.Output("edit_mask", display_name="mask", tooltip="Where the edit is allowed."),
                sockets.Plan.Output(
                    "plan", display_name="plan", is_output_list=True, tooltip="One for each picture."
                ),
                io.Image.Output("preview", display_name="preview", tooltip="Boxes and mask on the picture."),
                io.Mask.Output(
                    "step_masks",
                    display_name="step_masks",
                    is_output_list=True,
                    tooltip="For each picture the place of each step of its plan, one behind the other; for "
                    "the mask of EVLM Rate Edit.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        pipe: Pipe,
        image: Tensor,
        prompt: str,
        seed: int,
        stop: str,
        variations: int,
        instruction: str,
        targets: str,
        batch: str,
        steps: int,
        guidance: float,
        image_guidance: float,
        references: tuple[EngineReference, ...] | None = None,
        boxes: Any = None,
        mask: Tensor | None = None,
        ask_below: float = 0.0,
    ) -> io.NodeOutput:
        from dataclasses import replace

        from ..evlm.masks import fit_mask
        from ..evlm.pipeline import Changes
        from ..evlm.request import Request

        sockets.choice("batch", batch, BATCH)
        sockets.within("variations", variations, 1, MOST_VARIATIONS)
        sockets.within("ask_below", ask_below, 0, 1)
        paint = sockets.choice("stop", stop, STOP) != STOP[1]
        pictures = [image] if batch == "video" else list(image.split(1))
        changes = Changes(instruction=instruction.strip(), targets=sockets.split_labels(targets))
        given = (
            [None] * len(pictures) if boxes is None else _by_picture(sockets.to_boxes(boxes), len(pictures))
        )
        pipeline, watch = (
            pipe.pipeline(batch == "video"),
            Watch(len(pictures) * (variations if paint else 1)),
        )
        edited, masks, planned, previews, step_masks = [], [], [], [], []
        notes: list[str] = []
        own = None
        requests = [Request(frames, prompt, references or ()) for frames in pictures]
        places = [
            None
            if mask is None
            else fit_mask(_mask_of(mask, number, len(pictures), frames), frames, notes=notes)
            for number, frames in enumerate(pictures)
        ]
        ask = partial(watch.reasoned, pipeline, requests)
        answers = pipe.answered([key_of(each) for each in requests], ask)
        watch.recalled(answers)
        doubtful = [] if changes.instruction else [each.trace.plan for each in answers]
        said, stops = asks([plan for plan in doubtful if not plan.changes_nothing], ask_below)
        if stops and stop == STOP[0]:
            said = f"stopped: {said}. {ASK}"
            host.tell([said])
            written = {"evlm_trace": [as_json(each.trace) for each in answers]}
            return io.NodeOutput(ui=written, block_execution=said)
        notes += [said] if said else []
        for frames, request, answer, place, own_boxes in zip(
            pictures, requests, answers, places, given, strict=True
        ):
            wanted = replace(changes, boxes=own_boxes)
            plan = pipeline.plan(request, reasoned=answer, changes=wanted, mask=place, on_event=watch.event)
            everywhere = torch.ones(frames.shape[:3])
            planned.append(plan)
            masks.append(everywhere if plan.mask is None else plan.mask)
            each_step = [everywhere if step.mask is None else step.mask for step in plan.steps]
            step_masks.append(torch.cat(each_step))
            previews.append(drawn(frames, plan.mask, list(plan.boxes), [step.mask for step in plan.steps]))
            if not paint:
                notes += plan.notes
                edited.append(frames)
                continue
            for turn in range(variations):
                own = pipeline.editor.defaults
                settings = _settings(own, (seed + turn) % 2**63, steps, guidance, image_guidance)
                result = pipeline.paint(request, plan, settings, on_event=watch.event, anyway=stop == STOP[2])
                watch.painted()
                edited.append(result.edited)
                notes += [*result.notes, *([REMEDY] if result.held_back else [])]
        host.tell(dict.fromkeys(notes))  # several variations say the same
        pictures_out, drawings = torch.cat(edited), torch.cat(previews)
        watch.end(pictures_out if paint else drawings)
        shown = host.preview(pictures_out if paint else drawings, cls)
        ui = {**shown.as_dict(), "evlm_trace": [as_json(each.trace) for each in planned]}
        if own is not None:
            ui["evlm_own_values"] = [own_values(own)]
        plans = [
            each.trace.for_picture(len(frames), len(pictures))
            for each, frames in zip(planned, pictures, strict=True)
        ]
        return io.NodeOutput(pictures_out, torch.cat(masks), plans, drawings, step_masks, ui=ui)


def _settings(defaults: Any, seed: int, steps: int, guidance: float, image_guidance: float) -> Any:
    from dataclasses import replace

    said = {"steps": steps, "guidance": guidance, "image_guidance": image_guidance}
    return replace(defaults, seed=seed, **{name: value for name, value in said.items() if value})


def _by_picture(boxes: list[Box], pictures: int) -> list[tuple[Box, ...] | None]:
    """For each of several pictures the boxes of its frame, None where it has none: its place is then looked
    for. Boxes that are all of the first are for all. Raises RequestError."""
    from dataclasses import replace

    from ..evlm.errors import RequestError

    last = max((box.frame for box in boxes), default=0)
    if pictures == 1 or last == 0:
        return [tuple(boxes)] * pictures
    if last >= pictures:
        raise RequestError(
            f"boxes: one is of picture {last + 1}, and there are {pictures}; give boxes of these pictures"
        )
    own = (tuple(replace(box, frame=0) for box in boxes if box.frame == at) for at in range(pictures))
    return [each or None for each in own]


def _mask_of(mask: Tensor, number: int, pictures: int, frames: Tensor) -> Tensor:
    """The mask of one picture: its own where there are as many, else the one for all. Raises RequestError."""
    from ..evlm.errors import RequestError

    if pictures > 1 and len(mask) == pictures:
        return mask[number : number + 1]
    if len(mask) not in (1, len(frames)):
        raise RequestError(f"mask: {len(mask)} masks for {pictures} pictures; give one, or one each")
    return mask


def key_of(request: Any) -> str:
    """A digest of all that the reasoner sees."""
    digest = hashlib.blake2b(digest_size=16)
    seen: list[tuple[Any, ...]] = [
        ("", request.original, request.prompt, "", request.fps),
        *((r.kind, r.frames, r.text, r.note, r.fps) for r in request.references),
    ]
    for kind, frames, text, note, fps in seen:
        shape = None if frames is None else tuple(frames.shape)
        digest.update(repr((kind, shape, text, note, fps)).encode())
        if frames is not None:
            digest.update(frames.detach().cpu().contiguous().float().numpy())
    return digest.hexdigest()


class Watch:
    """The pipeline's events on the node: the trace while it is written, the bar, previews; cancels."""

    def __init__(self, paintings: int) -> None:
        self._total, self._done = 1000 * paintings, 0
        self._bar, self._typing = host.Progress(self._total), host.Typing(STORY.write)
        self._remember: Callable[[int, Any], None] = lambda number, answer: None
        self._written: list[int] = []

    def reasoned(
        self, pipeline: Any, requests: list[Any], numbers: list[int], remember: Callable[[int, Any], None]
    ) -> None:
        from ..evlm.reason.batch import reason_all

        self._remember, self._written = remember, numbers
        reason_all(pipeline.reasoner, requests, listener=self, numbers=numbers)

    def recalled(self, answers: list[Any]) -> None:
        """Shows at once the traces that nobody writes, their questions answered in an earlier run."""
        from ..evlm.plan.trace import render

        for number, answer in enumerate(answers):
            if number not in self._written:
                typing = host.Typing(STORY.write)
                typing(render(answer.trace))
                typing.done()

    def piece(self, number: int, text: str) -> None:
        self._typing(text)

    def answer(self, number: int, reasoned: Any) -> None:
        self._typing.done()
        self._typing = host.Typing(STORY.write)
        self._remember(number, reasoned)

    def progress(self, done: int, pieces: int) -> None:
        host.check_cancelled()

    def event(self, event: Any) -> None:
        host.check_cancelled()
        if event.kind == "progress" and event.step == "edit":
            self._bar(self._done + 999 * event.done // max(1, event.total), self._total, event.preview)

    def painted(self) -> None:
        self._done += 1000

    def end(self, pictures: Tensor) -> None:
        self._bar.end(pictures)
