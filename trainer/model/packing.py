"""Rows without their padding: all of a batch's tokens in one row, with explicit M-RoPE positions and
attention block by block.

A block of the diagonal is one of the batch's rows, and the zeros between the blocks are never computed: the
linear layers see the packed row, the attention sees the blocks side by side. `forward.hidden_states` on the
padded batch is the oracle (tests/trainer/model/test_packing.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from .batch import Batch
from .forward import embed_inputs, hidden_states
from .token_count import count_fed

_NAME = "evlm_blocks"  # of the attention, among transformers'
_ABOUT = 1.2  # blocks up to this much longer than a group's shortest share its padding


def row_states(model: Any, batch: Batch) -> Tensor:
    """Last hidden states of the tokens that are no padding, row after row: [T, width], as
    `hidden_states(model, batch)[batch.attention_mask]`.

    batch: on the model's device, padded on the right. Under gradient checkpointing, which runs the attention
    again when nobody can tell it the blocks, and with a sliding window, the batch stays padded.
    """
    core = model.model.language_model
    sliding = "sliding_attention" in (getattr(core.config, "layer_types", None) or ())
    if sliding or (core.training and is_checkpointed(core)):
        return hidden_states(model, batch)[batch.attention_mask]
    packed = pack(batch)
    count_fed(packed.input_ids.shape[1])
    embedded = embed_inputs(model, packed)
    with _attention(core):
        out = core(
            inputs_embeds=embedded.tokens,
            attention_mask=None,  # the blocks are the attention's own business
            position_ids=packed.position_ids,
            use_cache=False,
            evlm_blocks=_Blocks.of(batch.attention_mask),
            **embedded.deep,
        )
    return out.last_hidden_state[0]


def checkpoint_layers(base: Any) -> None:
    """From here on the backward pass of a Qwen-VL's ForConditionalGeneration in training computes each layer
    again, and each block of the vision tower where that learns."""
    # transformers 4.57 has the second name alone; 6 is to have the first.
    enable = getattr(base, "activation_checkpointing_enable", None) or base.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    base.model.language_model.evlm_checkpointed = base.model.visual.evlm_checkpointed = True


def is_checkpointed(core: Any) -> bool:
    """Whether a language model's layers are, by us or by whoever enabled it before."""
    return any(getattr(core, name, False) for name in ("evlm_checkpointed", "gradient_checkpointing"))


def pack(batch: Batch) -> Batch:
    """The batch as one row of all its tokens, without padding: B = 1, L = batch.tokens."""
    kept = batch.attention_mask
    return replace(
        batch,
        input_ids=batch.input_ids[kept][None],
        attention_mask=kept[kept][None],
        position_ids=batch.position_ids[:, kept][:, None],
        labels=batch.labels[kept][None],
        vision_mask=batch.vision_mask[kept][None],
    )


@dataclass(frozen=True)
class _Blocks:
    """Where the packed row's tokens stand in blocks side by side, those of about one length together.

    groups: (source int64 [b * l], (b, l)), the token of each place of b blocks of l places; behind a block's
    end it is the last one again. target int64 [T]: the place of each token, all groups behind each other.
    """

    groups: list[tuple[Tensor, tuple[int, int]]]
    target: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> _Blocks:
        lengths = mask.sum(1).tolist()
        starts = [0, *accumulate(lengths)]
        together: list[list[int]] = []
        for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
            if together and lengths[row] <= _ABOUT * lengths[together[-1][0]]:
                together[-1].append(row)
            else:
                together.append([row])
        groups, target, before = [], torch.empty(starts[-1], dtype=torch.long), 0
        for rows in together:
            longest = lengths[rows[-1]]
            places = torch.arange(longest)
            groups.append(
                (
                    torch.cat([starts[r] + places.clamp(max=lengths[r] - 1) for r in rows]),
                    (len(rows), longest),
                )
            )
            for row in rows:
                target[starts[row] : starts[row + 1]] = before + places[: lengths[row]]
                before += longest
        return cls([(s.to(mask.device), shape) for s, shape in groups], target.to(mask.device))


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, *, evlm_blocks: _Blocks, **given: Any
) -> tuple[Tensor, None]:
    """Causal attention inside each block; query [1, heads, T, head dim] -> [1, T, heads, head dim]. What
    stands behind a block's end is not seen by what counts."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    given["is_causal"] = True
    flat = [x[0].transpose(0, 1) for x in (query, key, value)]
    outputs = []
    for source, shape in evlm_blocks.groups:
        blocks = [x.index_select(0, source).unflatten(0, shape).transpose(1, 2) for x in flat]
        out, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](module, *blocks, None, **given)
        outputs.append(out.flatten(0, 1))
    return torch.cat(outputs).index_select(0, evlm_blocks.target)[None], None


@contextmanager
def _attention(core: Any) -> Iterator[None]:
    """The language model with attention in blocks."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attend)
    config = core.config
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
