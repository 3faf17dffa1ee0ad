"""Functions of the user's, named as "module:function": a judge, or what looks at every input before it is
sent away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from evlm.errors import ConfigError

from .asking import bar
from .stages import Stage, key_of


def load_function(name: str, called: str) -> Callable[..., Any]:
    """From where Python finds modules. called: its place in the recipe. Raises ConfigError."""
    module, _, function = name.partition(":")
    try:
        found = getattr(import_module(module), function)
    except Exception as error:  # whatever the module does when it is imported
        raise ConfigError(f"{called} {name!r:.80} cannot be loaded: {error!r:.200}") from None
    if not callable(found):
        raise ConfigError(f"{called} {name!r:.80} is no function")
    known: Callable[..., Any] = found
    return known


class Shown(NamedTuple):
    """What is about to be sent: files, and words. stamps: what becomes another where a file does, unless its
    name says it."""

    pictures: list[str]
    texts: list[str]
    stamps: Any = None


class Safe:
    """Asks `name`(pictures, texts) -> why it must not be sent, or None; once for the same. version: another
    word asks again. file: where its answers are kept. Raises ConfigError, RecordError."""

    def __init__(self, name: str, version: str, file: Path) -> None:
        self.name, self.version, self.file = name, version, file
        self._function = load_function(name, "filters.safe")

    def problems(self, shown: Mapping[str, Shown]) -> dict[str, str]:
        """{id: why it is not sent}."""
        stage = Stage(self.file)
        keys = {name: key_of(self.name, self.version, *each) for name, each in shown.items()}
        with bar("safe", len(keys)) as report:
            stage.run([(keys[name], each) for name, each in shown.items()], self._asked, 1, report)
        said = {name: stage[key]["said"] for name, key in keys.items()}
        return {name: reason for name, reason in said.items() if reason is not None}

    def _asked(self, shown: Shown) -> dict[str, Any]:
        try:
            said = self._function(shown.pictures, shown.texts)
        except Exception as error:  # somebody else's code: what it did not look at is not sent
            raise ConfigError(
                f"filters.safe {self.name} failed: {error!r:.300}; mend it and run the same again"
            ) from error
        if said is not None and not (isinstance(said, str) and said.strip()):
            raise ConfigError(f"filters.safe {self.name} gave {said!r:.80}; expected a reason or None")
        return {"said": said if said is None else said[:400]}
