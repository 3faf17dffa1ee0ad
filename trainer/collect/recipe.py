"""The recipe of a dataset: one YAML file, checked before any picture is opened.

python -m trainer data make my-set.yaml rows=300 --dry-run
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from evlm.errors import ConfigError

from ..config.settings import build, expand_home, override, read_yaml
from .services import Judge, Maker, Teacher, between

Kind = Literal[
    "folder",
    "columns",
    "frames",
    "magicbrush",
    "ip2p",
    "ultraedit",
    "hqedit",
    "smartedit",
    "omniedit",
    "reason50k",
    "editworld",
    "anyedit",
    "imgedit",
    "gpt-image-edit",
    "diptychs",
    "prompts",
]
LICENSES = {
    "magicbrush": "CC-BY-4.0",
    "ip2p": "unknown",
    "ultraedit": "CC-BY-4.0",
    "hqedit": "CC-BY-NC-4.0",
    "smartedit": "unknown",
    "omniedit": "MIT",
    "reason50k": "unknown",
    "editworld": "unknown",
    "anyedit": "CC-BY-4.0",
    "imgedit": "unknown",
    "gpt-image-edit": "unknown",
}
"""What the cards of public sets say; "unknown" where they say nothing."""


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what, for `kind: columns`; a picture is its bytes, or a path beside the
    table. group: what tells that two rows show the same original; without it its path does. prompt: what
    somebody asked for; the row is asked so then, with its reference beside it where it has one."""

    original: str
    edited: str | None = None
    reference: str | None = None
    instruction: str | None = None
    region: str | None = None
    edit_type: str | None = None
    group: str | None = None
    prompt: str | None = None


@dataclass(frozen=True)
class Source:
    """path: a folder or a table on this disk; nothing is downloaded. license: of its pictures, as SPDX writes
    it, or in words; of a public set what its card says, unless another is given. rows: at most so many, from
    its first; 0 is all. columns: of `kind: columns`. source_url: where it came from, for the card."""

    kind: Kind
    path: str
    license: str = ""
    rows: int = 0
    source_url: str = ""
    columns: Columns | None = None

    def __post_init__(self) -> None:
        between("rows", self.rows, 0, 10**8)
        if not self.path.strip():
            raise ConfigError("path: expected a folder or a table")
        if not self.terms.strip():
            raise ConfigError('license: expected whose rules the pictures are under, or "unknown"')
        if (self.columns is not None) != (self.kind == "columns"):
            raise ConfigError("columns: they are what kind 'columns' needs, and no other has them")

    @property
    def terms(self) -> str:
        """The licence that rows of the source carry."""
        return self.license or LICENSES.get(self.kind, "")


@dataclass(frozen=True)
class Filters:
    """Limits of an answer: words of the reflection and of the instruction, and how often an edit type may say
    the same instruction. pairs: whether before and after must differ, and show one picture. duplicates:
    whether a pair (or an original alone) that is nearly the same as one before is left out. clip: folder of a
    CLIP model of this machine, by which pairs are measured (`similar`); clip_lowest: the share of them that
    is left out by each measure. judged_least: what the judges must give on average, of 1 to 5, to each of
    their questions. safe: "module:function" that
    gets the pictures (paths) and texts of each question before they are sent anywhere, and gives a reason not
    to, or None; safe_version: another word asks it again."""

    reflection_words: int = 120
    instruction_least: int = 4
    instruction_most: int = 60
    same_instruction: int = 20
    pairs: bool = True
    duplicates: bool = True
    clip: str = ""
    clip_lowest: float = 0.05
    judged_least: float = 3.0
    safe: str = ""
    safe_version: str = ""

    def __post_init__(self) -> None:
        expand_home(self, "clip")
        if not 1 <= self.judged_least <= 5:
            raise ConfigError(f"judged_least {self.judged_least!r:.40}: expected 1 to 5")
        if not 0 <= self.clip_lowest < 1:
            raise ConfigError(f"clip_lowest {self.clip_lowest!r:.40}: expected 0 to 1, a share of the pairs")
        for name, value in vars(self).items():
            if type(value) is int:
                between(name, value, 1, 10**6)
        if self.instruction_least > self.instruction_most:
            raise ConfigError("instruction_least: expected at most instruction_most")


@dataclass(frozen=True)
class Split:
    """Shares of the groups of pictures; what is left is for training."""

    test: float = 0.1
    validation: float = 0.0

    def __post_init__(self) -> None:
        if not (self.test >= 0 and self.validation >= 0 and self.test + self.validation < 1):
            raise ConfigError(
                f"test {self.test!r}, validation {self.validation!r}: expected shares below 1 in all"
            )


@dataclass(frozen=True)
class Masks:
    """How it is found where a row was edited. find: whether at all. segmenter, detector: models of this
    machine ("bundled", a folder, a name of `python -m evlm models`) that sharpen what differs in a pair, and
    find the plan's targets where there is none; "" for none. grow: how far a difference reaches at
    most, in shares of the shorter side: as far as anything differs there."""

    find: bool = True
    segmenter: str = ""
    detector: str = ""
    grow: float = 0.02

    def __post_init__(self) -> None:
        if not 0 <= self.grow <= 0.5:
            raise ConfigError(f"grow {self.grow!r:.40}: expected 0 to 0.5")
        if self.detector and not self.segmenter:
            raise ConfigError("detector: it finds boxes for a segmenter; name one")


@dataclass(frozen=True)
class Recipe:
    """out: folder of the dataset. rows: questions to plan. plan: "paper" by Table 6 and Figure 10, "asked"
    what the sources' people asked, as they did, and nothing else. reuse: how often one original may be
    asked about within a category. frames: of a clip, at most so many, spread
    evenly. teacher: who writes the traces; a dry run needs none. judges: who looks at what came of it.
    maker: who draws the pictures of `kind: prompts`."""

    sources: tuple[Source, ...]
    out: str
    rows: int = 30_000
    seed: int = 0
    reuse: int = 1
    frames: int = 8
    split: Split = field(default_factory=Split)
    filters: Filters = field(default_factory=Filters)
    masks: Masks = field(default_factory=Masks)
    teacher: Teacher | None = None
    judges: tuple[Judge, ...] = ()
    maker: Maker | None = None
    plan: Literal["paper", "asked"] = "paper"

    def __post_init__(self) -> None:
        expand_home(self, "out")
        if not self.sources:
            raise ConfigError("sources: expected at least one")
        if self.maker is None and any(source.kind == "prompts" for source in self.sources):
            raise ConfigError("maker: expected who draws what kind 'prompts' asks for")
        if not self.out.strip():
            raise ConfigError("out: expected a folder")
        between("rows", self.rows, 1, 10**8)
        between("seed", self.seed, 0, 2**31 - 1)
        between("reuse", self.reuse, 1, 1000)
        between("frames", self.frames, 2, 64)


def load_recipe(path: str | Path, assignments: Sequence[str] = ()) -> Recipe:
    """A recipe file with "a.b=value" applied. Raises ConfigError, which names the key, the value and what was
    expected."""
    # Also before, so that `teacher: bundled` takes teacher.samples=1.
    return build(Recipe, _whole(override(_whole(read_yaml(path)), assignments)))


def _whole(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe without the short form of a teacher of this machine."""
    teacher = content.get("teacher")
    return {**content, "teacher": {"local": teacher}} if isinstance(teacher, str) else content
