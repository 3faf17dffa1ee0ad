"""The edit itself, inside the mask and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from . import host, sockets
from .checks import checked
from .painting import guidance_inputs, seamless_input

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.edit.protocol import EditSettings
    from ..evlm.plan.trace import Plan, Trace

ONE_MASK = (
    "each step may paint in all of the mask; with `step_masks` of EVLM Segment as the mask each has its own"
)
REMEDY = "Write the instruction here, connect a mask of the place, or turn `anyway` on to paint all the same"


class Edit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        from ..evlm.edit.schedulers import SCHEDULERS

        return io.Schema(
            node_id="EVLM_Edit",
            display_name="EVLM Edit (IP2P)",
            category=sockets.CATEGORY,
            description="Edits by InstructPix2Pix inside the mask; outside it every pixel stays as it is. A "
            "crop around the mask is painted at the model's best size. Without a mask, the whole frame. A "
            "plan of several edits is painted step after step.",
            inputs=[
                sockets.Editor.Input("editor", tooltip="From Load IP2P or EVLM Native Editor."),
                io.Image.Input("image", tooltip="What is edited."),
                io.String.Input(
                    "instruction", default="", multiline=True, tooltip="Empty: the plan's instruction."
                ),
                *guidance_inputs(),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 the edit starts from the noised original.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Where chance begins.",
                ),
                io.Combo.Input(
                    "scheduler", options=["model", *SCHEDULERS], tooltip="model is the model's own."
                ),
                io.Float.Input(
                    "context",
                    default=1.2,
                    min=1.0,
                    max=16.0,
                    step=0.05,
                    tooltip="How much larger than the mask the crop is, per side.",
                ),
                io.Int.Input(
                    "feather",
                    default=-1,
                    min=-1,
                    max=4096,
                    tooltip="Pixels over which the edit fades in, inward from the mask's edge; -1: 2 %.",
                ),
                io.Int.Input(
                    "chunk",
                    default=8,
                    min=1,
                    max=4096,
                    tooltip="Frames at once; halved by itself when memory runs out.",
                ),
                sockets.Plan.Input(
                    "plan", optional=True, tooltip="Its instruction counts where none is written here."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where to edit; without it everywhere. For a plan of several edits the "
                    "step_masks of EVLM Segment; any other mask counts for all steps.",
                ),
                io.Boolean.Input(
                    "anyway",
                    default=False,
                    optional=True,  # graphs of 0.1.0 in API form lack it
                    tooltip="Paint by a doubtful plan, too: one of many repairs, or one that would repaint "
                    "the whole picture unasked.",
                ),
                io.Int.Input(
                    "step",
                    default=0,
                    min=0,
                    max=4,
                    optional=True,
                    tooltip="Of a plan of several edits: 0 paints all, one after the other; 1 to 4 that one "
                    "alone.",
                ),
                seamless_input(),
            ],
            outputs=[
                io.Image.Output(
                    "edited", display_name="image", tooltip="The picture, edited inside the mask alone."
                ),
                io.Image.Output(
                    "crop", display_name="crop", tooltip="What the model painted, before it was put back."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        editor: Any,
        image: Tensor,
        instruction: str,
        steps: int,
        guidance: float,
        image_guidance: float,
        strength: float,
        seed: int,
        scheduler: str,
        context: float,
        feather: int,
        chunk: int,
        plan: Trace | None = None,
        mask: Tensor | None = None,
        anyway: bool = False,
        step: int = 0,
        seamless: bool = True,
    ) -> io.NodeOutput:
        from dataclasses import replace

        from ..evlm.edit.schedulers import SCHEDULERS
        from ..evlm.edit.steps import edit_steps
        from ..evlm.errors import RequestError
        from ..evlm.place import doubt_steps
        from ..evlm.request import MAX_PROMPT
        from ..evlm.segment.region import NO_CHANGE

        frames, own = image, instruction.strip()
        sockets.choice("scheduler", scheduler, ["model", *SCHEDULERS])
        work = work_of(plan, own, step)
        if len(work.instruction) > MAX_PROMPT:
            said = len(work.instruction)
            raise RequestError(f"instruction: {said:,} characters, at most {MAX_PROMPT:,} are taken")
        if work.changes_nothing:
            host.tell([NO_CHANGE])
            return io.NodeOutput(frames, frames, ui=host.preview(frames, cls))
        sockets.check_pair(plan, frames)
        notes: list[str] = []
        places, connected = places_of(plan, work, step, mask, frames, notes)
        held_back = ""
        if not anyway and not own:
            held_back = doubt_steps(work, [place is None for place in places], looked=connected)
        if held_back:
            host.tell([*notes, f"nothing was painted: {held_back}. {REMEDY}"])
            return io.NodeOutput(frames, frames, ui=host.preview(frames, cls))
        progress = host.Progress(1)
        with editor.use() as engine:
            defaults = engine.defaults
            settings = replace(
                defaults,
                steps=steps or defaults.steps,
                guidance=guidance or defaults.guidance,
                image_guidance=image_guidance or defaults.image_guidance,
                strength=strength,
                seed=seed,
                scheduler=defaults.scheduler if scheduler == "model" else scheduler,
                context=context,
                feather=None if feather < 0 else feather,
                chunk=chunk,
                seamless=seamless,
            )
            steps_at_work = list(zip(work.steps, places, strict=True))
            if (
                mask is not None
                and work.several
                and len(mask) <= len(frames)
                and getattr(engine, "steps", True)
            ):
                notes.append(ONE_MASK)
            result = edit_steps(engine, frames, steps_at_work, settings, progress)
        progress.end(result.frames)
        host.tell([*notes, *result.notes])
        crop = result.crops if len(result.crops) else frames
        ui = {**host.preview(result.frames, cls).as_dict(), "evlm_own_values": [own_values(defaults)]}
        return io.NodeOutput(result.frames, crop, ui=ui)


def work_of(plan: Trace | None, own: str, step: int) -> Plan:
    """What is painted: the plan, one of its steps, or an instruction of one's own. Raises RequestError."""
    from ..evlm.errors import RequestError
    from ..evlm.plan.form import Plan

    if plan is not None:
        chosen = sockets.step_of(plan.plan, step)
        return chosen.as_one(instruction=own) if own else chosen
    if not own:
        raise RequestError("no instruction: write one, or connect a plan")
    if step:
        raise RequestError(f"step {step!r:.40}: no plan is connected whose step that is; set it to 0")
    return Plan(own)


def places_of(
    plan: Trace | None, work: Plan, step: int, mask: Tensor | None, frames: Tensor, notes: list[str]
) -> tuple[list[Tensor | None], bool]:
    """(where each step at work may paint, None for everywhere; whether a mask was given)."""
    from ..evlm.masks import fit_step_masks, union_of

    if mask is None:
        return [None] * len(work.steps), False
    count = 1 if plan is None else len(plan.plan.steps)
    each = fit_step_masks(mask, frames, count, notes=notes)
    connected = each[0] is not None
    if step:
        each = [each[step - 1]]
    elif not work.several:
        each = [union_of(each)]
    # Everywhere is no place: the whole frame, at the model's size for whole frames.
    return [None if at is None or bool((at >= 0.5).all()) else at for at in each], connected


def own_values(defaults: EditSettings) -> dict[str, float]:
    """What 0 stands for in an editing node, for the page to say."""
    return {name: getattr(defaults, name) for name in ("steps", "guidance", "image_guidance")}


class Composite(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_Composite",
            display_name="EVLM Composite in Mask",
            category=sockets.CATEGORY,
            description="Any editor's picture inside the mask, the original outside it, bit for bit.",
            inputs=[
                io.Image.Input("original", tooltip="What stays outside the mask."),
                io.Image.Input("edited", tooltip="Resized to the original where its size is another."),
                io.Mask.Input("mask", tooltip="Where the edited picture stands."),
                io.Int.Input(
                    "feather",
                    default=-1,
                    min=-1,
                    max=4096,
                    tooltip="Pixels over which the edit fades in, inward from the mask's edge; -1: 2 %.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "image",
                    display_name="image",
                    tooltip="The edited picture inside the mask, the original outside.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, original: Tensor, edited: Tensor, mask: Tensor, feather: int) -> io.NodeOutput:
        from ..evlm.edit.masked import composite

        notes: list[str] = []
        combined = composite(original, edited, mask, None if feather < 0 else feather, notes)
        host.tell(notes)
        return io.NodeOutput(combined, ui=host.preview(combined, cls))
