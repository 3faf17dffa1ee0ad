"""`ask below`: a plan of which the model is not sure is shown, and goes no further."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evlm.plan.trace import Plan

UNKNOWN = (
    "`ask below` has no effect: nothing is known of how sure this model is (a server without logprobs, say)"
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
