"""All tables on one HTML page that needs nothing else, and questions on which evaluators agree and disagree.

Whatever comes from models, judges and datasets is text on the page and never markup.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO

import numpy as np
from torch import Tensor

from evlm.viz.sheet import overlay

from .table import Table, html
from .tables import Board

SIDE = 160  # pixels of a tile
_SHOWN = (6, 3, 3)  # questions on which evaluators disagree, say NO, say YES
_PICTURES = 4  # shown of one question


def page(board: Board, tables: Sequence[Table]) -> str:
    """The page."""
    body = "".join(html(each) for each in tables)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>protocol</title>'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        "'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><main><h1>python -m trainer protocol</h1>{body}"
        f"{_examples(board)}</main></body></html>"
    )


def _examples(board: Board) -> str:
    """Evaluators side by side; none where there are none."""
    if not board.evaluators:
        return ""
    kinds: dict[str, list[tuple[int, str]]] = {"disagree": [], "all say NO": [], "all say YES": []}
    for at in range(len(board.questions)):
        for model, row in board.outcomes.items():
            said = [each.columns[model][at] for each in board.evaluators]
            known = {value for value in said if not np.isnan(value)}
            if row[at].malformed or not known:
                continue
            kind = "disagree" if len(known) == 2 else "all say YES" if known == {1.0} else "all say NO"
            kinds[kind].append((at, model))
    parts = []
    for (kind, found), most in zip(kinds.items(), _SHOWN, strict=True):
        if found:
            shown = "".join(_example(board, *each) for each in found[:most])
            parts.append(f"<h2>Evaluators {escape(kind)}: {len(found):,} answers</h2>{shown}")
    return "".join(parts)


def _example(board: Board, at: int, model: str) -> str:
    question = board.questions[at].question
    request = question.request()
    frames = [request.original[0], *(r.frames[0] for r in request.references if r.frames is not None)]
    pictures = "".join(f'<img alt="" src="{_data(each)}">' for each in frames[:_PICTURES])
    words = [f"prompt: {request.prompt or '(none)'}"]
    words += [f"reference: {each.text}" for each in request.references if each.text]
    words += [f"reference instruction: {question.instruction}",
              f"{model}: {board.outcomes[model][at].instruction}"]  # fmt: skip
    said = {1.0: "YES", 0.0: "NO"}
    verdicts = [f"{each.title}: {said.get(float(each.columns[model][at]), 'no verdict')}"
                for each in board.evaluators]  # fmt: skip
    lines = "".join(f"<p>{escape(line)}</p>" for line in words)
    return f"<div class='one'>{pictures}{lines}<p><b>{escape('; '.join(verdicts))}</b></p></div>"


def _data(frame: Tensor) -> str:
    file = BytesIO()
    overlay(frame, None, [], SIDE, unmasked="").save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


_STYLE = """
:root{color-scheme:light dark;--ink:#1f2328;--faint:#6b7280;--line:#d8dbe0;--paper:#fbfaf7;--card:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--faint:#9ca3af;--line:#3a3d44;--paper:#17181b;
--card:#1f2125}}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:24px}h1{margin:0 0 12px;font-size:26px}
h2{margin:36px 0 8px;font-size:19px}.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{padding:3px 14px 3px 0;text-align:left;border-bottom:1px solid var(--line)}
.note{color:var(--faint);font-size:13px}
.one{margin:0 0 12px;padding:10px;background:var(--card);border:1px solid var(--line);border-radius:6px}
.one img{image-rendering:pixelated;margin-right:8px}.one p{margin:3px 0;overflow-wrap:anywhere}
"""
