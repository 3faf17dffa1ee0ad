"""A steadiness strip: frames of a clip, the same of its edit, where it flickers, the figures over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..files.pictures import to_pil
from .lettering import Lettering
from .sheet import ACCENT, FAINT, FRAME, INK, PAPER

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..motion.steady import Steadiness

TILES = 8
HOT = 0.01  # warp error (a mean square, colours in 0..1) that is drawn at full heat
MARGIN, GAP, LABEL, CURVE = 20, 6, 84, 96


def shown_pairs(count: int, tiles: int = TILES) -> list[int]:
    """Which pairs of neighbouring frames of a clip of `count` frames a strip shows, evenly spread."""
    pairs = max(1, count - 1)
    tiles = min(tiles, pairs)
    return sorted({round(i * (pairs - 1) / max(1, tiles - 1)) for i in range(tiles)})


def draw_strip(
    original: Tensor,
    edited: Tensor,
    heats: dict[int, Tensor],
    figures: Steadiness,
    borders: Sequence[int] = (),
    side: int = 128,
) -> Image:
    """Draws the strip as an RGB picture.

    original, edited: [F, H, W, 3] in 0..1. heats: [H, W] of the pairs to be shown (`shown_pairs`), as
    `steadiness` tells them. borders: frames with which windows begin, marked in the curve.
    """
    from PIL import Image

    pairs = sorted(heats)
    width = LABEL + 2 * MARGIN + len(pairs) * (side + GAP)
    strip = Image.new("RGB", (width, 2 * MARGIN + 30 + 3 * (side + GAP) + 24 + CURVE), PAPER)
    excess = f"excess warp error {figures.excess:+.2f} (0 is as steady as the original)"
    title = f"{excess} · flicker {figures.flicker:.1f}/255"
    Lettering(15).draw(strip, (MARGIN, MARGIN - 6), title, INK)
    rows = {
        "original": [original[f + 1] for f in pairs],
        "edited": [edited[f + 1] for f in pairs],
        "warp error": [heat_picture(heats[f]) for f in pairs],
    }
    y = MARGIN + 30
    for name, tiles in rows.items():
        Lettering(13).draw(strip, (MARGIN, y + side // 2 - 8), name, FAINT)
        for column, tile in enumerate(tiles):
            strip.paste(_tile(tile, side), (MARGIN + LABEL + column * (side + GAP), y))
        y += side + GAP
    for column, f in enumerate(pairs):
        at = (MARGIN + LABEL + column * (side + GAP), y - 2)
        Lettering(12).draw(strip, at, f"frame {f + 1}", FAINT)
    _curve(strip, (MARGIN + LABEL, y + 20), (len(pairs) * (side + GAP) - GAP, CURVE - 8), figures, borders)
    return strip


def heat_picture(heat: Tensor) -> Tensor:
    """A heat [H, W] as a picture [H, W, 3]: black where nothing changes, over red and yellow to white."""
    share = (heat / HOT).clamp(0, 1).sqrt()
    return torch.stack([(share * 3 - shift).clamp(0, 1) for shift in (0, 1, 2)], -1)


def _tile(frame: Tensor, side: int) -> Image:
    from PIL import Image

    picture = to_pil(frame)
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    tile = Image.new("RGB", (side, side), FRAME)
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    tile.paste(picture.resize(size, how), ((side - size[0]) // 2, (side - size[1]) // 2))
    return tile


def _curve(
    strip: Image, at: tuple[int, int], size: tuple[int, int], figures: Steadiness, borders: Sequence[int]
) -> None:
    """Warp error of each pair, the edit's over the original's; where a window begins a line stands."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(strip)
    (left, top), (width, height) = at, size
    draw.rectangle((left, top, left + width, top + height), fill=(255, 255, 255), outline=FRAME)
    told = [v for v in (*figures.pairs, *figures.original_pairs) if not math.isnan(v)]
    most = max([*told, 1e-6])
    step = width / max(1, len(figures.pairs) - 1)
    for border in borders:
        if 0 < border <= len(figures.pairs):
            x = left + (border - 1) * step
            draw.line((x, top, x, top + height), fill=FAINT)
    for values, colour in ((figures.original_pairs, FAINT), (figures.pairs, ACCENT)):
        points = [
            (left + f * step, top + height - value / most * (height - 6))
            for f, value in enumerate(values)
            if not math.isnan(value)
        ]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2)
        for x, y in points if len(points) == 1 else ():
            draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
    Lettering(12).draw(strip, (MARGIN, top), f"{most:.2f}", FAINT)
    Lettering(12).draw(strip, (MARGIN, top + 20), "edited", ACCENT)
    Lettering(12).draw(strip, (MARGIN, top + 36), "original", FAINT)
