"""Curves as SVG, without a script or a file beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 360, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 8, 8, 20  # around the plot
_POINTS = 300  # drawn at most; more are averaged

Point = tuple[float, float]


def curve(
    name: str,
    lines: Sequence[Sequence[Point]],
    last: float,
    bands: Sequence[tuple[float, float, str]] = (),
) -> str:
    """A figure of one quantity over the steps.

    lines: of (step, value), finite, by rising step; each is drawn for itself. last: the step at the right
    edge. bands: (first, last, colour) of the phases, drawn faintly behind. The thin line is each point, the
    thick one a running mean.
    """
    drawn = [_thinned(line) for line in lines if line]
    low, high, ticks = scale([value for line in drawn for _, value in line])
    wide, tall = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def x(step: float) -> float:
        return _LEFT + wide * step / max(last, 1)

    def y(value: float) -> float:
        return _TOP + tall * (high - value) / (high - low)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">']
    for first, end, colour in bands:
        parts.append(
            f'<rect x="{x(first):.1f}" y="{_TOP}" width="{x(end) - x(first):.1f}" height="{tall}" '
            f'fill="{escape(colour)}" opacity=".1"/>'
        )
    for tick in ticks:
        at = f"{y(tick):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
        text = short(tick, ticks[1] - ticks[0])
        parts.append(f'<text x="{_LEFT - 5}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{text}</text>')
    parts.append(f'<text x="{_LEFT}" y="{HEIGHT - 6}">0</text>')
    parts.append(f'<text x="{WIDTH - _RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{short(last, 1)}</text>')
    for line in drawn:
        several = [("thin", line), ("thick", _smooth(line))] if len(line) > 8 else [("thick", line)]
        for kind, each in several:
            places = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in each)
            parts.append(f'<polyline class="{kind}" points="{places}"/>')
        if len(line) == 1:
            parts.append(f'<circle class="dot" cx="{x(line[0][0]):.1f}" cy="{y(line[0][1]):.1f}" r="3"/>')
    return "".join([*parts, "</svg>"])


def _thinned(points: Sequence[Point]) -> list[Point]:
    size = -(-len(points) // _POINTS)
    groups = (points[at : at + size] for at in range(0, len(points), max(size, 1)))
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _smooth(points: Sequence[Point]) -> list[Point]:
    """Each value with its neighbours' mean, a tenth of all of them around it."""
    reach = max(1, len(points) // 20)
    smoothed = []
    for at, (step, _) in enumerate(points):
        near = [value for _, value in points[max(0, at - reach) : at + reach + 1]]
        smoothed.append((step, sum(near) / len(near)))
    return smoothed


def scale(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """(lowest, highest, ticks) of an axis: round numbers that hold all values, never of no height."""
    low, high = min(values), max(values)
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - (abs(low) or 1.0) * 0.5, high + (abs(high) or 1.0) * 0.5
    rough = (high - low) / 3
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(each * unit for each in (1, 2, 5, 10) if each * unit >= rough)
    low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    return low, high, [low + at * step for at in range(round((high - low) / step) + 1)]


def short(value: float, step: float = 0.0) -> str:
    """A number of an axis. step: the distance to the next one, from which it must be told; 0 for none."""
    if not 1e-4 <= step < 1e6 or abs(value) >= 1e6:
        return f"{value:,.0f}" if abs(value) >= 10_000 and value == int(value) else f"{value:.3g}"
    return f"{value:,.{max(0, -math.floor(math.log10(step)))}f}"
