"""Texts for tests of the grammar: an example of a trace, hypothesis strategies. Not a test file."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from evlm.errors import TraceError
from evlm.plan.trace import Plan, Trace, parse

EXAMPLE = Trace(
    thinking="The reference shows a blue star. The scene has two circles.",
    intermediate="make the circle blue",
    reflection="The star is dotted as well; keep the colour only.",
    plan=Plan("make the red circle blue", ("red circle", "small star"), "box 1 2 3 4 full", "local"),
)
EXACT = """<thinking>
The reference shows a blue star. The scene has two circles.
</thinking>
<intermediate>
make the circle blue
</intermediate>
<reflection>
The star is dotted as well; keep the colour only.
</reflection>
<output>
instruction: make the red circle blue
targets: red circle; small star
scope: local
mask: box 1 2 3 4 full
</output>"""

# Text that is likely to break the grammar, mixed with any text at all.
PIECES = [
    *"<>/\\;:a{}[]'\" \n\r\t\x0b\x85\u2028\ud800\x00",
    "<thinking>",
    "</thinking>",
    "<output>",
    "</OUTPUT>",
]
PIECES += [
    "<think>",
    "< / reflection >",
    "\\\\",
    "\\n",
    "\\;",
    "\\<",
    "instruction:",
    "targets: none",
    "scope: x",
    "mask:",
]
PIECES += ["none", "None", "thinking", "**Output**\n", "0-1", "```json", "```\n", '{"instruction": "x"}']
NASTY = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
ANY = st.one_of(NASTY, st.text(max_size=40))
FILLED = ANY.filter(lambda text: text.strip())
SINGLE = st.builds(
    Plan,
    FILLED,
    st.lists(ANY, max_size=4).map(tuple),
    st.none() | ANY,
    st.sampled_from(["local", "global"]),
)
PLANS = SINGLE | st.lists(SINGLE, min_size=1, max_size=4).map(Plan.of_steps)
TRACES = st.builds(Trace, ANY, ANY, ANY, PLANS)

# What the tests of answers are made of.
PROSE = "<thinking>a</thinking><intermediate>b</intermediate><reflection>c</reflection>"
FIELDS = "instruction: make the hat blue\ntargets: hat\nscope: local"
PLAN = Plan("make the hat blue", ("hat",), None, "local")
DRAFT = f"{PROSE}<output>\ninstruction: draft\ntargets: draft\nscope: local\n</output>"


def output(content: str) -> str:
    return f"{PROSE}<output>\n{content}\n</output>"


def understand(text: str, finished: bool) -> Any:
    from evlm.reason.reasoner import Generated, understood

    return understood(Generated(text, 99, 0.1, finished))


def read(text: str) -> Trace:
    """The trace in a text that holds one."""
    try:
        return parse(text)
    except TraceError as error:
        raise AssertionError(f"not read: {error}") from None


def message(text: str, **how: Any) -> str:
    """What the error says; "" where a text is taken."""
    try:
        if how:
            understand(text, **how)
        else:
            parse(text)
    except TraceError as error:
        return str(error)
    return ""
