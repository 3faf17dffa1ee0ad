"""The loss of a training as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

WIDTH, HEIGHT = 512, 320  # pixels
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 34, 30  # around the curves
BACK, GRID, INK = (24, 24, 27), (52, 52, 58), (190, 190, 196)
COLOURS = ((96, 165, 250), (251, 146, 60), (74, 222, 128), (232, 121, 249))
FINE = 2  # drawn so many times larger, then made smaller: Pillow's lines have steps


@dataclass(frozen=True)
class Point:
    """The loss at the end of a step. stage: number of the phase in the run; kind: "sft", "kto", ..."""

    step: int
    stage: int
    kind: str
    loss: float


def draw(points: Sequence[Point], steps: int) -> Tensor:
    """[1, HEIGHT, WIDTH, 3] in 0..1: loss over 0..steps, a colour for each kind of phase, each phase a line
    of its own over its single steps, which are faint."""
    import numpy as np
    import torch
    from PIL import Image, ImageDraw

    size = (WIDTH * FINE, HEIGHT * FINE)
    image = Image.new("RGB", size, BACK)
    pen, font = ImageDraw.Draw(image), _font(14 * FINE)
    drawn = [point for point in points if math.isfinite(point.loss)]
    kinds = list(dict.fromkeys(point.kind for point in drawn))
    colours = {kind: COLOURS[at % len(COLOURS)] for at, kind in enumerate(kinds)}
    low, high, ticks = _scale([point.loss for point in drawn])
    last = max([steps, 1, *(point.step for point in drawn)])

    def xy(step: float, loss: float) -> tuple[float, float]:
        up = (min(max(loss, low), high) - low) / (high - low)
        x = LEFT + (WIDTH - LEFT - RIGHT) * step / last
        return x * FINE, (HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * up) * FINE

    for tick in ticks:
        (x0, y), (x1, _) = xy(0, tick), xy(last, tick)
        pen.line([(x0, y), (x1, y)], GRID, FINE)
        pen.text((x0 - 6 * FINE, y), f"{tick:g}", INK, font, anchor="rm")
    for step in dict.fromkeys((0, last // 2, last)):
        x, y = xy(step, low)
        pen.text((x, y + 6 * FINE), str(step), INK, font, anchor="rt" if step == last else "mt")
    pen.line([xy(0, high), xy(0, low), xy(last, low)], INK, FINE)
    _legend(pen, font, colours)
    for stage in dict.fromkeys(point.stage for point in drawn):
        line = [point for point in drawn if point.stage == stage]
        colour = colours[line[0].kind]
        faint = tuple((3 * b + c) // 4 for b, c in zip(BACK, colour, strict=True))
        _trace(pen, [xy(p.step, p.loss) for p in line], faint, FINE)
        smooth = _smooth([point.loss for point in line])
        _trace(pen, [xy(p.step, s) for p, s in zip(line, smooth, strict=True)], colour, 2 * FINE)
    small = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).float()[None] / 255


def _trace(pen: Any, places: list[tuple[float, float]], colour: Any, width: int) -> None:
    if len(places) > 1:
        pen.line(places, colour, width, joint="curve")
    elif places:
        (x, y), r = places[0], 2 * FINE
        pen.ellipse([x - r, y - r, x + r, y + r], colour)


def _legend(pen: Any, font: Any, colours: dict[str, Any]) -> None:
    x, y = LEFT * FINE, TOP * FINE // 2
    pen.text((x, y), "loss", INK, font, anchor="lm")
    x += pen.textlength("loss", font) + 16 * FINE
    for kind, colour in colours.items():
        pen.line([(x, y), (x + 18 * FINE, y)], colour, 3 * FINE)
        pen.text((x + 24 * FINE, y), kind, INK, font, anchor="lm")
        x += 24 * FINE + pen.textlength(kind, font) + 16 * FINE


def _smooth(values: Sequence[float]) -> list[float]:
    """The mean over a twentieth of them around each, at least three; fewer at the ends."""
    side = max(1, len(values) // 40)
    near = (values[max(0, at - side) : at + side + 1] for at in range(len(values)))
    return [sum(part) / len(part) for part in near]


def _scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """Ends of the axis, and round numbers between them. A step or two far off (one in fifty) leave it."""
    if not values:
        return 0.0, 1.0, [0.0, 0.5, 1.0]
    ordered = sorted(values)
    low, high = ordered[len(values) // 50], ordered[-1 - len(values) // 50]
    if low >= 0 and low < 0.5 * high:
        low = 0.0
    span = max(high - low, abs(high) * 0.05, 1e-6)
    rough = span / 4
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * each for each in (1, 2, 5, 10) if unit * each >= rough)
    first = math.floor(low / step)
    last = max(math.ceil((low + span) / step), first + 1)
    ticks = [round(step * each, 12) for each in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)
