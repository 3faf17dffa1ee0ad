"""What a training step computes on a card, held to the same on the CPU: `make gpu-check`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from trainer.config.recipe import Phase, load_config
from trainer.estimators.eta0 import Eta0Config, score_pairs
from trainer.estimators.rewards import RewardConfig
from trainer.learner.learner import Learner, load_learner
from trainer.model.logprobs import sequence_logps
from trainer.model.prompts import split
from trainer.model.reference import ReferencePolicy
from trainer.objectives.rkto import RKTOConfig
from trainer.steps.kto import kto_step
from trainer.steps.rkto import rkto_step
from trainer.steps.sft import sft_step

pytestmark = pytest.mark.cuda
CLOSE = 1e-4  # relative, in float32


@pytest.fixture(scope="module")
def both(device: torch.device) -> list[Learner]:
    """One learner on the CPU and one on the device, with an adapter that does something."""
    found = []
    for where in ("cpu", device.type):
        learner = load_learner(load_config("tiny", settings(where)))
        draw = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, value in learner.model.named_parameters():
                if "lora_B.default" in name:
                    value.copy_(0.02 * torch.randn(value.shape, generator=draw))
        found.append(learner)
    return found


def settings(where: str) -> list[str]:
    phase = ["phases.1.batch=4", "phases.1.micro_batch=null"]
    return [f"model.device={where}", "model.dtype=fp32", "lora.rank=4", *phase]


def phase_of(kind: str) -> Phase:
    base = load_config("tiny", settings("cpu")).phases[1]
    return replace(
        base,
        kind=kind,
        rkto=RKTOConfig(lambda_ref=0.0, reinforce="mask"),
        rewards=RewardConfig(samples=2, temperature=1.3, similarity="slots"),
        eta0=Eta0Config("pairs"),
    )


@pytest.mark.parametrize("how", ["naive", "packed", "cached"])
def test_log_probabilities(both: list[Learner], how: str) -> None:
    config, phase = load_config("tiny", settings("cpu")), phase_of("kto")
    found = []
    for learner in both:
        examples = learner.rows(config, phase).batch(3)
        prompts, responses = split(learner.batch(examples), learner.merge)
        with torch.no_grad():
            found.append(sequence_logps(learner.model, prompts, responses, range(4), how).cpu())  # type: ignore[arg-type]
    assert float(((found[0] - found[1]) / found[0]).abs().max()) <= CLOSE


def test_eta0(both: list[Learner]) -> None:
    config, phase = load_config("tiny", settings("cpu")), phase_of("kto")
    found = []
    for learner in both:
        examples = learner.rows(config, phase).batch(3)
        prompts, responses = split(learner.batch(examples), learner.merge)
        scores = score_pairs(
            learner.model, ReferencePolicy(learner.model, None), prompts, responses, phase.eta0
        )
        found.append(scores.mismatched.cpu())
    assert float((found[0] - found[1]).abs().max()) <= 2e-3  # nats of some hundred tokens


@pytest.mark.parametrize("kind", ["sft", "kto", "rkto"])
def test_gradients(both: list[Learner], kind: str) -> None:
    config, phase = load_config("tiny", settings("cpu")), phase_of(kind)
    grads, losses = [], []
    for learner in both:
        examples = learner.rows(config, phase).batch(3)
        reference = ReferencePolicy(learner.model, None)
        learner.model.zero_grad()
        if kind == "sft":
            numbers = sft_step(learner, examples, phase)
        elif kind == "kto":
            numbers = kto_step(learner, reference, examples, phase, 7)
        else:
            numbers = rkto_step(learner, reference, examples, phase, 7, 0)
        grads.append(torch.cat([p.grad.flatten().cpu() for p in learner.trainable() if p.grad is not None]))
        losses.append(numbers["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=CLOSE, abs=1e-5)
    assert float(grads[0].norm()) > 0
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) <= 1e-3
