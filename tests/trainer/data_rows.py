"""Rows over a few tiny pictures, for the tests of the data commands."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
from hypothesis import strategies as st

from evlm.files.pictures import save_picture
from evlm.plan.trace import Plan
from evlm.records import Row, step_rows

FRAMES = [f"pictures/frame-{at}.png" for at in range(10)]
STILLS = [f"pictures/sub folder/still {at}.png" for at in range(3)]
MASK = "pictures/mask.png"

ROW = Row(
    id="a-0",
    question="a",
    split="train",
    source="tests",
    edit_type="recolour",
    category="image",
    original=(FRAMES[0],),
    prompt="like this",
    thinking="a red hat",
    intermediate="make it blue",
    reflection="yes",
    instruction="make the red hat blue",
    targets=("red hat",),
    scope="local",
    label=True,
    mask_text="box 0 0 500 500 full",
    mask=MASK,
    edited=(FRAMES[1],),
    references=({"kind": "image", "frames": [STILLS[0]]}, {"kind": "text", "text": "a blue hat"}),
    raters=(True, True, False),
    meta={"k": 3},
)


def draw_pictures(folder: Path) -> Path:
    """Every picture that the rows name, each of another colour."""
    for at, path in enumerate([*FRAMES, *STILLS, MASK]):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        save_picture(folder / path, torch.full((1, 8, 8, 3), at / 20))
    return folder


def write_rows(file: Path, rows: list[Row]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return file


def many(count: int, **fields: object) -> list[Row]:
    return [
        replace(ROW, id=f"r-{at}", question=f"q-{at // 2}", label=at % 5 < 3, **fields) for at in range(count)
    ]


_ODD = st.sampled_from(
    [
        "<image>",
        "<video>",
        "</img>",
        "<thinking>",
        "</output>",
        "\\n",
        "a;b",
        "none",
        "<|image_pad|>",
        "é\u2028\U0001f600",
    ]
)
WORDS = st.lists(_ODD | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=4).map(
    "".join
)
FILLED = WORDS.map(lambda text: f"x{text}")
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)
_FPS = st.none() | st.floats(0.5, 240) | st.integers(1, 60)
_VIDEO = st.integers(1, 10).map(lambda count: FRAMES[:count])
_REFERENCE = st.one_of(
    st.fixed_dictionaries({"kind": st.just("text"), "text": FILLED}, optional={"note": WORDS}),
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["image", "depth"]),
            "frames": st.sampled_from(STILLS).map(lambda path: [path]),
        },
        optional={"note": WORDS, "text": st.just(""), "fps": st.none()},
    ),
    st.fixed_dictionaries(
        {"kind": st.just("video"), "frames": _VIDEO}, optional={"note": WORDS, "fps": _FPS}
    ),
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """Any row that passes the checks, its id still to be given."""
    row = Row(
        id="?",
        question=draw(FILLED),
        split=draw(FILLED),
        source=draw(FILLED),
        edit_type=draw(FILLED),
        category=draw(FILLED),
        original=tuple(draw(_VIDEO)),
        prompt="x" + draw(WORDS),
        thinking=draw(WORDS),
        intermediate=draw(WORDS),
        reflection=draw(WORDS),
        instruction=draw(FILLED),
        targets=tuple(draw(st.lists(WORDS, max_size=3))),
        scope=draw(st.sampled_from(["local", "global"])),
        label=draw(st.booleans()),
        mask_text=draw(st.none() | WORDS),
        mask=draw(st.none() | st.just(MASK)),
        edited=tuple(draw(st.lists(st.sampled_from(FRAMES), max_size=2))),
        references=tuple(draw(st.lists(_REFERENCE, max_size=3))),
        fps=draw(_FPS),
        raters=tuple(draw(st.lists(st.booleans(), max_size=3))),
        meta=draw(st.dictionaries(WORDS, _JSON, max_size=2)),
    )
    if not draw(st.booleans()):
        return row
    first = Plan(row.instruction, row.targets, row.mask_text, row.scope)  # type: ignore[arg-type]
    plan = Plan.of_steps([first, Plan(draw(FILLED), tuple(draw(st.lists(WORDS, max_size=3))))])
    steps = [{**step, "mask": MASK} if draw(st.booleans()) else step for step in step_rows(plan)]
    several = {"instruction": plan.instruction, "targets": plan.targets, "scope": plan.scope}
    return replace(row, **several, mask_text=None, steps=tuple(steps))
