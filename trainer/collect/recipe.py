"""The recipe of a dataset: one YAML file, checked before any picture is opened.

python -m trainer data make my-set.yaml rows=300 --dry-run
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evlm.errors import ConfigError
from evlm.reason.endpoint import parse_address

from ..config.settings import build, override, read_yaml

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
BUNDLED_TERMS = "Apache-2.0: the bundled reasoner's answers may be trained on"


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
    it, or in words; of a public set what its card says, unless another is given. rows: at most so many, from
    its first; 0 is all. columns: of `kind: columns`. source_url: where it came from, for the card."""

    kind: Kind
    path: str
    license: str = ""
    rows: int = 0
    source_url: str = ""
    columns: Columns | None = None

    def __post_init__(self) -> None:
        _between("rows", self.rows, 0, 10**8)
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
class Prices:
    """Of a million tokens, in any one currency."""

    input: float = 0.0
    output: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value <= 1e6:
                raise ConfigError(f"{name} {value!r:.40}: expected 0 to 1,000,000 for a million tokens")


@dataclass(frozen=True)
class Teacher:
    """A model at an OpenAI-compatible endpoint that writes the traces, or one of this machine.

    local: "bundled", a folder, a name of `python -m evlm models`; then no endpoint, and nothing leaves this
    machine. `teacher: NAME` is short for it. model: its name at the endpoint. terms: what its provider says
    about training on answers; the card repeats it. send_pictures: originals go to the endpoint, which nothing
    does unless this is true. hint: what of the known edit it is shown; a model that was tuned on EVLM's
    questions is shown nothing. samples: answers to a question, at `temperature`. workers: questions on their
    way at once. requests_a_minute: 0 is any number. tries, pause: how often a question is sent, and the
    seconds that the first pause may take. prices, max_cost: what answers cost, and at what sum to stop; both
    are needed unless the endpoint is on this machine. timeout: seconds without a byte. max_pixels: of a
    picture on its way out. batch: "file" sends nothing but writes files for a batch, and reads their answers.
    """

    endpoint: str = ""
    model: str = ""
    terms: str = ""
    local: str = ""
    send_pictures: bool = False
    hint: Literal["none", "instruction", "edited", "both"] = "both"
    samples: int = 2
    temperature: float = 0.8
    top_p: float = 1.0
    max_tokens: int = 1024
    max_pixels: int = 512 * 512
    workers: int = 16
    requests_a_minute: float = 0.0
    tries: int = 6
    pause: float = 1.0
    timeout: float = 120.0
    prices: Prices | None = None
    max_cost: float | None = None
    batch: Literal["none", "file"] = "none"

    def __post_init__(self) -> None:
        self._check_place()
        if self.batch != "none" and self.local:
            raise ConfigError("batch: a model of this machine is asked at once")
        if not self.terms.strip():
            raise ConfigError("terms: expected what its provider says about training on answers")
        limits = {"samples": (1, 16), "max_tokens": (64, 65536), "max_pixels": (3136, 10**8),
                  "workers": (1, 256), "tries": (1, 20)}  # fmt: skip
        for name, (low, high) in limits.items():
            _between(name, getattr(self, name), low, high)
        bounds = {
            "temperature": (0, 2),
            "requests_a_minute": (0, 1e6),
            "pause": (0, 60),
            "timeout": (1, 3600),
        }
        for name, (least, most) in bounds.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} {getattr(self, name)!r:.40}: expected {least:g} to {most:g}")
        if self.max_cost is not None and not 0 < self.max_cost <= 1e9:
            raise ConfigError(f"max_cost {self.max_cost!r:.40}: expected above 0")
        if self.samples > 1 and not self.temperature:
            raise ConfigError("samples: at temperature 0 they are all the same; take 1, or raise it")

    def _check_place(self) -> None:
        if bool(self.local.strip()) == bool(self.endpoint.strip()):
            raise ConfigError("expected either an endpoint, or local: a model of this machine")
        if self.local:
            object.__setattr__(self, "model", self.model or self.local)
            object.__setattr__(self, "workers", 1)
            if self.local == "bundled" and not self.terms:
                object.__setattr__(self, "terms", BUNDLED_TERMS)
            return
        host = parse_address(self.endpoint).host
        if not self.model.strip():
            raise ConfigError("model: expected its name at the endpoint")
        if not self.send_pictures:
            raise ConfigError(f"send_pictures: the originals would go to {host}; say true if they may")
        here = host in ("127.0.0.1", "localhost", "::1")
        if not here and (self.prices is None or self.max_cost is None):
            raise ConfigError(f"prices and max_cost are needed for {host}, which is not this machine")

    def cost(self, asked: int | None, written: int) -> float | None:
        """Of one answer, by its tokens; None where the question's are not known."""
        if asked is None:
            return None
        prices = self.prices or Prices()
        return (asked * prices.input + written * prices.output) / 1e6


@dataclass(frozen=True)
class Filters:
    """Limits of an answer: words of the reflection and of the instruction, and how often an edit type may say
    the same instruction. pairs: whether before and after must differ, and show one picture. duplicates:
    whether a pair (or an original alone) that is nearly the same as one before is left out."""

    reflection_words: int = 120
    instruction_least: int = 4
    instruction_most: int = 60
    same_instruction: int = 20
    pairs: bool = True
    duplicates: bool = True

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is int:
                _between(name, value, 1, 10**6)
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
    find the plan's targets where there is none; "" for none. grow: how far a difference reaches, in shares of
    the shorter side."""

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
    """out: folder of the dataset. rows: questions to plan. reuse: how often one original may be asked about
    within a category. frames: of a clip, at most so many, spread
    evenly. teacher: who writes the traces; a dry run needs none."""

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
    content = override(read_yaml(path), assignments)
    if isinstance(content.get("teacher"), str):
        content["teacher"] = {"local": content["teacher"]}
    return build(Recipe, content)


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} {value!r:.40}: expected {low:,} to {high:,}")
