"""What the page sends, checked field by field: nothing of it is trusted."""

from __future__ import annotations

import re
from typing import Any

from evlm.errors import ConfigError, RecordError

from ..data.files import parse, unicode_problems
from .queue import Vote

MOST_NOTE = 2_000  # characters
_KEY = re.compile(r"[0-9A-Za-z_-]{16,64}")
_MOST_MS = 3_600_000  # who went away for longer thought for an hour


def read_vote(data: bytes) -> Vote:
    """{"key", "item", "value": true, false or null, "note", "ms"} of JSON. Raises ConfigError."""
    form = _object(data, {"key", "item", "value"}, {"note", "ms"})
    item, value, note, ms = form["item"], form["value"], form.get("note", ""), form.get("ms", 0)
    if type(item) is not int or not 0 < item < 2**63:
        raise ConfigError("item: expected an item's number")
    if value is not None and type(value) is not bool:
        raise ConfigError("value: expected true, false or null")
    if type(note) is not str or len(note) > MOST_NOTE or "\0" in note:
        raise ConfigError(f"note: expected text of at most {MOST_NOTE} characters")
    if type(ms) is not int or ms < 0:
        raise ConfigError("ms: expected milliseconds, a whole number")
    return Vote(_key(form), item, value, note, min(ms, _MOST_MS))


def read_undo(data: bytes) -> str:
    """The key of {"key"}. Raises ConfigError."""
    return _key(_object(data, {"key"}, set()))


def _key(form: dict[str, Any]) -> str:
    if type(form["key"]) is not str or not _KEY.fullmatch(form["key"]):
        raise ConfigError("key: expected 16 to 64 letters, digits, - or _")
    return str(form["key"])


def _object(data: bytes, needed: set[str], more: set[str]) -> dict[str, Any]:
    try:
        form = parse(data)
    except RecordError:
        raise ConfigError("expected JSON") from None
    if not isinstance(form, dict) or not needed <= set(form) <= needed | more or unicode_problems(form):
        raise ConfigError(f"expected an object with {', '.join(sorted(needed))}")
    return form
