"""Answers to many prompts at once: each prompt is computed once, and its samples grow together behind it.

The slow, obvious way is `evlm.Reasoner.generate`, one answer at a time; greedy answers equal it
(tests/trainer/model/test_sampling.py). Every sample draws from numbers of its own seed, so what is sampled
depends neither on what else is in the batch nor on how many processes share the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from evlm.errors import EVLMError
from evlm.reason.messages import Chat
from evlm.reason.transformers_compat import cache_name

from .attention_mask import additive_mask, block_mask
from .logprobs import _Kept, base_of, embed_prompts
from .merged_lora import merged
from .prompts import Prompts, split
from .spans import token_ends
from .token_count import count_fed

TOGETHER = {"cpu": 32}  # samples that grow at once; elsewhere 256


@dataclass(frozen=True)
class SampleConfig:
    """temperature 0 takes the likeliest token. max_new_tokens: an answer is cut off there. Raises
    EVLMError."""

    temperature: float = 1.0
    max_new_tokens: int = 320

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise EVLMError(f"temperature {self.temperature!r:.40}: expected 0 to 100")
        if not 1 <= self.max_new_tokens <= 65536:
            raise EVLMError(f"max_new_tokens {self.max_new_tokens!r:.40}: expected 1 to 65,536")


def sample(
    model: Any, prompts: Prompts, owner: Sequence[int], config: SampleConfig, seeds: Sequence[int]
) -> list[Tensor]:
    """One answer for each n to prompts[owner[n]]: int64 token ids on the CPU, the end token last unless it
    was cut off. seeds[n] is all that its chance depends on. Dropout is off, nothing has a graph."""
    base = base_of(model)
    samples: list[Tensor] = []
    together = TOGETHER.get(base.device.type, 256)
    with merged(model):
        for at in range(0, len(owner), together):
            some = owner[at : at + together]
            rows = sorted(set(some))
            local = [rows.index(row) for row in some]
            samples += _grow(base, prompts.take(rows), local, config, seeds[at : at + together])
    return samples


@dataclass(frozen=True)
class Begun:
    """The beginning of an answer. text: a whole answer, whose first `kept` characters stand; tokens that go
    beyond them are the model's to write. So it is cut where the tokens of a whole answer end: "</x>" alone
    may have others than in front of a line's end."""

    text: str = ""
    kept: int = 0


def answers(
    learner: Any, chats: Sequence[Chat], config: SampleConfig, seed: int = 0, begun: Sequence[Begun] = ()
) -> list[str]:
    """Texts that answer the chats, in order. begun: how each of them begins, which the model goes on from and
    which is part of the text."""
    begun = begun or [Begun()] * len(chats)
    tokenizer = learner.processor.tokenizer
    texts: list[str] = []
    together = TOGETHER.get(base_of(learner.model).device.type, 256)
    for at in range(0, len(chats), together):
        some = list(chats[at : at + together])
        # Frozen towers see one picture after the other: all at once they would take gigabytes.
        written = list(begun[at : at + len(some)])
        batch = learner.features(learner.collate(some, [each.text for each in written]))
        whole, labels = batch.labels, batch.labels.clone()
        for row, each in enumerate(written):
            places = (whole[row] != -100).nonzero().flatten()
            ends = token_ends(tokenizer, whole[row, places].tolist())[:-1]  # its end is yet to come
            labels[row, places[: sum(end <= each.kept for end in ends)]] = -100
        batch = replace(batch, labels=labels)
        prompts, _ = split(batch, base_of(learner.model).config.vision_config.spatial_merge_size)
        seeds = range(seed + at, seed + at + len(some))
        sampled = sample(learner.model, prompts, range(len(some)), config, seeds)
        before = [whole[row, (whole[row] != -100) & (labels[row] == -100)] for row in range(len(some))]
        texts += [decode(tokenizer, torch.cat(both)) for both in zip(before, sampled, strict=True)]
    return texts


def decode(tokenizer: Any, ids: Tensor) -> str:
    """The answer's text, without the end token and other chat markers."""
    silent = {
        i
        for word, i in zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
        if word.startswith("<|")
    }
    kept = [token for token in ids.tolist() if token not in silent]
    return str(tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def end_ids(base: Any) -> list[int]:
    """Tokens that end an answer."""
    ends = base.generation_config.eos_token_id
    return [int(each) for each in (ends if isinstance(ends, (list, tuple)) else [ends])]


class _Growing:
    """Keys and values [samples, heads, prompt + new, head dim] of each layer, in memory that is there from
    the start; `length` of it is in use."""

    def __init__(self, prefix: Sequence[tuple[Tensor, Tensor]], owner: Tensor, new: int) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []
        for pair in prefix:
            self.layers.append(tuple(_room(each[owner], new) for each in pair))  # type: ignore[arg-type]
        self.length = int(prefix[0][0].shape[2])

    def get_seq_length(self, layer: int = 0) -> int:
        return self.length

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        k, v = self.layers[layer]
        end = self.length + keys.shape[2]
        k[:, :, self.length : end], v[:, :, self.length : end] = keys, values
        return k[:, :, :end], v[:, :, :end]

    def keep(self, rows: Tensor) -> None:
        self.layers = [(k[rows], v[rows]) for k, v in self.layers]


def _room(values: Tensor, new: int) -> Tensor:
    return torch.cat([values, values.new_zeros((*values.shape[:2], new, values.shape[3]))], 2)


def _grow(
    base: Any, prompts: Prompts, owner: Sequence[int], config: SampleConfig, seeds: Sequence[int]
) -> list[Tensor]:
    b, device = prompts.batch, base.device
    kept, embedded = _Kept(), embed_prompts(base, b)
    dtype = embedded.tokens.dtype
    cache_key = cache_name(base.model.language_model)
    block = torch.where(b.attention_mask, 0, -1).to(device)
    count_fed(b.attention_mask.sum())
    out = base.model.language_model(
        inputs_embeds=embedded.tokens,
        attention_mask=additive_mask(block_mask(block), dtype),
        position_ids=b.position_ids.to(device),
        use_cache=True,
        **embedded.deep,
        **{cache_key: kept},
    ).last_hidden_state
    at = torch.tensor(list(owner), device=device)
    lasts = out[torch.arange(len(prompts), device=device), (prompts.lengths - 1).to(device)]
    cache = _Growing(kept.layers, at, config.max_new_tokens)
    seen = torch.cat([b.attention_mask.to(device)[at], at.new_ones(len(at), config.max_new_tokens).bool()], 1)
    states, positions = lasts[at], prompts.starts.to(device)[at]
    chance = _chance(seeds, config) if config.temperature else None
    ends = torch.tensor(end_ids(base), device=device)
    grown: list[list[int]] = [[] for _ in owner]
    alive = torch.arange(len(at))  # which sample each row of the cache belongs to
    for step in range(config.max_new_tokens):
        tokens = _choose(base.lm_head(states).float(), chance, alive, step, config.temperature)
        for n, token in zip(alive.tolist(), tokens.tolist(), strict=True):
            grown[n].append(token)
        going = ~torch.isin(tokens, ends)
        if step + 1 == config.max_new_tokens or not bool(going.any()):
            break
        if not bool(going.all()):
            rows = going.nonzero().flatten()
            cache.keep(rows)
            tokens, seen, positions, alive = tokens[rows], seen[rows], positions[rows], alive[rows.cpu()]
        allowed = seen[:, None, None, : cache.length + 1]
        count_fed(len(tokens))
        states = base.model.language_model(
            inputs_embeds=base.get_input_embeddings()(tokens[:, None]),
            attention_mask=additive_mask(allowed, dtype),
            position_ids=(positions + step).expand(3, -1)[..., None],
            use_cache=True,
            **{cache_key: cache},
        ).last_hidden_state[:, 0]
        cache.length += 1
    return [torch.tensor(ids) for ids in grown]


def _chance(seeds: Sequence[int], config: SampleConfig) -> Tensor:
    """Numbers in 0..1 [samples, max_new_tokens], float64, each row from its own seed."""
    rows = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed % (1 << 63))
        rows.append(torch.rand(config.max_new_tokens, generator=generator, dtype=torch.float64))
    return torch.stack(rows)


def _choose(logits: Tensor, chance: Tensor | None, alive: Tensor, step: int, temperature: float) -> Tensor:
    """The next token of each row: [rows, vocabulary] -> int64 [rows]."""
    if chance is None:
        return logits.argmax(-1)
    device = logits.device
    if device.type == "mps":  # which knows no float64
        logits = logits.cpu()
    total = (logits.double() / temperature).softmax(-1).cumsum(-1)
    drawn = chance[alive, step].to(total.device)[:, None] * total[:, -1:]
    return (total <= drawn).sum(-1).clamp(max=logits.shape[1] - 1).to(device)
