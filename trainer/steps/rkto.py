"""RKTO: samples of the policy are judged, everything that has no gradient is fixed for the whole batch, then
the gradient is taken part by part."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..config.recipe import Phase
from ..estimators.eta0 import PairScores, score_pairs
from ..estimators.rewards import RewardConfig, iou_of, likeness, plan_in, similarity, truth_of
from ..learner.learner import Learner
from ..learner.rows import Example
from ..model.logprobs import base_of, response_states, sequence_logps, summed
from ..model.merged_lora import merged
from ..model.prompts import Prompts, split
from ..model.reference import ReferencePolicy
from ..model.sampling import sample
from ..model.spans import Spans, find_spans
from ..model.token_logprobs import token_logps
from ..objectives.kto import eta0, log_ratio, sft_anchor
from ..objectives.reflection import mean_embedding, reflection_reward
from ..objectives.rkto import TERMS, StepWeights, rkto_terms, step_weights, weight_entropy
from .kto import by_label

Numbers = dict[str, float]


@dataclass(frozen=True)
class Batch:
    """This rank's part of a step. The first `preferred` rows are labelled desired, the others not.

    samples: K of each preferred row, row by row; their parts in `drawn`, the parts of the rows' own answers
    in `written`. trust: float [B], how far the rows' labels are to be trusted."""

    prompts: Prompts
    responses: list[Tensor]
    preferred: int
    samples: list[Tensor]
    k: int
    written: list[Spans]
    drawn: list[Spans]
    trust: Tensor

    @property
    def owner(self) -> list[int]:
        """Which row each sample answers."""
        return [row for row in range(self.preferred) for _ in range(self.k)]

    @property
    def lengths(self) -> Tensor:
        return torch.tensor([len(each) for each in self.responses])


def rkto_step(
    learner: Learner, reference: ReferencePolicy, examples: list[Example], phase: Phase, at: int, seed: int
) -> Numbers:
    """One step's gradients, left in the parameters, and what is worth logging about the whole batch.

    examples: this rank's; at, seed: the run's step and seed, from which chance is drawn.
    A batch without a desired row pushes its undesired ones away, and does no more."""
    examples = sorted(examples, key=lambda example: not example.desired)
    batch = draw(learner, examples, phase.rewards, at, seed)
    weights, ref_logps, numbers = judge(learner, reference, batch, examples, phase, at)
    ranks, device = learner.ranks, learner.device
    rows = int(ranks.total(batch.preferred, device))
    others = int(ranks.total(len(examples) - batch.preferred, device))
    losses = _gradients(learner, batch, weights, ref_logps, phase, max(1, rows), others)
    numbers |= {f"loss_{name}": value for name, value in ranks.totals(losses, TERMS, device).items()}
    numbers["loss"] = sum(value for name, value in numbers.items() if name.startswith("loss_"))
    if phase.diagnose_every and at % phase.diagnose_every == 0:
        numbers |= diagnose(learner, reference, batch, weights, ref_logps, phase)
    return numbers


def draw(learner: Learner, examples: list[Example], config: RewardConfig, at: int, seed: int) -> Batch:
    """The policy's samples of the preferred rows, which come first. Chance depends on (seed, step, row,
    sample) alone."""
    preferred = sum(example.desired for example in examples)
    prompts, responses = split(learner.batch(examples), learner.merge)
    owner = [row for row in range(preferred) for _ in range(config.samples)]
    seeds = [
        number_of(seed, at, examples[row].name or row, k)
        for row in range(preferred)
        for k in range(config.samples)
    ]
    samples = sample(learner.model, prompts, owner, config.sampling, seeds) if owner else []
    tokenizer = learner.processor.tokenizer
    return Batch(
        prompts,
        responses,
        preferred,
        samples,
        config.samples,
        [find_spans(tokenizer, each.tolist()) for each in responses[:preferred]],
        [find_spans(tokenizer, each.tolist()) for each in samples],
        torch.tensor([example.weight for example in examples]),
    )


def judge(
    learner: Learner, reference: ReferencePolicy, batch: Batch, examples: list[Example], phase: Phase, at: int
) -> tuple[StepWeights, Tensor, Numbers]:
    """(weights of this rank's preferred rows, the reference's log-probabilities of all rows [B], numbers of
    the whole batch)."""
    ranks, device, p = learner.ranks, learner.device, batch.preferred
    sampled = ranks.total(p, device) > 0
    pairs = score_pairs(
        learner.model,
        reference,
        batch.prompts,
        batch.responses,
        phase.eta0 if sampled or phase.eta0.over != "onpolicy" else replace(phase.eta0, over="shifts"),
        at,
        phase.rkto.log_ratio,
        batch.samples,
        batch.owner,
        *ranks.others(batch.responses, device),
    )
    baseline = eta0(ranks.gather(pairs.mismatched))
    rewards = reward_samples(learner, batch, examples, phase)
    weights = weigh(learner, batch, pairs, rewards, baseline, phase)
    first = ranks.before(p, device)
    numbers = _log(learner, batch, examples, pairs, rewards, weights, phase)
    return weights.part(slice(first, first + p)), pairs.reference, numbers


@dataclass(frozen=True)
class Rewards:
    """What P preferred rows and their K samples earn.

    similarity, iou: float [P, K] in 0..1. has_mask: bool [P]. reflection: float [P], R_reflect where it is a
    reward, else None. malformed: float [P * K], 1 where a sample is no exact trace."""

    similarity: Tensor
    iou: Tensor
    has_mask: Tensor
    reflection: Tensor | None
    malformed: Tensor


def reward_samples(learner: Learner, batch: Batch, examples: list[Example], phase: Phase) -> Rewards:
    """The rewards of this rank's samples, held against their rows' own answers and masks."""
    model, device, p, k = learner.model, learner.device, batch.preferred, batch.k
    plans = [plan_in(spans.text) for spans in batch.drawn]
    truths = [plan_in(spans.text) for spans in batch.written]
    masks = [truth_of(example.mask, truth) for example, truth in zip(examples[:p], truths, strict=True)]
    if phase.rewards.similarity in ("slots", "exact"):
        shares = [
            likeness(drawn.text, batch.written[row].text, truths[row], phase.rewards.similarity)
            for drawn, row in zip(batch.drawn, batch.owner, strict=True)
        ]
        alike = torch.tensor(shares, device=device)
    elif phase.rewards.similarity == "none":
        alike = torch.ones(len(batch.samples), device=device)
    else:
        alike = similarity(model, batch.responses[:p], batch.samples, batch.owner, learner.ranks)
    iou = torch.tensor([iou_of(plan, masks[row]) for plan, row in zip(plans, batch.owner, strict=True)])
    has_mask = torch.tensor([mask is not None for mask in masks], dtype=torch.bool)
    reflection = None
    if phase.rkto.lambda_ref and phase.rkto.reflection_as == "reward":
        rows = list(range(p))
        with merged(model):
            reflection = torch.zeros(0, device=device)
            if rows:
                reflection = reflect(learner, batch, rows, _states(learner, batch, rows, False)[0], phase)
    malformed = torch.tensor([float(plan is None) for plan in plans], device=device)
    return Rewards(alike.view(p, k), iou.view(p, k).to(device), has_mask.to(device), reflection, malformed)


def weigh(
    learner: Learner,
    batch: Batch,
    pairs: PairScores,
    rewards: Rewards,
    baseline: Tensor,
    phase: Phase,
) -> StepWeights:
    """The weights of the preferred rows of the whole batch, all ranks together."""
    gather, p = learner.ranks.gather, batch.preferred
    return step_weights(
        policy=gather(pairs.policy[:p]),
        reference=gather(pairs.reference[:p]),
        lengths=gather(batch.lengths[:p].to(learner.device)),
        eta0=baseline,
        similarity=gather(rewards.similarity),
        iou=gather(rewards.iou),
        has_mask=gather(rewards.has_mask),
        config=phase.rkto,
        reflection=None if rewards.reflection is None else gather(rewards.reflection),
        trust=gather(batch.trust[:p].to(learner.device)),
    )


def terms_of(
    learner: Learner,
    batch: Batch,
    rows: list[int],
    weights: StepWeights,
    ref_logps: Tensor,
    phase: Phase,
    total: int,
    others: int,
) -> tuple[Mapping[str, Tensor], Tensor]:
    """(the loss's terms with their graphs over some of the rows, the anchor of SFT beside them).

    rows: of this rank's batch, preferred ones and others.
    weights: of all its preferred rows.
    ref_logps: float [B], the reference's log rho(y_i | x_i) of all its rows.
    total, others: preferred and other rows of the whole batch.
    """
    config, device = phase.rkto, learner.device
    preferred = [row for row in rows if row < batch.preferred]
    undesired = [row for row in rows if row >= batch.preferred]
    lengths, policy, samples, reflection, away = batch.lengths.to(device), None, None, None, None
    if preferred:
        states, tokens, drawn = _states(learner, batch, preferred, config.reinforce != "none")
        head, counts, answered = base_of(learner.model).lm_head, [len(t) for t in tokens], len(preferred)
        logps = list(token_logps(torch.cat(states), torch.cat(tokens), head).split(counts))
        warmth = phase.rewards.temperature
        if drawn and warmth != 1:  # theirs is the chance they were drawn with, which REINFORCE raises
            theirs = torch.cat(states[answered:]), torch.cat(tokens[answered:])
            logps[answered:] = token_logps(*theirs, head, temperature=warmth).split(counts[answered:])
        policy = torch.stack([summed(each) for each in logps[:answered]])
        if drawn:
            kept = [
                summed(each if config.reinforce == "all" else each[list(batch.drawn[n].mask)])
                for n, each in zip(drawn, logps[answered:], strict=True)
            ]
            samples = torch.stack(kept).view(len(preferred), batch.k)
        if config.lambda_ref and config.reflection_as == "loss":
            reflection = reflect(learner, batch, preferred, states, phase)
    else:
        policy = summed(lengths.new_zeros((0, 1), dtype=torch.float32), 1)
    if undesired and config.lambda_u:
        some = [batch.responses[row] for row in undesired]
        scored = sequence_logps(
            learner.model, batch.prompts.take(undesired), some, range(len(undesired)), learner.how
        )
        away = log_ratio(scored, ref_logps[undesired], lengths[undesired], config.log_ratio)
    index = torch.tensor(preferred, dtype=torch.long, device=device)
    trust = batch.trust[undesired].to(device)
    terms = rkto_terms(
        policy, lengths[index], weights.part(index), config, samples, reflection, away, total, others, trust
    )
    return terms, sft_anchor(policy, lengths[index], total)


def reflect(
    learner: Learner, batch: Batch, rows: list[int], states: Sequence[Tensor], phase: Phase
) -> Tensor:
    """R_reflect of the rows' own answers, teacher-forced, with its graph: [rows]. states: of each row's
    tokens."""
    base = base_of(learner.model)
    table = base.get_input_embeddings().weight.detach()
    some = [batch.written[row] for row in rows]

    def probabilities(parts: Sequence[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        longest = max(1, max(map(len, parts)))
        real = torch.tensor([[t < len(part) for t in range(longest)] for part in parts], device=table.device)
        probs = table.new_zeros((len(parts), longest, table.shape[0]), dtype=torch.float32)
        for n, part in enumerate(parts):
            if part:
                logits = base.lm_head(states[n][list(part)]).float()
                probs = probs.index_put((torch.tensor(n), torch.arange(len(part))), logits.softmax(-1))
        return probs, real

    reflection, in_reflection = probabilities([each.reflection for each in some])
    intermediate, in_intermediate = probabilities([each.intermediate for each in some])
    ends = [
        0 if each.after_reflection is None else int(batch.responses[row][each.after_reflection])
        for row, each in zip(rows, some, strict=True)
    ]
    whole = [batch.responses[row].to(table.device)[None] for row in rows]
    target = torch.cat(
        [mean_embedding(each, torch.ones_like(each, dtype=torch.bool), table) for each in whole]
    )
    reward, _ = reflection_reward(
        reflection,
        in_reflection,
        intermediate,
        in_intermediate,
        torch.tensor(ends, device=table.device),
        table.float(),
        target.float(),
        phase.rkto.reflection,
    )
    return reward


def diagnose(
    learner: Learner,
    reference: ReferencePolicy,
    batch: Batch,
    weights: StepWeights,
    ref_logps: Tensor,
    phase: Phase,
) -> Numbers:
    """Each term's gradient norm and its cosine with SFT's gradient on the same rows, over this rank's first
    rows; and an estimate of the KL to the reference in nats an answer, from the samples."""
    count = phase.micro_batch or len(batch.responses)
    rows = list(range(min(count, batch.preferred)))
    numbers: Numbers = {}
    if not rows:
        return numbers
    terms, anchor = terms_of(learner, batch, rows, weights, ref_logps, phase, len(rows), 0)
    parameters = learner.trainable()

    def gradient(value: Tensor) -> Tensor:
        parts = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        return torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).flatten()
                for p, g in zip(parameters, parts, strict=True)
            ]
        )

    sft = gradient(anchor)
    for name, term in terms.items():
        if term.requires_grad:
            direction = gradient(term)
            numbers[f"norm_{name}"] = float(direction.norm())
            numbers[f"cos_sft_{name}"] = float(torch.nn.functional.cosine_similarity(direction, sft, dim=0))
    some = [n for n, row in enumerate(batch.owner) if row in rows]
    texts, owner = [batch.samples[n] for n in some], [batch.owner[n] for n in some]
    with merged(learner.model):
        mine = sequence_logps(learner.model, batch.prompts, texts, owner, "cached")
    theirs = reference.logps(learner.model, batch.prompts, texts, owner, keep=False)
    numbers["kl_reference"] = float((mine - theirs).mean())
    return numbers


def _gradients(
    learner: Learner,
    batch: Batch,
    weights: StepWeights,
    ref_logps: Tensor,
    phase: Phase,
    total: int,
    others: int,
) -> Numbers:
    """The gradient of all terms, part by part, and their sums over this rank's rows; arguments as
    `terms_of`'s."""
    sums: Numbers = {}
    count = len(batch.responses)
    for rows in torch.arange(count).split(phase.micro_batch or max(1, count)):
        terms, _ = terms_of(learner, batch, rows.tolist(), weights, ref_logps, phase, total, others)
        loss = torch.stack(list(terms.values())).sum()
        if loss.requires_grad:
            loss.backward()
        for name, term in terms.items():
            sums[name] = sums.get(name, 0.0) + float(term.detach())
    return sums


def _states(
    learner: Learner, batch: Batch, rows: list[int], with_samples: bool
) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """(states that predict each answer's tokens, the tokens, which samples they are): first the rows' own
    answers, then with `with_samples` their samples."""
    drawn = [n for n, row in enumerate(batch.owner) if row in set(rows)] if with_samples else []
    texts = [batch.responses[row] for row in rows] + [batch.samples[n] for n in drawn]
    owner = [*range(len(rows)), *(rows.index(batch.owner[n]) for n in drawn)]
    flat = response_states(learner.model, batch.prompts.take(rows), texts, owner, learner.how)
    return list(flat.split([len(text) for text in texts])), texts, drawn


def _log(
    learner: Learner,
    batch: Batch,
    examples: list[Example],
    pairs: PairScores,
    rewards: Rewards,
    weights: StepWeights,
    phase: Phase,
) -> Numbers:
    """What is worth logging about the whole batch before its gradient.

    batch, examples, pairs, rewards: this rank's.
    weights: of the whole batch.
    """
    gather, device = learner.ranks.gather, learner.device
    malformed = gather(rewards.malformed)
    generated = gather(torch.tensor([float(len(each)) for each in batch.samples], device=device))
    s = log_ratio(pairs.policy, pairs.reference, batch.lengths.to(device), phase.rkto.log_ratio)
    desired = torch.tensor([example.desired for example in examples], device=device)
    masked = weights.iou[weights.has_mask]
    numbers = {"eta0": float(weights.eta0), **by_label(gather(s), gather(desired))}
    if not weights.rows:
        return numbers
    return {
        **numbers,
        "reward": float(weights.reward.mean()),
        "similarity": float(weights.similarity.mean()),
        "iou": float(masked.mean()) if masked.numel() else 0.0,
        "weight": float(weights.c.mean()),
        "weight_entropy": float(weight_entropy(weights.c)),
        "j": float((weights.w * weights.reward).mean()),
        "malformed": float(malformed.mean()),
        "generated": float(generated.mean()),
    }


def number_of(*parts: object) -> int:
    """A number of 56 bits that the parts alone decide."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")
