"""A strip of a clip: some frames with the mask on them, and below each what it has become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..files.pictures import to_pil
from .lettering import Lettering
from .sheet import FAINT, GAP, INK, MARGIN, PAPER, _fit, _wrapped, overlay

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class StripFrame:
    """One frame to show. original, edited: [H, W, 3] in 0..1. mask: [H, W]. caption: below them."""

    original: Tensor
    mask: Tensor
    edited: Tensor
    caption: str


def draw_clip_sheet(frames: Sequence[StripFrame], instruction: str, asked: str, side: int = 224) -> Image:
    """Draw the strip as an RGB picture. side: of a tile, in pixels."""
    from PIL import Image

    width = 2 * MARGIN + len(frames) * side + (len(frames) - 1) * GAP
    inner = width - 2 * MARGIN
    lines = [(text, Lettering(19), INK) for text in _wrapped(instruction, Lettering(19), inner)]
    lines += [(text, Lettering(15), FAINT) for text in _wrapped(asked, Lettering(15), inner)[:3]]
    above = MARGIN + sum(font.height for _, font, _ in lines) + GAP
    strip = Image.new("RGB", (width, above + 2 * side + GAP + 24 + MARGIN), PAPER)
    y = MARGIN
    for text, font, colour in lines:
        font.draw(strip, (MARGIN, y), text, colour)
        y += font.height
    for column, frame in enumerate(frames):
        x = MARGIN + column * (side + GAP)
        strip.paste(overlay(frame.original, frame.mask, (), side), (x, above))
        strip.paste(_fit(to_pil(frame.edited), side)[0], (x, above + side + GAP))
        Lettering(13).draw(strip, (x, above + 2 * side + GAP + 4), frame.caption, FAINT)
    return strip
