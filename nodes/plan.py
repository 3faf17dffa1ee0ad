"""Plans and text: a hand-written plan, or another pack's words, enter and leave the chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from comfy_api.latest import io

from . import host, sockets
from .checks import checked

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.plan.trace import Trace


FORMS = ["json", "trace", "instruction"]


class PlanFromText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_PlanFromText",
            display_name="EVLM Plan from Text",
            category=sockets.CATEGORY,
            description="Reads a plan from text: a whole trace, a plan as JSON, lines such as "
            "'instruction: ...', or a plain sentence.",
            inputs=[
                io.String.Input("text", default="", multiline=True, tooltip="What is read."),
                io.String.Input(
                    "targets",
                    default="",
                    tooltip="Labels of what is to change, parted by ';', instead of those in the text.",
                ),
                io.Boolean.Input(
                    "plain",
                    default=True,
                    tooltip="A text that holds no plan is the instruction itself; off: it is an error.",
                ),
                io.Mask.Input("mask", optional=True, tooltip="Where, instead of the text's own mask."),
            ],
            outputs=[sockets.Plan.Output("plan", display_name="plan", tooltip="The plan that was read.")],
        )

    @classmethod
    @checked
    def execute(cls, text: str, targets: str, plain: bool, mask: Tensor | None = None) -> io.NodeOutput:
        return io.NodeOutput(_read(text, sockets.split_labels(targets), plain, mask))


class PlanToText(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_PlanToText",
            display_name="EVLM Plan to Text",
            category=sockets.CATEGORY,
            description="A plan as text: JSON that Plan from Text reads back, the whole trace, or the "
            "instruction alone for any other node.",
            inputs=[
                sockets.Plan.Input("plan", tooltip="The plan that is written."),
                io.Combo.Input(
                    "form",
                    options=FORMS,
                    tooltip="json to keep, trace to read, instruction for other editors.",
                ),
                io.Int.Input(
                    "step",
                    default=0,
                    min=0,
                    max=4,
                    optional=True,
                    tooltip="Of a plan of several edits: 0 is all of it, its instruction one sentence; 1 to "
                    "4 is that step alone.",
                ),
            ],
            outputs=[io.String.Output("text", display_name="text", tooltip="The plan in the chosen form.")],
        )

    @classmethod
    @checked
    def execute(cls, plan: Trace, form: str, step: int = 0) -> io.NodeOutput:
        from dataclasses import replace

        from ..evlm.plan.trace import plan_to_json, render, with_trust

        chosen = sockets.step_of(plan.plan, step)
        if sockets.choice("form", form, FORMS) == "instruction":
            return io.NodeOutput(chosen.instruction)
        trace = replace(plan, plan=chosen)
        whole = with_trust(render(trace), chosen)
        return io.NodeOutput(whole if form == "trace" else plan_to_json(chosen))


def _place(mask: Tensor) -> Tensor | None:
    """[H, W] of masks [F, H, W], which says what becomes of them; None where it is core's empty one."""
    if mask.shape[1:] == (64, 64) and not bool(mask.any()):
        host.tell(["mask: the empty one of 64 x 64 is a picture's without alpha; it counts as none"])
        return None
    several = f"{len(mask)} masks are taken together, and " if len(mask) > 1 else ""
    host.tell(
        [
            f"mask: {several}a plan keeps it as 16 x 16 cells of the box around it; for its exact edge "
            "connect it to the editing node, too"
        ]
    )
    return mask.amax(0)


def _read(text: str, targets: tuple[str, ...], plain: bool, mask: Tensor | None) -> Trace:
    from dataclasses import replace

    from ..evlm.errors import RefusalError, RequestError, TraceError
    from ..evlm.plan.answers import may_be_an_edit
    from ..evlm.plan.mask_codec import get_codec
    from ..evlm.plan.trace import Plan, Trace, parse, plan_from_json
    from ..evlm.request import MAX_PROMPT

    if len(text) > 10 * MAX_PROMPT:
        raise RequestError(
            f"text: {len(text):,} characters, at most {10 * MAX_PROMPT:,} are read; shorten it"
        )
    try:
        ours = text.lstrip().startswith("{") and '"version"' in text  # else it is JSON that a model wrote
        trace = Trace("", "", "", plan_from_json(text)) if ours else parse(text)
    except TraceError as error:
        if not plain or not text.strip() or text.lstrip()[0] in "<{":
            raise
        if isinstance(error, RefusalError) and not may_be_an_edit(text):
            raise
        trace = Trace("", "", "", Plan(" ".join(text.split()), scope="local" if targets else "global"))
    plan = trace.plan
    if targets:
        plan = plan.as_one(targets=targets, scope="local", confidence=None)
    place = None if mask is None else _place(mask)
    if place is not None:
        text = get_codec("box-spans-16").encode(place)
        drawn = [step.as_one(mask_text=text, scope="local", trust="tuned") for step in plan.steps]
        known = {"repairs": plan.repairs, "confidence": plan.confidence}
        plan = replace(Plan.of_steps(drawn), **known)  # the place is a person's: it is obeyed
    return replace(trace, plan=plan)
