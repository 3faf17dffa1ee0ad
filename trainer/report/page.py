"""`python -m trainer report RUN`: a run on one HTML page that needs nothing else: recipe, curves, dropped
steps, evaluations, and what the model answered on the way.

Whatever comes from the run's files, a dataset's words too, is text on the page and never markup.
"""

from __future__ import annotations

import argparse
import base64
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from html import escape
from pathlib import Path
from typing import Any

from evlm.errors import RecordError
from evlm.files.pictures import write_atomically

from ..evaluation.results import cells, read_csv
from ..export.adapter_source import RECIPE
from .curves import curve
from .events import History, numbers, read_history
from .samples import FOLDER

COLOURS = {"sft": "#2563eb", "kto": "#d97706", "rkto": "#059669", "dpo": "#7c3aed", "group": "#be123c"}
_FIRST = ("loss", "loss_", "eta0", "s", "reward", "similarity", "iou")  # names of curves that come first
_EVENTS = 8  # of samples, spread over the run
_LARGEST = 4 << 20  # bytes of a picture
_PNG = b"\x89PNG\r\n\x1a\n"


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a run, finished or not")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: RUN/report.html)")


def run(args: argparse.Namespace) -> int:
    """Raises RecordError."""
    out = args.out or args.run / "report.html"
    page = report(args.run)
    try:
        write_atomically(out, lambda file: file.write(page.encode("utf-8", "replace")))
    except OSError as error:
        raise RecordError(f"{out} cannot be written ({error.strerror or error})") from error
    print(f"{out}: {len(page) / 1e6:.1f} MB")
    return 0


def report(run: Path) -> str:
    """The page of a run's folder. Raises RecordError where it has no log."""
    history = read_history(run)
    name = escape(run.resolve().name)
    parts = [
        _summary(history), _curves(history), _dropped(history), _evals(history), _measured(run),
        _samples(run, history),
    ]  # fmt: skip
    written_at = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        "'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>{name}</h1>{''.join(parts)}{_recipe(run)}"
        f"<footer>python -m trainer report · {written_at}</footer></main></body></html>"
    )


def _summary(history: History) -> str:
    total = (history.start or {}).get("steps")
    last = max((event["step"] for event in [*history.steps, *history.dropped]), default=0)
    state = "finished" if history.done else "not finished"
    facts = {"state": state, "steps": f"{last:,} of {total:,}" if type(total) is int else f"{last:,}"}
    trained = (history.start or {}).get("trainable")
    if type(trained) is int:
        facts["trained parameters"] = f"{trained:,}"
    if history.steps:
        speed = numbers(history.steps[-1])
        for key, unit in (("seconds", "s a step"), ("tokens_per_second", "tokens a second")):
            if key in speed:
                facts[unit] = f"{speed[key]:,.3g}"
    facts["dropped steps"] = str(len(history.dropped))
    if history.memory:
        size, step = (history.memory[-1].get(name) for name in ("micro_batch", "step"))
        facts["micro-batch"] = f"{size} since step {step}, for lack of memory"
    if history.done:
        facts["adapter"] = str(history.done.get("adapter"))
    if history.unreadable:
        facts["lines of the log that cannot be read"] = str(history.unreadable)
    return (
        "<dl>"
        + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
        + "</dl>"
    )


def _curves(history: History) -> str:
    """For each kind of phase a curve of each number that its steps report, the phases behind it in colour."""
    if not history.steps:
        return "<p>No step was logged yet.</p>"
    kinds: dict[str, dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for event in history.steps:
        of_kind = kinds.setdefault(str(event.get("kind")), {})
        for name, value in numbers(event).items():
            stages = of_kind.setdefault(name, {})
            stages.setdefault(str(event.get("stage")), []).append((event["step"], value))
    last, bands = float(history.steps[-1]["step"]), _bands(history.steps)
    parts = ["<h2>Curves</h2>"]
    for kind, of_kind in kinds.items():
        sign = f'<i style="background:{COLOURS.get(kind, "#6b7280")}"></i>'
        parts.append(f'<h3 class="kind">{sign}{escape(kind)}</h3><div class="curves">')
        for name, stages in sorted(of_kind.items(), key=lambda item: _order(item[0])):
            lines = list(stages.values())
            parts.append(
                f"<figure><figcaption>{escape(name)} <b>{lines[-1][-1][1]:,.4g}</b></figcaption>"
                f"{curve(f'{kind} {name}', lines, last, bands)}</figure>"
            )
        parts.append("</div>")
    return "".join(parts)


def _bands(steps: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, str]]:
    """(first step, last step, colour) of each phase."""
    bands: list[tuple[float, float, str]] = []
    stage, begin, end = None, 0.0, 0.0
    for event in steps:
        if event.get("stage") != stage:
            stage, begin = event.get("stage"), end
            bands.append((begin, begin, COLOURS.get(str(event.get("kind")), "#6b7280")))
        end = float(event["step"])
        bands[-1] = (begin, end, bands[-1][2])
    return bands


def _order(name: str) -> tuple[int, str]:
    first = (
        at
        for at, start in enumerate(_FIRST)
        if name == start or (start[-1] == "_" and name.startswith(start))
    )
    return (next(first, len(_FIRST)), name)


def _dropped(history: History) -> str:
    if not history.dropped:
        return ""
    rows = [[str(event.get(name, "–")) for name in ("step", "loss", "why")] for event in history.dropped]
    return "<h2>Dropped steps</h2>" + _table(["step", "loss", "why"], rows)


def _evals(history: History) -> str:
    if not history.evals:
        return ""
    rows = [(event["step"], numbers(event)) for event in history.evals]
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    cells = [[f"{step:,}", *(f"{row[n]:.4g}" if n in row else "–" for n in names)] for step, row in rows]
    return "<h2>Evaluations</h2>" + _table(["step", *names], cells)


def _measured(run: Path) -> str:
    """What `python -m trainer eval --out RUN/eval` found. Raises RecordError."""
    file = run / "eval" / "results.csv"
    if not file.is_file():
        return ""
    note = "<p>Means with their 95 % intervals, on questions whose answer is known.</p>"
    return f"<h2>python -m trainer eval</h2>{note}{_table(*cells(read_csv(file)))}"


def _samples(run: Path, history: History) -> str:
    events = _spread(history.samples, _EVENTS)
    if not events:
        return ""
    parts = [
        "<h2>Answers on the way</h2><p>Original, references, the mask as it was written, the true mask.</p>"
    ]
    for event in reversed(events):
        items = [item for item in event.get("items") or [] if isinstance(item, Mapping)]
        right = sum(item.get("right") is True for item in items)
        parts.append(f"<h3>Step {event['step']:,}: {right} of {len(items)} right</h3>")
        parts += [_sample(run, item) for item in items]
    return "".join(parts)


def _sample(run: Path, item: Mapping[str, Any]) -> str:
    iou = item.get("iou")
    mark = '<b class="right">right</b>' if item.get("right") is True else '<b class="wrong">wrong</b>'
    mask = f" · mask IoU {iou:.2f}" if isinstance(iou, float) else ""
    return (
        f'<section class="sample">{_picture(run, item.get("picture"))}<p>{mark}{mask}</p>'
        f"<details open><summary>answer</summary><pre>{escape(str(item.get('answer')))}</pre></details>"
        f"<details><summary>expected</summary><pre>{escape(str(item.get('expected')))}</pre></details>"
        f"<details><summary>asked</summary><pre>{escape(str(item.get('prompt')))}</pre></details></section>"
    )


def _picture(run: Path, name: Any) -> str:
    """A PNG of the run's own folder of samples, in the page; words where it is not there."""
    if not isinstance(name, str):
        return ""
    try:
        folder, path = (run / FOLDER).resolve(), (run / name).resolve()
        fits = path.is_relative_to(folder) and path.stat().st_size <= _LARGEST
        data = path.read_bytes() if fits else b""
    except (OSError, ValueError):
        data = b""
    if not data.startswith(_PNG):
        return f"<p>The picture {escape(name[:200])} is not there.</p>"
    encoded = base64.b64encode(data).decode()
    return f'<img alt="original, references, masks" src="data:image/png;base64,{encoded}">'


def _recipe(run: Path) -> str:
    try:
        text = (run / RECIPE).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return f"<h2>Recipe</h2><details><summary>{RECIPE}</summary><pre>{escape(text)}</pre></details>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(each)}</th>" for each in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _spread(events: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them, evenly, the last one always."""
    if len(events) <= count:
        return list(events)
    return [events[round((at + 1) * len(events) / count) - 1] for at in range(count)]


_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--faint:#6b7280;--line:#d8dbe0;--paper:#fbfaf7;--card:#fff;
--curve:#2563eb}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--faint:#9ca3af;--line:#3a3d44;--paper:#17181b;
--card:#1f2125;--curve:#7aa7ff}}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:24px}h1{margin:0 0 12px;font-size:26px;overflow-wrap:anywhere}
h2{margin:36px 0 8px;font-size:19px}h3{margin:24px 0 6px;font-size:16px}
dl{display:flex;flex-wrap:wrap;gap:8px 28px;margin:0}dt{color:var(--faint);font-size:12px}
dd{margin:0;overflow-wrap:anywhere}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(320px,1fr));gap:12px}
figure{margin:0;padding:8px 10px;background:var(--card);border:1px solid var(--line);border-radius:6px}
figcaption{font-size:13px;overflow-wrap:anywhere}svg{width:100%;height:auto;display:block}
svg text{font-size:10px;fill:var(--faint)}.grid{stroke:var(--line)}polyline{fill:none;stroke:var(--curve)}
.thin{opacity:.35}.thick{stroke-width:1.8}.dot{fill:var(--curve)}
.kind i{display:inline-block;width:11px;height:11px;margin-right:5px;opacity:.5}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:3px 12px 3px 0;text-align:left;border-bottom:1px solid var(--line)}
.sample{margin:0 0 12px;padding:10px;background:var(--card);border:1px solid var(--line);border-radius:6px}
.sample img{max-width:100%;image-rendering:pixelated}.sample p{margin:4px 0}
.right{color:#059669}.wrong{color:#dc2626}
pre{white-space:pre-wrap;overflow-wrap:anywhere;font:13px/1.45 ui-monospace,monospace;margin:4px 0}
summary{cursor:pointer;color:var(--faint)}footer{margin-top:40px;color:var(--faint);font-size:12px}
"""
