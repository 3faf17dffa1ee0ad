"""What the browser makes of a growing trace: web/trace.js, run by node and held against evlm.plan.trace."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from evlm.plan.trace import Plan, Trace, parse, render

ROOT = Path(__file__).resolve().parents[2]
NODE = shutil.which("node")
MODULES = ("trace", "history", "strings", "readable", "labels")

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
    }


@pytest.mark.skipif(NODE is None, reason="node is not installed; web/trace.js is checked where it is")
def test_the_browser_reads_a_trace_as_python_does(tmp_path: Path) -> None:
    cases = {
        "rendered": [{"text": render(trace), "trace": as_read(trace)} for trace in RENDERED],
        "loose": [{"text": text, "trace": as_read(parse(text))} for text in LOOSE],
    }
    (tmp_path / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    for name in MODULES:  # by this ending node takes them for modules, whatever its version
        shutil.copy(ROOT / "web" / f"{name}.js", tmp_path / f"{name}.mjs")
    shutil.copy(Path(__file__).with_name("trace_checks.mjs"), tmp_path)
    assert NODE is not None
    done = subprocess.run(
        [NODE, "trace_checks.mjs", "cases.json"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "checks" in done.stdout
