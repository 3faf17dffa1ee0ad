"""When a plan is doubted: it is shown, and nothing is painted by it unless somebody says so."""

from __future__ import annotations

from .trace import Plan

# A plain JSON answer of an untuned model, with fences and a box, takes six kinds of repair and is sound.
FEW = 6


def doubt(plan: Plan, whole_frame: bool, looked: bool = True) -> str:
    """Why nothing is painted by a plan unless it is asked for; empty: there is no reason.

    whole_frame: no mask is there, so that the edit would repaint everything. That is done only where the plan
    itself says `scope: global`; a scope that the parser had to guess says nothing.
    looked: False where no mask was asked for, so that nobody looked for the targets.
    """
    kinds = {"prose" if note.endswith(": taken as empty") else note for note in plan.repairs}
    if len(kinds) > FEW:
        return f"the plan needed {len(plan.repairs)} repairs, so the request was hardly understood"
    if not whole_frame:
        return ""
    guessed = any(note.startswith("scope was ") for note in plan.repairs)
    if plan.scope == "global" and not guessed:
        return ""
    if not looked:
        return "there is no mask, and the plan does not say itself that the whole picture is meant"
    if plan.targets:
        return (
            f"no {' or '.join(plan.targets)} was found, and the plan does not say that the whole picture is "
            "meant"
        )
    return "the plan names no target and does not say itself that the whole picture is meant"
