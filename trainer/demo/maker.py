"""The drawn world as a maker: pairs, references and clips as a folder that `data make` takes for anybody's.

draw_pairs(Path("photos"), 60)      # photos/pairs.jsonl; and photos/truth.json, which nobody reads but raters
"""

from __future__ import annotations

import hashlib
import json
import random
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evlm.files.pictures import write_atomically

from ..world.question import CATEGORIES, LIKE, Question
from ..world.questions import ask

PAIRS, TRUTH = "pairs.jsonl", "truth.json"
SIZE = 64  # pixels a side: what the bundled models know
TYPES = {
    "recolour": "transformation", "replace": "transformation", "remove": "removal", "add": "addition",
    "weather": "weather", "ground": "weather", "restyle": "style", "retexture": "texture", "move": "layout",
}  # fmt: skip
"""What the paper calls the world's operations."""


def draw_pairs(out: Path, count: int, seed: int = 0) -> None:
    """Writes `count` edits, one of each category in turn, before and after. The same count and seed give the
    same bytes, and what is whole already is not drawn again."""
    if (out / PAIRS).is_file() and len((out / PAIRS).read_bytes().splitlines()) == count:
        return
    lines, truth = [], {}
    for number in range(count):
        question = _question(random.Random(f"maker {seed} {number}"), CATEGORIES[number % len(CATEGORIES)])
        before, line = _draw(out, f"{number:04d}", question)
        truth[picture_key(before)] = question.edit.instruction
        lines.append(json.dumps(line))
    _put(out / TRUTH, json.dumps(truth, indent=1).encode())
    _put(out / PAIRS, ("\n".join(lines) + "\n").encode())


def picture_key(pixels: NDArray[np.uint8]) -> str:
    """What a picture [H, W, 3] is known by, in whichever file it lies."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()[:24]


def _question(rng: random.Random, category: str) -> Question:
    """One that its references say all of: `data make` asks without the world's own words beside them."""
    while True:
        question = ask(rng, "train", category=category)
        if category == "text" or question.prompt in LIKE:
            return question


def _draw(out: Path, name: str, question: Question) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """(the original's first frame, the line about it)."""
    before, after = question.edit.pictures(SIZE, question.frames)
    line: dict[str, Any] = {
        "original": _save(out, f"{name}-original", before),
        "instruction": question.edit.instruction,
        "edit_type": TYPES[question.edit.op],
        "group": name,
    }
    if len(before) == 1:
        line["edited"] = _save(out, f"{name}-edited", after)
    shown = [ref for ref in question.refs if ref.kind != "text"]
    if shown:
        line["reference"] = _save(out, f"{name}-reference", shown[0].pixels(SIZE))
    return before[0], line


def _save(out: Path, name: str, frames: NDArray[np.uint8]) -> str:
    """A picture, or of several frames a folder of them; gives its path in `out`."""
    if len(frames) == 1:
        _put(out / "pictures" / f"{name}.png", _png(frames[0]))
        return f"pictures/{name}.png"
    for number, frame in enumerate(frames):
        _put(out / "pictures" / name / f"{number:02d}.png", _png(frame))
    return f"pictures/{name}"


def _png(pixels: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _put(path: Path, data: bytes) -> None:
    write_atomically(path, lambda file: file.write(data), flush=False)
