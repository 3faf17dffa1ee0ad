"""Credit for what was sampled: K answers of the policy to each prompt are judged, then one or several steps
learn from them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evlm.plan.trace import Plan

from ..config.recipe import Phase
from ..estimators.rewards import iou_of, likeness, plan_in, right, truth_of
from ..learner.learner import Learner
from ..learner.rows import Example
from ..model.logprobs import base_of, response_states, summed
from ..model.merged_lora import merged
from ..model.prompts import Prompts, split
from ..model.reference import ReferencePolicy, using
from ..model.token_logprobs import token_logps
from ..objectives.group import (
    TERMS,
    Totals,
    advantages,
    advantages_by_part,
    group_terms,
    mended,
    mixed,
)
from .draws import Drawn, Draws
from .rkto import Batch, Numbers, draw, number_of

_INTERMEDIATE = re.compile(r"<intermediate>\n?(.*?)\n?</intermediate>", re.DOTALL)


def group_step(
    learner: Learner,
    reference: ReferencePolicy | None,
    examples: list[Example],
    phase: Phase,
    at: int,
    seed: int,
    draws: Draws,
    inner: int = 0,
) -> Numbers:
    """One step's gradients, left in the parameters, and what is worth logging about the whole batch.

    examples: this rank's; at, seed: the run's step and seed, from which chance is drawn. inner: how many
    steps learned from this draw before; the first one draws. A run that finds no draw of its own, for it had
    another number of processes, draws anew."""
    examples = [replace(each, desired=True) for each in examples]
    known = draws.find(at - inner) if inner else None
    fresh = learner.ranks.any(known is None, learner.device)
    drawn = _draw(learner, reference, examples, phase, at, seed, draws) if fresh or known is None else known
    losses, now, numbers = _gradients(learner, examples, drawn, phase)
    if fresh:
        draws.keep(at - inner, replace(drawn, logps=now), phase.draws > 1)
    numbers |= drawn.numbers
    ranks, device = learner.ranks, learner.device
    numbers |= {f"loss_{name}": value for name, value in ranks.totals(losses, TERMS, device).items()}
    numbers["loss"] = sum(value for name, value in numbers.items() if name.startswith("loss_"))
    return numbers


@dataclass(frozen=True)
class _Judged:
    """What P prompts' K samples earn: float [P, K] each, but for the two that are yes or no."""

    reward: Tensor
    similarity: Tensor
    iou: Tensor
    first: Tensor
    last: Tensor
    malformed: float
    masked: int  # of the P that have a true mask


def _draw(
    learner: Learner,
    reference: ReferencePolicy | None,
    examples: list[Example],
    phase: Phase,
    at: int,
    seed: int,
    draws: Draws,
) -> Drawn:
    """Samples of the prompts that are worth it, judged."""
    config, ranks, device, k = phase.group, learner.ranks, learner.device, phase.rewards.samples
    names = [str(_prompt(example) & ((1 << 48) - 1)) for example in examples]
    counts = [draws.seen.get(name, [0.0, 0.0]) for name in names]
    rows = [n for n, (good, of) in enumerate(counts) if mixed(good, of, k) >= config.skip]
    some = [examples[n] for n in rows]
    batch = draw(learner, some, phase.rewards, at, seed) if some else None
    judged = _judge(some, batch, phase) if batch else _nothing(k)
    behind = begins = None
    if config.by_part:
        parts = judged.reward, judged.first, config.mend, config.scale
        advantage, behind, silent = advantages_by_part(*parts)
        begins = torch.tensor(_begins(batch), dtype=torch.long)
    else:
        advantage, silent = advantages(judged.reward, config.scale)
    accepted = judged.similarity >= config.accept
    samples = batch.samples if batch else []
    lengths = torch.tensor([len(each) for each in samples], dtype=torch.float64).view(-1, k)
    totals = [
        ranks.total(float(each), device)
        for each in (
            lengths[~silent].sum(),
            lengths.sum(),
            lengths[accepted].sum(),
            len(rows),
            len(examples),
            silent.sum(),
            accepted.sum(),
            judged.reward.sum(),
            judged.similarity.sum(),
            judged.iou.sum(),
            judged.malformed,
            (judged.last > judged.first).sum(),
            (judged.last < judged.first).sum(),
            judged.last.sum(),
            judged.masked,
        )
    ]
    draws.note(_news(learner, names, rows, judged.last, k))
    warmth = phase.rewards.temperature
    frozen = _reference_logps(learner, reference, batch, warmth) if reference is not None and batch else []
    every = max(1.0, totals[3] * k)
    numbers = {
        "reward": totals[7] / every,
        "similarity": totals[8] / every,
        "iou": totals[9] / max(1.0, totals[14] * k),
        "right": totals[13] / every,
        "accepted": totals[6] / every,
        "malformed": totals[10] / every,
        "generated": totals[1] / every,
        "mended": totals[11] / every,
        "spoilt": totals[12] / every,
        "silent": totals[5] / max(1.0, totals[3]),
        "skipped": 1 - totals[3] / max(1.0, totals[4]),
    }
    drawn = Drawn(rows, samples, advantage.flatten(), accepted.flatten(), totals[:4], [], frozen, numbers)
    return drawn if behind is None else replace(drawn, behind=behind.flatten(), begins=begins)


def _begins(batch: Batch | None) -> list[int]:
    """The number of the token behind each sample's intermediate; of one without, how many tokens it has."""
    if batch is None:
        return []
    both = zip(batch.drawn, batch.samples, strict=True)
    return [each.intermediate[-1] + 1 if each.intermediate else len(tokens) for each, tokens in both]


def _judge(examples: list[Example], batch: Batch, phase: Phase) -> _Judged:
    """Each sample against its row's answer, or the plan that a verifier knows."""
    config, k = phase.group, phase.rewards.samples
    truths: list[Plan | None] = []
    masks = []
    for example, written in zip(examples, batch.written, strict=True):
        plan = example.truth or plan_in(written.text)
        truths.append(plan)
        masks.append(truth_of(example.mask, plan))
    rows = []
    for n, owner in enumerate(batch.owner):
        text, truth = batch.drawn[n].text, truths[owner]
        by = "exact" if phase.rewards.similarity == "exact" else "slots"
        alike = likeness(text, batch.written[owner].text, truth, by)  # type: ignore[arg-type]
        plan = plan_in(text)
        iou = iou_of(plan, masks[owner])
        said = _INTERMEDIATE.search(text)
        last = right(plan, truth) if truth is not None else alike >= 1
        first = truth is not None and said is not None and said[1].strip() == truth.instruction
        share = config.alpha if masks[owner] is not None else 1.0
        rows.append(
            (share * alike + (1 - share) * iou, alike, iou, first if said else last, last, plan is None)
        )
    table = torch.tensor(rows, dtype=torch.float64).view(len(examples), k, 6)
    reward, alike_, iou_, first_, last_, malformed = table.unbind(-1)
    if not config.by_part:
        reward = reward + config.mend * mended(first_ > 0, last_ > 0).double()
    masked = sum(mask is not None for mask in masks)
    return _Judged(reward, alike_, iou_, first_, last_, float(malformed.sum()), masked)


def _prompt(example: Example) -> int:
    """What a prompt is known by: its row's id; of a foreign row, which has none, what it asks."""
    if example.name:
        return number_of(example.name)
    chat = example.chat
    shown = [*chat.images, *(frame for clip in chat.videos for frame in clip.frames)]
    pictures = [hashlib.blake2b(each.cpu().numpy().tobytes(), digest_size=8).hexdigest() for each in shown]
    return number_of(json.dumps(chat.messages), *pictures)


def _nothing(k: int) -> _Judged:
    none = torch.zeros(0, k, dtype=torch.float64)
    return _Judged(none, none, none, none, none, 0.0, 0)


def _news(
    learner: Learner, names: Sequence[str], rows: list[int], last: Tensor, k: int
) -> list[tuple[str, float, float]]:
    """(prompt, right, drawn) of every rank's prompts."""
    drawn = dict(zip(rows, last.sum(1).long().tolist(), strict=True))
    mine = [[int(name), drawn.get(n, 0), k if n in drawn else 0] for n, name in enumerate(names)]
    table = torch.tensor(mine, dtype=torch.long, device=learner.device).view(-1, 3)
    return [(str(name), float(good), float(of)) for name, good, of in learner.ranks.gather(table).tolist()]


def _reference_logps(
    learner: Learner, reference: ReferencePolicy, batch: Batch, temperature: float
) -> list[Tensor]:
    """The reference's log-probabilities of each sample's tokens, at the temperature of the draw."""
    with torch.no_grad(), merged(learner.model), using(learner.model, reference.adapter):
        states = response_states(learner.model, batch.prompts, batch.samples, batch.owner, "cached")
        head = base_of(learner.model).lm_head
        flat = token_logps(states, torch.cat(batch.samples), head, temperature=temperature)
    return [each.cpu() for each in flat.split([len(each) for each in batch.samples])]


def _gradients(
    learner: Learner, examples: list[Example], drawn: Drawn, phase: Phase
) -> tuple[Numbers, list[Tensor], Numbers]:
    """The gradient of all terms, part by part: (their sums over this rank's rows, log p of each sample's
    tokens as they are now, how far the policy has left the one that drew)."""
    config, device, k = phase.group, learner.device, phase.rewards.samples
    totals = Totals(*drawn.totals)
    now: list[Tensor] = [torch.zeros(0) for _ in drawn.samples]
    sums: Numbers = {}
    moved, cut, tokens = 0.0, 0.0, 0.0
    if drawn.rows:
        prompts, answers = split(learner.batch([examples[n] for n in drawn.rows]), learner.merge)
        for part in torch.arange(len(drawn.rows)).split(phase.micro_batch or len(drawn.rows)):
            rows = part.tolist()
            used = [n for row in rows for n in range(row * k, (row + 1) * k) if _used(drawn, n, phase)]
            terms, flat = _terms(learner, prompts, answers, rows, used, drawn, totals, phase)
            if not terms:
                continue
            loss = torch.stack(list(terms.values())).sum()
            if loss.requires_grad:
                loss.backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0.0) + float(term.detach())
            for n, each in zip(used, flat.split([len(drawn.samples[n]) for n in used]), strict=True):
                now[n] = each.cpu()
            if drawn.logps and used:
                before = torch.cat([drawn.logps[n] for n in used]).to(flat.device)
                off = (flat - before).exp() - 1
                moved += float((before - flat).sum())
                cut += float((off.abs() > config.clip).sum())
                tokens += len(flat)
    if phase.draws == 1:
        return sums, now, {}
    ranks = learner.ranks
    moved, cut, tokens = (ranks.total(each, device) for each in (moved, cut, tokens))
    return sums, now, {"kl_drawn": moved / max(1.0, tokens), "clipped": cut / max(1.0, tokens)}


def _used(drawn: Drawn, sample: int, phase: Phase) -> bool:
    """Whether a sample has a part in any term; the others are not computed."""
    config = phase.group
    paid = bool(config.lambda_policy) and drawn.earns(sample)
    return paid or bool(config.lambda_kl) or (bool(config.lambda_accepted) and bool(drawn.accepted[sample]))


def _terms(
    learner: Learner,
    prompts: Prompts,
    answers: Sequence[Tensor],
    rows: list[int],
    used: list[int],
    drawn: Drawn,
    totals: Totals,
    phase: Phase,
) -> tuple[dict[str, Tensor], Tensor]:
    """(the terms with their graphs over some rows, log p of the used samples' tokens without). Samples are
    paid at the temperature they were drawn at, and written answers and accepted samples learned at 1."""
    config, k, device = phase.group, phase.rewards.samples, learner.device
    own = rows if config.lambda_sft else []
    texts = [answers[row] for row in own] + [drawn.samples[n] for n in used]
    if not texts:
        return {}, torch.zeros(0)
    owner = [rows.index(row) for row in own] + [rows.index(n // k) for n in used]
    states = response_states(learner.model, prompts.take(rows), texts, owner, learner.how)
    tokens, head, warmth = torch.cat(texts), base_of(learner.model).lm_head, phase.rewards.temperature
    logps = token_logps(states, tokens, head)
    parts = logps.split([len(each) for each in texts])
    plain = sampled = torch.cat([logps.new_zeros(0), *parts[len(own) :]])
    if warmth != 1:
        first = len(logps) - len(plain)
        sampled = token_logps(states[first:], tokens[first:], head, temperature=warmth)
    lengths = torch.tensor([len(drawn.samples[n]) for n in used], dtype=torch.long)

    def spread(values: Tensor) -> Tensor:
        """One number a sample -> one a token."""
        return values[used].repeat_interleave(lengths).to(device)

    def joined(known: Sequence[Tensor]) -> Tensor:
        return torch.cat([known[n] for n in used]).to(device) if used else logps.new_zeros(0)

    terms = group_terms(
        sampled,
        joined(drawn.logps) if drawn.logps else sampled.detach(),
        drawn.paid(used).to(device, sampled.dtype),
        spread(drawn.accepted),
        totals,
        config,
        joined(drawn.reference) if drawn.reference else None,
        torch.stack([summed(each) for each in parts[: len(own)]]) if own else None,
        torch.tensor([len(answers[row]) for row in own], device=device) if own else None,
        plain,
    )
    return dict(terms), sampled.detach()
