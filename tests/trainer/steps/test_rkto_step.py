"""The RKTO step on a real model against the same numbers taken one row and one sample at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from evlm.plan.mask_codec import mask_text_iou
from trainer.config.recipe import load_config
from trainer.estimators.eta0 import Eta0Config, pair_indices
from trainer.estimators.rewards import RewardConfig, plan_in, slots
from trainer.learner.learner import Learner, load_learner
from trainer.learner.rows import Example
from trainer.model.logprobs import base_of, response_states, sequence_logps
from trainer.model.reference import ReferencePolicy
from trainer.objectives.rkto import RKTOConfig
from trainer.steps import rkto
from trainer.steps.kto import kto_step
from trainer.steps.rkto import draw, judge, rkto_step, terms_of
from trainer.steps.sft import sft_step

SETTINGS = ["model.device=cpu", "lora.rank=4", "phases.1.batch=4", "phases.1.micro_batch=null"]


@pytest.fixture(scope="module")
def learner() -> Learner:
    """With an adapter that does something."""
    learner = load_learner(load_config("tiny", SETTINGS))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in learner.model.named_parameters():
            if "lora_B.default" in name:
                value.copy_(0.02 * torch.randn(value.shape, generator=generator))
    return learner


def setting(learner: Learner, **rkto):  # type: ignore[no-untyped-def]
    config = load_config("tiny", SETTINGS)
    phase = replace(
        config.phases[1],
        rkto=RKTOConfig(**{"lambda_ref": 0.0, "reinforce": "mask", **rkto}),
        rewards=RewardConfig(samples=2, temperature=1.3, similarity="slots"),
        eta0=Eta0Config("pairs"),
    )
    examples = learner.rows(config, phase).batch(3)
    return phase, sorted(examples, key=lambda example: not example.desired)


def test_every_number_equals_the_slow_way(learner: Learner) -> None:
    phase, examples = setting(learner)
    reference = ReferencePolicy(learner.model, None)
    batch = draw(learner, examples, phase.rewards, 7, 0)
    weights, ref_logps, numbers = judge(learner, reference, batch, examples, phase, 7)

    with torch.no_grad():
        everyone = [(i, i) for i in range(4)] + pair_indices(4)
        args = batch.prompts, [batch.responses[j] for _, j in everyone], [i for i, _ in everyone]
        policy = sequence_logps(learner.model, *args, "naive")
        with learner.model.disable_adapter():
            base = sequence_logps(learner.model, *args, "naive")
    s = (policy - base).double()
    eta0 = s[4:].mean().clamp(min=0)
    c = torch.log1p(torch.exp(phase.rkto.tau * (s[:4] - eta0))).clamp(max=phase.rkto.w_max)
    assert float(eta0) == pytest.approx(numbers["eta0"], abs=2e-4)
    assert torch.allclose(ref_logps.double(), base[:4].double(), atol=2e-4)
    assert torch.allclose(weights.c.double(), c, atol=1e-4)

    reward, iou = torch.zeros(4, 2), torch.zeros(4, 2)
    for row in range(4):
        truth, mask = plan_in(batch.written[row].text), examples[row].mask
        for k in range(2):
            plan = plan_in(batch.drawn[2 * row + k].text)
            reward[row, k] = slots(plan, truth)
            if mask is not None:
                iou[row, k] = mask_text_iou(plan.mask_text if plan else None, mask)
                reward[row, k] = 0.7 * reward[row, k] + 0.3 * iou[row, k]
    assert torch.allclose(weights.reward, reward.mean(1), atol=1e-6)
    assert float(reward.std()) > 0, "samples that are all alike would test little"

    masked = torch.tensor([example.mask is not None for example in examples])
    total = 0.3 * iou[masked].sum()
    count = 2 * int(masked.sum())
    likelihood = reinforce = 0.0
    head = base_of(learner.model).lm_head
    with torch.no_grad():
        for row in range(4):
            likelihood -= float(c[row] * reward[row].mean() * policy[row]) / 4
            for k in range(2):
                n = 2 * row + k
                if not masked[row]:
                    continue
                states = response_states(learner.model, batch.prompts, [batch.samples[n]], [row], "naive")
                chosen = range(len(batch.samples[n])), batch.samples[n]
                logps = (head(states) / 1.3).log_softmax(-1)[chosen]
                other = (total - 0.3 * iou[row, k]) / (count - 1)
                drawn = float(logps[list(batch.drawn[n].mask)].sum())
                reinforce -= float(c[row] * (0.3 * iou[row, k] - other)) * drawn / 8
        terms, _ = terms_of(learner, batch, [0, 1, 2, 3], weights, ref_logps, phase, 4, 0)
    assert float(terms["likelihood"]) == pytest.approx(likelihood, rel=1e-4)
    assert float(terms["reinforce"]) == pytest.approx(reinforce, rel=1e-3, abs=1e-5)


def test_chance_is_the_steps_own(learner: Learner) -> None:
    phase, examples = setting(learner)
    short = replace(phase.rewards, max_new_tokens=40)  # chance is in every token
    texts = [
        [each.tolist() for each in draw(learner, some, short, at, seed).samples]
        for some, at, seed in ((examples, 7, 0), (examples, 7, 0), (examples, 8, 0), (examples, 7, 1))
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2] and texts[0] != texts[3]
    part = draw(learner, examples[2:], short, 7, 0).samples
    assert [each.tolist() for each in part] == texts[0][4:], (
        "another process draws the same for the same rows"
    )


def test_undesired_rows_are_pushed_away_and_never_sampled(learner: Learner) -> None:
    examples = setting(learner)[1]
    phase = setting(learner, lambda_u=1.0)[0]
    phase = replace(phase, rewards=replace(phase.rewards, max_new_tokens=40))
    mixed = [*examples[:3], replace(examples[3], desired=False)]
    batch = draw(learner, mixed, phase.rewards, 1, 0)
    assert batch.preferred == 3 and len(batch.samples) == 6
    for parameter in learner.trainable():
        parameter.grad = None
    numbers = rkto_step(learner, ReferencePolicy(learner.model, None), mixed, phase, 1, 0)
    assert 0 < numbers["loss_undesired"] < 1 and "s_undesired" in numbers


@pytest.mark.parametrize("over", ["pairs", "onpolicy"])
def test_a_batch_without_a_desired_row_only_pushes_away(learner: Learner, over: Any) -> None:
    phase, examples = setting(learner, lambda_u=1.0, lambda_sft=0.5)
    bad: list[Example] = [replace(each, desired=False) for each in examples]
    for parameter in learner.trainable():
        parameter.grad = None
    phase = replace(phase, eta0=Eta0Config(over), diagnose_every=5)
    numbers = rkto_step(learner, ReferencePolicy(learner.model, None), bad, phase, 5, 0)
    assert 0 < numbers["loss"] == numbers["loss_undesired"] < 1
    assert all(math.isfinite(value) for value in numbers.values()) and "reward" not in numbers
    gradient = torch.cat([p.grad.flatten() for p in learner.trainable() if p.grad is not None])
    assert 0 < float(gradient.norm()) < math.inf


def test_a_reflection_that_weighs_nothing_is_not_asked_for(learner: Learner) -> None:
    phase, examples = setting(learner, reflection_as="reward")
    phase = replace(phase, rewards=replace(phase.rewards, max_new_tokens=20))
    numbers = rkto_step(learner, ReferencePolicy(learner.model, None), examples, phase, 1, 0)
    assert math.isfinite(numbers["loss"])


def test_checkpointing_computes_the_tower_again_too() -> None:
    gradients, calls = [], []
    for checkpointing in (False, True):
        more = ["lora.vision=true", f"model.checkpointing={checkpointing}"]
        config = load_config("tiny", [*SETTINGS[:2], *more])
        learner, count = load_learner(config), []
        block = base_of(learner.model).model.visual.blocks[0]
        block.mlp.register_forward_pre_hook(lambda _, given, count=count: count.append(given[0].numel()))
        learner.model.train()
        sft_step(learner, learner.rows(config, config.phases[0]).batch(3)[:4], config.phases[0])
        seeing = [p.grad.flatten() for n, p in learner.model.named_parameters() if p.grad is not None]
        gradients.append(torch.cat(seeing))
        calls.append(sum(count))
    assert calls[1] == 2 * calls[0] > 0
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[0].norm()


@pytest.mark.parametrize(
    "kind", ["sft", *(pytest.param(each, marks=pytest.mark.slow) for each in ("kto", "rkto"))]
)
def test_checkpointing_computes_layers_again_and_changes_no_gradient(kind: str) -> None:
    eta0 = ", eta0: {over: pairs}" if kind != "sft" else ""
    phase = f"phases.1={{kind: {kind}, steps: 1, batch: 4{eta0}}}"
    gradients, calls = [], []
    for checkpointing in (False, True):
        config = load_config("tiny", [*SETTINGS[:2], phase, f"model.checkpointing={checkpointing}"])
        learner = load_learner(config)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for name, value in learner.model.named_parameters():
                if "lora_B.default" in name:
                    value.copy_(0.02 * torch.randn(value.shape, generator=generator))
        count = []
        layer = base_of(learner.model).model.language_model.layers[0]
        layer.self_attn.register_forward_hook(
            lambda *_, count=count: count.append(torch.is_grad_enabled()) or None
        )
        learner.model.train()
        if kind == "sft":
            examples = learner.rows(config, config.phases[1]).batch(3)
            sft_step(learner, examples, config.phases[1])
        elif kind == "kto":
            examples = learner.rows(config, config.phases[1]).batch(3)
            kto_step(learner, ReferencePolicy(learner.model, None), examples, config.phases[1], 7)
        else:
            given, examples = setting(learner, lambda_ref=0.2, lambda_u=0.1, lambda_sft=0.1)
            given = replace(given, diagnose_every=7, rewards=replace(given.rewards, max_new_tokens=60))
            assert "kl_reference" in rkto_step(
                learner, ReferencePolicy(learner.model, None), examples, given, 7, 0
            )
        gradients.append(torch.cat([p.grad.flatten() for p in learner.trainable() if p.grad is not None]))
        calls.append(sum(count))
    assert calls[1] > calls[0] > 0
    assert (gradients[0] - gradients[1]).norm() <= 1e-5 * gradients[0].norm()


@pytest.mark.parametrize("over", ["pairs", "onpolicy"])
def test_only_samples_that_are_not_there_change_what_eta0_is_over(
    learner: Learner, over: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs need no desired row, and stay."""
    phase, examples = setting(learner)
    phase, asked = replace(phase, eta0=Eta0Config(over)), []
    some = [replace(each, desired=False) for each in examples]
    whole = rkto.score_pairs
    monkeypatch.setattr(rkto, "score_pairs", lambda *args: asked.append(args[4].over) or whole(*args))
    batch = draw(learner, some, phase.rewards, 7, 0)
    judge(learner, ReferencePolicy(learner.model, None), batch, some, phase, 7)
    assert asked == ["pairs" if over == "pairs" else "shifts"]
