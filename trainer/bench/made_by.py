"""What made a model's pictures, written beside them: a run that goes on must not add another model's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from evlm.errors import ConfigError
from evlm.files.pictures import write_atomically

from .base import read_json


def of_chain(names: Sequence[str], seed: int) -> dict[str, Any]:
    """A chain's models by the bytes of their files, and the seed that it paints with. Raises ModelError."""
    from evlm.models.zoo import choose

    from ..evaluation.model_marks import marks

    return {"seed": seed, "models": {role: marks(Path(place)) for role, place in choose(names).items()}}


def of_workflow(file: Path) -> dict[str, Any]:
    """A workflow by its bytes. The server is not named: it may move. Raises ConfigError."""
    try:
        return {"workflow": sha256(file.read_bytes()).hexdigest()}
    except OSError as error:
        raise ConfigError(f"{file}: not a workflow ({error!s:.120})") from None


def claim(note: Path, name: str, what: dict[str, Any], pictures: Sequence[Path]) -> None:
    """Writes what makes a model's pictures, where none of them is there yet. Raises ConfigError where those
    that are there were made otherwise. Pictures without a note are taken as they are."""
    there = [file for file in pictures if file.is_file()]
    if there and not note.is_file():
        return
    if there and read_json(note) != json.loads(json.dumps(what)):
        raise ConfigError(
            f"{there[0]}: other models made it, and {len(there) - 1} more, under the name {name!r:.80}; "
            f"choose another --out, or delete those pictures and {note}"
        )
    text = json.dumps(what).encode()
    write_atomically(note, lambda file: file.write(text))
