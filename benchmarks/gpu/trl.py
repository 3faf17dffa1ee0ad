"""Steps of SFT and KTO beside TRL's own trainers: the same rows, weights, LoRA and learning rate, and each
side's own memory, with and without gradient checkpointing.

TRL runs as somebody who knows it would set it up: its trainers with their collators, weights and adapters in
one dtype, no mixed precision around them, no clipping, all rows of a step together, the rows in order. Each
turn trains a model that was made anew, and its first step is not timed. What a second epoch would find kept
is not kept, but in "kept", which is ours alone.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal
from unittest.mock import patch

import torch
from torch import Tensor

from trainer.config.recipe import Phase
from trainer.estimators.eta0 import Eta0Config
from trainer.learner.adapter import REFERENCE
from trainer.learner.rows import Example
from trainer.model.logprobs import base_of
from trainer.model.packing import checkpoint_layers
from trainer.model.reference import LogProbCache, ReferencePolicy
from trainer.objectives.kto import KTOConfig
from trainer.steps.kto import kto_step
from trainer.steps.sft import sft_step

from .steps import Bar, Setting, Step
from .train import SIZES, examples, learner_of, speeds
from .turns import Timed, empty, peak_bytes, wait

Kind = Literal["sft", "kto"]
RATE = 1e-4  # so that the losses of later steps say something
FASTER: dict[Kind, float] = {"sft": 1.3, "kto": 1.5}
EQUAL = 1e-5
"""Of losses in float32. KTO's are of sums over a whole answer, after steps that moved both sides: 9e-6 was
seen on a CPU; another token or mask would be 1e-2."""
GAMMA = 0.2


@dataclass
class Training:
    """What a side's steps tell. seconds: of each step but the first; peak: bytes of the device at most in
    them."""

    device: torch.device
    losses: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    peak: int = 0
    ended: float = 0.0

    def step(self, loss: float) -> None:
        """At the end of each step."""
        wait(self.device)
        if self.ended:
            self.seconds.append(time.perf_counter() - self.ended)
            self.peak = peak_bytes(self.device)
        elif self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self.losses.append(loss)
        self.ended = time.perf_counter()


def steps(setting: Setting) -> list[Step]:
    found = []
    for name in SIZES[:1] if setting.toy else SIZES:
        for kind, faster in FASTER.items():
            bars: tuple[Bar, ...] = (Bar("ours x", faster), Bar("ours memory", 1.0, True))
            if setting.device.type != "cuda":
                bars = bars[:1]
            for checkpointed, said in ((False, ""), (True, ", checkpointed")):
                work = partial(beside, setting, name, kind, checkpointed)
                found.append(Step(f"trl: {name}, {kind.upper()}{said}", 6.0, work, bars, ("trl", "datasets")))
    return found


def beside(setting: Setting, name: str, kind: Kind, checkpointed: bool) -> dict[str, float]:
    """Each side `rounds` times, in turns. Raises RuntimeError where the losses differ."""
    rows = examples(setting, name)
    with tempfile.TemporaryDirectory() as place:
        ways: dict[str, Callable[[], Training]] = {
            "ours": lambda: ours(setting, name, kind, checkpointed, rows),
            "TRL": lambda: theirs(setting, name, kind, checkpointed, rows, Path(place)),
        }
        if kind == "kto":
            ways["kept"] = lambda: ours(setting, name, kind, checkpointed, rows, Path(place))
        turns: dict[str, list[Training]] = {way: [] for way in ways}
        for number in range(setting.rounds):
            for way in list(ways) if number % 2 == 0 else list(ways)[::-1]:
                turns[way].append(ways[way]())
                empty(setting.device)
    far = apart(turns["ours"][0].losses, turns["TRL"][0].losses)
    if far > (5e-2 if setting.half == torch.bfloat16 else EQUAL):
        raise RuntimeError(f"the losses differ by {far:.1e}: these are not the same steps")
    learner = learner_of(setting, name)
    batch = learner.collate([each.chat for each in rows], [each.answer for each in rows])
    return speeds(timed(turns), "TRL", rows, batch) | {"apart": far}


def timed(turns: Mapping[str, list[Training]]) -> dict[str, Timed]:
    """A turn's time is that of its median step."""
    found = {}
    for way, each in turns.items():
        spent = [median(one.seconds) for one in each]
        found[way] = Timed(median(spent), min(spent), max(spent), max(one.peak for one in each))
    return found


def apart(ours: list[float], theirs: list[float]) -> float:
    """Greatest relative difference, step by step."""
    return max(abs(a - b) / abs(b) for a, b in zip(ours, theirs, strict=True))


def count(setting: Setting) -> int:
    """Steps of a turn, the first one included."""
    return 2 if setting.toy else 4


def ours(
    setting: Setting, name: str, kind: Kind, checkpointed: bool, rows: list[Example], keep: Path | None = None
) -> Training:
    """keep: a folder for the reference's log-probabilities; what the tower makes of pictures is then kept as
    well."""
    learner = learner_of(setting, name)
    if keep is not None:
        learner.features.limit = 1 << 30
    if checkpointed:
        checkpoint_layers(base_of(learner.model))
    learner.model.train()
    optimizer = torch.optim.AdamW(learner.trainable(), RATE, weight_decay=0.0)
    phase = Phase(kind, 1, len(rows), eta0=Eta0Config("shifts", 1), kto=KTOConfig(GAMMA))
    cache = LogProbCache(keep / "reference.sqlite") if keep else None
    reference = ReferencePolicy(learner.model, REFERENCE, cache) if kind == "kto" else None
    training = Training(setting.device)
    with patch("trainer.estimators.eta0.pair_indices", neighbours):
        for at in range(count(setting)):
            optimizer.zero_grad()
            told = (
                sft_step(learner, rows, phase)
                if reference is None
                else kto_step(learner, reference, rows, phase, at)
            )
            optimizer.step()
            training.step(told["loss"])
    return training


def neighbours(rows: int, *_: Any) -> list[tuple[int, int]]:
    """TRL's pairs: prompt i with the completion before."""
    return [(i, (i - 1) % rows) for i in range(rows)]


def theirs(
    setting: Setting, name: str, kind: Kind, checkpointed: bool, rows: list[Example], folder: Path
) -> Training:
    from datasets import Dataset, Image
    from transformers import TrainerCallback
    from trl import KTOConfig as TheirConfig
    from trl import KTOTrainer, SFTConfig, SFTTrainer

    learner = learner_of(setting, name)
    learner.model.delete_adapter(REFERENCE)  # it makes its own
    trainer, config = (KTOTrainer, TheirConfig) if kind == "kto" else (SFTTrainer, SFTConfig)
    extra: dict[str, Any] = {"beta": GAMMA} if kind == "kto" else {}
    training, parts = Training(setting.device), []

    class Watched(trainer):  # type: ignore[misc, valid-type]
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss: Tensor = super().compute_loss(*args, **kwargs)
            parts.append(loss.detach())
            return loss

    class Marks(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            training.step(float(parts[-1]))

    data = Dataset.from_list(their_rows(rows, kind, folder) * count(setting))
    Watched(
        learner.model,
        args=config(
            output_dir=str(folder / "trl"),
            per_device_train_batch_size=len(rows),
            max_steps=count(setting),
            bf16=False,
            use_cpu=setting.device.type == "cpu",
            learning_rate=RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=0.0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            train_sampling_strategy="sequential",
            max_length=None,
            dataloader_pin_memory=False,
            logging_steps=10**6,
            gradient_checkpointing=checkpointed,
            **extra,
        ),
        train_dataset=data.cast_column("images", [Image()]),
        processing_class=learner.processor,
        callbacks=[Marks()],
    ).train()
    return training


def their_rows(rows: list[Example], kind: Kind, folder: Path) -> list[dict[str, Any]]:
    """In TRL's conversational form; the pictures, which it reads from disk, without loss."""
    from torchvision.io import write_png

    found = []
    for number, row in enumerate(rows):
        paths = [folder / f"{number}-{at}.png" for at in range(len(row.chat.images))]
        for path, picture in zip(paths, row.chat.images, strict=True):
            write_png(picture.cpu(), str(path))
        made: dict[str, Any] = {
            "prompt": row.chat.messages,
            "completion": [{"role": "assistant", "content": [{"type": "text", "text": row.answer}]}],
            "images": [str(path) for path in paths],
        }
        found.append(made | ({"label": row.desired} if kind == "kto" else {}))
    return found
