"""DPO, credit for samples, weighted rows and raters' trust against loops over Python floats, and their
gradients against finite differences."""

from __future__ import annotations

import itertools
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from rkto_by_hand import B, K, T, World, apart, differences, logp, ratio

from evlm.errors import EVLMError
from trainer.estimators.dawid_skene import confidence, dawid_skene
from trainer.objectives.dpo import DPOConfig, dpo_loss
from trainer.objectives.group import (
    GroupConfig,
    Totals,
    advantages,
    advantages_by_part,
    clipped,
    distance,
    group_terms,
    mended,
    mixed,
)
from trainer.objectives.kto import KTOConfig, kto_loss
from trainer.objectives.rkto import RKTOConfig, step_weights
from trainer.objectives.sft import sft_loss


def of(theta: torch.Tensor, tokens: np.ndarray) -> torch.Tensor:
    """Log-probabilities [B, ..., T] of tokens [B, ..., T] under a table of logits [B, T, V]."""
    table, chosen = theta.log_softmax(-1), torch.from_numpy(tokens)
    for _ in range(chosen.dim() - 2):
        table = table[:, None]
    return table.expand(*chosen.shape, -1).gather(-1, chosen[..., None])[..., 0]


def summed(theta: torch.Tensor, tokens: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    inside = torch.arange(T) < torch.from_numpy(lengths)[:, None]
    return (of(theta, tokens) * inside).sum(-1)


# --- DPO ---


@pytest.mark.parametrize("weights", [None, [1.0, 0.2, 0.0, 0.7]])
@pytest.mark.parametrize("config", [DPOConfig(), DPOConfig(0.7, "mean", 0.15, 0.3)])
def test_dpo_equals_its_equation_and_differences(config: DPOConfig, weights: Any) -> None:
    w, full = World(11), np.full(B, T)

    def by_hand(theta: Any) -> float:
        loss = 0.0
        for i in range(B):
            good = ratio(w, theta, i, w.y[i], w.lengths[i], config)
            m = config.beta * (good - ratio(w, theta, i, w.bad[i], T, config))
            each = (1 - config.epsilon) * math.log1p(math.exp(-m)) + config.epsilon * math.log1p(math.exp(m))
            each -= config.lambda_sft * logp(theta, i, w.y[i], range(w.lengths[i])) / w.lengths[i]
            loss += each * (1.0 if weights is None else weights[i]) / B
        return loss

    theta = torch.tensor(w.theta, requires_grad=True)
    pair = torch.stack([summed(theta, w.y, w.lengths), summed(theta, w.bad, full)], 1)
    frozen = torch.from_numpy(w.frozen)
    theirs = torch.stack([summed(frozen, w.y, w.lengths), summed(frozen, w.bad, full)], 1)
    lengths = torch.from_numpy(np.stack([w.lengths, full], 1))
    given = None if weights is None else torch.tensor(weights)
    loss, parts = dpo_loss(pair, theirs, lengths, config, given)
    loss.backward()
    assert loss.item() == pytest.approx(by_hand(w.theta), rel=1e-12 if weights is None else 1e-6)
    assert theta.grad is not None and apart(theta.grad.numpy(), differences(by_hand, w.theta)) <= 1e-6
    assert not any(value.requires_grad for value in parts.values())
    halves = [
        dpo_loss(pair[r], theirs[r], lengths[r], config, given if given is None else given[r], B)[0]
        for r in (slice(0, 1), slice(1, B))
    ]
    assert float(sum(halves).detach()) == pytest.approx(loss.item(), rel=1e-12)


def test_a_step_down_tells_the_two_answers_apart() -> None:
    w = World(12)
    theta = torch.tensor(w.theta, requires_grad=True)

    def margin(at: torch.Tensor) -> torch.Tensor:
        full = np.full(B, T)
        return summed(at, w.y, w.lengths) - summed(at, w.bad, full)

    pair = torch.stack([summed(theta, w.y, w.lengths), summed(theta, w.bad, np.full(B, T))], 1)
    loss, _ = dpo_loss(pair, pair.detach(), torch.full((B, 2), T), DPOConfig())
    assert loss.item() == pytest.approx(math.log(2)), "at the reference itself"
    (g,) = torch.autograd.grad(loss, theta)
    assert (margin(theta - 0.1 * g) >= margin(theta)).all()


# --- credit for what was sampled ---


def config_of(**given: Any) -> GroupConfig:
    return GroupConfig(**{"lambda_accepted": 0.4, "lambda_sft": 0.3, "lambda_kl": 0.2, **given})


@pytest.mark.parametrize(
    "config",
    [
        config_of(),
        config_of(scale="std", clip=0.1, lambda_policy=0.6),
        config_of(lambda_policy=0.0, lambda_kl=0.0, lambda_sft=0.0),
        config_of(lambda_accepted=0.0, lambda_sft=0.0, lambda_kl=0.0),
    ],
)
def test_the_terms_equal_their_equations_and_differences(config: GroupConfig) -> None:
    """Samples of several lengths, drawn by a policy that has moved since, one silent group."""
    w, rng = World(13), random.Random(3)
    drawn = w.theta + 0.2 * np.random.default_rng(5).normal(size=w.theta.shape)
    lengths = [[rng.randint(2, T) for _ in range(K)] for _ in range(B)]
    reward = np.array([[rng.random() for _ in range(K)] for _ in range(B)])
    reward[1] = 0.5
    right = reward > 0.6
    every = list(itertools.product(range(B), range(K)))

    def by_hand(theta: Any) -> float:
        spoken = sum(lengths[i][k] for i, k in every if i != 1)
        sampled = sum(lengths[i][k] for i, k in every)
        many = max(1, sum(lengths[i][k] for i, k in every if right[i][k]))
        loss = 0.0
        for i, k in every:
            mean = sum(reward[i]) / K
            a = 0.0 if i == 1 else reward[i][k] - mean
            if config.scale == "std" and i != 1:
                a /= math.sqrt(sum((r - mean) ** 2 for r in reward[i]) / K)
            for t in range(lengths[i][k]):
                now, then, ref = (logp(table, i, w.samples[i][k], [t]) for table in (theta, drawn, w.frozen))
                r = math.exp(now - then)
                cut = min(max(r, 1 - config.clip), 1 + config.clip)
                loss -= config.lambda_policy * min(r * a, cut * a) / spoken
                loss -= config.lambda_accepted * right[i][k] * now / many
                loss += config.lambda_kl * (math.exp(ref - now) - (ref - now) - 1) / sampled
        for i in range(B):
            anchor = logp(theta, i, w.y[i], range(w.lengths[i])) / w.lengths[i]
            loss -= config.lambda_sft * anchor / B
        return loss

    theta = torch.tensor(w.theta, requires_grad=True)
    inside = torch.arange(T) < torch.tensor(lengths)[..., None]
    advantage, silent = advantages(torch.from_numpy(reward), config.scale)
    assert silent.tolist() == [False, True, False, False]
    spread = advantage[..., None].expand(B, K, T)[inside]
    accepted = torch.from_numpy(right)[..., None].expand(B, K, T)[inside]
    totals = Totals(float(inside[~silent].sum()), float(inside.sum()), float(accepted.sum()), B)
    args = [of(table, w.samples)[inside] for table in (theta, torch.from_numpy(drawn))]
    terms = group_terms(
        *args,
        spread,
        accepted,
        totals,
        config,
        of(torch.from_numpy(w.frozen), w.samples)[inside],
        summed(theta, w.y, w.lengths),
        torch.from_numpy(w.lengths),
    )
    assert set(terms) == {
        name for name in ("policy", "accepted", "sft", "kl") if getattr(config, f"lambda_{name}")
    }
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()
    assert loss.item() == pytest.approx(by_hand(w.theta), rel=1e-12)
    want = differences(by_hand, w.theta, 1e-5)
    assert theta.grad is not None and apart(theta.grad.numpy(), want) <= 1e-6


def test_a_ratio_that_has_left_its_bounds_earns_nothing_more() -> None:
    now = torch.tensor([0.5, -0.5, 0.5, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    clipped(now, torch.zeros(5), advantage, 0.2).sum().backward()
    assert now.grad is not None
    assert [bool(g) for g in now.grad] == [False, True, True, False, True]


def test_the_distance_is_none_where_nothing_moved_and_its_mean_is_the_kl() -> None:
    p, q = (torch.randn(7, dtype=torch.float64).log_softmax(0) for _ in range(2))
    assert (distance(p, p) == 0).all() and (distance(p, q) >= 0).all()
    assert float((p.exp() * distance(p, q)).sum()) == pytest.approx(float((p.exp() * (p - q)).sum()))


def test_a_step_of_the_policys_term_makes_better_samples_likelier_and_silent_groups_stay() -> None:
    w = World(14)
    reward = torch.from_numpy(np.random.default_rng(1).uniform(size=(B, K)))
    reward[2] = 1.0
    advantage, silent = advantages(reward, "none")
    assert torch.allclose(advantage.sum(1), torch.zeros(B, dtype=torch.float64))
    theta = torch.tensor(w.theta, requires_grad=True)
    now = of(theta, w.samples)
    totals = Totals(float((~silent).sum() * K * T), B * K * T, 0, 0)
    flat = now.flatten()
    terms = group_terms(
        flat,
        flat.detach(),
        advantage[..., None].expand(B, K, T).flatten(),
        torch.zeros(B * K * T, dtype=torch.bool),
        totals,
        GroupConfig(),
    )
    (g,) = torch.autograd.grad(terms["policy"], theta)
    assert (g[2] == 0).all() and bool((g[0] != 0).any())
    gained = of(theta - 0.5 * g, w.samples).sum(-1) - now.sum(-1)
    assert float((advantage * gained).sum()) > 0


def test_what_a_reflection_did() -> None:
    first = torch.tensor([[True, True, False, False]])
    last = torch.tensor([[True, False, True, False]])
    assert mended(first, last).tolist() == [[0, -1, 1, 0]]


def test_the_chance_of_a_mixed_group_is_the_share_of_mixed_groups() -> None:
    for right, drawn, k in ((0, 0, 4), (4, 4, 4), (1, 8, 3)):
        p = (right + 1) / (drawn + 2)
        ways = itertools.product([True, False], repeat=k)
        want = sum(p ** sum(way) * (1 - p) ** (k - sum(way)) for way in ways if 0 < sum(way) < k)
        assert mixed(right, drawn, k) == pytest.approx(want)


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (DPOConfig, {"beta": 0}),
        (DPOConfig, {"epsilon": 0.5}),
        (GroupConfig, {"reuse": 0}),
        (GroupConfig, {"clip": -1}),
        (GroupConfig, {"alpha": 2}),
        (GroupConfig, {"against": "gold"}),
        (GroupConfig, {"lambda_policy": 0}),
        (GroupConfig, {"lambda_sft": 1, "against": "truth"}),
    ],
)
def test_impossible_settings_are_named(kind: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(EVLMError, match=next(iter(wrong))):
        kind(**wrong)


# --- weights of rows ---


def test_ktos_rows_weigh_what_they_are_given() -> None:
    w, config = World(15), KTOConfig(lambda_sft=0.2)
    theta = torch.tensor(w.theta, requires_grad=True)
    desired, weights = torch.tensor([True, False, True, False]), torch.tensor([1.0, 0.5, 0.0, 0.25])
    policy, frozen = (summed(t, w.y, w.lengths) for t in (theta, torch.from_numpy(w.frozen)))
    e, lengths = torch.tensor(0.1), torch.from_numpy(w.lengths)
    loss, _ = kto_loss(policy, frozen, lengths, desired, e, config, weights=weights)
    alone = [
        kto_loss(policy[[i]], frozen[[i]], lengths[[i]], desired[[i]], e, config, B)[0] for i in range(B)
    ]
    want = sum(weight * each for weight, each in zip(weights.tolist(), alone, strict=True))
    assert float(loss.detach()) == pytest.approx(float(want.detach()), rel=1e-9)
    plain, _ = kto_loss(policy, frozen, lengths, desired, e, config)
    same, _ = kto_loss(policy, frozen, lengths, desired, e, config, weights=torch.ones(B))
    assert float(plain.detach()) == pytest.approx(float(same.detach()), rel=1e-12)


def test_raters_are_known_by_how_they_err_and_the_unsure_rows_weigh_less() -> None:
    """One rater in three errs half of the time: the majority follows him where the other two differ."""
    rng = random.Random(0)
    truth = [rng.random() < 0.6 for _ in range(600)]
    errors = (0.05, 0.10, 0.5)
    votes = [tuple(t != (rng.random() < e) for e in errors) for t in truth]
    found = dawid_skene(votes)
    for rater, error in enumerate(errors):
        assert found.yes[rater] == pytest.approx(1 - error, abs=0.07)
        assert found.no[rater] == pytest.approx(1 - error, abs=0.07)
    majority = sum((sum(v) >= 2) == t for v, t in zip(votes, truth, strict=True))
    estimated = sum((p > 0.5) == t for p, t in zip(found.desired, truth, strict=True))
    assert majority < estimated
    sure = [confidence(p, v[0]) for v, p in zip(votes, found.desired, strict=True) if v[0] == v[1]]
    unsure = [confidence(p, v[0]) for v, p in zip(votes, found.desired, strict=True) if v[0] != v[1]]
    assert min(sure) > max(unsure)


def test_one_turn_of_the_estimate_equals_bayes_by_hand() -> None:
    votes = [(True, None), (None, False), (True, True), (None, None)]
    found = dawid_skene(votes)
    for row, p in zip(votes, found.desired, strict=True):
        a, b = found.share, 1 - found.share
        for rater, vote in enumerate(row):
            if vote is not None:
                a *= found.yes[rater] if vote else 1 - found.yes[rater]
                b *= 1 - found.no[rater] if vote else found.no[rater]
        assert p == pytest.approx(a / (a + b), abs=1e-6)
    assert found.desired[3] == pytest.approx(found.share, abs=1e-6)
    assert dawid_skene([]).desired == [] and confidence(0.5, True) == 0
    assert [confidence(p, label) for p in (0.0, 0.75) for label in (True, False)] == [0, 1, 0.5, 0]


def test_sfts_tokens_weigh_what_their_rows_do() -> None:
    hidden, head = torch.randn(2, 5, 4, dtype=torch.float64), torch.nn.Linear(4, 7, False).double()
    labels = torch.tensor([[-100, 1, 2, -100, -100], [-100, -100, 3, 4, 5]])
    weights = torch.tensor([[0.25], [1.0]], dtype=torch.float64).expand(2, 5)
    whole, count = sft_loss(hidden, labels, head, weights=weights)
    parts = [sft_loss(hidden[[n]], labels[[n]], head)[0] for n in (0, 1)]
    assert count == 5 and float(whole) == pytest.approx(float(0.25 * parts[0] + parts[1]), rel=1e-9)


def test_rktos_rows_weigh_what_they_are_given() -> None:
    w, config = World(16), RKTOConfig(reinforce="all")
    s = torch.from_numpy(w.theta[:, 0, 0])
    rest = torch.zeros(B), torch.full((B,), T), torch.tensor(0.0)
    earned = torch.from_numpy(w.similarity), torch.from_numpy(w.iou), torch.from_numpy(w.has_mask)
    trust = torch.tensor([1.0, 0.5, 0.0, 0.25])
    plain = step_weights(s, *rest, *earned, config)
    given = step_weights(s, *rest, *earned, config, trust=trust)
    assert torch.allclose(given.c, trust * plain.c) and torch.equal(given.reward, plain.reward)
    assert torch.allclose(given.advantage, trust[:, None] * plain.advantage)


def test_by_part_no_wrong_intermediate_is_worth_writing() -> None:
    """Of a whole sample, of two that end right the one that began wrong earned more."""
    last, first = torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[1.0, 0, 1, 0]])
    whole, _ = advantages(last + 0.5 * mended(first > 0, last > 0), "none")
    assert whole[0, 1] > whole[0, 0]
    head, tail, silent = advantages_by_part(last, first, 0.5, "none")
    assert head[0].tolist() == [0.75, 0.25, -0.25, -0.75] and tail[0].tolist() == [0.5, 0.5, -0.5, -0.5]
    assert not silent
    alone = torch.tensor([[1.0, 0, 0, 0]])  # its reflection is compared with nobody's
    head, tail, silent = advantages_by_part(alone, alone, 0.5, "none")
    assert tail.tolist() == [[0.0] * 4] and head[0, 0] > 0 and not silent
    same = torch.ones(1, 4)
    assert advantages_by_part(same, same, 0.5, "std")[2].tolist() == [True]
    scaled = advantages_by_part(last, first, 0.5, "std")
    for each in scaled[:2]:
        assert each.square().mean() == pytest.approx(1.0)
    with pytest.raises(EVLMError, match="by_part"):
        GroupConfig(by_part=1)  # type: ignore[arg-type]
