"""RKTO and KTO against a reference in plain Python, equation by equation, and against finite differences."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rkto_by_hand import (
    END,
    INTERMEDIATE,
    MASK,
    REFLECTION,
    B,
    D,
    K,
    T,
    V,
    World,
    apart,
    differences,
    logp,
    ratio,
    ref_credit,
    ref_eta0,
    ref_loss,
)

from evlm.errors import EVLMError
from trainer.objectives.kto import KTOConfig, eta0, kto_loss, log_ratio
from trainer.objectives.reflection import (
    ReflectionConfig,
    cosine,
    expected_length,
    mean_embedding,
    reflection_reward,
)
from trainer.objectives.rkto import (
    RKTOConfig,
    leave_one_out,
    rkto_loss,
    rkto_terms,
    step_weights,
    weight,
    weight_entropy,
)


def tensors(w: World, theta: torch.Tensor, config: RKTOConfig):
    """(policy, reference, lengths, eta0, samples, reflection, undesired) as a loop would make them."""
    table = theta.log_softmax(-1)
    ref_logps = torch.from_numpy(w.frozen).log_softmax(-1)
    y, bad = torch.from_numpy(w.y), torch.from_numpy(w.bad)
    lengths = torch.from_numpy(w.lengths)
    inside = torch.arange(T) < lengths[:, None]

    def pairs(logits: torch.Tensor) -> torch.Tensor:  # [i, j] = log rho(y_j | x_i)
        each = logits[:, None].expand(B, B, T, V).gather(3, y[None, :, :, None].expand(B, B, T, 1))[..., 0]
        return (each * inside[None]).sum(-1)

    ours, theirs = pairs(table), pairs(ref_logps)
    s = log_ratio(ours, theirs, lengths[None].expand(B, B), config.log_ratio)
    e = eta0(s[~torch.eye(B, dtype=torch.bool)])
    sampled = torch.from_numpy(w.samples)
    each = table[:, None].expand(B, K, T, V).gather(3, sampled[..., None])[..., 0]
    samples = each[..., list(MASK)].sum(-1) if config.reinforce == "mask" else each.sum(-1)
    p = theta.softmax(-1)
    full = torch.ones(B, T, dtype=torch.bool)
    reflection, parts = reflection_reward(
        p[:, list(REFLECTION)],
        full[:, : len(REFLECTION)],
        p[:, list(INTERMEDIATE)],
        full[:, : len(INTERMEDIATE)],
        torch.tensor(END),
        torch.from_numpy(w.table),
        mean_embedding(y, inside, torch.from_numpy(w.table)),
        config.reflection,
    )
    assert not any(v.requires_grad for v in parts.values())
    undesired = log_ratio(
        table.gather(2, bad[..., None]).sum((1, 2)),
        ref_logps.gather(2, bad[..., None]).sum((1, 2)),
        torch.full((B,), T),
        config.log_ratio,
    )
    return ours.diagonal(), theirs.diagonal(), lengths, e, samples, reflection, undesired


def weights_for(w: World, fields, config):
    policy, reference, lengths, e, _, reflection, _ = fields
    return step_weights(
        policy,
        reference,
        lengths,
        e,
        torch.from_numpy(w.similarity),
        torch.from_numpy(w.iou),
        torch.from_numpy(w.has_mask),
        config,
        reflection,
    )


def loss_of(w: World, theta: torch.Tensor, config: RKTOConfig):
    fields = tensors(w, theta, config)
    policy, _, lengths, _, samples, reflection, undesired = fields
    weights = weights_for(w, fields, config)
    loss, parts = rkto_loss(policy, lengths, weights, config, samples, reflection, undesired)
    return loss, parts, weights


def gradient(w: World, config: RKTOConfig) -> np.ndarray:
    theta = torch.tensor(w.theta, requires_grad=True)
    loss_of(w, theta, config)[0].backward()
    assert theta.grad is not None
    return theta.grad.numpy()


def with_reflection(**given) -> RKTOConfig:
    """With the paper's weight of the reflection, so that its term is tested too."""
    return RKTOConfig(**{"lambda_ref": 0.2, **given})


LITERAL = with_reflection(
    tau=1.0,
    w_max=5.0,
    reflection=ReflectionConfig(brevity_by="literal", agreement_by="clamp", cosine="raw"),
)
CONFIGS = {
    "default": with_reflection(),
    "literal": LITERAL,
    "gate": replace(LITERAL, gate=0.4),
    "exact": with_reflection(weight="exact", tau=1.0, w_max=2.0),
    "mean": with_reflection(log_ratio="mean", tau=1.0),
    "all, row": with_reflection(reinforce="all", baseline="row"),
    "none": with_reflection(reinforce="none", lambda_ref=0.0),
    "REINFORCE alone": RKTOConfig(lambda_likelihood=0.0, reinforce="all"),
    "everything": with_reflection(
        centred=True,
        reflection_as="reward",
        lambda_u=0.5,
        beta=0.3,
        lambda_sft=0.1,
        weight="exact",
        lambda_likelihood=0.7,
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_loss_and_gradient_equal_the_equations_and_their_differences(name):
    config, w = CONFIGS[name], World()
    fixed = ref_credit(w, w.theta, config)
    loss, _, weights = loss_of(w, torch.tensor(w.theta), config)
    assert float(weights.eta0) == pytest.approx(fixed[0], rel=1e-12)
    for got, want in ((weights.c, fixed[1]), (weights.reward, fixed[2]), (weights.advantage, fixed[3])):
        assert np.allclose(got.numpy(), want, rtol=1e-12, atol=1e-15)
    assert loss.item() == pytest.approx(ref_loss(w, w.theta, config, fixed), rel=1e-12)
    want = differences(lambda theta: ref_loss(w, theta, config, fixed), w.theta)
    assert apart(gradient(w, config), want) <= 1e-6


def test_exact_weight_has_the_gradient_of_equation_9_itself():
    """J = mean w(z_i) R_i with w alive; only eta0 and R are held, and L's gradient is -J's."""
    w, config = (
        World(1),
        with_reflection(weight="exact", tau=1.0, w_max=2.0, reinforce="none", lambda_ref=0.0),
    )
    e, _, r, _ = ref_credit(w, w.theta, config)

    def j(theta) -> float:
        total = 0.0
        for i in range(B):
            z = ratio(w, theta, i, w.y[i], w.lengths[i], config) - e
            total += min(math.log1p(math.exp(z)), config.w_max) * r[i] / B
        return total

    assert apart(gradient(w, config), -differences(j, w.theta)) <= 1e-6
    _, parts, _ = loss_of(w, torch.tensor(w.theta), config)
    assert float(parts["j"]) == pytest.approx(j(w.theta), rel=1e-12)


@pytest.mark.parametrize("config", [KTOConfig(), KTOConfig(0.5, 1.3, 0.7, "mean", 0.2)])
def test_kto_equals_its_equations_and_differences(config):
    w, desired = World(2), [True, False, True, False]
    plain = with_reflection(log_ratio=config.log_ratio)
    e = ref_eta0(w, w.theta, plain)

    def reference(theta) -> float:
        loss = 0.0
        for i in range(B):
            s = ratio(w, theta, i, w.y[i], w.lengths[i], plain)
            alpha = config.alpha_desired if desired[i] else config.alpha_undesired
            sign = 1 if desired[i] else -1
            loss += (alpha - alpha / (1 + math.exp(-config.gamma * sign * (s - e)))) / B  # v1 Eq. 5
            if desired[i]:
                logps = logp(theta, i, w.y[i], range(w.lengths[i]))
                loss -= config.lambda_sft * logps / w.lengths[i] / B
        return loss

    theta = torch.tensor(w.theta, requires_grad=True)
    policy, ref_logps, lengths, e0, *_ = tensors(w, theta, plain)
    loss, parts = kto_loss(policy, ref_logps, lengths, torch.tensor(desired), e0, config)
    loss.backward()
    assert float(e0) == pytest.approx(e, rel=1e-12)
    assert loss.item() == pytest.approx(reference(w.theta), rel=1e-12)
    assert theta.grad is not None and apart(theta.grad.numpy(), differences(reference, w.theta)) <= 1e-6
    assert not any(v.requires_grad for v in parts.values())


def test_parts_of_a_batch_add_up_to_the_whole():
    w, config = World(3), CONFIGS["everything"]
    config = replace(config, reflection_as="loss")
    theta = torch.tensor(w.theta, requires_grad=True)
    fields = tensors(w, theta, config)
    policy, _, lengths, _, samples, reflection, undesired = fields
    weights = weights_for(w, fields, config)
    whole, _ = rkto_loss(policy, lengths, weights, config, samples, reflection, undesired)
    total = torch.zeros((), dtype=torch.float64)
    for rows in (slice(0, 1), slice(1, 3), slice(3, 4)):
        loss, _ = rkto_loss(
            policy[rows],
            lengths[rows],
            weights.part(rows),
            config,
            samples[rows],
            reflection[rows],
            undesired[rows],
            B,
            B,
        )
        total = total + loss
    assert torch.allclose(total, whole, rtol=1e-12)
    (a,) = torch.autograd.grad(total, theta, retain_graph=True)
    (b,) = torch.autograd.grad(whole, theta)
    assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ["default", "literal", "exact", "mean"])
def test_a_step_down_makes_the_preferred_likelier(name):
    """As printed, Eq. 9 "minimised" lowers them."""
    w, config = World(4), replace(CONFIGS[name], reinforce="none", lambda_ref=0.0)
    theta = torch.tensor(w.theta)
    after = theta - 0.1 * torch.tensor(gradient(w, config))
    assert (tensors(w, after, config)[0] > tensors(w, theta, config)[0]).all()


def test_a_step_down_makes_the_reflections_reward_and_better_masks_likelier_and_the_undesired_less_likely():
    w, config = World(5), with_reflection(lambda_u=1.0)
    theta = torch.tensor(w.theta, requires_grad=True)
    fields = tensors(w, theta, config)
    weights = weights_for(w, fields, config)
    terms = rkto_terms(fields[0], fields[2], weights, config, *fields[4:])
    assert list(terms) == ["likelihood", "reinforce", "reflection", "undesired"]

    def after(term: str):
        (g,) = torch.autograd.grad(terms[term], theta, retain_graph=True)
        return tensors(w, (theta - 0.1 * g).detach(), config)

    assert after("reflection")[5].mean() > fields[5].mean()
    assert (weights.advantage * (after("reinforce")[4] - fields[4])).sum() > 0
    assert (after("undesired")[6] < fields[6]).all()


def test_what_is_held_fixed_has_no_gradient():
    w, config = World(6), replace(with_reflection(), reflection_as="reward")
    theta = torch.tensor(w.theta, requires_grad=True)
    fields = tensors(w, theta, config)
    assert fields[0].requires_grad and not fields[3].requires_grad
    weights = weights_for(w, fields, config)
    assert not any(value.requires_grad for value in vars(weights).values())
    _, parts = rkto_loss(fields[0], fields[2], weights, config, *fields[4:])
    assert not any(value.requires_grad for value in parts.values())
    assert {"j", "log_j", "s", "eta0", "c", "weight_entropy", "iou", "similarity", "length"} <= set(parts)


def test_rows_without_a_true_mask_are_judged_by_similarity_and_teach_no_mask():
    w, config = World(7), with_reflection()
    fields = tensors(w, torch.tensor(w.theta), config)
    weights = weights_for(w, fields, config)
    assert weights.reward[2] == pytest.approx(w.similarity[2].mean())
    assert (weights.advantage[2] == 0).all() and (weights.advantage[[0, 1, 3]] != 0).all()
    w.iou[2] = 0.9  # whatever stands there
    assert torch.equal(weights_for(w, fields, config).advantage, weights.advantage)


numbers = st.floats(-50, 50, allow_nan=False)


@settings(max_examples=30)
@given(st.lists(numbers, min_size=2, max_size=9), st.floats(0, 20), st.sampled_from([0.05, 0.1, 1.0]))
def test_the_weight_is_bounded_and_grows_and_its_slope_is_its_slope(s, e, tau):
    config = with_reflection(tau=tau, w_max=3.0)
    x = torch.tensor(sorted(s), dtype=torch.float64)
    w, slope = weight(x, torch.tensor(e, dtype=torch.float64), config)
    assert (w >= 0).all() and (w <= 3).all() and (w.diff() >= 0).all()
    h = 1e-5
    up, down = (weight(x + d, torch.tensor(e, dtype=torch.float64), config)[0] for d in (h, -h))
    smooth = (w < 2.999) | (w == 3)
    assert torch.allclose(((up - down) / (2 * h))[smooth & (up < 3)], slope[smooth & (up < 3)], atol=1e-6)
    assert 0 <= float(weight_entropy(w)) <= 1 + 1e-9 or float(w.sum()) == 0


@settings(max_examples=30)
@given(st.lists(numbers, max_size=12))
def test_eta0_is_the_mean_cut_at_zero(values):
    got = float(eta0(torch.tensor(values, dtype=torch.float64)))
    assert got == pytest.approx(max(0.0, sum(values) / len(values)) if values else 0.0, abs=1e-9)


@settings(max_examples=40)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10_000), st.sampled_from(["batch", "row"]))
def test_leave_one_out_never_sees_the_sample_itself(rows, k, seed, over):
    rng = random.Random(seed)
    values = torch.tensor([[rng.random() for _ in range(k)] for _ in range(rows)], dtype=torch.float64)
    counts = torch.tensor([rng.random() < 0.7 for _ in range(rows)])
    base = leave_one_out(values, counts, over)
    for i in range(rows):
        if not counts[i]:
            continue
        for j in range(k):
            moved = values.clone()
            moved[i, j] += 1
            assert leave_one_out(moved, counts, over)[i, j] == pytest.approx(float(base[i, j]), abs=1e-12)
            others = [
                float(values[a, b])
                for a in (range(rows) if over == "batch" else [i])
                for b in range(k)
                if counts[a] and (a, b) != (i, j)
            ]
            assert float(base[i, j]) == pytest.approx(sum(others) / len(others) if others else 0, abs=1e-12)


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_expected_length_counts_the_ways_to_end(end):
    n = len(end)
    want, reached = 0.0, 1.0
    for t in range(n):  # the chance to end after t + 1 tokens, and never, times the length
        stop = end[t] if t < n - 1 else 1.0
        want += (t + 1) * reached * stop
        reached *= 1 - stop
    got = expected_length(torch.tensor([[*end, 0.3]], dtype=torch.float64), torch.arange(n + 1)[None] < n)
    assert float(got[0]) == pytest.approx(want, abs=1e-9)


def test_an_empty_reflection_earns_nothing_and_breaks_nothing():
    p = torch.full((2, 3, V), 1 / V, requires_grad=True)
    some = torch.tensor([[True, True, False], [False, False, False]])
    table = torch.randn(V, D)
    target = mean_embedding(torch.zeros(2, 1, dtype=torch.long), torch.ones(2, 1, dtype=torch.bool), table)
    config = ReflectionConfig()
    reward, _ = reflection_reward(p, some, p, some, torch.tensor(END), table, target, config)
    assert reward[1].item() == 0 and reward[0].item() > 0
    reward.sum().backward()
    assert p.grad is not None and p.grad.isfinite().all()


def test_unit_cosine_is_between_zero_and_one():
    a = torch.randn(50, D)
    assert torch.allclose(cosine(a, a), torch.ones(50)) and torch.allclose(
        cosine(a, -a), torch.zeros(50), atol=1e-6
    )
    assert torch.allclose(cosine(a, -a, "raw"), -torch.ones(50))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau": 0},
        {"tau": -1},
        {"w_max": math.nan},
        {"alpha": 1.5},
        {"weight": "W"},
        {"lambda_ref": "0.2"},
        {"lambda_u": math.inf},
        {"baseline": "rows"},
        {"beta": True},
    ],
)
def test_impossible_settings_are_named(wrong):
    with pytest.raises(EVLMError, match=next(iter(wrong))):
        RKTOConfig(**wrong)


def test_a_reflection_as_reward_must_be_given():
    one = torch.ones(1)
    with pytest.raises(EVLMError, match="R_reflect"):
        step_weights(
            one,
            one,
            one,
            one[0],
            one[None],
            one[None],
            one.bool(),
            RKTOConfig(reflection_as="reward", lambda_ref=0.1),
        )
