"""The small JSON files beside a model, read without trust."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from ..errors import ModelError

MAX_JSON = 4 << 20
"""Bytes. The index of a model of 400 billion weights has 0.1 MB."""


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError when it is missing, broken, no plain file or larger than
    MAX_JSON; `what` says what should lie there."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ModelError(f"{path} is a device or a pipe, expected {what}")
            raw = file.read(MAX_JSON + 1)
        if len(raw) > MAX_JSON:
            raise ModelError(f"{path} has more than {MAX_JSON:,} bytes; expected {what}; fetch it again")
        value = json.loads(raw.decode("utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} does not exist; expected {what}. `python -m evlm models` lists what is there"
        ) from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(
            f"{path} cannot be read as JSON ({error}); expected {what}; fetch the model again"
        ) from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a JSON {type(value).__name__}, expected an object: {what}")
    return value


def _open_at_once(path: str, flags: int) -> int:
    """A pipe that nobody writes to would keep the reader waiting."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
