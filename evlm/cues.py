"""What a bridge is told of a request: features that reasoner, segmenter and editor have of it anyway.

editor = told(editor, reasoner, segmenter, request, plan, text, mask, notes)
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .edit.bridge import Cues, Seen, Shape
from .errors import ModelError
from .masks import fit_mask
from .reason.messages import build_messages, encode

if TYPE_CHECKING:
    from .plan.trace import Plan
    from .request import Request

STATES = 32  # tokens of the plan whose states count, the last ones
PARTS = 3  # a reference is seen as a whole and in so many parts a side: no plan names what is on it
OUTPUT = "<output>"


def told(
    editor: Any,
    reasoner: Any,
    segmenter: Any,
    request: Request,
    plan: Plan,
    text: str,
    mask: Tensor | None,
    notes: list[str],
) -> Any:
    """The editor with the cues of an edit of a picture, where it takes cues, lets any through, and there is
    a reasoner here to have them of; else as it is, and where that is a loss notes say so. text: the
    reasoner's; mask: [F, H, W], the place. Raises ModelError where the bridge was made for other models."""
    with lent(editor) as own:
        if not hasattr(own, "with_cues") or own.bridge.shut:
            return editor
        shape = own.bridge.shape
    with lent(reasoner) as own:
        here = hasattr(own, "backbone")
    if len(request.original) > 1 or not here:
        why = "a clip is edited without it" if here else "the reasoner is not on this machine"
        notes.append(f"the editor's bridge was told nothing: {why}")
        return editor
    cues = look(editor, reasoner, segmenter, request, plan, text, mask)
    fit(cues, shape)
    return editor.with_cues(cues)


def lent(model: Any, *requests: Request) -> Any:
    """A model for as long as it is asked: one under somebody else's memory (`lent`) has to be there for that.
    requests: of a reasoner, for whose words there has to be room beside it."""
    return model.lent(*requests) if hasattr(model, "lent") else nullcontext(model)


def fit(cues: Cues, shape: Shape) -> None:
    """Raises ModelError where the cues are of other widths than the bridge's."""
    wanted = {
        "picture": (shape.patch, "reasoner"),
        "patches": (shape.patch, "reasoner"),
        "states": (shape.state, "reasoner"),
        "regions": (shape.region, "segmenter"),
    }
    for name, (width, role) in wanted.items():
        seen: Seen | None = getattr(cues, name)
        if seen is not None and seen.values.shape[-1] != width:
            raise ModelError(
                f"the editor's bridge was made for another {role}: its {name} have {width} channels, this "
                f"{role}'s {seen.values.shape[-1]}; load the {role} that it was trained with, or an editor "
                "without a bridge"
            )


@torch.no_grad()
def look(
    editor: Any,
    reasoner: Any,
    segmenter: Any,
    request: Request,
    plan: Plan,
    text: str,
    mask: Tensor | None,
) -> Cues:
    """Cues of one row. A clip is seen as words and states alone. text: of which the plan was read."""
    with lent(reasoner, request) as own:
        picture, patches, states = _reasoned(own, request, text)
    with lent(segmenter) as own:
        regions = None if own is None else _regions(own, request, mask)
    with lent(editor) as own:
        words = own.words(plan.targets)
    return Cues(picture=picture, patches=patches, regions=regions, words=words, states=states)


def _reasoned(reasoner: Any, request: Request, text: str) -> tuple[Seen | None, Seen | None, Seen | None]:
    """(the original's patches, the references', the states of the plan's tokens)."""
    backbone = reasoner.backbone
    chat = build_messages(request, reasoner.codec, reasoner.style, backbone.max_frames)
    inputs = encode(reasoner.processor, [chat], [text.replace("<|", "< |")]).to(reasoner.device)
    core, seen = backbone.model.model, list[Tensor]()
    hook = core.visual.merger.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        states = core(**inputs).last_hidden_state[0]
    finally:
        hook.remove()
    tokenizer = reasoner.processor.tokenizer
    plan = text[max(0, text.rfind(OUTPUT)) :]
    count = min(STATES, len(tokenizer(plan, add_special_tokens=False)["input_ids"]))
    found = None if count == 0 else Seen.of(states[-count:].float())
    if not chat.images or len(request.original) > 1:
        return None, None, found
    grids = inputs["image_grid_thw"].prod(-1).tolist()
    each = seen[0].float().reshape(-1, seen[0].shape[-1])[: sum(grids)].split(grids)
    return Seen.of(each[0]), (Seen.of(torch.cat(each[1:])) if len(each) > 1 else None), found


def _regions(segmenter: Any, request: Request, mask: Tensor | None) -> Seen | None:
    """Of the place in the original, then of each reference picture and its parts."""
    found = []
    if mask is not None and len(request.original) == 1 and bool((mask > 0.5).any()):
        fitted = fit_mask(mask[:1], request.original)
        found.append(segmenter.pooled(request.original[0], fitted))
    for reference in request.references:
        if reference.frames is not None:
            found.append(segmenter.pooled(reference.frames[0], _parts(*reference.frames.shape[1:3])))
    return Seen.of(torch.cat(found).float()) if found else None


def _parts(height: int, width: int) -> Tensor:
    """[1 + PARTS ** 2, height, width]: the whole and its parts."""
    masks = torch.zeros(1 + PARTS * PARTS, height, width)
    masks[0] = 1
    for at in range(PARTS * PARTS):
        row, column = divmod(at, PARTS)
        rows = slice(row * height // PARTS, (row + 1) * height // PARTS)
        masks[1 + at, rows, column * width // PARTS : (column + 1) * width // PARTS] = 1
    return masks
