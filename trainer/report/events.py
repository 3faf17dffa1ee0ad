"""A run's events on disk: one JSON object a line in log.jsonl, appended as they happen, and read back.

A run that was killed does some steps again after its last state, so a step may stand in the file twice; the
later one counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evlm.errors import RecordError

LOG = "log.jsonl"  # in the run's folder
LONGEST = 64 << 20  # bytes of a line
_PLACED = ("step", "dropped", "sample", "eval", "memory", "resume")  # events that have a step
_PLACES = ("stage", "step", "steps")  # numbers that say where a run is, and nothing about how it goes


@dataclass
class History:
    """steps, dropped, samples, evals, memory (a micro-batch was halved): events in the order of their steps.
    start, done: the last of their kind. unreadable: lines that are no events (a killed run may leave half of
    one)."""

    steps: list[dict[str, Any]] = field(default_factory=list)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    start: dict[str, Any] | None = None
    done: dict[str, Any] | None = None
    unreadable: int = 0


def json_line(event: Mapping[str, Any]) -> str:
    """One line of JSON that every reader takes: NaN and infinity, which JSON does not know, become null."""
    return json.dumps(_finite(event), ensure_ascii=False, allow_nan=False)


def numbers(event: Mapping[str, Any], within: str = "") -> dict[str, float]:
    """What an event measured: each finite number by its name, nested ones as "outer/inner"."""
    values: dict[str, float] = {}
    for name, value in event.items():
        if isinstance(value, Mapping):
            values.update(numbers(value, f"{within}{name}/"))
        elif type(value) in (int, float) and math.isfinite(value) and (within or name not in _PLACES):
            values[f"{within}{name}"] = float(value)
    return values


def read_history(run: Path) -> History:
    """The events of a run's folder as one run without interruptions. Raises RecordError where there is no
    log."""
    history, begun = History(), False
    lists = {
        "step": history.steps,
        "dropped": history.dropped,
        "sample": history.samples,
        "eval": history.evals,
        "memory": history.memory,
    }
    try:
        with open(run / LOG, "rb") as file:
            for line in iter(lambda: file.readline(LONGEST), b""):
                event = event_of(line)
                if event is None:
                    history.unreadable += bool(line.strip())
                    continue
                kind = event["event"]
                if kind == "start":
                    history.start, begun = event, True
                elif kind == "resume":
                    _forget(lists, event["step"] + 1)
                    begun = False
                elif kind == "done":
                    history.done = event
                elif kind in lists:
                    # The first step after a start without a resume is that of another run in the same folder.
                    _forget(lists if begun else {kind: lists[kind]}, 0 if begun else event["step"])
                    begun, history.done = False, None
                    lists[kind].append(event)
    except OSError as error:
        raise RecordError(
            f"{run / LOG} cannot be read ({error.strerror}); name the folder of a run"
        ) from None
    return history


def _forget(lists: Mapping[str, list[dict[str, Any]]], step: int) -> None:
    """Drops the events from a step on."""
    for events in lists.values():
        while events and events[-1]["step"] >= step:
            events.pop()


def event_of(line: str | bytes) -> dict[str, Any] | None:
    """The event in a line; None where there is none."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    placed = event["event"] not in _PLACED or type(event.get("step")) is int
    return event if placed else None


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
