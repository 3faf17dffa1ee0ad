"""Settings of one kind of phase that stand in another: they would be ignored without a word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evlm.errors import ConfigError

OF = {
    "kto": ("kto",),
    "rkto": ("rkto",),
    "dpo": ("dpo",),
    "group": ("group",),
    "rewards": ("rkto", "group"),
    "diagnose_every": ("rkto",),
    "eta0": ("kto", "rkto"),
}


def check_kinds(written: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Raises ConfigError for a setting that its phase does not know.

    written: the recipe's file; changed: with what was assigned. Where the kind alone was assigned, what the
    file says for the other kind stays and does nothing; so does what a run wrote, which names them all.
    """
    before = _phases(written)
    for number, phase in enumerate(_phases(changed)):
        old = before[number] if number < len(before) else {}
        if OF.keys() <= phase.keys():  # whichever version wrote it, and whatever settings came since
            continue
        for name, kinds in OF.items():
            stayed = old.get("kind") != phase.get("kind") and old.get(name) == phase.get(name)
            if phase.get(name) and phase.get("kind") not in kinds and not stayed:
                raise ConfigError(
                    f"phases.{number}.{name}: a setting of {' and '.join(kinds)} phases, and this one is "
                    f"{phase.get('kind')!s:.20}; leave it out"
                )


def _phases(recipe: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    phases = recipe.get("phases")
    return [each for each in phases if isinstance(each, Mapping)] if isinstance(phases, list) else []
