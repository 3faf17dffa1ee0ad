"""What the runs of a study left on the disk, read back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evlm.errors import ConfigError

from ..evaluation.accuracy import Outcome
from ..report.events import read_history

RESULT = "result.json"  # in a run's folder


def read(path: Path) -> dict[str, Any]:
    """What an earlier run of a study wrote. Raises ConfigError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if path.name == RESULT:
            str(value["job"]["arm"]), int(value["job"]["seed"]), list(value["outcomes"])
        if isinstance(value, dict):
            return value
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    raise ConfigError(f"{path} is not what a study writes; delete it, and it is made again")


def results_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """arm -> the results of its seeds. Raises ConfigError where the folder is no study's."""
    found: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob(f"*/{RESULT}")):
        value = read(file)
        found.setdefault(str(value["job"]["arm"]), []).append(value)
    if not found:
        raise ConfigError(f"{folder}: no run of a study is done there; python -m trainer study writes them")
    for runs in found.values():
        runs.sort(key=lambda run: int(run["job"]["seed"]))
    return found


def outcomes_of(result: Any) -> list[Outcome]:
    """Raises ConfigError."""
    try:
        return [Outcome(**each) for each in result["outcomes"]]
    except TypeError as error:
        raise ConfigError(f"a study's result holds other outcomes than this version's ({error})") from None


def step_seconds(run: Path) -> float | None:
    """Of a run's second stage; None where it has none."""
    steps = [event for event in read_history(run).steps if event.get("stage") == 1]
    return steps[-1].get("seconds") if steps else None


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
