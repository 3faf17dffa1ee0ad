"""The three requests of `make demo`, drawn from the world's test split: no model saw these compositions in
training."""

from __future__ import annotations

import json
from pathlib import Path

from evlm.files.pictures import save_picture, write_atomically
from evlm.request import EXAMPLES
from trainer.world.rows import Recipe, question_at, to_request

# (name, title, operation, category, number of the question)
CHOSEN = (
    ("1-reference", "a reference picture decides", "recolour", "image", 34),
    ("2-words", "two vague words", "recolour", "text", 5),
    ("3-removal", "what is in the reference shall go", "remove", "image", 3),
)
SEED = 7


def write_examples(folder: Path = EXAMPLES) -> list[Path]:
    """Write the pictures and one JSON for each request (see `evlm.request.load_example`); returns the JSON
    files."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, title, op, category, number in CHOSEN:
        request = to_request(question_at(Recipe(SEED, "test", op=op, category=category), number))
        save_picture(folder / f"{name}.png", request.original)
        references = []
        for index, reference in enumerate(request.references):
            if reference.frames is None:
                references.append({"kind": "text", "text": reference.text})
                continue
            path = f"{name}-reference-{index + 1}.png"
            save_picture(folder / path, reference.frames)
            references.append({"kind": reference.kind, "path": path})
        row = {"title": title, "image": f"{name}.png", "prompt": request.prompt, "references": references}
        text = json.dumps(row, indent=2) + "\n"
        write_atomically(folder / f"{name}.json", lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]
        written.append(folder / f"{name}.json")
    return written
