"""The requests of `make demo`, drawn from the world's test split: no model saw these compositions in
training. The fourth asks for two edits in one, the fifth for what follows from a cause. And a clip, for the
video template.
"""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.files.clip_writer import write_clip
from evlm.files.pictures import save_picture, write_atomically
from evlm.request import EXAMPLES
from trainer.world.clips import Film
from trainer.world.doubles import ask_double
from trainer.world.paths import Path as Way
from trainer.world.question import Question
from trainer.world.questions import ask
from trainer.world.rows import Recipe, question_at, to_request
from trainer.world.whatif.ask import ask_what_if

# (name, title, operation, category, number of the question)
CHOSEN = (
    ("1-reference", "a reference picture decides", "recolour", "image", 34),
    ("2-words", "two vague words", "recolour", "text", 5),
    ("3-removal", "what is in the reference shall go", "remove", "image", 3),
)
SEED = 7
TWO_EDITS = ("4-two-edits", "two edits in one request", "double example 14")
WHAT_IF = ("5-what-if", "what follows, not what to do", "what-if example 4", "support")
CLIP = ("evlm_moving.mp4", "sample clip 38")
FRAMES, RATE, SIDE = 16, 12, 256  # of the clip: frames, frames a second, pixels


def write_examples(folder: Path = EXAMPLES) -> list[Path]:
    """Write the pictures and one JSON for each request (see `evlm.request.load_example`), and the clip;
    returns the JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    write_clip(folder / CLIP[0], sample_clip(), "h264", [Fraction(1, RATE)] * FRAMES)
    asked = [
        _write(folder, name, title, question_at(Recipe(SEED, "test", op=op, category=category), number))
        for name, title, op, category, number in CHOSEN
    ]
    name, title, seed = TWO_EDITS
    asked.append(_write(folder, name, title, ask_double(random.Random(seed), "test", "image")))
    name, title, seed, rule = WHAT_IF
    asked.append(_write(folder, name, title, ask_what_if(random.Random(seed), "test", rule)))
    return asked


def sample_clip() -> Tensor:
    """Float32 [FRAMES, SIDE, SIDE, 3] in 0..1: one thing of a scene that goes up and down on its way, the
    others at rest."""
    question = ask(random.Random(CLIP[1]), "test", "recolour", "text")
    scene, target = question.edit.source, question.edit.target
    assert target is not None  # a recolouring has one
    ways = []
    for thing in scene.things:
        x, y = map(float, thing.centre())
        ways.append(Way("sine", (x - 3, y + 2), wave=1.0) if thing is target else Way("still", (x, y)))
    film = Film(scene, tuple(ways), FRAMES)
    frames = [torch.from_numpy(film.render_frame(frame, SIDE)) for frame in range(FRAMES)]
    return torch.stack(frames).float() / 255


def _write(folder: Path, name: str, title: str, question: Question) -> Path:
    request = to_request(question)
    save_picture(folder / f"{name}.png", request.original)
    references = []
    for index, reference in enumerate(request.references):
        if reference.frames is None:
            references.append({"kind": "text", "text": reference.text})
            continue
        path = f"{name}-reference-{index + 1}.png"
        save_picture(folder / path, reference.frames)
        references.append({"kind": reference.kind, "path": path})
    row: dict[str, Any] = {"title": title, "image": f"{name}.png", "prompt": request.prompt}
    text = json.dumps({**row, "references": references}, indent=2) + "\n"
    write_atomically(folder / f"{name}.json", lambda file: file.write(text.encode()))
    return folder / f"{name}.json"
