"""A contact sheet: one row for each edit, with what went in, what was decided, and what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ..files.pictures import to_pil
from ..request import Reference, Request
from .lettering import Lettering

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..boxes import Box
    from ..pipeline import Result

PAPER, INK, FAINT, FRAME = (250, 249, 246), (32, 33, 36), (120, 122, 128), (225, 223, 217)
ACCENT, SHADE = (255, 106, 43), (24, 26, 32)
STEP_COLOURS = ((0, 165, 132), (255, 0, 0), (112, 76, 255), (177, 119, 216))  # as in web/evlm.css
HEADINGS = ("original", "reference", "boxes and mask", "edited")
GAP, MARGIN, HEAD = 16, 28, 52


@dataclass(frozen=True)
class SheetRow:
    """One edit to show. title: a line above the pictures, may be empty."""

    request: Request
    result: Result
    title: str = ""


def draw_sheet(rows: Sequence[SheetRow], side: int = 256) -> Image:
    """Draw the sheet as an RGB picture.

    side: of a tile, in pixels. A picture smaller than a tile is enlarged by whole factors, pixel by pixel, so
    that nothing is shown that is not in it; a larger one is reduced. Of a video its first frame is shown.
    """
    from PIL import Image

    blocks = [_block(row, side) for row in rows]
    width = 2 * MARGIN + len(HEADINGS) * side + (len(HEADINGS) - 1) * GAP
    sheet = Image.new("RGB", (width, HEAD + MARGIN + sum(b.height for b in blocks)), PAPER)
    for column, heading in enumerate(HEADINGS):
        Lettering(15).draw(sheet, (MARGIN + column * (side + GAP), HEAD - 32), heading, FAINT)
    y = HEAD
    for block in blocks:
        sheet.paste(block, (0, y))
        y += block.height
    return sheet


def overlay(
    frame: Tensor,
    mask: Tensor | None,
    boxes: Sequence[Box],
    side: int = 256,
    unmasked: str = "whole frame",
    steps: Sequence[Tensor | None] = (),
) -> Image:
    """The frame [H, W, 3] as a tile: what lies outside the mask [H, W] darkened, its outline and the boxes
    drawn.

    unmasked: what is written on it where there is no mask; "" for nothing.
    steps: of a plan of several edits the mask [H, W] of each, None for the whole frame; each gets its outline
        in its own colour, and the boxes their step's number.
    """
    from PIL import Image, ImageChops, ImageDraw

    tile, scale, (left, top), size = _fit(to_pil(frame), side)
    if mask is None:
        if unmasked:
            _tag(tile, unmasked)
    else:
        inside = _inside(mask, tile.size, size, (left, top))
        picture = Image.new("L", tile.size, 0)
        picture.paste(255, (left, top, left + size[0], top + size[1]))
        dark = Image.blend(tile, Image.new("RGB", tile.size, SHADE), 0.62)
        tile.paste(dark, mask=ImageChops.subtract(picture, inside))
        if len(steps) < 2:
            tile.paste(ACCENT, mask=_edge(inside))
    for colour, step in zip(STEP_COLOURS, steps if len(steps) > 1 else (), strict=False):
        if step is not None:
            tile.paste(colour, mask=_edge(_inside(step, tile.size, size, (left, top))))
    numbered = len(steps) > 1 or any(box.step > 1 for box in boxes)
    draw, font = ImageDraw.Draw(tile), Lettering(13)
    high, wide = frame.shape[-3:-1]
    for box in (b for b in boxes if b.frame == 0):
        # Boxes of other packs may lie anywhere.
        (a, c), (b, d) = (
            [min(max(each, 0), most) for each in pair]
            for pair, most in (((box.x0, box.x1), wide), ((box.y0, box.y1), high))
        )
        if a >= c or b >= d:
            continue
        x0, y0 = left + a * scale, top + b * scale
        x1, y1 = left + c * scale - 1, top + d * scale - 1
        corners = [x0, y0, max(x0, x1), max(y0, y1)]
        draw.rectangle(corners, outline=(255, 255, 255), width=2)
        text = f"{box.step}: {box.caption}" if numbered else box.caption
        x = min(max(corners[0], 2), max(2, side - font.length(text) - 8))
        y = corners[1] - 19 if corners[1] >= 21 else min(corners[3] + 2, side - 19)
        draw.rectangle((x, y, x + font.length(text) + 7, y + 17), fill=(255, 255, 255))
        font.draw(tile, (x + 4, y + 1), text, INK)
    return tile


def _inside(mask: Tensor, tile: tuple[int, int], size: tuple[int, int], corner: tuple[int, int]) -> Image:
    """A mask [H, W] on a tile, 255 where it is on; size, corner: of the picture there."""
    from PIL import Image as Images

    cut = to_pil((mask > 0).float()[..., None].expand(-1, -1, 3)).convert("L")
    inside = Images.new("L", tile, 0)
    inside.paste(cut.resize(size, Images.Resampling.NEAREST), corner)
    return inside


def _edge(inside: Image) -> Image:
    from PIL import ImageChops, ImageFilter

    return ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(3)))


def _block(row: SheetRow, side: int) -> Image:
    from PIL import Image

    request, result = row.request, row.result
    mask = None if result.mask is None else result.mask[0]
    tiles = [
        _fit(to_pil(request.original[0]), side)[0],
        _references(request.references, side),
        overlay(
            request.original[0],
            mask,
            result.boxes,
            side,
            steps=[None if step.mask is None else step.mask[0] for step in result.steps],
        ),
        _fit(to_pil(result.edited[0]), side)[0],
    ]
    width = 2 * MARGIN + len(tiles) * side + (len(tiles) - 1) * GAP
    inner = width - 2 * MARGIN
    asked = f"asked: “{request.prompt}”" if request.prompt.strip() else "asked: no words, only the reference"
    seconds = " · ".join(f"{step} {value:.1f} s" for step, value in result.seconds.items())
    lines = [(text, Lettering(19), INK) for text in _wrapped(result.plan.instruction, Lettering(19), inner)]
    lines += [
        (text, Lettering(15), FAINT) for text in _wrapped(f"{asked}   {seconds}", Lettering(15), inner)[:3]
    ]
    above = [(row.title, Lettering(15), FAINT)] if row.title else []

    height = sum(font.height for _, font, _ in [*above, *lines]) + side + 10 + 26
    block = Image.new("RGB", (width, height), PAPER)
    y = 0
    for text, font, colour in above:
        font.draw(block, (MARGIN, y), text, colour)
        y += font.height
    for column, tile in enumerate(tiles):
        block.paste(tile, (MARGIN + column * (side + GAP), y))
    y += side + 10
    for text, font, colour in lines:
        font.draw(block, (MARGIN, y), text, colour)
        y += font.height
    return block


def _references(references: Sequence[Reference], side: int) -> Image:
    """Up to four references in one tile, words as words; how many more there are stands in the last."""
    from PIL import Image

    tile = Image.new("RGB", (side, side), FRAME)
    first = list(references)[:4]
    if not first:
        return _words("none", side, side)
    half = (side - 4) // 2
    wide, high = (side if len(first) <= 2 else half), (side if len(first) == 1 else half)
    for index, reference in enumerate(first):
        if reference.frames is None:
            small = _words(f"“{reference.text}”", wide, high)
        else:
            small = Image.new("RGB", (wide, high), FRAME)
            small.paste(
                _fit(to_pil(reference.frames[0]), min(wide, high))[0], ((wide - min(wide, high)) // 2, 0)
            )
            if reference.frames.shape[0] > 1:
                _tag(small, f"{reference.frames.shape[0]} frames")
        if index == 3 and len(references) > len(first):
            _tag(small, f"+{len(references) - len(first)}", right=True)
        row, column = divmod(index, 2) if len(first) > 2 else (index, 0)
        tile.paste(small, (column * (half + 4), row * (half + 4)))
    return tile


def _words(text: str, width: int, height: int) -> Image:
    from PIL import Image

    tile = Image.new("RGB", (width, height), (240, 238, 232))
    font = Lettering(max(12, width // 14))
    lines = _wrapped(text, font, width - 24)[: max(1, (height - 16) // font.height)]
    y = (height - len(lines) * font.height) // 2
    for line in lines:
        font.draw(tile, ((width - font.length(line)) / 2, y), line, FAINT)
        y += font.height
    return tile


def _tag(tile: Image, text: str, right: bool = False) -> None:
    from PIL import ImageDraw

    font, high = Lettering(13), tile.height
    left = tile.width - 15 - round(font.length(text)) if right else 4
    ImageDraw.Draw(tile).rectangle((left, high - 22, left + 7 + font.length(text), high - 5), fill=SHADE)
    font.draw(tile, (left + 4, high - 21), text, (255, 255, 255))


def _fit(image: Image, side: int) -> tuple[Image, float, tuple[int, int], tuple[int, int]]:
    """The picture in a square tile, the factor it was scaled by, where its corner lies, and its size
    there."""
    from PIL import Image as Images

    scale = side / max(image.size)
    if scale >= 1:
        scale = float(int(scale))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    how = Images.Resampling.NEAREST if scale >= 1 else Images.Resampling.LANCZOS
    tile = Images.new("RGB", (side, side), FRAME)
    corner = ((side - size[0]) // 2, (side - size[1]) // 2)
    tile.paste(image.resize(size, how), corner)
    return tile, scale, corner, size


def _fits(word: str, font: Lettering, width: int) -> int:
    """How many letters of a word go into a line, at least one; by halves: one without spaces may be long."""
    least, most = 1, len(word)
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if font.length(word[:middle]) <= width else (least, middle - 1)
    return least


def _wrapped(text: str, font: Lettering, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        while font.length(word) > width and len(word) > 1:  # a word without spaces may be longer than a line
            fits = _fits(word, font, width)
            lines += [line, word[:fits]] if line else [word[:fits]]
            line, word = "", word[fits:]
        longer = f"{line} {word}" if line else word
        if font.length(longer) > width:
            lines.append(line)
            longer = word
        line = longer
    return [*lines, line]
