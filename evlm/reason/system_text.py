"""What the system message says, of a style that explains itself.

The texts for models that were tuned on them are held by a hash: one other token, and they answer worse. The
others are for models that never were: in English, for the editor's CLIP and the detector's BERT read nothing
else; a rectangle in the model's own form, because rows of cells are learned or wrong; and how several
edits are written. The paper's baselines
(EVLM v2, arXiv 2412.10566: few-shot prompting, two-step thinking, the plan alone) are told no more.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..plan.form import PARTS
from ..plan.native_boxes import OWN, BoxForm


def tuned_text(grid: int, parts: Sequence[str] = PARTS) -> str:
    """For a model that was tuned on a mask codec of `grid` rows, and on answers of these parts."""
    rows = " ".join(["1-5", "0-6", *["0-7"] * (grid - 3), "2-5+7-7"])
    asked = _COUNTED[len(parts)], "".join(_BLOCKS[part] for part in parts[:-1])
    return _TASK + _EXACTLY.format(*asked) + _RULES.format(grid=grid, last=grid - 1, rows=rows)


def untuned_text(style: str, boxes: BoxForm = OWN) -> str:
    """For a model that was not, by the name of the style. boxes: the form in which it gives a rectangle."""
    parts = {
        "{form}": boxes.write(("X0", "Y0", "X1", "Y1"), "..."),
        "{example}": boxes.write(("120", "80", "310", "240"), "cap"),
        "{second}": boxes.write(("0", "640", "95", "890"), "dog"),
        "{unit}": "in pixels of the original" if boxes.pixels else _THOUSANDTHS,
    }
    text = _TASK.replace("single edit", "edit") + (
        _FEW_SHOT if style == "few-shot" else _ANSWERS.get(style, _FOUR_PARTS) + _OUTPUT
    )
    for name, part in parts.items():
        text = text.replace(name, part)
    return text


_THOUSANDTHS = "from 0 to 1000 of the original's width and height"

_TASK = """\
You are an image editing planner. You are shown an original picture, references (pictures, videos, text \
or depth maps, each with an optional note) and a prompt of a few words or none. The request is vague: \
find out from the references which single edit of the original is meant, then plan it. If a reference \
and the prompt disagree, say so and follow the prompt, unless a note says otherwise.

"""

_WHAT = {
    "thinking": "What is in the original and in each reference, and what they have in common.",
    "think": "What is in the original and in each reference, and what they have in common.",
    "intermediate": "A first editing instruction.",
    "reflection": "Check the first instruction against the references and the prompt; keep it or mend it.",
}
_BLOCKS = {part: f"<{part}>\n{what}\n</{part}>\n" for part, what in _WHAT.items()}
_PROSE = "".join(_BLOCKS[part] for part in PARTS[:-1])
_COUNTED = {1: "this part", 2: "these two parts", 3: "these three parts", 4: "these four parts"}

_EXACTLY = "Answer with exactly {} and nothing else:\n\n{}"
_RULES = """\
<output>
instruction: one imperative sentence, complete without the references; for example: make the red hat blue
targets: what in the original changes, short noun phrases separated by "; "; for example: red hat; red scarf
scope: local
mask: box X0 Y0 X1 Y1 rows R R R ...
</output>

Rules for <output>:
- scope is local when a region changes and global when the whole picture does (style, weather, light). \
With a global scope leave the mask line out and write "targets: none".
- The mask covers what may change. X0 Y0 X1 Y1 is its box, integers from 0 to 1000 of the original's \
width and height. The box is divided into {grid} x {grid} cells; then come {grid} rows from top to \
bottom, separated by a space, each the columns (0 to {last}) that are covered: "2-5" a span, "1-2+6" \
several, "." none. For example:
mask: box 120 300 480 910 rows {rows}
- To replace, remove, add or move an object give its whole rectangle instead: mask: box X0 Y0 X1 Y1 full
"""

_ENGLISH = "in English whatever the language of the prompt"

_FOUR_PARTS = f"""\
Answer with exactly these four parts and nothing else, {_ENGLISH}:

{_PROSE}"""

_ANSWERS = {
    "direct": f"Answer with exactly this part and nothing else, {_ENGLISH}:\n\n",
    "two_step": f"""\
Answer with exactly these two parts and nothing else, {_ENGLISH}:

<think>
What is in the original and in each reference, what they have in common, and which edit that means.
</think>
""",
}

_OUTPUT = """\
<output>
instruction: one imperative sentence, complete without the references
targets: what in the original changes, short noun phrases separated by "; "; where several are alike, which: \
left cup; both chairs
scope: local
mask: {form}
</output>

The scope is local when a region changes; its box is the rectangle around all that may change: left, top, \
right, bottom, integers {unit}. It is global when the whole picture changes (style, weather, light), with \
"targets: none" and no mask. If several edits are meant (at most 4), repeat these lines for each. Two \
examples:

<output>
instruction: make the left man's cap red
targets: left cap
scope: local
mask: {example}
</output>

<output>
instruction: remove the dog
targets: dog
scope: local
mask: {second}
instruction: turn the street into a rainy evening
targets: none
scope: global
</output>
"""

_FEW_SHOT = f"""\
Answer with exactly the four parts of these examples and nothing else, {_ENGLISH}. "targets" are short noun \
phrases separated by "; ". The scope is local when a region changes: "mask: {{form}}" is the rectangle \
around all that may change, left, top, right, bottom, integers {{unit}}. It is global when the whole \
picture changes (style, weather, light). If several edits are meant (at most 4), repeat these lines \
for each.

<thinking>
Two men with white caps. All references show red caps.
</thinking>
<intermediate>
make the caps red
</intermediate>
<reflection>
The prompt says the left one: only his cap changes.
</reflection>
<output>
instruction: make the left man's cap red
targets: left cap
scope: local
mask: {{example}}
</output>

<thinking>
A dog in a street by day. The reference is an empty street in the rain, at dusk.
</thinking>
<intermediate>
remove the dog and add rain
</intermediate>
<reflection>
The light differs too: the whole picture changes.
</reflection>
<output>
instruction: remove the dog
targets: dog
scope: local
mask: {{second}}
instruction: turn the street into a rainy evening
targets: none
scope: global
</output>
"""
