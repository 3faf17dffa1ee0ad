"""The recipe of a training run: one YAML file, checked before anything is loaded.

python -m trainer run trainer/recipes/tiny.yaml phases.0.steps=50 out=runs/try
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from evlm.errors import ConfigError

from ..estimators.eta0 import Eta0Config
from ..estimators.rewards import RewardConfig
from ..objectives.dpo import DPOConfig
from ..objectives.group import GroupConfig, mixed
from ..objectives.kto import KTOConfig
from ..objectives.rkto import RKTOConfig
from ..world.mix import Mix
from .kinds import check_kinds
from .settings import build, expand_home, override, read_yaml

# What of a recipe may change while a run goes on.
_BESIDE = ("out", "save_every", "keep_last", "keep_best", "log_every", "eval_every", "eval_rows",
           "sample_every", "sample_rows", "wandb")  # fmt: skip
_FITTING = ("checkpointing", "shard")  # of the model's settings, likewise
RECIPES = Path(__file__).resolve().parents[1] / "recipes"


@dataclass(frozen=True)
class ModelConfig:
    """base: a name that `python -m evlm models` lists, or a folder; nothing is downloaded. train: what
    learns: a LoRA; the merger, which makes tokens of what the vision tower sees; or every weight. The last
    two are float32, hold a copy of what learns as their reference, and end in a whole model's folder.
    adapter: LoRA that is merged into it first. dtype: of its weights; the adapter is float32. quantize:
    "4bit" keeps the weights in 4 bits, which needs bitsandbytes, on CUDA or a CPU; dtype is then that of the
    arithmetic. max_pixels: of a picture, larger ones are reduced; None is one megapixel, as where the adapter
    is used. device: "auto" is CUDA, Apple's, else the CPU. checkpointing: the backward pass computes each
    decoder layer again, which keeps a fraction of the activations. shard: of several processes, each holds a
    part of every decoder layer (FSDP2) and not all of them."""

    base: str = "bundled"
    train: Literal["lora", "merger", "full"] = "lora"
    adapter: str | None = None
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    quantize: Literal["4bit"] | None = None
    attention: Literal["eager", "sdpa"] = "sdpa"
    max_pixels: int | None = None
    device: str = "auto"
    checkpointing: bool = False
    shard: bool = False

    def __post_init__(self) -> None:
        expand_home(self, "base", "adapter")
        if self.max_pixels is not None:
            _between("max_pixels", self.max_pixels, 56 * 56, 10**9)
        if self.shard and self.quantize:
            raise ConfigError("shard: 4-bit weights cannot be split; leave out model.shard or model.quantize")
        if self.quantize and self.adapter:
            raise ConfigError("an adapter cannot be merged into 4-bit weights; export it merged, as the base")
        if self.train != "lora" and (self.quantize or self.shard or self.dtype != "fp32"):
            raise ConfigError(
                f"train {self.train!r}: weights that learn are fp32, whole in each process; leave out dtype, "
                "quantize and shard, or train a lora"
            )


@dataclass(frozen=True)
class LoraConfig:
    """rank, alpha: the update is alpha / rank * B A. dropout: on its input. targets: linear modules of the
    language model by the end of their names; vision: all of the vision tower's blocks as well. use_rslora:
    alpha / sqrt(rank) in place of alpha / rank (arXiv 2312.03732). use_dora: directions and lengths of the
    weights learn apart (arXiv 2402.09353)."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    vision: bool = False
    use_rslora: bool = False
    use_dora: bool = False

    def __post_init__(self) -> None:
        _between("rank", self.rank, 1, 4096)
        _between("alpha", self.alpha, 1e-6, 1e6)
        _between("dropout", self.dropout, 0, 0.95)
        if not self.targets:
            raise ConfigError("targets: expected at least one module name")


@dataclass(frozen=True)
class Source:
    """Rows of a dataset folder (`path`), or of the procedural world (world: true; endless). weight: its share
    among the sources. form: "evlm", or another trainer's (docs/data.md); rows without a label are for sft
    phases alone. split: which rows of it; foreign rows have none. heldout: share of its questions that is
    measured and not learned, in place of the split "validation". seed: of the world's. lamp:
    how warm the light is that the world's pictures are seen in (`world.light`), 0 to 1; the bundled model
    knows 0. rows: of the world, how many of its first; 0 is as many as the run asks for. doubles, conflicts,
    whatif: shares of the world's questions that ask two edits at once, of those whose words and picture
    disagree, and of those that name a cause (`world.mix`). trust: every "label" counts alike, or as far as
    its "raters" are to be trusted, who are known by how they agree (Dawid and Skene)."""

    path: str | None = None
    world: bool = False
    weight: float = 1.0
    form: Literal["evlm", "trl", "llamafactory", "swift"] = "evlm"
    split: str = "train"
    seed: int = 0
    lamp: float = 0.0
    rows: int = 0
    heldout: float = 0.0
    doubles: float = 0.0
    conflicts: float = 0.0
    whatif: float = 0.0
    trust: Literal["label", "raters"] = "label"

    def __post_init__(self) -> None:
        expand_home(self, "path")
        if bool(self.path) == self.world:
            raise ConfigError("a source has either a path or world: true")
        if self.world and self.form != "evlm":
            raise ConfigError(f"form {self.form!r} is a dataset's; the world has its own")
        _between("lamp", self.lamp, 0, 1)
        _between("rows", self.rows, 0, 10**7)
        if (self.lamp or self.rows) and not self.world:
            raise ConfigError("lamp and rows are of the world; a dataset is taken as it is")
        if self.mix and not self.world:
            raise ConfigError(f"{self.mix.name}: shares are of the world; a dataset is taken as it is")
        _between("weight", self.weight, 1e-9, 1e9)
        _between("heldout", self.heldout, 0, 0.9)
        if self.trust == "raters" and (self.form != "evlm" or (self.world and not self.rows)):
            raise ConfigError(
                "trust 'raters' needs rows with votes: of a dataset's own form, or rows of the world"
            )
        if self.heldout and self.world:
            raise ConfigError("heldout is of a dataset; the world has a split for it")

    @property
    def mix(self) -> Mix:
        """Raises ConfigError."""
        return Mix(self.doubles, self.conflicts, self.whatif)


@dataclass(frozen=True)
class Phase:
    """steps: optimiser steps; or epochs: so many times over the phase's rows. batch: rows of a step.
    micro_batch: rows in memory at once; None is all. lr: AdamW's, after `warmup` steps. schedule: "level",
    and falling to nothing over the last `cooldown` share; or falling all the way, "cosine" or "linear".
    patience: the phase ends after so many measurements in a row that are not better than its best one, by the
    held-out loss or by exact answers (patience_by); 0 never. clip: of the gradient's norm. explode: a step is
    dropped whose gradient's norm or loss is so many times the median of the last steps'. kto: of a kto phase;
    rkto, dpo, group: of an rkto, a dpo, a group phase; rewards: of rkto and group; eta0: of kto and rkto.
    diagnose_every: steps between looks at each term's gradient in an rkto phase; 0 never looks. A dpo phase's
    batch counts pairs of answers to one question, a group phase's counts prompts."""

    kind: Literal["sft", "kto", "rkto", "dpo", "group"]
    steps: int = 0
    batch: int = 16
    epochs: float = 0.0
    micro_batch: int | None = None
    lr: float = 1e-4
    weight_decay: float = 0.0
    warmup: int = 10
    schedule: Literal["level", "cosine", "linear"] = "level"
    cooldown: float = 0.3
    patience: int = 0
    patience_by: Literal["loss", "exact"] = "loss"
    clip: float = 1.0
    explode: float = 1000.0
    kto: KTOConfig = field(default_factory=KTOConfig)
    rkto: RKTOConfig = field(default_factory=RKTOConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    group: GroupConfig = field(default_factory=GroupConfig)
    rewards: RewardConfig = field(default_factory=RewardConfig)
    diagnose_every: int = 0
    eta0: Eta0Config = field(default_factory=Eta0Config)

    def __post_init__(self) -> None:
        if bool(self.steps) == bool(self.epochs):
            raise ConfigError("a phase has either steps or epochs")
        _between("steps", self.steps, 0 if self.epochs else 1, 10**9)
        _between("epochs", self.epochs, 0, 1e6)
        _between("patience", self.patience, 0, 10**9)
        _between("batch", self.batch, 2 if self.kind in ("kto", "rkto") else 1, 65536)
        if self.micro_batch is not None:
            _between("micro_batch", self.micro_batch, 1, self.batch)
        _between("lr", self.lr, 1e-12, 10)
        _between("weight_decay", self.weight_decay, 0, 1)
        _between("warmup", self.warmup, 0, 10**9)
        _between("cooldown", self.cooldown, 0, 1)
        _between("clip", self.clip, 1e-9, 1e9)
        _between("explode", self.explode, 1, 1e30)
        _between("diagnose_every", self.diagnose_every, 0, 10**9)
        if self.kind == "kto" and self.eta0.over == "onpolicy":
            raise ConfigError(
                "eta0.over 'onpolicy' needs samples of the policy, which a kto phase does not draw"
            )

        if self.kind == "group" and self.rewards.similarity not in ("slots", "exact"):
            raise ConfigError(
                f"rewards.similarity {self.rewards.similarity!r}: a group phase takes slots or exact"
            )
        if self.kind == "group" and self.group.lambda_policy and self.rewards.samples < 2:
            raise ConfigError(
                "rewards.samples 1: a group needs at least 2 samples to be held against another"
            )
        if self.kind == "group" and self.group.skip > (most := mixed(0, 0, self.rewards.samples)):
            raise ConfigError(
                f"group.skip {self.group.skip:g}: no prompt would ever be drawn, for with "
                f"{self.rewards.samples} samples a new one's differ with a chance of {most:g}; take no more"
            )

    @property
    def frozen(self) -> bool:
        """Whether the phase holds a frozen reference beside what learns."""
        return self.kind in ("kto", "rkto", "dpo") or (self.kind == "group" and bool(self.group.lambda_kl))

    @property
    def draws(self) -> int:
        """Steps on the same rows and samples."""
        return self.group.reuse if self.kind == "group" else 1

    def length(self, rows: int | None) -> int:
        """Steps of the phase over so many rows; None has no end. Raises ConfigError."""
        if self.steps:
            return self.steps
        if rows is None:
            raise ConfigError(f"epochs {self.epochs:g}: the world has no end; set steps, or data's rows")
        return max(1, math.ceil(self.epochs * rows / self.batch)) * self.draws


@dataclass(frozen=True)
class Config:
    """out: folder of the run. cycles: how often the phases are run, one after the other. save_every: steps
    between states, of which the newest keep_last stay, and with keep_best the best one. log_every: steps
    between lines. eval_every: between measurements on eval_rows questions that are held out,
    sample_every: between pictures of the answers to sample_rows of them; 0 never. wandb: project of
    Weights & Biases that the curves go to as well. parts: which of a trace are learned and then asked for:
    "own", those that the base was tuned on, all four of one that never was; "unreflected", all but the
    reflection; "two_step", the thinking and the plan; "direct", the plan alone; "mixed", all of these forms,
    of each row another one a step, by sft phases, and then all four. The data stay whole."""

    phases: tuple[Phase, ...]
    data: tuple[Source, ...]
    out: str = "runs/evlm"
    seed: int = 0
    cycles: int = 1
    save_every: int = 100
    keep_last: int = 2
    keep_best: bool = True
    log_every: int = 10
    eval_every: int = 0
    eval_rows: int = 100
    sample_every: int = 0
    sample_rows: int = 4
    wandb: str | None = None
    parts: Literal["own", "full", "unreflected", "two_step", "direct", "mixed"] = "own"
    model: ModelConfig = field(default_factory=ModelConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)

    def __post_init__(self) -> None:
        expand_home(self, "out")
        if not self.phases:
            raise ConfigError("phases: expected at least one")
        if not self.data:
            raise ConfigError("data: expected at least one source")
        if len(self.data) > 1 and any(source.world for source in self.data):
            raise ConfigError("data: the world is a source of its own and is not mixed with datasets")
        if not self.out.strip():
            raise ConfigError("out: expected a folder")
        _between("seed", self.seed, 0, 2**31 - 1)
        for name in ("cycles", "save_every", "log_every", "keep_last", "eval_rows", "sample_rows"):
            _between(name, getattr(self, name), 1, 10**9)
        for name in ("eval_every", "sample_every"):
            _between(name, getattr(self, name), 0, 10**9)
        if self.parts not in ("own", "full"):
            self.check_whole(f"parts {self.parts!r}")
        if self.parts == "mixed" and any(phase.kind != "sft" for phase in self.phases):
            raise ConfigError("parts 'mixed' is of sft phases, which teach a base its forms; take one form")
        self._check_group()
        if self.model.adapter and self.lora.use_dora:
            raise ConfigError(
                "model.adapter with lora.use_dora: no adapter holds both; leave out use_dora, or merge the "
                "adapter into a model (python -m trainer export) and take that as the base"
            )
        if not self.eval_every and any(phase.patience for phase in self.phases):
            raise ConfigError("patience counts measurements; set eval_every, the steps between them")

    def check_whole(self, what: str) -> None:
        """what: in words, where answers are learned in part. Raises ConfigError where a phase needs all."""
        needs = {
            "rkto": "an rkto phase weighs whole traces by their reflection",
            "group": "a group phase reads the plan out of whole traces",
        }
        for phase in self.phases:
            if phase.kind in needs:
                raise ConfigError(f"{what}: {needs[phase.kind]}; take sft and kto phases, or parts 'full'")

    def _check_group(self) -> None:
        for number, phase in enumerate(self.phases):
            if phase.kind != "group":
                continue
            if phase.group.against == "truth" and not all(source.world for source in self.data):
                raise ConfigError(
                    f"phases.{number}.group.against 'truth': of the world's questions alone a verifier knows "
                    "it; take data with world: true, or against 'answer'"
                )
            if phase.group.against == "answer" and any(source.trust == "raters" for source in self.data):
                raise ConfigError(
                    f"phases.{number}: a group phase holds samples against every row's answer alike; leave "
                    "out data's trust 'raters', or take group.against 'truth'"
                )

    @property
    def stages(self) -> list[Phase]:
        """Every phase of every cycle, in order."""
        return [phase for _ in range(self.cycles) for phase in self.phases]

    @property
    def identity(self) -> str:
        """What a state belongs to, as JSON: all that the trained numbers depend on. Other numbers of steps
        between saves or lines are the same run, where no phase ends by what is measured; so is another way to
        make it fit into memory, which changes roundings alone."""
        values = asdict(self)
        for name in _FITTING:
            del values["model"][name]
        beside = set(_BESIDE)
        if any(phase.patience for phase in self.phases):
            beside -= {"eval_every", "eval_rows"}
        return json.dumps({name: value for name, value in values.items() if name not in beside})


def completed(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What an older version wrote as `identity`, with the defaults of settings that it did not know; as it is
    where it cannot be read any more."""
    try:
        return dict(json.loads(build(Config, recipe).identity))
    except ConfigError:
        return dict(recipe)


def load_config(path: str | Path, assignments: Sequence[str] = ()) -> Config:
    """A recipe file, or the name of one that is shipped ("tiny"), with "a.b=value" applied.

    Raises ConfigError, which names the key, the value and what was expected.
    """
    file = Path(path)
    shipped = RECIPES / f"{path}.yaml"
    if not file.is_file() and file.name == str(path) and shipped.is_file():
        file = shipped
    written = read_yaml(file)
    changed = override(written, assignments)
    config = build(Config, changed)
    check_kinds(written, changed)
    return config


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # NaN is not, nor is infinity
        raise ConfigError(f"{name} {value!r:.40}: expected {low:g} to {high:g}")
