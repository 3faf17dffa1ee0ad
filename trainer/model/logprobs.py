"""Log-probabilities of responses under a Qwen-VL, each prompt computed once for all responses behind it.

A response is scored behind a prompt: log rho(y_j | x_i). There are three ways to the same numbers:

- `naive`: one prompt and one response at a time through the model's own forward. The oracle.
- `packed`: one row a prompt, [prompt, response, response, ...], under a block-diagonal mask. For training,
  gradient checkpointing included; its attention pays for every pair of responses in a row.
- `cached`: each prompt once, its keys and values shared by all responses behind it. For eta0, and for
  training on many responses a prompt; gradient checkpointing would drop what is shared, and is refused.

Where layers of our own can stand in for the model's (`lean.usable`: float32 on a CPU), the last two are one
and the same way there.

Positions are explicit everywhere, and every response's M-RoPE positions start at its prompt's end: the
model's own rope_deltas are module state that goes stale. Only states that predict a response's token reach
the head.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

from evlm.errors import EVLMError
from evlm.reason.transformers_compat import cache_name

from . import lean
from .attention_mask import additive_mask, block_mask
from .batch import Batch
from .forward import Embedded, embed_inputs
from .packing import row_states
from .pieces import Segment
from .prompts import Prompts
from .token_count import count_fed
from .token_logprobs import token_logps

How = Literal["naive", "packed", "cached"]


def sequence_logps(
    model: Any,
    prompts: Prompts,
    responses: Sequence[Tensor],
    owner: Sequence[int],
    how: How = "packed",
    chunk: int | None = None,
) -> Tensor:
    """log rho(responses[n] | prompts[owner[n]]), summed over tokens, in nats: [N], float64 (`summed`).

    `model` is a Qwen-VL's ForConditionalGeneration or a PeftModel around one, on any device. With a graph
    unless under no_grad.
    """
    if not responses:
        return summed(torch.zeros(0, 1, device=base_of(model).device), -1)
    flat = token_logps(
        response_states(model, prompts, responses, owner, how),
        torch.cat([response.cpu() for response in responses]),
        base_of(model).lm_head,
        chunk,
    )
    return torch.stack([summed(each) for each in flat.split([len(r) for r in responses])])


def summed(values: Tensor, axis: int | None = None) -> Tensor:
    """Their sum in float64: a log-ratio is the small difference of two sums of about a thousand nats, each of
    which float32 would round by 1e-4. Apple's device, which knows no float64, rounds."""
    kind = values.dtype if values.device.type == "mps" else torch.float64
    return values.sum(dtype=kind) if axis is None else values.sum(axis, dtype=kind)


def response_states(
    model: Any, prompts: Prompts, responses: Sequence[Tensor], owner: Sequence[int], how: How = "packed"
) -> Tensor:
    """Last hidden states that predict each response's tokens, response after response: [sum of lengths,
    width].

    `token_logps` makes log-probabilities of them, the head probabilities (as the reflection's reward needs).
    """
    if len(responses) != len(owner) or not responses:
        raise EVLMError(f"{len(responses)} responses, {len(owner)} owners: expected as many, at least one")
    base, responses = base_of(model), [response.cpu() for response in responses]
    if how == "naive":
        return _naive_states(base, prompts, responses, owner)
    if lean.usable(base.model.language_model):
        return _lean_states(base, prompts, responses, owner)
    if base.config.get_text_config()._attn_implementation not in ("eager", "sdpa"):
        raise EVLMError(
            f"attention {base.config.get_text_config()._attn_implementation!r} takes no block-diagonal mask; "
            "load the model with attention 'sdpa'"
        )
    return (_packed_states if how == "packed" else _cached_states)(base, prompts, responses, owner)


def base_of(model: Any) -> Any:
    """The ForConditionalGeneration itself, adapters in place."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


# --- one at a time ---


def _naive_states(base: Any, prompts: Prompts, responses: Sequence[Tensor], owner: Sequence[int]) -> Tensor:
    states = []
    for row, response in zip(owner, responses, strict=True):
        one = prompts.take([row])
        b, start = one.batch, int(one.starts)
        ids = torch.cat([b.input_ids, response[None]], 1)
        after = (start + torch.arange(len(response))).expand(3, 1, -1)
        count_fed(ids.shape[1])
        videos = b.input_ids[b.vision_mask] == base.config.video_token_id
        out = base.model(
            input_ids=ids.to(base.device),
            attention_mask=torch.ones_like(ids).to(base.device),
            position_ids=torch.cat([b.position_ids, after], 2).to(base.device),
            use_cache=False,
            **_pictures(base, b, videos),
        )
        states.append(out.last_hidden_state[0, b.input_ids.shape[1] - 1 : -1])
    return torch.cat(states)


def _pictures(base: Any, batch: Batch, videos: Tensor) -> dict[str, Tensor]:
    """The batch's pictures under the names that the model's own forward gives images and videos."""
    merged = batch.grids.prod(1) // base.config.vision_config.spatial_merge_size**2
    first = [0, *accumulate(merged.tolist())][:-1]
    is_video = videos[first] if first else videos.new_zeros(0)
    patches = is_video.repeat_interleave(batch.grids.prod(1))
    arguments = {}
    for kind, pixels, grids in (
        (False, "pixel_values", "image_grid_thw"),
        (True, "pixel_values_videos", "video_grid_thw"),
    ):
        if bool((is_video == kind).any()):
            arguments[pixels] = batch.pixels[patches == kind].to(base.device)
            arguments[grids] = batch.grids[is_video == kind].to(base.device)
    return arguments


# --- by layers of our own ---


def _lean_states(base: Any, prompts: Prompts, responses: Sequence[Tensor], owner: Sequence[int]) -> Tensor:
    """All prompts in one row, each with its responses behind it: one alone goes on in its prompt's segment,
    several have one each."""
    behind: dict[int, list[int]] = defaultdict(list)
    for n, row in enumerate(owner):
        behind[row].append(n)
    rows = sorted(behind)
    prompts = prompts.take(rows)
    order = [n for row in rows for n in behind[row]]
    # A response's last token predicts nothing that is asked for, and is not fed.
    fed = [len(responses[n]) - 1 for n in order]
    ids = torch.cat([responses[n][:-1] for n in order]).to(base.device)
    answers = iter(base.get_input_embeddings()(ids).split(fed))
    embedded, its_positions = embed_prompts(base, prompts.batch).tokens, prompts.batch.position_ids
    tokens, positions, segments, places = [], [], [], {}
    at = found = 0  # tokens of the row, states that come back
    for local, (row, length) in enumerate(zip(rows, prompts.lengths.tolist(), strict=True)):
        tokens.append(embedded[local, :length])
        positions.append(its_positions[:, local, :length])
        prompt = Segment(at, at + length, None, at + length - 1)
        segments.append(prompt)
        at, last = at + length, found
        found += 1
        for n in behind[row]:
            answer = next(answers)
            tokens.append(answer)
            positions.append((prompts.starts[local] + torch.arange(len(answer))).expand(3, -1))
            places[n] = torch.tensor([last, *range(found, found + len(answer))])
            if len(behind[row]) == 1:
                segments[-1] = Segment(prompt.start, at + len(answer), None, prompt.wanted)
            elif len(answer):
                segments.append(Segment(at, at + len(answer), prompt, at))
            at, found = at + len(answer), found + len(answer)
    count_fed(at)
    states = lean.last_states(
        base.model.language_model, torch.cat(tokens), torch.cat(positions, 1).to(base.device), segments
    )
    return states[torch.cat([places[n] for n in range(len(responses))]).to(base.device)]


# --- one row a prompt ---


def _packed_states(base: Any, prompts: Prompts, responses: Sequence[Tensor], owner: Sequence[int]) -> Tensor:
    rows = sorted(set(owner))
    if len(rows) == len(owner):
        return _single_states(base, prompts.take(owner), responses)
    prompts = prompts.take(rows)
    behind: dict[int, list[int]] = defaultdict(list)
    for n, row in enumerate(owner):
        behind[rows.index(row)].append(n)
    b, device = prompts.batch, base.device
    first = b.input_ids.shape[1]
    # A response's last token predicts nothing that is asked for, and is not fed.
    extra = max(sum(len(responses[n]) - 1 for n in behind[row]) for row in behind)
    ids = torch.zeros(len(rows), extra, dtype=torch.long)
    positions = torch.zeros(3, len(rows), extra, dtype=torch.long)
    block = torch.full((len(rows), first + extra), -1)
    block[:, :first] = torch.where(b.attention_mask, 0, -1)
    places: dict[int, tuple[int, Tensor]] = {}
    for row, owned in behind.items():
        at, last = 0, int(prompts.lengths[row]) - 1
        for number, n in enumerate(owned, 1):
            fed = len(responses[n]) - 1
            ids[row, at : at + fed] = responses[n][:-1]
            positions[:, row, at : at + fed] = prompts.starts[row] + torch.arange(fed)
            block[row, first + at : first + at + fed] = number
            places[n] = row, torch.tensor([last, *range(first + at, first + at + fed)])
            at += fed
    count_fed((block >= 0).sum())
    embedded = embed_prompts(base, b)
    embeds = torch.cat([embedded.tokens, base.get_input_embeddings()(ids.to(device))], 1)
    out = base.model.language_model(
        inputs_embeds=embeds,
        attention_mask=additive_mask(block_mask(block.to(device)), embeds.dtype),
        position_ids=torch.cat([b.position_ids, positions], 2).to(device),
        use_cache=False,
        **embedded.longer(extra),
    ).last_hidden_state
    return torch.cat([out[places[n][0], places[n][1].to(device)] for n in range(len(responses))])


def _single_states(base: Any, prompts: Prompts, responses: Sequence[Tensor]) -> Tensor:
    """One response behind each prompt: rows without padding."""
    b, asked, fed = prompts.batch, prompts.lengths.tolist(), [len(r) - 1 for r in responses]
    shape = len(asked), max(n + m for n, m in zip(asked, fed, strict=True))
    ids, kept = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    seen, positions = torch.zeros_like(kept), torch.zeros(3, *shape, dtype=torch.long)
    for row, (n, m) in enumerate(zip(asked, fed, strict=True)):
        ids[row, :n], ids[row, n : n + m] = b.input_ids[row, :n], responses[row][:-1]
        positions[:, row, :n] = b.position_ids[:, row, :n]
        positions[:, row, n : n + m] = prompts.starts[row] + torch.arange(m)
        seen[row, :n], kept[row, : n + m] = b.vision_mask[row, :n], True
    silent = torch.full_like(ids, -100)
    batch = replace(
        b, input_ids=ids, attention_mask=kept, position_ids=positions, labels=silent, vision_mask=seen
    )
    states = row_states(base, batch.to(base.device)).split([n + m for n, m in zip(asked, fed, strict=True)])
    return torch.cat([each[n - 1 :] for each, n in zip(states, asked, strict=True)])


def embed_prompts(base: Any, batch: Batch) -> Embedded:
    """The prompts of a batch on the CPU, as the language model takes them."""
    device = base.device
    return embed_inputs(
        base, replace(batch, input_ids=batch.input_ids.to(device), grids=batch.grids.to(device))
    )


# --- each prompt once ---

# Tokens that are computed together: enough to fill the matmuls, few enough to hold.
_PROMPT_TOKENS = 1 << 15
_FED = {"cpu": 1 << 10}  # of a group of responses; elsewhere 2^14


class _Shared:
    """What a language model asks of a cache: the prompt's keys and values before a row's own, never kept."""

    def __init__(self, prefix: Sequence[tuple[Tensor, Tensor]], rows: Tensor) -> None:
        self.prefix, self.rows = prefix, rows

    def get_seq_length(self, layer: int = 0) -> int:
        return int(self.prefix[layer][0].shape[2])

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        k, v = self.prefix[layer]
        return torch.cat([k[self.rows], keys], 2), torch.cat([v[self.rows], values], 2)


class _Kept:
    """A cache that keeps each layer's keys and values of one forward, with their graph."""

    def __init__(self) -> None:
        self.layers: list[tuple[Tensor, Tensor]] = []

    def get_seq_length(self, layer: int = 0) -> int:
        return 0

    def get_mask_sizes(self, length: int, layer: int) -> tuple[int, int]:
        return length, 0

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        assert layer == len(self.layers), "layers must come in their order"
        self.layers.append((keys, values))
        return keys, values


def _cached_states(base: Any, prompts: Prompts, responses: Sequence[Tensor], owner: Sequence[int]) -> Tensor:
    states: dict[int, Tensor] = {}
    rows = sorted(set(owner))
    together = max(1, _PROMPT_TOKENS // prompts.batch.input_ids.shape[1])
    for at in range(0, len(rows), together):
        some = {row: local for local, row in enumerate(rows[at : at + together])}
        behind = {n: some[row] for n, row in enumerate(owner) if row in some}
        states.update(_states_behind(base, prompts.take(list(some)), responses, behind))
    return torch.cat([states[n] for n in range(len(responses))])


def _states_behind(
    base: Any, prompts: Prompts, responses: Sequence[Tensor], behind: dict[int, int]
) -> Iterator[tuple[int, Tensor]]:
    """(n, states) of the responses n that stand behind these prompts: behind[n] is the prompt."""
    b, device = prompts.batch, base.device
    embedded = embed_prompts(base, b)
    kept, dtype, cache_key = _Kept(), embedded.tokens.dtype, cache_name(base.model.language_model)
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
    if not kept.layers:
        raise EVLMError("gradient checkpointing keeps no keys and values; score packed rows, or in eval mode")
    lasts = out[torch.arange(len(prompts), device=device), (prompts.lengths - 1).to(device)]
    first = b.input_ids.shape[1]
    for group in _groups({n: len(responses[n]) - 1 for n in behind}, _FED.get(device.type, 1 << 14)):
        at = torch.tensor([behind[n] for n in group])
        fed = [len(responses[n]) - 1 for n in group]  # the last token predicts nothing that is asked for
        if not max(fed):
            yield from ((n, lasts[behind[n]][None]) for n in group)
            continue
        ids = torch.zeros(len(group), max(fed), dtype=torch.long)
        response_block = torch.full((len(group), max(fed)), -1)
        for g, n in enumerate(group):
            ids[g, : fed[g]] = responses[n][:-1]
            response_block[g, : fed[g]] = 1
        count_fed(sum(fed))
        allowed = block_mask(torch.cat([block[at.to(device)], response_block.to(device)], 1))[:, :, first:]
        out = base.model.language_model(
            inputs_embeds=base.get_input_embeddings()(ids.to(device)),
            attention_mask=additive_mask(allowed, dtype),
            position_ids=(prompts.starts[at, None] + torch.arange(max(fed))).expand(3, -1, -1).to(device),
            use_cache=True,
            **{cache_key: _Shared(kept.layers, at.to(device))},
        ).last_hidden_state
        yield from ((n, torch.cat([lasts[at[g]][None], out[g, : fed[g]]])) for g, n in enumerate(group))


def _groups(fed: dict[int, int], most: int) -> Iterator[list[int]]:
    """Responses (n -> tokens fed) of about one length together, at most `most` tokens in a group."""
    group: list[int] = []
    for n in sorted(fed, key=lambda n: fed[n]):
        if group and (len(group) + 1) * fed[n] > most:
            yield group
            group = []
        group.append(n)
    yield group
