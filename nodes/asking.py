"""`ask below`: a plan of which the model is not sure is shown, and goes no further."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

if TYPE_CHECKING:
    from ..evlm.plan.trace import Plan

UNKNOWN = (
    "`ask below` has no effect: nothing is known of how sure this model is (a server without logprobs, say)"
)


def below_input(stops: str = "Paint nothing") -> Any:
    """`ask below`, and what happens there."""
    return io.Float.Input(
        "ask_below",
        display_name="ask below",
        default=0.0,
        min=0.0,
        max=1.0,
        step=0.05,
        optional=True,
        tooltip=f"{stops} where the model is less sure of its plan than this, 0 to 1, and say what to do; "
        "0: never.",
    )


def asks(plans: Sequence[Plan], below: float) -> tuple[str, bool]:
    """What is to be said of the plan that the model is least sure of, where that is less than `below`, 0..1,
    and whether to stop by it; ("", False) where nothing is."""
    known = [(plan.confidence, plan.instruction) for plan in plans if plan.confidence is not None]
    if below and plans and not known:
        return UNKNOWN, False
    sure, instruction = min(known, default=(1.0, ""))
    if sure >= below:
        return "", False
    return f"the model is sure of {instruction!r:.200} by {sure:.4g}, and `ask below` is {below:g}", True
