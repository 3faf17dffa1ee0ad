"""A question put to the teacher, and its answer read: exactly, then mended; asked again with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evlm.errors import EVLMError, TraceError
from evlm.files.pictures import load_picture
from evlm.plan.form import PROSE, Trace
from evlm.reason.messages import Chat, build_messages
from evlm.reason.reasoner import Generated, understood
from evlm.request import Reference, Request
from evlm.row import load_paths

from .batch import Waiting
from .teacher import Asked, Refused, corrected

PROMPT_VERSION = 1  # of what is asked; another number asks everything again

WAITING = "waiting"  # for a batch's answer

_HINT = (
    "For your eyes only: this is what was wanted, and the plan must lead to it. Write as if you had not seen "
    "it, as one who reasons from the original and the references alone."
)


def taught(asked: Asked, out: Path, task: dict[str, Any], hint: str = "both") -> dict[str, Any]:
    """{"trace": its parts and the plan's, "repairs": [...], "again": whether it was asked twice}, or
    {"dropped": name, "reason": why}, "passing" where the next run may do better.

    task: {"original", "references", "fps", "edited", "instruction", "sample", "prompt"?} with paths in `out`.
    hint: what of "edited" and "instruction" is shown. Raises EndpointError where the endpoint is of
    no use, ConfigError where the money is spent.
    """
    try:
        chat = _chat(asked, out, task, hint)
    except EVLMError as error:
        return {"dropped": "picture", "reason": str(error)[:400], "passing": True}
    reason = ""
    for again in (False,) if asked.tuned else (False, True):
        try:
            kept = asked.ask(chat, task["sample"])
        except Waiting as error:
            return {"dropped": WAITING, "reason": str(error), "passing": True}
        except Refused as error:  # `Answers` keeps it, once it is sure
            return {"dropped": "refused", "reason": str(error)[:400], "passing": True}
        generated = Generated(kept.text, kept.written or 0, kept.seconds, kept.finished)
        try:
            trace = understood(generated, True, "base", asked.model.style).trace
        except TraceError as error:
            reason = str(error)
            chat = corrected(chat, kept.text, reason)
            continue
        return {"trace": _data(trace), "repairs": list(trace.plan.repairs), "again": again}
    return {"dropped": "format", "reason": reason[:400]}


def _data(trace: Trace) -> dict[str, Any]:
    plan = trace.plan
    return {
        **{name: getattr(trace, name) for name in PROSE},
        "instruction": plan.instruction,
        "targets": list(plan.targets),
        "scope": plan.scope,
        "mask_text": plan.mask_text,
        "steps": [
            {"instruction": step.instruction, "targets": list(step.targets), "scope": step.scope,
             **({} if step.mask_text is None else {"mask_text": step.mask_text})}
            for step in plan.several
        ],
    }  # fmt: skip


def request_of(out: Path, task: dict[str, Any]) -> Request:
    """What a task asks about, its pictures read. Raises PictureError, RecordError, RequestError."""
    references = tuple(
        Reference(
            each["kind"],
            load_paths(out, each["frames"]) if each.get("frames") else None,
            each.get("text", ""),
            fps=each.get("fps"),
        )
        for each in task["references"]
    )
    return Request(load_paths(out, task["original"]), task.get("prompt", ""), references, task["fps"])


def _chat(asked: Asked, out: Path, task: dict[str, Any], hint: str) -> Chat:
    """Raises PictureError, RecordError, RequestError."""
    chat = build_messages(request_of(out, task), asked.model.codec, asked.model.style)
    content, images = list(chat.messages[-1]["content"]), list(chat.images)
    hint = "none" if asked.tuned else hint
    instruction = task["instruction"] if hint in ("instruction", "both") else ""
    edited = task["edited"] if hint in ("edited", "both") else []
    if instruction or edited:
        content.append({"type": "text", "text": f"\n\n{_HINT}\n"})
    if instruction:
        said = " ".join(instruction.split()).replace("<|", "< |")
        content.append({"type": "text", "text": f"What was asked for: {said}\n"})
    if edited:
        content.append({"type": "text", "text": "The edited picture:\n"})
        content.append({"type": "image"})
        frame = load_picture(out / edited[0])[0]
        images.append((frame * 255).round().to(torch.uint8).permute(2, 0, 1))
    return Chat([*chat.messages[:-1], {**chat.messages[-1], "content": content}], images, chat.videos)
