"""Questions without answers, taken apart from the answers that stand behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from evlm.errors import EVLMError

from .batch import Batch


@dataclass(frozen=True)
class Prompts:
    """B questions without answers. batch: padded on the right, nothing to learn. starts int64 [B]: the M-RoPE
    position of a response's first token. pictures: how many of the batch's pictures each row shows."""

    batch: Batch
    starts: Tensor
    pictures: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> Tensor:
        return self.batch.attention_mask.sum(1)

    def take(self, rows: Sequence[int]) -> Prompts:
        """Some of the prompts, in this order, without the padding that they do not need."""
        b = self.batch
        index = torch.tensor(list(rows), dtype=torch.long)
        longest = int(self.lengths[index].max())
        ends = [0, *accumulate(self.pictures)]
        grids = [b.grids[ends[r] : ends[r + 1]] for r in rows]
        patches = [0, *accumulate(b.grids.prod(1).tolist())]
        pixels = [b.pixels[patches[ends[r]] : patches[ends[r + 1]]] for r in rows]
        batch = Batch(
            b.input_ids[index, :longest],
            b.attention_mask[index, :longest],
            b.position_ids[:, index, :longest],
            b.labels[index, :longest],
            torch.cat(pixels),
            torch.cat(grids),
            b.vision_mask[index, :longest],
            features=self._features(rows),
        )
        return Prompts(batch, self.starts[index], tuple(self.pictures[r] for r in rows))

    def _features(self, rows: Sequence[int]) -> Tensor | None:
        """The features of some rows' pictures."""
        if self.batch.features is None:
            return None
        ends = [0, *self.batch.vision_mask.sum(1).cumsum(0).tolist()]
        return torch.cat([self.batch.features[ends[r] : ends[r + 1]] for r in rows])


def split(batch: Batch, merge: int = 2) -> tuple[Prompts, list[Tensor]]:
    """A collated batch as its prompts and its responses (int64 [n] each, the end token included).

    merge: patches a side that become one token (vision_config.spatial_merge_size). The batch may be padded on
    either side; a row's labels must be its last tokens. What comes out lies on the CPU, where it is taken
    apart and put together; the scoring functions move what they feed.
    """
    batch = replace(batch, **{n: v.cpu() for n, v in vars(batch).items() if isinstance(v, Tensor)})
    kept, responses, starts, counts = [], [], [], []
    tokens_of_pictures = iter((batch.grids.prod(1) // merge**2).tolist())
    for b in range(len(batch.input_ids)):
        real = batch.attention_mask[b].nonzero().flatten()
        learned = int((batch.labels[b] != -100).sum())
        if not learned or not bool((batch.labels[b, real[-learned:]] != -100).all()):
            raise EVLMError(f"row {b} of the batch: expected a response of at least a token at its end")
        kept.append(real[:-learned])
        responses.append(batch.input_ids[b, real[-learned:]])
        starts.append(int(batch.position_ids[0, b, real[-learned]]))
        waiting, count = int(batch.vision_mask[b].sum()), 0
        while waiting > 0:
            waiting, count = waiting - next(tokens_of_pictures), count + 1
        counts.append(count)
    rows, longest = len(kept), max(len(each) for each in kept)

    def pad(values: Tensor, fill: int) -> Tensor:
        out = values.new_full((rows, longest), fill)
        for b, where in enumerate(kept):
            out[b, : len(where)] = values[b, where]
        return out

    prompts = replace(
        batch,
        input_ids=pad(batch.input_ids, 0),
        attention_mask=pad(batch.attention_mask, 0),
        position_ids=torch.stack([pad(axis, 0) for axis in batch.position_ids]),
        labels=batch.labels.new_full((rows, longest), -100),
        vision_mask=pad(batch.vision_mask, 0),
        shown=None,
    )
    return Prompts(prompts, torch.tensor(starts), tuple(counts)), responses
