"""What the model answers while it learns: pictures of a few questions with the masks that it wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from evlm.errors import EVLMError
from evlm.files.pictures import write_atomically
from evlm.plan.step_masks import plan_mask, plan_mask_iou
from evlm.plan.trace import Plan, parse
from evlm.reason.messages import Chat
from evlm.viz.sheet import overlay

from ..learner.rows import Example

FOLDER = "samples"  # in the run's folder
SIDE = 192  # pixels of a tile
_PICTURES = 6  # shown of one question
_PROMPT = 4000  # characters


def keep_samples(run: Path, step: int, examples: Sequence[Example], texts: Sequence[str]) -> dict[str, Any]:
    """Draws each answer into `run`/samples and returns the "sample" event: {"event", "step", "items": [{
    "prompt", "answer", "expected", "right", "iou", "picture"}]}.

    texts: what the model answered to the examples, which should be desired ones. right: instruction and
    targets are those of the example's answer. iou: of the written mask with the true one (with the mask in
    the example's answer, where no other is known), 0 where it is malformed, None where nothing is to be
    marked. picture: path of the PNG, relative to `run`: original, references, the mask as written, the true
    one. Raises EVLMError where it cannot be written.
    """
    items = []
    for number, (example, text) in enumerate(zip(examples, texts, strict=True)):
        written, wanted = _plan(text), _plan(example.answer)
        pictures = _pictures(example.chat)
        truth = example.mask
        if truth is None and wanted is not None and pictures:
            truth = _mask(wanted, pictures[0])
        iou = None if truth is None else plan_mask_iou(written, truth)
        name = f"{FOLDER}/{step:08d}-{number}.png"
        tiles = [overlay(picture, None, [], SIDE, unmasked="") for picture in pictures[:_PICTURES]]
        if pictures:
            drawn = _mask(written, pictures[0]) if written else None
            masks = [(drawn, "no mask"), (truth, "none expected")]
            tiles += [overlay(pictures[0], mask, [], SIDE, unmasked) for mask, unmasked in masks]
        _save(run / name, tiles)
        items.append(
            {
                "prompt": _words(example.chat)[:_PROMPT],
                "answer": text,
                "expected": example.answer,
                "right": _decides(written) is not None and _decides(written) == _decides(wanted),
                "iou": iou,
                "picture": name if tiles else None,
            }
        )
    return {"event": "sample", "step": step, "items": items}


def _plan(text: str) -> Plan | None:
    try:
        return parse(text).plan
    except EVLMError:
        return None


def _decides(plan: Plan | None) -> tuple[Any, ...] | None:
    return None if plan is None else (plan.instruction, plan.targets, plan.scope)


def _mask(plan: Plan, picture: Tensor) -> Tensor | None:
    """[H, W] of what the plan marks in a picture [H, W, 3]; None where it marks nothing or is malformed."""
    try:
        return plan_mask(plan, *picture.shape[:2])
    except EVLMError:
        return None


def _pictures(chat: Chat) -> list[Tensor]:
    """float [H, W, 3] in 0..1 of each picture in the order of the question, of a video its first frame; the
    original comes first."""
    images, videos, pictures = iter(chat.images), iter(chat.videos), []
    for message in chat.messages:
        for item in message["content"]:
            if item["type"] in ("image", "video"):
                pixels = next(images) if item["type"] == "image" else next(videos).frames[0]
                pictures.append(pixels.permute(1, 2, 0).float() / 255)
    return pictures


def _words(chat: Chat) -> str:
    """The question's words, without the system's, with a sign where a picture stands."""
    content = [
        item for message in chat.messages if message["role"] != "system" for item in message["content"]
    ]
    return "".join(
        item["text"] if item["type"] == "text" else f"[{item['type']}]" for item in content
    ).strip()


def _save(path: Path, tiles: Sequence[Any]) -> None:
    """Tiles side by side, as one PNG."""
    from PIL import Image

    if not tiles:
        return
    sheet = Image.new("RGB", (len(tiles) * (SIDE + 4) - 4, SIDE), (255, 255, 255))
    for column, tile in enumerate(tiles):
        sheet.paste(tile, (column * (SIDE + 4), 0))
    try:
        write_atomically(path, lambda file: sheet.save(file, "PNG", optimize=True), flush=False)
    except OSError as error:
        raise EVLMError(f"{path} cannot be written ({error.strerror or error}); free some space") from error
