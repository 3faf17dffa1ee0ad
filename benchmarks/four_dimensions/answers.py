"""What was asked and what came of it: one JSON line an answer, from which a run that was stopped goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from evlm.files.append import append_lines

ROLES = ("reasoner", "detector", "segmenter", "editor")
Key = tuple[str, int, str, int, str]
"""(dimension, number, arm, seed, digest of the models)."""


@dataclass(frozen=True)
class Answer:
    """One arm's answer to one question.

    right: whether every frame, or every view at every time, in which it can be told shows what was ordered.
    shown: the share of them that do. most: whether the majority of views says so, at every time. why: of a
    wrong answer what stopped it, empty where something was painted. planned: whether the instruction was the
    question's own. instructions: those that were carried out. place: IoU of what was found, pixels or
    Gaussians, with what the question means; None where the question has no such place. seconds: CPU time of
    this arm; fit: of the scene's fit, which all arms share, and which is not in it.
    """

    dimension: str
    number: int
    arm: str
    seed: int
    models: str
    kind: str
    right: bool = False
    shown: float = 0.0
    most: bool = False
    why: str = ""
    planned: bool = False
    instructions: tuple[str, ...] = ()
    place: float | None = None
    seconds: float = 0.0
    fit: float = 0.0

    @property
    def key(self) -> Key:
        return self.dimension, self.number, self.arm, self.seed, self.models


def write(path: Path, answer: Answer) -> None:
    """By several processes at once, if need be."""
    append_lines(path, (json.dumps(asdict(answer)) + "\n").encode())


def read(path: Path) -> dict[Key, Answer]:
    """Of two lines of one key the later one; half a line, of a run that was killed, is none."""
    found: dict[Key, Answer] = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                data = json.loads(line)
                answer = Answer(**{**data, "instructions": tuple(data["instructions"])})
            except (ValueError, TypeError, KeyError):
                continue
            found[answer.key] = answer
    return found


@dataclass(frozen=True)
class Task:
    """A question and the arms that have not answered it. instructions: what ours had planned, where it has
    answered; None: not yet."""

    dimension: str
    number: int
    arms: tuple[str, ...]
    instructions: tuple[str, ...] | None = None


def tasks(
    counts: dict[str, int],
    arms: dict[str, tuple[str, ...]],
    known: dict[Key, Answer],
    seed: int,
    models: str,
    peers: int | None = None,
) -> list[Task]:
    """What is left to be asked. The dimensions take turns by their counts, so that of a run that is stopped
    each has the same share; ours comes first in each question, as the others carry out what it planned.
    peers: of each dimension's questions, how many the others answer; None: all."""
    order = sorted(
        ((number + 0.5) / count, dimension, number)
        for dimension, count in counts.items()
        for number in range(count)
    )
    left = []
    for _, dimension, number in order:
        who = [arm for arm in arms[dimension] if arm == "ours" or peers is None or number < peers]
        asked = {arm: known.get((dimension, number, arm, seed, models)) for arm in who}
        some = tuple(arm for arm, answer in asked.items() if answer is None)
        if some:
            ours = asked["ours"]
            left.append(Task(dimension, number, some, None if ours is None else ours.instructions))
    return left


def digest(folder: Path, roles: Sequence[str] = ROLES) -> str:
    """Of all files of the models, whatever their folder is called."""
    total = hashlib.sha256()
    for path in _files(folder, roles):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]


def _files(folder: Path, roles: Iterable[str]) -> list[Path]:
    return sorted(path for role in roles for path in (folder / role).rglob("*") if path.is_file())
