"""The third stage: people. Their items are a dataset that `python -m trainer data rate` serves; their votes
are read from its store.

An item is a question with an instruction: what several models wrote alike is one item, and whose it is nobody
can see. In mode "match" the human reference instruction stands among the references.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from evlm.errors import RecordError
from evlm.files.pictures import write_atomically
from evlm.records import NO_TRACE, ROWS_FILE, Row, RowWriter

from ..collect.stages import key_of
from ..evaluation.accuracy import Outcome
from ..evaluation.judges import Judging
from ..raters.agree import votes_by_item
from ..raters.items import KNOWN
from ..raters.store import FILE, Store, pseudonym
from .answers import Asked
from .recipe import Protocol
from .verdicts import Planted

_NOTE = "the human reference instruction: does the instruction ask for the same edit, in whichever words?"
_TOGETHER = 50  # rows of one write


def item_id(key: str, instruction: str, mode: Judging) -> str:
    """Of an item; key: the question's."""
    return f"judge-{key_of(key, instruction, mode)[:20]}"


def write_items(
    protocol: Protocol, questions: Sequence[Asked], outcomes: dict[str, list[Outcome]],
    known: Sequence[Planted],
) -> int:  # fmt: skip
    """Adds the items that are not there yet, planted ones as those whose answer is known; gives how many
    there are. Raises RecordError."""
    folder, mode = protocol.rated, protocol.modes[0]
    there = _ids(folder / ROWS_FILE)
    keys = {each.question.id: each.key for each in questions}
    asked = {each.question.id: each.question for each in questions}
    wanted: dict[str, tuple[str, str]] = {}
    for row in outcomes.values():
        for each in row:
            if not each.malformed:
                wanted[item_id(keys[each.id], each.instruction, mode)] = (each.id, each.instruction)
    gold = {}
    for sure in known:
        name = item_id(keys[sure.question.id], sure.instruction, mode)
        if name not in wanted:  # else people judge it as a model's
            gold[name] = sure
            wanted[name] = (sure.question.id, sure.instruction)
    new = [(name, *of) for name, of in wanted.items() if name not in there]
    writer = RowWriter(folder)
    for at in range(0, len(new), _TOGETHER):
        writer.append_all(
            _row(name, asked[question], instruction, mode)
            for name, question, instruction in new[at : at + _TOGETHER]
        )
    lines = [json.dumps({"id": name, "yes": each.yes, "why": "its verdict is known"}) + "\n"
             for name, each in gold.items()]  # fmt: skip
    try:
        write_atomically(folder / KNOWN, lambda file: file.write("".join(lines).encode()))
    except OSError as error:
        raise RecordError(f"{folder / KNOWN}: cannot be written ({error.strerror})") from None
    return len(wanted)


class Votes:
    """What people voted. columns: rater -> [questions] of 0, 1 and nan, of each model. of: item id -> {rater:
    yes}; gold: of the items whose answer is known."""

    def __init__(self, protocol: Protocol) -> None:
        self.mode: Judging = protocol.modes[0]
        self.of: dict[str, dict[str, bool]] = {}
        self.gold: dict[str, dict[str, bool]] = {}
        file = protocol.rated / FILE
        if not file.is_file():
            return
        store = Store(file)
        try:
            for kind, found in (("edit", self.of), ("gold", self.gold)):
                for name, given in votes_by_item(store, kind).items():
                    found[name] = {pseudonym(rater): each["value"] for rater, each in given.items()}
        finally:
            store.close()

    @property
    def raters(self) -> list[str]:
        """Their pseudonyms."""
        return sorted({rater for given in self.of.values() for rater in given})

    def column(
        self, questions: Sequence[Asked], outcomes: Sequence[Outcome], rater: str | None = None
    ) -> NDArray[np.float64]:
        """[questions] of a model: 1 yes, 0 no or malformed, nan where nobody said; rater: None for the
        majority, in which a tie is no verdict."""
        values = np.full(len(questions), np.nan)
        for at, (asked, each) in enumerate(zip(questions, outcomes, strict=True)):
            if each.malformed:
                values[at] = np.nan if rater else 0.0
                continue
            given = self.of.get(item_id(asked.key, each.instruction, self.mode), {})
            yes, no = sum(given.values()), len(given) - sum(given.values())
            if rater is not None:
                values[at] = float(given[rater]) if rater in given else np.nan
            elif yes != no:
                values[at] = float(yes > no)
        return values

    def planted(self, questions: Sequence[Asked], known: Sequence[Planted]) -> list[tuple[bool, bool]]:
        """(right verdict, majority) of the planted items that have one."""
        keys, found = {each.question.id: each.key for each in questions}, []
        for each in known:
            given = self.gold.get(item_id(keys[each.question.id], each.instruction, self.mode), {})
            if 2 * sum(given.values()) != len(given):
                found.append((each.yes, 2 * sum(given.values()) > len(given)))
        return found


def _row(name: str, question: Any, instruction: str, mode: Judging) -> tuple[Row, dict[str, Tensor]]:
    request, pictures = question.request(), {}

    def paths(frames: Tensor) -> list[str]:
        listed = []
        for frame in frames:
            path = f"pictures/{key_of(name_of(frame))[:16]}.png"
            pictures[path] = frame
            listed.append(path)
        return listed

    references: list[dict[str, Any]] = []
    for each in request.references:
        data: dict[str, Any] = {"kind": each.kind}
        data |= {"frames": paths(each.frames)} if each.frames is not None else {"text": each.text}
        data |= {"note": each.note} if each.note else {}
        references.append(data | ({"fps": each.fps} if each.fps else {}))
    if mode == "match":
        references.append({"kind": "text", "text": question.instruction, "note": _NOTE})
    row = Row(
        id=name, question=question.id, split="judge", source="protocol", edit_type=question.edit_type,
        category=question.category, original=tuple(paths(request.original)), prompt=request.prompt,
        label=False, answer=instruction, references=tuple(references), fps=request.fps, **NO_TRACE,
    )  # fmt: skip
    return row, pictures


def name_of(frame: Tensor) -> str:
    """What a picture is called by: what is in it."""
    pixels = (frame.detach().cpu().clamp(0, 1) * 255 + 0.5).byte().contiguous().numpy()
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def _ids(file: Path) -> set[str]:
    if not file.is_file():
        return set()
    found = set()
    for line in file.read_bytes().splitlines():
        try:
            found.add(str(json.loads(line)["id"]))
        except (ValueError, LookupError, TypeError):
            continue  # of a writer that died
    return found
