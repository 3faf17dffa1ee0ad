"""The settings of a protocol: one YAML file, checked before any model is asked.

python -m trainer protocol my-protocol.yaml questions.rows=300 --dry-run
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from evlm.errors import ConfigError
from evlm.reason.endpoint import parse_address
from evlm.reason.messages import STYLES

from ..collect.services import Prices
from ..config.settings import build, override, read_yaml
from ..evaluation.judges import Judging


@dataclass(frozen=True)
class Questions:
    """What is asked: data, a dataset folder, or world, questions of the world. rows: so many, of a dataset
    all of them where it is 0. strata: "mix", edit types as they come; "paper", as many of each of the five
    kinds of the paper, which `balanced: false` lets be fewer where there are fewer. lamp: the light of the
    world's pictures."""

    data: str = ""
    world: bool = False
    split: str = "test"
    rows: int = 0
    strata: Literal["mix", "paper"] = "mix"
    balanced: bool = True
    seed: int = 1
    lamp: float = 0.0

    def __post_init__(self) -> None:
        if bool(self.data) == self.world:
            raise ConfigError("questions: expected data (a dataset folder) or world: true")
        _between("questions.rows", self.rows, 0 if self.data else 1, 10**6)
        _between("questions.seed", self.seed, 0, 2**31 - 1)
        if not 0 <= self.lamp <= 1 or (self.lamp and self.data):
            raise ConfigError(f"questions.lamp {self.lamp:g}: expected 0 to 1, and 0 for a dataset")
        if self.strata == "paper" and not self.rows:
            raise ConfigError("questions.rows: expected how many where strata is paper; the paper has 3000")


@dataclass(frozen=True)
class Axis:
    """Which row of an ablation a model is: of Table 3 by method ("base", "SFT", "KTO", "RKTO") and rows (of
    training), of Table 4/13 by method alone, of Tables 9 to 12 by lambda_ref, w_max, samples (K) and
    estimator. What is not said is no row of that table."""

    method: str = ""
    rows: int = 0
    lambda_ref: float | None = None
    w_max: float | None = None
    samples: int | None = None
    estimator: str = ""


@dataclass(frozen=True)
class Model:
    """A row of the tables. base, adapter: a model of this machine, as `python -m trainer eval` takes them;
    endpoint, model: one behind an OpenAI-compatible endpoint. style: how it is asked; "auto" is its own.
    trust: "tuned" for an endpoint's model that was trained on EVLM's form: its near misses are not mended
    then. axis: which row of the paper's ablations it is. tokens: longest answer. workers: questions on their
    way to an endpoint at once."""

    name: str
    base: str = ""
    adapter: str = ""
    endpoint: str = ""
    model: str = ""
    style: str = "auto"
    trust: Literal["base", "tuned"] = "base"
    axis: Axis = field(default_factory=Axis)
    tokens: int = 768
    workers: int = 4
    timeout: float = 120.0
    tries: int = 3
    pause: float = 2.0
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable() or len(self.name) > 80:
            raise ConfigError(f"models: name {self.name!r:.90}: expected 1 to 80 printable characters")
        if bool(self.base) == bool(self.endpoint) or bool(self.endpoint) != bool(self.model):
            raise ConfigError(f"models: {self.name}: expected base, or endpoint and model")
        if self.adapter and not self.base:
            raise ConfigError(f"models: {self.name}: adapter: it is for a base of this machine")
        if self.endpoint:
            parse_address(self.endpoint)
        if self.style not in STYLES:
            raise ConfigError(f"models: {self.name}: style {self.style!r:.40}: expected {', '.join(STYLES)}")
        _between(f"models: {self.name}: tokens", self.tokens, 1, 65536)
        _asking(self.name, self.workers, self.timeout, self.tries, self.pause)

    @property
    def file(self) -> str:
        """Of its answers."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.") or "model"

    @property
    def family(self) -> str:
        return family(self.model or self.base)


@dataclass(frozen=True)
class JudgeAt:
    """A judge behind an OpenAI-compatible endpoint, and what the tables call it (default: the model)."""

    endpoint: str
    model: str
    name: str = ""
    prices: Prices = field(default_factory=Prices)

    def __post_init__(self) -> None:
        parse_address(self.endpoint)
        if not self.model.strip():
            raise ConfigError("judges: model: expected its name at the endpoint")

    @property
    def title(self) -> str:
        return self.name or self.model

    @property
    def family(self) -> str:
        return family(self.model)


@dataclass(frozen=True)
class Humans:
    """People judge on the page of `python -m trainer data rate FOLDER`. folder: where their items and votes
    are (default: OUT/humans); wanted: votes an item, which that command is told."""

    folder: str = ""
    wanted: int = 3

    def __post_init__(self) -> None:
        _between("humans.wanted", self.wanted, 1, 99)


@dataclass(frozen=True)
class Asking:
    """How judges are asked."""

    workers: int = 4
    timeout: float = 120.0
    tries: int = 3
    pause: float = 2.0

    def __post_init__(self) -> None:
        _asking("asking", self.workers, self.timeout, self.tries, self.pause)


@dataclass(frozen=True)
class Protocol:
    """judging: "match", whether it is the edit of the human reference instruction (the paper's); "open",
    whether it is a right one; "both". planted: share of the questions that judges are asked with the
    reference instruction itself, and as many with another question's, for their hit and false-alarm rates.
    study: the STUDY.yaml of a user study, for Table 14. studies: folders of `trainer study`, for Tables 3,
    4/13 and 9 to 12. seed: of the intervals."""

    questions: Questions
    models: tuple[Model, ...]
    out: str
    judges: tuple[JudgeAt, ...] = ()
    judging: Literal["match", "open", "both"] = "match"
    planted: float = 0.05
    asking: Asking = field(default_factory=Asking)
    humans: Humans | None = None
    study: str = ""
    studies: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.models:
            raise ConfigError("models: expected at least one")
        if not self.out.strip():
            raise ConfigError("out: expected a folder")
        if not 0 <= self.planted <= 0.5:
            raise ConfigError(f"planted {self.planted:g}: expected 0 to 0.5")
        _between("seed", self.seed, 0, 2**31 - 1)
        for what, names in (
            ("models", [each.name for each in self.models]),
            ("models' files", [each.file.lower() for each in self.models]),
            ("judges", [each.title for each in self.judges]),
            ("models' axes", [str(each.axis) for each in self.models if each.axis != Axis()]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ConfigError(f"{what}: {twice[0]!r:.90} is there twice; give each a name of its own")

    @property
    def modes(self) -> tuple[Judging, ...]:
        return ("match", "open") if self.judging == "both" else (self.judging,)

    @property
    def folder(self) -> Path:
        return Path(self.out)

    @property
    def rated(self) -> Path:
        """The folder of the people's items."""
        named = self.humans.folder if self.humans is not None else ""
        return Path(named) if named else self.folder / "humans"


def load_protocol(path: str | Path, assignments: Sequence[str] = ()) -> Protocol:
    """A protocol's file with "a.b=value" applied. Raises ConfigError, EndpointError."""
    return build(Protocol, override(read_yaml(path), assignments))


def family(model: str) -> str:
    """Whose model it is, as far as its name says: "qwen" of "Qwen/Qwen2-VL-7B-Instruct"."""
    letters = re.match(r"[a-z]+", model.replace("\\", "/").rstrip("/").rpartition("/")[2].lower())
    return letters[0] if letters else ""


def _asking(name: str, workers: int, timeout: float, tries: int, pause: float) -> None:
    _between(f"{name}: workers", workers, 1, 64)
    _between(f"{name}: tries", tries, 1, 20)
    if not (0 < timeout <= 86400 and 0 <= pause <= 3600):
        raise ConfigError(f"{name}: timeout {timeout:g}, pause {pause:g}: expected seconds above 0")


def _between(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} {value!r:.40}: expected {low:,} to {high:,}")
