"""What the browser makes of a growing trace: web/trace.js, run by node and held against evlm.plan.trace."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from evlm.errors import MaskTextError
from evlm.plan.mask_codec import decode_mask
from evlm.plan.trace import Plan, Trace, parse, render

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node")
MODULES = ("trace", "history", "strings", "readable", "labels", "places", "steps")

RENDERED = [
    Trace("two cars , one red", "paint it", "which ?", Plan("paint the red car blue", ("red car",), "none")),
    Trace("", "", "", Plan("make it snow", (), None, "global")),
    Trace(
        "a <thinking> tag, a \\ and <b>bold</b>",
        "1 < 2 \n\n\n 3",
        "it said </output>",
        Plan("two\nlines <output> \\n", ("a; b", "none", "c\\"), "box 1 2 3 4 full"),
    ),
    Trace("ends with \\", "<", "</", Plan("x: y", ("none",), None)),
    Trace("", "", "", Plan("x", ("a, b", "St. B", "cat. dog.", "[c]", "n/a", '"d"', "."), "[1, 2]")),
    Trace(
        "Größe \u2264 5 px — \u65e5\u672c\u8a9e \U0001f642",
        "instruction: no field",
        "scope: local",
        Plan("ändere es", ("Kreis",)),
    ),
]


RENDERED += [
    Trace(
        "two",
        "edits",
        "at once",
        Plan.of_steps(
            [
                Plan("paint the car blue", ("car",), "box 1 2 3 4 full"),
                Plan("remove the dog", ("dog", "car")),
                Plan("make it snow", (), None, scope),
            ]
        ),
    )
    for scope in ("local", "global")
]
PLACES = [
    "box 100 200 500 600 full",
    "box 0 0 1000 1000 rows 0-7 0-3 4-7 . 0-0+7-7 0-2+1-5 3-3 0-7",
    "box 200 100 600 900 rows " + " ".join(["0-15", ".", "3-3+5-6", "8-15"] * 4),
    *("none", "", "box 1 2", "box 500 0 100 500 full", "box 0 0 500 500 full x", "box 0 0 500 2000 full"),
    *("box 0 0 500 500 rows 0-7", "box 0 0 500 500 rows" + " 0-8" * 8, "box 0 0 500 500 rows" + " 4-3" * 8),
    "[0, 0, 500, 500]",
]


def output(instruction: str, targets: str, scope: str = "local") -> str:
    return f"<output>\ninstruction: {instruction}\ntargets: {targets}\nscope: {scope}\n</output>"


LOOSE = [
    "<Thinking>\na\n</Thinking>\n<OUTPUT>\nInstruction: make it red\n- **Targets:** car; dog\nscope: local\n"
    "</OUTPUT>",
    "<think>a</think>" + output("make it red", "none", "global"),
    "<thinking>a</thinking><thinking>b</thinking>" + output("x", "y"),
    output("one", "y") + output("two", "z"),
]
PROSE = "<thinking>a</thinking><intermediate>b</intermediate><reflection>c</reflection>"
# What models write that were not tuned on the form: thoughts before the answer, tags only talked about.
LOOSE += [
    f"<think>{PROSE}{output('draft', 'd')} hm</think>{PROSE}<output>\ninstruction: x\nscope: local\n",
    f"<think>I must write <thinking>, <intermediate>, ..</think>{PROSE}{output('x', 'y')}",
    f"I must write <thinking>, <output> .. </think>\n{PROSE}{output('x', 'y')}",
    f"[THINK]<output> comes last[/THINK]{PROSE}{output('x', 'y')}",
    f"<thinking>first <intermediate>, then <output></thinking>{PROSE[21:]}{output('x', 'y')}",
    f"<Reasoning>a</Reasoning>{output('x', 'red hat, scarf')}",
    f"{PROSE}{output('draft', 'd')}<output>\ninstruction: real\ntargets: hat\nscope: local",
    f"{PROSE}{output('real', 'hat')}<output>\n",
    *(PROSE + output("x", labels) for labels in ("red hat\uff1bscarf", "cat . dog", "[red hat, scarf]", "n/a",
                                                 '"hat"', "cat. dog.", "St. Bernard; cat", "a\\, b", "[]")),
    PROSE + "<output>\ninstruction\uff1amake it blue\ntargets\uff1ahat\nscope: local\n</output>",
    PROSE + "<output>\n1. **Instruction**: make it blue\n2. **Targets**: hat\n`scope`: local\n</output>",
    (PROSE + output("x", "y")).replace("\n", "\r\n"),
]  # fmt: skip


def as_read(trace: Trace) -> dict[str, Any]:
    plan = trace.plan
    return {
        "thinking": trace.thinking,
        "intermediate": trace.intermediate,
        "reflection": trace.reflection,
        "instruction": plan.instruction,
        "targets": list(plan.targets),
        "scope": plan.scope,
        "mask": plan.mask_text or "",
        "steps": [
            {
                "instruction": step.instruction,
                "targets": list(step.targets),
                "scope": step.scope,
                "mask": step.mask_text or "",
            }
            for step in plan.several
        ],
    }


def place(text: str) -> dict[str, Any]:
    """A mask text whose corners lie between the pixels, and what Python decodes of it."""
    try:
        mask = decode_mask(text, 40, 40)
    except MaskTextError:
        mask = torch.zeros(40, 40)
    return {"text": text, "mask": mask.int().tolist()}


@pytest.mark.skipif(NODE is None, reason="node is not installed; web/trace.js is checked where it is")
def test_the_browser_reads_a_trace_as_python_does(tmp_path: Path) -> None:
    cases = {
        "rendered": [{"text": render(trace), "trace": as_read(trace)} for trace in RENDERED],
        "loose": [{"text": text, "trace": as_read(parse(text))} for text in LOOSE],
        "places": [place(text) for text in PLACES],
    }
    (tmp_path / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    for name in MODULES:  # by this ending node takes them for modules, whatever its version
        code = (ROOT / "web" / f"{name}.js").read_text(encoding="utf-8").replace('.js"', '.mjs"')
        (tmp_path / f"{name}.mjs").write_text(code, encoding="utf-8")
    shutil.copy(Path(__file__).with_name("trace_checks.mjs"), tmp_path)
    assert NODE is not None
    done = subprocess.run(
        [NODE, "trace_checks.mjs", "cases.json"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "checks" in done.stdout
