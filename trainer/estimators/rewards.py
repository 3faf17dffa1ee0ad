"""What a sampled answer earns: likeness to the preferred one, and its mask's IoU (RKTO, Eq. 10)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from evlm.errors import EVLMError, TraceError
from evlm.plan.step_masks import plan_mask, plan_mask_iou
from evlm.plan.trace import Plan, parse

from ..model.attention_mask import additive_mask, block_mask
from ..model.logprobs import base_of
from ..model.merged_lora import merged
from ..model.ranks import Ranks
from ..model.reference import using
from ..model.sampling import SampleConfig
from ..model.token_count import count_fed
from ..objectives.reflection import cosine

SQUARE = 64  # pixels a side, where a row has no mask picture and its mask text is drawn


@dataclass(frozen=True)
class RewardConfig:
    """samples: K of each row. similarity: "cosine" of mean-pooled, mean-centred states of the base model
    with its adapter off, in 0..1; or "slots", the shares of operation, targets and remaining words that are
    right, which tells right from wrong where plans are short (of an answer that is no trace, the F1 of its
    words); "exact", 1 where instruction and targets are right to the letter, else 0; or "none": 1, whatever
    is drawn (the paper's ablation without R_eff, with alpha 1). Raises EVLMError."""

    samples: int = 3
    temperature: float = 1.0
    max_new_tokens: int = 320
    similarity: Literal["cosine", "slots", "exact", "none"] = "cosine"

    def __post_init__(self) -> None:
        if type(self.samples) is not int or not 1 <= self.samples <= 64:
            raise EVLMError(f"samples {self.samples!r:.40}: expected 1 to 64")
        if self.similarity not in ("cosine", "slots", "exact", "none"):
            raise EVLMError(f"similarity {self.similarity!r:.40}: expected cosine, slots, exact or none")
        if not self.temperature > 0:
            raise EVLMError(f"temperature {self.temperature!r:.40}: expected above 0, samples must differ")
        SampleConfig(self.temperature, self.max_new_tokens)

    @property
    def sampling(self) -> SampleConfig:
        return SampleConfig(self.temperature, self.max_new_tokens)


def plan_in(text: str) -> Plan | None:
    """The plan of an exact trace; None for a malformed one."""
    try:
        return parse(text, repair=False).plan
    except TraceError:
        return None


def truth_of(mask: Tensor | None, plan: Plan | None) -> Tensor | None:
    """What a row's samples are held against: its mask picture, else its own mask text; None for neither."""
    if mask is not None or plan is None:
        return mask
    try:
        return plan_mask(plan, SQUARE, SQUARE)
    except EVLMError:
        return None


def iou_of(plan: Plan | None, truth: Tensor | None) -> float:
    """IoU of the plan's mask text with the true mask; 0 for a malformed one, and where there is no truth."""
    if truth is None or not bool(truth.any()):
        return 0.0
    return plan_mask_iou(plan, truth)


def slots(plan: Plan | None, truth: Plan | None) -> float:
    """Mean of three shares in 0..1: the first word (the operation) is right; Jaccard of the targets; F1 of
    the instruction's words that name no target. 0 for a malformed plan."""
    if plan is None or truth is None:
        return 0.0
    mine, true = plan.instruction.split(), truth.instruction.split()
    both = set(plan.targets) | set(truth.targets)
    targets = len(set(plan.targets) & set(truth.targets)) / len(both) if both else 1.0
    return (float(mine[:1] == true[:1]) + targets + _f1(_rest(plan), _rest(truth))) / 3


def right(plan: Plan | None, truth: Plan | None) -> bool:
    """Whether the plan does what the true one does, to the letter; as `evaluation.accuracy` counts."""
    if plan is None or truth is None:
        return False
    return plan.instruction == truth.instruction and plan.targets == truth.targets


def likeness(text: str, written: str, truth: Plan | None, by: Literal["slots", "exact"]) -> float:
    """What a sampled answer earns beside the row's own one, `written`, or the plan that is in it."""
    plan = plan_in(text)
    if by == "exact":
        return float(text == written if truth is None else right(plan, truth))
    return word_overlap(text, written) if truth is None else slots(plan, truth)


def word_overlap(text: str, truth: str) -> float:
    """F1 of the words of two texts, in 0..1: what "slots" makes of answers that are no traces."""
    return _f1(Counter(text.split()), Counter(truth.split()))


def _rest(plan: Plan) -> Counter[str]:
    named = {word for target in plan.targets for word in target.split()}
    return Counter(word for word in plan.instruction.split()[1:] if word not in named)


def _f1(a: Counter[str], b: Counter[str]) -> float:
    if not a and not b:
        return 1.0
    return 2 * (a & b).total() / (a.total() + b.total())


def similarity(
    model: Any, responses: Sequence[Tensor], samples: Sequence[Tensor], owner: Sequence[int], ranks: Ranks
) -> Tensor:
    """Cosine of e(sample) and e(its row's response), mapped to 0..1: [N]. Embeddings are centred on the mean
    response of the whole effective batch, without which all texts of one grammar look alike."""
    states = embed(model, [*responses, *samples])
    answers, sampled = states[: len(responses)], states[len(responses) :]
    centre = ranks.gather(answers).mean(0)
    return cosine(
        sampled - centre, answers[torch.tensor(list(owner), dtype=torch.long, device=answers.device)] - centre
    )


def embed(model: Any, texts: Sequence[Tensor], tokens: int = 1 << 13) -> Tensor:
    """e(.): last states of the base language model without its adapters (of the reference, where its own
    weights learn), text alone, averaged over the tokens: [N, width], float32. tokens: fed at once."""
    base = base_of(model)
    if not texts:
        return torch.zeros(0, base.get_input_embeddings().embedding_dim, device=base.device)
    embeddings: dict[int, Tensor] = {}
    order = sorted(range(len(texts)), key=lambda n: len(texts[n]))
    with merged(model), using(model, None):
        while order:
            longest = len(texts[order[-1]])
            group, order = order[-max(1, tokens // longest) :], order[: -max(1, tokens // longest)]
            ids = torch.zeros(len(group), longest, dtype=torch.long)
            real = torch.zeros(len(group), longest, dtype=torch.bool)
            for g, n in enumerate(group):
                ids[g, : len(texts[n])], real[g, : len(texts[n])] = texts[n], True
            count_fed(real.sum())
            ids, real = ids.to(base.device), real.to(base.device)
            embeds = base.get_input_embeddings()(ids)
            out = base.model.language_model(
                inputs_embeds=embeds,
                attention_mask=additive_mask(block_mask(torch.where(real, 0, -1)), embeds.dtype),
                position_ids=torch.arange(longest, device=base.device).expand(3, len(group), -1),
                use_cache=False,
            ).last_hidden_state.float()
            weights = real[..., None] / real.sum(1)[:, None, None]
            embeddings |= zip(group, (out * weights).sum(1), strict=True)
    return torch.stack([embeddings[n] for n in range(len(texts))])
