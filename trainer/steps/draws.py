"""Samples that several steps learn from, on disk beside the states: a run that was killed between them goes
on with the very samples that it had."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from evlm.errors import TrainingError

from ..model.ranks import Ranks

Seen = MutableMapping[str, list[float]]
"""[right, drawn] samples of a prompt, by its number."""

FADING = (
    0.5  # what an estimate keeps of itself each time that its prompt is passed over, so that it comes again
)


@dataclass(frozen=True)
class Drawn:
    """This rank's samples of a draw, K of each row that was drawn from, row by row.

    rows: numbers of those rows in the batch. samples: int64 [n] each. advantage: float [S]; accepted: bool
    [S]. totals: of the whole batch, as `objectives.group.Totals` lists them. logps: log p of the tokens of
    each sample when they were drawn, and reference: under the reference; empty where they are not needed.
    numbers: worth logging. behind: float [S] and begins: int64 [S], the advantage of a sample's tokens from
    that number on, where it is another one; None: `advantage` is of all."""

    rows: list[int]
    samples: list[Tensor]
    advantage: Tensor
    accepted: Tensor
    totals: list[float]
    logps: list[Tensor]
    reference: list[Tensor]
    numbers: dict[str, float]
    behind: Tensor | None = None
    begins: Tensor | None = None

    def earns(self, sample: int) -> bool:
        """Whether any token of a sample has an advantage."""
        return bool(self.advantage[sample] != 0) or (
            self.behind is not None and bool(self.behind[sample] != 0)
        )

    def paid(self, some: Sequence[int]) -> Tensor:
        """The advantage of each token of some samples, one after the other: float [T]."""
        lengths = torch.tensor([len(self.samples[n]) for n in some], dtype=torch.long)
        head = self.advantage[list(some)].repeat_interleave(lengths)
        if self.behind is None or self.begins is None:
            return head
        at = torch.cat([torch.zeros(0, dtype=torch.long), *(torch.arange(n) for n in lengths.tolist())])
        begins, tail = (each[list(some)].repeat_interleave(lengths) for each in (self.begins, self.behind))
        return torch.where(at < begins, head, tail)


class Draws:
    """The draws of a run. folder: where they lie; each rank has files of its own, which a run with another
    number of processes does not find: it draws anew there."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder, self.name = folder, f"{ranks.rank}-of-{ranks.count}"
        self._last: tuple[int, Drawn] | None = None
        self.seen: Seen = {}
        self._news: list[tuple[str, float, float]] = []

    def find(self, step: int) -> Drawn | None:
        """What was drawn at a step; None where it is not known any more. Raises TrainingError."""
        if self._last is not None and self._last[0] == step:
            return self._last[1]
        path = self._path(step)
        if not path.is_file():
            return None
        try:
            drawn = _read(path)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise TrainingError(
                f"{path} cannot be read ({error!s:.120}); delete it, and it is drawn anew"
            ) from None
        self._last = step, drawn
        return drawn

    def keep(self, step: int, drawn: Drawn, on_disk: bool) -> None:
        """Raises TrainingError where it cannot be written."""
        self._last = step, drawn
        if not on_disk:
            return
        path = self._path(step)
        fresh = path.with_suffix(".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _write(fresh, drawn)
            fresh.replace(path)
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"{path} cannot be written ({error}): free some space, and go on") from error

    def note(self, news: Iterable[tuple[str, float, float]]) -> None:
        """What the step that is being computed saw: (prompt, right, drawn), 0 drawn of one passed over."""
        self._news = list(news)

    def commit(self, states: Sequence[int]) -> None:
        """After the step: what it saw goes into `seen`, which the next ones ask; draws that no state goes on
        from are deleted. states: steps that there are states of."""
        for name, right, drawn in self._news:
            old = self.seen.get(name, [0.0, 0.0])
            self.seen[name] = [old[0] + right, old[1] + drawn] if drawn else [FADING * each for each in old]
        self._news = []
        mine = sorted(
            (step, path) for step, path in self._files() if path.name.endswith(f"-{self.name}.safetensors")
        )
        for (step, path), (following, _) in pairwise(mine):
            if not any(step <= state < following for state in states):  # taken between its steps
                path.unlink(missing_ok=True)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self._last = None

    def _files(self) -> Iterable[tuple[int, Path]]:
        for path in self.folder.glob("step-*.safetensors"):
            if found := re.match(r"step-(\d+)-", path.name):
                yield int(found[1]), path

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}-{self.name}.safetensors"


def _write(path: Path, drawn: Drawn) -> None:
    tensors = {
        "rows": torch.tensor(drawn.rows, dtype=torch.long),
        "lengths": torch.tensor([len(each) for each in drawn.samples], dtype=torch.long),
        "advantage": drawn.advantage.cpu(),
        "accepted": drawn.accepted.cpu(),
    }
    if drawn.behind is not None and drawn.begins is not None:
        tensors |= {"behind": drawn.behind.cpu(), "begins": drawn.begins.cpu()}
    tensors["samples"] = torch.cat([torch.zeros(0, dtype=torch.long), *drawn.samples])
    for name in ("logps", "reference"):
        parts: list[Tensor] = getattr(drawn, name)
        tensors[name] = torch.cat(parts).cpu() if parts else torch.zeros(0)
        tensors[f"{name}_lengths"] = torch.tensor([len(each) for each in parts], dtype=torch.long)
    said = {"totals": json.dumps(drawn.totals), "numbers": json.dumps(drawn.numbers)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, said)
    with open(path, "r+b") as file:
        os.fsync(file.fileno())


def _read(path: Path) -> Drawn:
    with safe_open(path, "pt") as file:
        t = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        said = file.metadata() or {}
    return Drawn(
        t["rows"].tolist(),
        list(t["samples"].split(t["lengths"].tolist())),
        t["advantage"],
        t["accepted"],
        json.loads(said["totals"]),
        list(t["logps"].split(t["logps_lengths"].tolist())) if len(t["logps_lengths"]) else [],
        list(t["reference"].split(t["reference_lengths"].tolist())) if len(t["reference_lengths"]) else [],
        json.loads(said["numbers"]),
        t.get("behind"),
        t.get("begins"),
    )
