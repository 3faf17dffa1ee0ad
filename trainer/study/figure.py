"""A study's curves: one quantity over the steps, a line for each arm, as an SVG file of its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from ..report.curves import Point, scale, short
from ..report.events import event_of

METRICS = {
    "exact": "exact on validation questions",
    "kl_reference": "KL to the reference, nats an answer",
    "weight_entropy": "entropy of the rows' weights, 1 where all are equal",
    "iou": "mask IoU of the samples",
    "malformed": "malformed samples",
    "norm_likelihood": "gradient norm of the likelihood term",
    "norm_reinforce": "gradient norm of REINFORCE",
    "norm_reflection": "gradient norm of the reflection's term",
    "cos_sft_reinforce": "cosine of REINFORCE's gradient with SFT's",
    "cos_sft_reflection": "cosine of the reflection's gradient with SFT's",
}
COLOURS = (
    "#5a5a5a",
    "#1f6fb4",
    "#3a8f4d",
    "#8e5ea2",
    "#d1495b",
    "#c77700",
    "#00a0a0",
    "#8a5a2b",
    "#e377c2",
    "#9acd32",
)
WIDTH, HEIGHT = 620, 240
_LEFT, _TOP, _BOTTOM, _LEGEND = 56, 26, 24, 220


def figures(out: Path, logs: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Writes one SVG for each metric that the arms' logs hold; their paths. logs: of an arm's seeds, whose
    means are drawn."""
    drawn = []
    for metric, title in METRICS.items():
        lines = {arm: points for arm, paths in logs.items() if (points := _mean(paths, metric))}
        if lines:
            path = out / f"{metric}.svg"
            path.write_text(figure(title, lines, list(logs)), encoding="utf-8")
            drawn.append(path)
    return drawn


def figure(title: str, lines: Mapping[str, Sequence[Point]], names: Sequence[str] = ()) -> str:
    """An SVG of lines by name; points (step, value), finite, by rising step. names: all that any figure
    shows, so that one has the same colour in each."""
    order = list(names) or list(lines)
    everything = [point for points in lines.values() for point in points]
    low, high, ticks = scale([value for _, value in everything])
    first, last = min(step for step, _ in everything), max(step for step, _ in everything)
    wide, tall = WIDTH - _LEFT - _LEGEND, HEIGHT - _TOP - _BOTTOM

    def x(step: float) -> float:
        return _LEFT + wide * (step - first) / max(last - first, 1)

    def y(value: float) -> float:
        return _TOP + tall * (high - value) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" font-family="sans-serif" font-size="11" role="img" aria-label="{escape(title)}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="15" font-size="12">{escape(title)}</text>',
    ]
    for tick in ticks:
        parts.append(
            f'<line x1="{_LEFT}" x2="{_LEFT + wide}" y1="{y(tick):.1f}" y2="{y(tick):.1f}" stroke="#ddd"/>'
            f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    parts.append(f'<text x="{_LEFT}" y="{HEIGHT - 8}">step {short(first)}</text>')
    parts.append(f'<text x="{_LEFT + wide}" y="{HEIGHT - 8}" text-anchor="end">{short(last)}</text>')
    for at, (name, points) in enumerate(lines.items()):
        colour = COLOURS[order.index(name) % len(COLOURS)]
        places = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(points) == 1:
            parts.append(
                f'<circle cx="{x(points[0][0]):.1f}" cy="{y(points[0][1]):.1f}" r="3" fill="{colour}"/>'
            )
        row = _TOP + 8 + 16 * at
        parts.append(
            f'<rect x="{_LEFT + wide + 12}" y="{row - 8}" width="10" height="10" fill="{colour}"/>'
            f'<text x="{_LEFT + wide + 27}" y="{row + 1}">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>\n"])


def _mean(paths: Sequence[Path], metric: str) -> list[Point]:
    """Mean over the runs by step, of the steps and measurements that have the metric."""
    by_step: dict[int, dict[Path, float]] = defaultdict(dict)
    for path in paths:
        for line in path.read_bytes().splitlines():
            event = event_of(line) or {}  # a killed run may leave half a line
            right = "eval" if metric == "exact" else "step"
            if event.get("event") == right and isinstance(event.get(metric), (int, float)):
                by_step[event["step"]][path] = float(event[metric])
    return [(step, sum(each.values()) / len(each)) for step, each in sorted(by_step.items())]
