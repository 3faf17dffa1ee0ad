"""From a vague request to a plan: references, the reasoner, and a look at what it thought."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import clips, host, scene_views, sockets
from .asking import asks, below_input
from .borrowed import room_beside
from .checks import checked
from .clips import ClipOrScene
from .story import STORY

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.plan.trace import Trace
    from ..evlm.request import Reference as EngineReference

KINDS = ["image", "video", "text", "depth"]
BATCH = ["pictures", "video"]
GUIDED = ["auto", "always", "never"]
STYLES = ["auto", "full", "few-shot", "two_step", "direct"]
ASK = (
    "Say more in the prompt, add a reference, try another seed at a temperature above 0, or lower `ask below`"
)
PROMPT = "What shall change? One to four words are enough, or none when a reference says it."


class Reference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_Reference",
            display_name="EVLM Reference",
            category=sockets.CATEGORY,
            description="Something for the reasoner to look at: a picture, a video, a depth map or words. "
            "Chain several; they are seen in that order.",
            inputs=[
                io.Combo.Input(
                    "kind",
                    options=KINDS,
                    tooltip="An image batch of kind 'image' is one reference for each picture.",
                ),
                io.String.Input("text", default="", multiline=True, tooltip="The words, for kind 'text'."),
                io.String.Input(
                    "note", default="", tooltip="What it is for, shown beside it: 'use this colour'."
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture, for kinds 'image' and 'depth'; the frames, for 'video'.",
                ),
                io.Video.Input("video", optional=True, tooltip="The video, for kind 'video'."),
                sockets.References.Input("references", optional=True, tooltip="Earlier references."),
            ],
            outputs=[
                sockets.References.Output(
                    "evlm_references",
                    display_name="references",
                    tooltip="The earlier references, then this one.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        kind: str,
        text: str,
        note: str,
        image: Tensor | None = None,
        video: Any = None,
        references: tuple[EngineReference, ...] | None = None,
    ) -> io.NodeOutput:
        from ..evlm.errors import RequestError
        from ..evlm.files.selection import spread
        from ..evlm.reason.messages import MAX_FRAMES
        from ..evlm.request import Reference as EngineReference

        if sockets.choice("kind", kind, KINDS) == "text":
            added = [EngineReference("text", text=text, note=note)]
        elif kind == "video" and video is not None:
            frames, rate = clips.looked_at(video, "video", MAX_FRAMES)
            added = [EngineReference("video", frames, note=note, fps=rate)]
        elif image is None:
            raise RequestError(
                f"a reference of kind {kind!r} needs its `image` input connected"
                + (", or `video`" if kind == "video" else "")
            )
        elif kind == "video":
            added = [EngineReference("video", image[spread(len(image), MAX_FRAMES)], note=note)]
        else:
            added = [EngineReference(kind, frame[None], note=note) for frame in image]
        return io.NodeOutput((*(references or ()), *added))


class Reason(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_Reason",
            display_name="EVLM Reason",
            category=sockets.CATEGORY,
            description="Reads the picture, the references and the prompt, thinks aloud in four parts, and "
            "gives a precise instruction, the labels of what is to change, and a rough mask.",
            inputs=[
                sockets.Model.Input("model", tooltip="From Load EVLM or Remote EVLM."),
                io.MultiType.Input(
                    "image",
                    types=[io.Video, io.Image, sockets.Scene],
                    tooltip="What is to be edited. Of a video some frames are looked at, spread evenly; of a "
                    "scene its first view.",
                ),
                io.String.Input("prompt", default="", multiline=True, tooltip=PROMPT),
                io.Combo.Input(
                    "batch",
                    options=BATCH,
                    tooltip="A batch is several pictures, each with its own plan, or one video's frames.",
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=768,
                    min=1,
                    max=65536,
                    tooltip="At most so many tokens are written for one picture.",
                ),
                io.Float.Input(
                    "temperature",
                    default=0.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="0: always the likeliest word. Above: more various.",
                ),
                io.Float.Input(
                    "top_p",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Only the likeliest words that make up this share; counts at a temperature "
                    "above 0.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Where chance begins; counts at a temperature above 0.",
                ),
                io.Boolean.Input(
                    "repair",
                    default=True,
                    tooltip="Mend what a model gets wrong in the form (missing tags, JSON instead).",
                ),
                sockets.References.Input("references", optional=True, tooltip="What the model sees besides."),
                io.Combo.Input(
                    "guided",
                    options=GUIDED,
                    optional=True,
                    tooltip="Hold the text to its form, so that the model cannot ramble or miss it. 'auto': "
                    "a model that was never tuned on the form.",
                ),
                below_input("Stop here"),
                io.Combo.Input(
                    "style",
                    options=STYLES,
                    optional=True,
                    tooltip="How a model that was never tuned on the form is asked: with all four parts "
                    "explained, by two whole examples, with one part of thought, or for the plan alone. "
                    "'auto': in the model's own style, which a tuned one cannot do without.",
                ),
            ],
            outputs=[
                sockets.Plan.Output(
                    "plan",
                    display_name="plan",
                    is_output_list=True,
                    tooltip="What is to be done, with its reasons; one for each picture.",
                ),
                io.String.Output(
                    "instruction",
                    display_name="instruction",
                    is_output_list=True,
                    tooltip="The plan in one sentence.",
                ),
                io.String.Output(
                    "targets",
                    display_name="targets",
                    is_output_list=True,
                    tooltip="Labels of what is to change, parted by ';'.",
                ),
                io.Mask.Output(
                    "mask",
                    display_name="mask",
                    is_output_list=True,
                    tooltip="The plan's own rough place; all on where it names none.",
                ),
                io.String.Output(
                    "trace", display_name="trace", is_output_list=True, tooltip="All that the model wrote."
                ),
                io.Image.Output(
                    "planned_image",
                    display_name="image",
                    is_output_list=True,
                    tooltip="The picture each plan is for: connect this one when you plan a batch. "
                    "Of a video the frames that were looked at.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        image: ClipOrScene,
        prompt: str,
        batch: str,
        max_new_tokens: int,
        temperature: float,
        top_p: float,
        seed: int,
        repair: bool,
        references: tuple[EngineReference, ...] | None = None,
        guided: str = GUIDED[0],
        ask_below: float = 0.0,
        style: str = STYLES[0],
    ) -> io.NodeOutput:
        from ..evlm.plan.trace import with_trust
        from ..evlm.reason.batch import reason_all
        from ..evlm.reason.messages import MAX_FRAMES
        from ..evlm.reason.reasoner import Sampling
        from ..evlm.request import Request

        sockets.choice("batch", batch, BATCH)
        sockets.within("ask_below", ask_below, 0, 1)
        frames, rate = image, None
        if hasattr(image, "gaussians"):
            frames = scene_views.first(image)
        elif not isinstance(image, torch.Tensor):
            batch, (frames, rate) = "video", clips.looked_at(image, "image", MAX_FRAMES)
        pictures = [frames] if batch == "video" else list(frames.split(1))
        requests = [Request(each, prompt, references or (), rate) for each in pictures]
        sampling = Sampling(max_new_tokens, temperature, top_p, seed, guided, style=style)
        watch = Watch(len(requests), max_new_tokens)
        with (
            model.use() if isinstance(model, host.Managed) else nullcontext(model) as reasoner,
            room_beside(model, reasoner, requests, max_new_tokens),
        ):
            reasoned = reason_all(reasoner, requests, sampling, repair, watch)
        traces: list[Trace] = [each.trace for each in reasoned]
        texts = [with_trust(each.text, each.trace.plan) for each in reasoned]
        traces = [
            trace.for_picture(len(each), len(pictures)) for trace, each in zip(traces, pictures, strict=True)
        ]
        host.tell(note for request in requests for note in request.notes)
        plans = [trace.plan for trace in traces]
        ui = {"evlm_trace": [as_json(trace) for trace in traces]}
        said, stops = asks(plans, ask_below)
        if stops:
            said = f"stopped: {said}. {ASK}"
        host.tell([said] if said else [])
        if stops:
            return io.NodeOutput(ui=ui, block_execution=said)
        masks = [_mask(trace, each) for trace, each in zip(traces, pictures, strict=True)]
        return io.NodeOutput(
            traces,
            [plan.instruction for plan in plans],
            ["; ".join(plan.targets) for plan in plans],
            masks,
            texts,
            pictures,
            ui=ui,
        )


class Watch:
    """The reasoner's answers on the node: each trace while it is written, the bar, notes; cancels."""

    def __init__(self, pictures: int, most_tokens: int) -> None:
        self._most, self._total = most_tokens, most_tokens * pictures
        self._bar, self._typing = host.Progress(self._total), host.Typing(STORY.write)

    def piece(self, number: int, text: str) -> None:
        self._typing(text)

    def answer(self, number: int, reasoned: Any) -> None:
        self._typing.done()
        host.tell(reasoned.notes)
        self._typing = host.Typing(STORY.write)

    def progress(self, done: int, pieces: int) -> None:
        self._bar(min(done * self._most + pieces, self._total))


class ShowTrace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_ShowTrace",
            display_name="EVLM Show Trace",
            category=sockets.CATEGORY,
            description="Shows what the reasoner thought, in four parts, and passes the plan on.",
            inputs=[sockets.Plan.Input("plan", tooltip="The plan that is shown.")],
            outputs=[sockets.Plan.Output("same_plan", display_name="plan", tooltip="The plan, as it came.")],
            is_output_node=True,
        )

    @classmethod
    @checked
    def execute(cls, plan: Trace) -> io.NodeOutput:
        from ..evlm.plan.trace import render, with_trust

        text = with_trust(render(plan), plan.plan)
        return io.NodeOutput(plan, ui={"evlm_trace": [as_json(plan)], "text": [text]})


def as_json(trace: Trace) -> dict[str, Any]:
    """What the browser draws."""
    plan = trace.plan
    return {
        "thinking": trace.thinking,
        "intermediate": trace.intermediate,
        "reflection": trace.reflection,
        "instruction": plan.instruction,
        "targets": list(plan.targets),
        "scope": plan.scope,
        "mask": plan.mask_text,
        "repairs": list(plan.repairs),
        "confidence": plan.confidence,
        "steps": [
            {
                "instruction": step.instruction,
                "targets": list(step.targets),
                "scope": step.scope,
                "mask": step.mask_text,
            }
            for step in plan.several
        ],
    }


def _mask(trace: Trace, frames: Tensor) -> Tensor:
    """The plan's own mask [F, H, W], of all its steps; all on where one of them names no place."""
    from ..evlm.masks import union_of
    from ..evlm.segment.region import plan_region

    mask = union_of([plan_region(step, *frames.shape[1:3]).mask for step in trace.plan.steps])
    return torch.ones(frames.shape[:3]) if mask is None else mask.expand(len(frames), -1, -1).clone()
