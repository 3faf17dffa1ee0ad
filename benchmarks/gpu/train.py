"""Steps of SFT, KTO and RKTO with LoRA of rank 64: rows and tokens a second, memory.

The peer of SFT is the model's own forward with its own loss on the padded batch, as a plain training loop
(and TRL without its fused head) does it; that of cached KTO is KTO without the cache, and RKTO stands alone.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from evlm.adapter.checkpoint import AdapterMeta
from evlm.adapter.lora import Lora
from evlm.plan.mask_codec import get_codec
from evlm.plan.trace import render
from evlm.reason.messages import SHORT, build_messages
from evlm.request import Request
from trainer.config.recipe import LoraConfig, Phase
from trainer.estimators.rewards import RewardConfig
from trainer.learner.adapter import REFERENCE, lora_targets
from trainer.learner.learner import Learner
from trainer.learner.rows import Example
from trainer.model.logprobs import base_of
from trainer.model.packing import checkpoint_layers
from trainer.model.reference import LogProbCache, ReferencePolicy
from trainer.steps.kto import kto_step
from trainer.steps.rkto import rkto_step
from trainer.steps.sft import sft_step
from trainer.world.questions import ask
from trainer.world.rows import to_request
from trainer.world.traces import write_trace

from .qwen import backbone, picture_side
from .steps import Bar, Setting, Step
from .turns import figures, in_turns

ROWS, RANK = 8, 64
SIZES = ("Qwen2-VL-2B", "Qwen2-VL-7B")


def steps(setting: Setting) -> list[Step]:
    found = []
    for name in SIZES[:1] if setting.toy else SIZES:
        bars: tuple[Bar, ...] = (Bar("ours x", 1.3), Bar("ours memory", 1.0, True))
        if setting.device.type != "cuda":
            bars = bars[:1]
        found += [
            Step(f"train: {name}, SFT", 3.0, partial(sft, setting, name, False), bars),
            Step(f"train: {name}, SFT, checkpointed", 3.0, partial(sft, setting, name, True), bars),
            Step(f"train: {name}, KTO", 3.0, partial(kto, setting, name)),
            Step(f"train: {name}, RKTO", 4.0, partial(rkto, setting, name)),
        ]
    return found


def sft(setting: Setting, name: str, checkpointed: bool) -> dict[str, float]:
    """`sft_step` beside the model's own forward and loss; the losses have to agree."""
    learner, rows = learner_of(setting, name), examples(setting, name)
    if checkpointed:
        checkpoint_layers(base_of(learner.model))
    learner.model.train()
    optimizer = torch.optim.AdamW(learner.trainable(), 1e-6)
    phase = Phase("sft", 1, len(rows))
    batch = learner.collate([each.chat for each in rows], [each.answer for each in rows]).to(learner.device)

    def our_loss() -> float:
        optimizer.zero_grad()
        return sft_step(learner, rows, phase)["loss"]

    def their_loss() -> float:
        optimizer.zero_grad()
        given = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask.long(),
            "labels": batch.labels,
            "pixel_values": batch.pixels.to(setting.half),
            "image_grid_thw": batch.grids,
            "mm_token_type_ids": (batch.input_ids == base_of(learner.model).config.image_token_id).int(),
        }
        loss = learner.model(**given).loss
        loss.backward()
        return float(loss.detach())

    def step(loss: Callable[[], float]) -> Callable[[], Any]:
        return lambda: (loss(), optimizer.step())

    one, other = our_loss(), their_loss()  # before anything moves
    apart = abs(one - other) / other
    if apart > (2e-2 if setting.half == torch.bfloat16 else 1e-5):
        raise RuntimeError(f"the losses differ, {one} and {other}: these are not the same step")
    ways = {"ours": step(our_loss), "transformers": step(their_loss)}
    timed = in_turns(ways, setting.device, setting.rounds, setting.warm)
    return speeds(timed, "transformers", rows, batch) | {"apart": apart}


def kto(setting: Setting, name: str) -> dict[str, float]:
    """`kto_step` with the reference's log-probabilities kept, and without."""
    learner, rows = learner_of(setting, name), examples(setting, name)
    learner.model.train()
    optimizer = torch.optim.AdamW(learner.trainable(), 1e-6)
    phase = Phase("kto", 1, len(rows))
    plain = ReferencePolicy(learner.model)

    def run(reference: ReferencePolicy) -> Callable[[], Any]:
        def work() -> None:
            optimizer.zero_grad()
            kto_step(learner, reference, rows, phase, 0)
            optimizer.step()

        return work

    with tempfile.TemporaryDirectory() as place:
        cached = ReferencePolicy(learner.model, cache=LogProbCache(Path(place) / "reference.sqlite"))
        timed = in_turns(
            {"cached": run(cached), "uncached": run(plain)}, setting.device, setting.rounds, setting.warm
        )
    batch = learner.collate([each.chat for each in rows], [each.answer for each in rows])
    return speeds(timed, "uncached", rows, batch)


def rkto(setting: Setting, name: str) -> dict[str, float]:
    """`rkto_step`, samples of the policy and their judging included."""
    learner, rows = learner_of(setting, name), examples(setting, name)
    learner.model.train()
    optimizer = torch.optim.AdamW(learner.trainable(), 1e-6)
    phase = Phase("rkto", 1, len(rows), rewards=RewardConfig(max_new_tokens=8 if setting.toy else 128))
    reference = ReferencePolicy(learner.model)
    at = iter(range(10**6))

    def work() -> None:
        optimizer.zero_grad()
        rkto_step(learner, reference, rows, phase, next(at), 0)
        optimizer.step()

    timed = in_turns({"rkto": work}, setting.device, setting.rounds, setting.warm)
    batch = learner.collate([each.chat for each in rows], [each.answer for each in rows])
    return speeds(timed, "rkto", rows, batch)


def speeds(timed: Any, peer: str, rows: list[Example], batch: Any) -> dict[str, float]:
    """With rows and tokens a second; a row's tokens count once, padding does not."""
    tokens = int(batch.attention_mask.sum())
    values = figures(timed, peer) | {"tokens": float(tokens)}
    for name, each in timed.items():
        values[f"{name} rows/s"] = len(rows) / each.seconds
        values[f"{name} tokens/s"] = tokens / each.seconds
    return values


def learner_of(setting: Setting, name: str) -> Learner:
    """A policy and a reference adapter on a model of random weights, as `load_learner` makes them of a
    folder."""
    from peft import LoraConfig as PeftLora
    from peft import get_peft_model

    made = backbone(name, setting)
    targets = lora_targets(made.model, LoraConfig(rank=RANK))
    settings = PeftLora(r=RANK, lora_alpha=2 * RANK, target_modules=targets)
    model = get_peft_model(made.model, settings, autocast_adapter_dtype=False)
    model.add_adapter(REFERENCE, settings)
    model.set_adapter("default")
    for parameter_name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in parameter_name and ".default." in parameter_name)
    meta = AdapterMeta(Lora(rank=RANK, alpha=2.0 * RANK, targets=tuple(sorted(targets))), base_model=name)
    learner = Learner(
        model, made.processor, made.style, get_codec(made.codec), made.max_frames, meta, setting.device
    )
    learner.features.limit = 0  # the same rows come every turn, and no peer knows their pictures by then
    return learner


def examples(setting: Setting, name: str) -> list[Example]:
    """Questions of the world, half of the answers called undesired, on pictures of the size that models
    read."""
    rng = random.Random(0)
    side = picture_side("qwen2_vl", setting)
    found = []
    for number in range(4 if setting.toy else ROWS):
        question = ask(rng, "train", category="image")
        request = to_request(question)
        picture = torch.nn.functional.interpolate(
            request.original.movedim(-1, 1), (side, side), mode="nearest"
        ).movedim(1, -1)
        whole = Request(picture, request.prompt or "like this", request.references)
        trace = render(write_trace(rng, question))
        chat = build_messages(whole, style=SHORT)
        found.append(Example(chat, trace, number % 2 == 0, name=f"{name} {number}"))
    return found
