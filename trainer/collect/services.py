"""Who is asked: models behind OpenAI-compatible endpoints or of this machine; as teachers, as judges, and as
makers of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from evlm.errors import ConfigError
from evlm.reason.endpoint import parse_address

BUNDLED_TERMS = "Apache-2.0: the bundled reasoner's answers may be trained on"


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
class Service:
    """A model at an OpenAI-compatible endpoint, or one of this machine.

    local: "bundled", a folder, a name of `python -m evlm models`; then no endpoint, and nothing leaves this
    machine. model: its name at the endpoint. terms: what its provider says about training on answers; the
    card repeats it. send_pictures: originals go to the endpoint, which nothing does unless this is true.
    workers: questions on their way at once. requests_a_minute: 0 is any number. tries, pause: how often a
    question is sent, and the seconds that the first pause may take. prices, max_cost: what answers cost, and
    at what sum to stop; both are needed unless the endpoint is on this machine. timeout: seconds without a
    byte. max_pixels: of a picture on its way out. batch: "file" sends nothing but writes files for a batch,
    and reads their answers; "openai" sends these files to the endpoint and looks every `poll` seconds whether
    it is done, 0 for once in each run.
    """

    endpoint: str = ""
    model: str = ""
    terms: str = ""
    local: str = ""
    send_pictures: bool = False
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
    batch: Literal["none", "file", "openai"] = "none"
    poll: float = 60.0

    def __post_init__(self) -> None:
        self._check_place()
        if self.batch != "none" and self.local:
            raise ConfigError("batch: a model of this machine is asked at once")
        limits = {"max_tokens": (64, 65536), "max_pixels": (3136, 10**8),
                  "workers": (1, 256), "tries": (1, 20)}  # fmt: skip
        for name, (low, high) in limits.items():
            between(name, getattr(self, name), low, high)
        bounds = {
            "temperature": (0, 2),
            "requests_a_minute": (0, 1e6),
            "pause": (0, 60),
            "timeout": (1, 3600),
            "poll": (0, 3600),
        }
        for name, (least, most) in bounds.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} {getattr(self, name)!r:.40}: expected {least:g} to {most:g}")
        if self.max_cost is not None and not 0 < self.max_cost <= 1e9:
            raise ConfigError(f"max_cost {self.max_cost!r:.40}: expected above 0")

    def _check_place(self) -> None:
        if bool(self.local.strip()) == bool(self.endpoint.strip()):
            raise ConfigError("expected either an endpoint, or local: a model of this machine")
        if self.local:
            object.__setattr__(self, "model", self.model or self.local)
            object.__setattr__(self, "workers", 1)
            return
        host = parse_address(self.endpoint).host
        if not self.model.strip():
            raise ConfigError("model: expected its name at the endpoint")
        if not self.send_pictures:
            raise ConfigError(f"send_pictures: the originals would go to {host}; say true if they may")
        here = host in ("127.0.0.1", "localhost", "::1")
        if not here and (self.prices is None or self.max_cost is None):
            raise ConfigError(f"prices and max_cost are needed for {host}, which is not this machine")

    @property
    def name(self) -> str:
        """What people call it."""
        return f"{self.model} at {urlsplit(self.endpoint).netloc}" if self.endpoint else self.model

    def cost(self, asked: int | None, written: int) -> float | None:
        """Of one answer, by its tokens; None where the question's are not known."""
        if asked is None:
            return None
        prices = self.prices or Prices()
        return (asked * prices.input + written * prices.output) / 1e6


@dataclass(frozen=True)
class Teacher(Service):
    """Writes the traces. `teacher: NAME` is short for one that is `local`. hint: what of the known edit it is
    shown; a model that was tuned on EVLM's questions is shown nothing. samples: answers to a question, at
    `temperature`."""

    hint: Literal["none", "instruction", "edited", "both"] = "both"
    samples: int = 2

    def __post_init__(self) -> None:
        if self.local == "bundled" and not self.terms:
            object.__setattr__(self, "terms", BUNDLED_TERMS)
        super().__post_init__()
        if not self.terms.strip():
            raise ConfigError("terms: expected what its provider says about training on answers")
        between("samples", self.samples, 1, 16)
        if self.samples > 1 and not self.temperature:
            raise ConfigError("samples: at temperature 0 they are all the same; take 1, or raise it")


@dataclass(frozen=True)
class Judge(Service):
    """Gives 1 to 5 for how well an instruction, and the edited picture where there is one, is what was asked
    for (`judging`). script: "module:function" of this machine in place of a model: it gets what is judged,
    with paths, and gives {"alignment": 1 to 5, "coherence": the same or None}; version: another word asks it
    again."""

    temperature: float = 0.0
    script: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        if not self.script:
            super().__post_init__()
            return
        module, sign, function = self.script.partition(":")
        if self.endpoint or self.local or not (module and sign and function.isidentifier()):
            raise ConfigError(f"script {self.script!r:.80}: expected module:function, and no endpoint")
        object.__setattr__(self, "model", self.model or self.script)
        object.__setattr__(self, "workers", 1)


@dataclass(frozen=True)
class Maker(Service):
    """Draws the edited picture of an original, or a diptych of both (`kind: prompts`). An endpoint draws at
    /images/edits and /images/generations; local: an editor as `evlm edit` takes it, and for diptychs a
    diffusers folder of text to image. command: a program's words in place of both, in which {prompt},
    {original} (none for a diptych), {out} stand for what they say. size: as the endpoint names it
    ("1024x1024"); "" leaves it to it. price: of a picture, beside `prices`, if tokens cost too."""

    size: str = ""
    price: float = 0.0
    command: tuple[str, ...] = ()
    workers: int = 4

    def __post_init__(self) -> None:
        if self.batch != "none":
            raise ConfigError("batch: pictures are asked for one by one")
        if not 0 <= self.price <= 1e6:
            raise ConfigError(f"price {self.price!r:.40}: expected 0 to 1,000,000 for a picture")
        if self.price and self.prices is None:
            object.__setattr__(self, "prices", Prices())
        super().__post_init__()

    def _check_place(self) -> None:
        if not self.command:
            super()._check_place()
            return
        if self.endpoint or self.local:
            raise ConfigError("expected one of endpoint, local and command")
        if "{out}" not in " ".join(self.command) or "{prompt}" not in " ".join(self.command):
            raise ConfigError("command: expected words with {prompt} and {out} among them")
        object.__setattr__(self, "model", self.model or self.command[0])

    def cost(self, asked: int | None, written: int) -> float | None:
        """Of one picture; None where tokens cost, and nobody says how many they were."""
        prices = self.prices or Prices()
        if asked is None and (prices.input or prices.output):
            return None
        return self.price + (super().cost(asked or 0, written) or 0.0)


def titles(judges: Sequence[Judge]) -> list[str]:
    """What each is called in the ledger: two of one name are told apart by their places."""
    names: list[str] = []
    for number, judge in enumerate(judges):
        names.append(f"{judge.name} (judges.{number})" if judge.name in names else judge.name)
    return names


def between(name: str, value: int, low: int, high: int) -> None:
    """Raises ConfigError for a number outside."""
    if not low <= value <= high:
        raise ConfigError(f"{name} {value!r:.40}: expected {low:,} to {high:,}")
