"""Requests and answers to model inputs: tokens, patches, explicit M-RoPE positions, and which tokens are to
be learned.

The slow, obvious way is `evlm.reason.messages.encode` (transformers' processor) and the model's own
`get_rope_index`; what is built here equals it (tests/trainer/model/test_batch.py) and costs a tenth, because
a small model trains faster than the processor prepares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evlm.reason.messages import Chat, template_text


@dataclass(frozen=True)
class Pictures:
    """What the processor's settings make of pictures: pixels of a patch, frames of a patch, patches merged.

    pixels: of the largest picture; least: of the smallest, None for the same (then all have one area). clip:
    (least, largest) of a video's frame; None for a picture's.
    """

    patch: int
    temporal: int
    merge: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: int
    least: int | None = None
    clip: tuple[int, int] | None = None

    @classmethod
    def of(cls, processor: Any) -> Pictures:
        ip, size = processor.image_processor, processor.video_processor.size
        return cls(
            ip.patch_size,
            ip.temporal_patch_size,
            ip.merge_size,
            tuple(ip.image_mean),
            tuple(ip.image_std),
            int(ip.size["longest_edge"]),
            int(ip.size["shortest_edge"]),
            (int(size["shortest_edge"]), int(size["longest_edge"])),
        )

    def area(self, video: bool) -> tuple[int, int]:
        """(least, most) pixels of a picture, or of a video's frame."""
        return self.clip if video and self.clip else (self.least or self.pixels, self.pixels)


@dataclass
class Batch:
    """B rows of L tokens, padded on the right.

    input_ids int64 [B, L]; attention_mask bool [B, L]; position_ids int64 [3, B, L]; labels int64 [B, L] with
    -100 where nothing is learned (labels[b, t] is the token at t, predicted from t - 1).
    pixels float32 [patches, patch dim] of all pictures in token order, grids int64 [pictures, 3] as (t, h, w)
    patches; vision_mask bool [B, L] marks the tokens that they fill. shown: labels of the patches, for a head
    beside the model; None where there is none. features [visual tokens, width]: what the tower makes of the
    pixels, where that is known already (`forward.Features`).
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    pixels: Tensor
    grids: Tensor
    vision_mask: Tensor
    shown: Tensor | None = None
    features: Tensor | None = None

    @property
    def tokens(self) -> int:
        return int(self.attention_mask.sum())

    def to(self, device: torch.device) -> Batch:
        return Batch(**{n: v.to(device) if isinstance(v, Tensor) else v for n, v in vars(self).items()})


class Collator:
    """Chats and their answers -> Batch, for one processor."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.pictures = Pictures.of(processor)
        tokens = self.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
        self.image_id, self.video_id = tokens
        self.end = self.tokenizer.eos_token or "<|im_end|>"

    def __call__(self, chats: Sequence[Chat], answers: Sequence[str]) -> Batch:
        """Batch of one answer a chat; the answer and the end token are learned."""
        prompts = self.tokenizer([template_text(self.processor, c) for c in chats], add_special_tokens=False)[
            "input_ids"
        ]
        # An answer spells no special token, as a question does not; its end is the one that is put there.
        texts = [answer.replace("<|", "< |") + self.end for answer in answers]
        replies = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        rows = [self._row(c, p, r) for c, p, r in zip(chats, prompts, replies, strict=True)]
        length = max(len(ids) for ids, *_ in rows)
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(rows), length), pad)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        labels = torch.full((len(rows), length), -100)
        positions = torch.zeros(3, len(rows), length, dtype=torch.long)
        for b, (row, position, learned, _, _) in enumerate(rows):
            n = len(row)
            ids[b, :n], mask[b, :n], positions[:, b, :n] = row, True, position
            labels[b, n - learned : n] = row[n - learned :]
        patches = [p for *_, ps, _ in rows for p in ps]
        grids = [g for *_, gs in rows for g in gs]
        return Batch(
            ids,
            mask,
            positions,
            labels,
            torch.cat(patches) if patches else torch.zeros(0, 0),
            torch.tensor(grids, dtype=torch.long).view(-1, 3),
            (ids == self.image_id) | (ids == self.video_id),
        )

    def _row(
        self, chat: Chat, prompt: list[int], reply: list[int]
    ) -> tuple[Tensor, Tensor, int, list[Tensor], list[tuple[int, int, int]]]:
        """(tokens, positions [3, n], learned tokens, patches, grids) of one row, placeholders expanded."""
        images, videos = iter(chat.images), iter(chat.videos)
        ids: list[int] = []
        positions: list[Tensor] = []
        patches: list[Tensor] = []
        grids: list[tuple[int, int, int]] = []
        at = run = 0  # the next position, and how many text tokens wait for theirs

        def flush() -> None:
            nonlocal at, run
            positions.append(torch.arange(at, at + run).expand(3, run))
            at, run = at + run, 0

        for token in prompt:
            if token not in (self.image_id, self.video_id):
                ids.append(token)
                run += 1
                continue
            video = token == self.video_id
            frames = next(videos).frames if video else next(images)[None]
            patch, grid = patchify(frames, self.pictures, video)
            flush()
            t, h, w = grid[0], grid[1] // self.pictures.merge, grid[2] // self.pictures.merge
            ids += [token] * (t * h * w)
            positions.append(
                at + torch.stack(torch.meshgrid(*map(torch.arange, (t, h, w)), indexing="ij")).flatten(1)
            )
            at += max(h, w)  # as the model does: time does not count
            patches.append(patch)
            grids.append(grid)
        ids += reply
        run += len(reply)
        flush()
        return torch.tensor(ids), torch.cat(positions, 1), len(reply), patches, grids


def patchify(frames: Tensor, pictures: Pictures, video: bool = False) -> tuple[Tensor, tuple[int, int, int]]:
    """uint8 [T, 3, H, W] -> (float32 [patches, 3 * temporal * patch^2], (t, h, w)), as Qwen2-VL's processor
    does.

    Pictures whose sides are not multiples of patch * merge, or whose area is outside the processor's limits,
    are resized by the processor's own rule first.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    p, m = pictures.patch, pictures.merge
    height, width = frames.shape[-2:]
    to = smart_resize(height, width, p * m, *pictures.area(video))
    if to != (height, width):
        from torchvision.transforms.v2 import functional as tv

        frames = tv.resize(frames, list(to), tv.InterpolationMode.BICUBIC, antialias=True)
        height, width = to
    x = frames.float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (pictures.mean, pictures.std))
    x = (x - mean) / std
    if len(x) % pictures.temporal:  # a still is shown to both frames of a patch
        x = torch.cat([x, x[-1:].expand(pictures.temporal - len(x) % pictures.temporal, -1, -1, -1)])
    t, h, w = len(x) // pictures.temporal, height // p, width // p
    x = x.view(t, pictures.temporal, 3, h // m, m, p, w // m, m, p).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(t * h * w, -1), (t, h, w)
