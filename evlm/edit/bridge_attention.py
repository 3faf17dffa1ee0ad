"""Tokens beside CLIP's in the editor's cross-attention, each weighed by a gate.

The weights of all tokens are one softmax; those of the bridge's are multiplied by their gate before they sum
up to one. At a gate of zero the attention is the editor's own, at one the tokens count as CLIP's do, and the
gradient of a gate of zero is not zero.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Linear

MOST = 10.0
"""How far a token may stand above all words together, in nats: where it would be further the words' weights
vanish, and with them the gradient of a gate that is shut."""
_LINEAR = ("to_q", "to_k", "to_v", "to_out")


class Low(nn.Module):
    """An update of low rank, zero at first."""

    def __init__(self, given: int, out: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = Linear(given, rank, bias=False), Linear(rank, out, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


class CueAttention:
    """In the place of a processor of diffusers. plain: the one that was there, which does all attention that
    no gate is given to. low: updates of the projections by name, used where tokens are."""

    def __init__(self, plain: Any, low: nn.ModuleDict | None = None) -> None:
        self.plain, self.low = plain, low

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        gate: Tensor | None = None,
    ) -> Tensor:
        """gate: [B, K], of the last K tokens of encoder_hidden_states [B, T + K, D]."""
        if gate is None or encoder_hidden_states is None:
            found: Tensor = self.plain(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
            return found

        def parted(values: Tensor) -> Tensor:
            return values.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = parted(self._linear("to_q", attn.to_q, hidden_states))
        key = parted(self._linear("to_k", attn.to_k, encoder_hidden_states))
        value = parted(self._linear("to_v", attn.to_v, encoder_hidden_states))
        scores = (query @ key.transpose(-1, -2)).float() * attn.scale
        words, cues = scores.split([scores.shape[-1] - gate.shape[1], gate.shape[1]], -1)
        beside = (cues - words.logsumexp(-1, keepdim=True)).clamp(max=MOST).exp() * gate.float()[
            :, None, None
        ]
        weights = torch.cat([words.softmax(-1), beside], -1) / (1 + beside.sum(-1, keepdim=True))
        looked = (weights.to(value.dtype) @ value).transpose(1, 2).flatten(2)
        return attn.to_out[1](self._linear("to_out", attn.to_out[0], looked))

    def _linear(self, name: str, linear: Any, x: Tensor) -> Tensor:
        out: Tensor = linear(x)
        return out if self.low is None else out + self.low[name](x)


def attach(unet: Any, rank: int = 0) -> nn.ModuleDict:
    """Makes the attention of a UNet2DConditionModel take a gate (cross_attention_kwargs). Without one it
    does, to the bit, what it did. Gives the updates of low rank of its cross-attentions, by their names with
    "-" for "."; none where rank is 0."""
    updates = nn.ModuleDict()
    for name, attn in unet.named_modules():
        if not hasattr(attn, "set_processor") or not hasattr(attn, "to_q"):
            continue
        plain = attn.processor.plain if isinstance(attn.processor, CueAttention) else attn.processor
        low = None
        if rank and name.endswith("attn2"):
            linear = {each: getattr(attn, each) for each in _LINEAR}
            linear["to_out"] = attn.to_out[0]
            low = nn.ModuleDict({
                each: Low(one.in_features, one.out_features, rank) for each, one in linear.items()
            })  # fmt: skip
            updates[name.replace(".", "-")] = low
        attn.processor = CueAttention(plain, low)
    return updates
