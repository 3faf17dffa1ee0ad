"""A plan of several edits, painted one after the other or all at once, as it suits the editor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..masks import union_of
from ..plan.form import COMPOUND
from .protocol import Edited, unchanged

if TYPE_CHECKING:
    from torch import Tensor

    from ..plan.trace import Plan
    from .protocol import Editor, EditSettings, OnStep


def edit_steps(
    editor: Editor,
    frames: Tensor,
    steps: Sequence[tuple[Plan, Tensor | None]],
    settings: EditSettings | None = None,
    on_step: OnStep | None = None,
) -> Edited:
    """Edits frames [F, H, W, 3] in 0..1 by steps, each (a plan of one edit, its mask [F, H, W] or None for
    the whole frame).

    Each works on the result of the one before and outside its own mask leaves that bit for bit; so outside
    all masks the frames are the given ones. An editor that does better with everything said at once
    (`Editor.steps` is False) gets one sentence and the masks' union. Steps that change nothing are left out.

    Gives the last step's crops, the box around them, and the notes of all.
    """
    numbered = ((number, plan, mask) for number, (plan, mask) in enumerate(steps, 1))
    at_work = [each for each in numbered if not each[1].changes_nothing]
    if not at_work:
        return unchanged(frames, ())
    if len(at_work) > 1 and not getattr(editor, "steps", True):
        sentence = COMPOUND.join(plan.instruction for _, plan, _ in at_work)
        union = union_of([mask for _, _, mask in at_work])
        return editor.edit(frames, sentence, union, settings=settings, on_step=on_step)
    notes: list[str] = []
    crops, box = frames.new_zeros(0, 0, 0, 3), None
    for turn, (number, plan, mask) in enumerate(at_work):
        watched = None if on_step is None else _share(on_step, turn, len(at_work))
        result = editor.edit(frames, plan.instruction, mask, settings=settings, on_step=watched)
        frames = result.frames
        if len(result.crops):
            crops, box = result.crops, result.box
        notes += [f"step {number}: {note}" for note in result.notes] if len(steps) > 1 else result.notes
    return Edited(frames, crops, box, tuple(notes))


def _share(on_step: OnStep, turn: int, turns: int) -> OnStep:
    """What one of several edits tells, as a share of all."""

    def tell(done: int, total: int, preview: Tensor | None) -> None:
        on_step(turn * total + done, turns * total, preview)

    return tell
