"""The recipe of a dataset: one YAML file, checked before any picture is opened.

python -m trainer data make my-set.yaml rows=300 --dry-run
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evlm.errors import ConfigError

from ..config.settings import build, override, read_yaml

Kind = Literal["folder", "columns", "frames"]


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what, for `kind: columns`; a picture is its bytes, or a path beside the
    table. group: what tells that two rows show the same original; without it its path does."""

    original: str
    edited: str | None = None
    reference: str | None = None
    instruction: str | None = None
    region: str | None = None
    edit_type: str | None = None
    group: str | None = None


@dataclass(frozen=True)
class Source:
    """path: a folder or a table on this disk; nothing is downloaded. license: of its pictures, as SPDX writes
    it, or in words. rows: at most so many, from its first; 0 is all. columns: of `kind: columns`.
    source_url: where it came from, for the card."""

    kind: Kind
    path: str
    license: str
    rows: int = 0
    source_url: str = ""
    columns: Columns | None = None

    def __post_init__(self) -> None:
        _between("rows", self.rows, 0, 10**8)
        if not self.path.strip():
            raise ConfigError("path: expected a folder or a table")
        if not self.license.strip():
            raise ConfigError('license: expected whose rules the pictures are under, or "unknown"')
        if (self.columns is not None) != (self.kind == "columns"):
            raise ConfigError("columns: they are what kind 'columns' needs, and no other has them")


@dataclass(frozen=True)
class Recipe:
    """out: folder of the dataset. rows: questions to plan. reuse: how often one original may be asked about
    within a category. frames: of a clip, at most so many, spread evenly."""

    sources: tuple[Source, ...]
    out: str
    rows: int = 30_000
    seed: int = 0
    reuse: int = 1
    frames: int = 8

    def __post_init__(self) -> None:
        if not self.sources:
            raise ConfigError("sources: expected at least one")
        if not self.out.strip():
            raise ConfigError("out: expected a folder")
        _between("rows", self.rows, 1, 10**8)
        _between("seed", self.seed, 0, 2**31 - 1)
        _between("reuse", self.reuse, 1, 1000)
        _between("frames", self.frames, 2, 64)


def load_recipe(path: str | Path, assignments: Sequence[str] = ()) -> Recipe:
    """A recipe file with "a.b=value" applied. Raises ConfigError, which names the key, the value and what was
    expected."""
    return build(Recipe, override(read_yaml(path), assignments))


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} {value!r:.40}: expected {low:,} to {high:,}")
