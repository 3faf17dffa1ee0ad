"""Rows without their padding: all of a batch's tokens in one row, with explicit M-RoPE positions and
attention block by block.

A block of the diagonal is one of the batch's rows, and the zeros between the blocks are never computed: the
linear layers see the packed row, the attention sees the blocks side by side. `forward.hidden_states` on the
padded batch is the oracle (tests/trainer/test_packing.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .batch import Batch
from .fed import count_fed
from .forward import embed_inputs, hidden_states

_NAME = "evlm_blocks"  # of the attention, among transformers'


def row_states(model: Any, batch: Batch) -> Tensor:
    """Last hidden states of the tokens that are no padding, row after row: [T, width], as
    `hidden_states(model, batch)[batch.attention_mask]`.

    batch: on the model's device, padded on the right. Under gradient checkpointing, which runs the attention
    again when nobody can tell it the blocks, and with a sliding window, the batch stays padded.
    """
    core = model.model.language_model
    checkpointed = core.training and getattr(core, "gradient_checkpointing", False)
    if checkpointed or "sliding_attention" in (getattr(core.config, "layer_types", None) or ()):
        return hidden_states(model, batch)[batch.attention_mask]
    packed = pack(batch)
    count_fed(packed.input_ids.shape[1])
    embeds, _ = embed_inputs(model, packed)
    with _attention(core):
        out = core(
            inputs_embeds=embeds,
            attention_mask={"full_attention": None},  # the blocks are the attention's own business
            position_ids=packed.position_ids,
            use_cache=False,
            evlm_blocks=_Blocks.of(batch.attention_mask),
        )
    return out.last_hidden_state[0]  # type: ignore[no-any-return]


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
    """Where the packed row's tokens stand in blocks side by side. source int64 [B * L]: the token of each
    place, 0 where there is none; target int64 [T]: the place of each token; shape: (B, L)."""

    source: Tensor
    target: Tensor
    shape: tuple[int, int]

    @classmethod
    def of(cls, mask: Tensor) -> _Blocks:
        rows, length = mask.shape
        flat = mask.flatten()
        return cls((flat.cumsum(0) - 1) * flat, flat.nonzero()[:, 0], (rows, length))


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, *, evlm_blocks: _Blocks, **given: Any
) -> tuple[Tensor, None]:
    """Causal attention inside each block; query [1, heads, T, head dim] -> [1, T, heads, head dim]. What is
    padding lies behind every token that counts, and is not seen by it."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    given["is_causal"] = True
    blocks = evlm_blocks

    def side_by_side(x: Tensor) -> Tensor:
        return x[0].transpose(0, 1).index_select(0, blocks.source).unflatten(0, blocks.shape).transpose(1, 2)

    out, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](
        module, side_by_side(query), side_by_side(key), side_by_side(value), None, **given
    )
    return out.flatten(0, 1).index_select(0, blocks.target)[None], None


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
