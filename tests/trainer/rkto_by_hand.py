"""Eq. 3-12 in loops over Python floats, with a policy that is a table; and finite differences. Not a test
file."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from trainer.objectives.reflection import ReflectionConfig
from trainer.objectives.rkto import RKTOConfig

B, K, T, V, D = 4, 3, 5, 5, 4
INTERMEDIATE, REFLECTION, MASK = (0, 1), (2, 3), (3, 4)  # positions of the segments in a response
END = 3


class World:
    """A policy that is a table of logits [B, T, V], prompt by prompt, and everything a step needs of it."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.theta = rng.normal(size=(B, T, V))
        self.frozen = self.theta + 0.3 * rng.normal(size=(B, T, V))
        self.y = rng.integers(0, V, (B, T))
        self.lengths = rng.integers(T - 1, T + 1, B)
        self.samples = rng.integers(0, V, (B, K, T))
        self.similarity, self.iou = rng.uniform(size=(B, K)), rng.uniform(size=(B, K))
        self.has_mask = np.array([True, True, False, True])
        self.bad = rng.integers(0, V, (B, T))
        self.table = rng.normal(size=(V, D))


# --- the reference: loops over floats ---


def logp(theta, i, tokens, positions) -> float:
    total = 0.0
    for t in positions:
        biggest = max(theta[i][t])
        total += theta[i][t][tokens[t]] - biggest
        total -= math.log(sum(math.exp(v - biggest) for v in theta[i][t]))
    return total


def probabilities(theta, i, t) -> list[float]:
    whole = [math.exp(v) for v in theta[i][t]]
    return [v / sum(whole) for v in whole]


def ratio(w: World, theta, i, tokens, n, config) -> float:
    s = logp(theta, i, tokens, range(n)) - logp(w.frozen, i, tokens, range(n))  # Eq. 7
    return s / n if config.log_ratio == "mean" else s


def ref_eta0(w: World, theta, config) -> float:
    total = 0.0
    for i in range(B):
        for j in range(B):
            if i != j:
                total += ratio(w, theta, i, w.y[j], w.lengths[j], config)
    return max(0.0, total / (B * (B - 1)))  # Eq. 8


def cosine_of(a, b, kind) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    raw = dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))
    return raw if kind == "raw" else (1 + raw) / 2


def ref_reflection(w: World, theta, i, config: ReflectionConfig) -> float:
    soft, target = [0.0] * D, [0.0] * D
    p_ref, p_int = [0.0] * V, [0.0] * V
    expected, reached = 0.0, 1.0
    for t in REFLECTION:
        p = probabilities(theta, i, t)
        for v in range(V):
            p_ref[v] += p[v] / len(REFLECTION)
            for d in range(D):
                soft[d] += p[v] * w.table[v][d] / len(REFLECTION)
        expected += reached
        reached *= 1 - p[END]
    for t in INTERMEDIATE:
        for v, p in enumerate(probabilities(theta, i, t)):
            p_int[v] += p / len(INTERMEDIATE)
    for t in range(w.lengths[i]):
        for d in range(D):
            target[d] += w.table[w.y[i][t]][d] / w.lengths[i]
    kl = sum(p * math.log(p / q) for p, q in zip(p_int, p_ref, strict=True))
    if config.brevity_by == "literal":
        brief = math.exp(-config.gamma * len(REFLECTION))
    else:
        brief = math.exp(-config.gamma * expected / config.length0)
    agree = math.exp(-kl) if config.agreement_by == "exp" else max(0.0, 1 - kl)
    similar = cosine_of(soft, target, config.cosine)
    return config.similarity * similar + config.brevity * brief + config.agreement * agree  # Eq. 11


def ref_credit(w: World, theta, config: RKTOConfig):
    """(eta0, c, R, A) of Eq. 8-12, each a list."""
    e = ref_eta0(w, theta, config)
    cs, wide, rewards = [], [], []
    for i in range(B):
        z = config.tau * (ratio(w, theta, i, w.y[i], w.lengths[i], config) - e)
        value = math.log1p(math.exp(z))
        slope = config.tau / (1 + math.exp(-z)) if config.gate <= value < config.w_max else 0.0
        value = 0.0 if value < config.gate else min(value, config.w_max)
        wide.append(value)
        cs.append(value if config.weight == "w" else slope)
        each = []
        for k in range(K):
            if w.has_mask[i]:
                each.append(config.alpha * w.similarity[i][k] + (1 - config.alpha) * w.iou[i][k])
            else:
                each.append(w.similarity[i][k])
        rewards.append(each)
    r = [sum(each) / K for each in rewards]  # Eq. 10
    if config.reflection_as == "reward":
        r = [r[i] + config.lambda_ref * ref_reflection(w, theta, i, config.reflection) for i in range(B)]
    if config.centred:
        r = [r[i] - sum(r[j] for j in range(B) if j != i) / (B - 1) for i in range(B)]
    value = rewards
    counted = list(range(B))
    if config.reinforce != "all":
        value = [[(1 - config.alpha) * w.iou[i][k] for k in range(K)] for i in range(B)]
        counted = [i for i in range(B) if w.has_mask[i]]
    a = [[0.0] * K for _ in range(B)]
    for i in counted:
        for k in range(K):
            others = [
                value[j][m]
                for j in (counted if config.baseline == "batch" else [i])
                for m in range(K)
                if (j, m) != (i, k)
            ]
            a[i][k] = cs[i] * (value[i][k] - sum(others) / len(others))
    return e, cs, r, a


def ref_loss(w: World, theta, config: RKTOConfig, fixed) -> float:
    e, cs, r, a = fixed
    loss = 0.0
    for i in range(B):
        n = w.lengths[i]
        logps = logp(theta, i, w.y[i], range(n))
        scored = logps / n if config.log_ratio == "mean" else logps
        loss -= config.lambda_likelihood * cs[i] * r[i] * scored / B  # Eq. 12, term 1
        if config.reinforce != "none":
            for k in range(K):
                where = MASK if config.reinforce == "mask" else range(T)
                loss -= a[i][k] * logp(theta, i, w.samples[i][k], where) / (B * K)  # Eq. 12, term 2
        if config.reflection_as == "loss":
            loss += config.lambda_ref * (1 - ref_reflection(w, theta, i, config.reflection)) / B
        s = ratio(w, theta, i, w.bad[i], T, config)
        loss += config.lambda_u * (1 - 1 / (1 + math.exp(-config.beta * (e - s)))) / B
        loss -= config.lambda_sft * logps / n / B
    return loss


def differences(function: Callable[[np.ndarray], float], theta: np.ndarray, h: float = 3e-4) -> np.ndarray:
    """Central differences, fourth order."""
    out = np.zeros_like(theta)
    for at in np.ndindex(*theta.shape):
        values = []
        for step in (-2, -1, 1, 2):
            moved = theta.copy()
            moved[at] += step * h
            values.append(function(moved))
        out[at] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * h)
    return out


def apart(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))
