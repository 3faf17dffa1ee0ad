"""Requests and answers to model inputs: tokens, patches, explicit M-RoPE positions, and which tokens are to
be learned.

The slow, obvious way is `evlm.reason.messages.encode` (transformers' processor) and the model's own
`get_rope_index`; what is built here equals it (tests/trainer/model/test_batch.py, test_families.py) and costs
a tenth, because a small model trains faster than the processor prepares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evlm.reason.messages import Chat, Clip, template_text, unmarked_videos

TIMED = "Qwen3VLProcessor"  # which writes the time before each pair of a video's frames


@dataclass(frozen=True)
class Pictures:
    """What the processor's settings make of pictures: pixels of a patch, frames of a patch, patches merged.

    pixels: of the largest picture; least: of the smallest, None for the same (then all have one area). clip:
    (least, largest) of a video's frame; None for a picture's. together: these are of all frames of a video
    (Qwen3-VL). clip_mean, clip_std: of a video's colours, None for a picture's.
    """

    patch: int
    temporal: int
    merge: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixels: int
    least: int | None = None
    clip: tuple[int, int] | None = None
    together: bool = False
    clip_mean: tuple[float, ...] | None = None
    clip_std: tuple[float, ...] | None = None

    @classmethod
    def of(cls, processor: Any) -> Pictures:
        ip, videos = processor.image_processor, processor.video_processor
        return cls(
            ip.patch_size,
            ip.temporal_patch_size,
            ip.merge_size,
            tuple(ip.image_mean),
            tuple(ip.image_std),
            int(ip.size["longest_edge"]),
            int(ip.size["shortest_edge"]),
            (int(videos.size["shortest_edge"]), int(videos.size["longest_edge"])),
            type(processor).__name__ == TIMED,
            tuple(videos.image_mean),
            tuple(videos.image_std),
        )

    def area(self, video: bool) -> tuple[int, int]:
        """(least, most) pixels of a picture, or of a video's frame."""
        return self.clip if video and self.clip else (self.least or self.pixels, self.pixels)

    def size(self, frames: int, height: int, width: int, video: bool) -> tuple[int, int]:
        """(height, width) in pixels that the processor makes of so many frames."""
        side, area = self.patch * self.merge, self.area(video)
        if video and self.together:
            from transformers.models.qwen3_vl import video_processing_qwen3_vl as qwen3

            return tuple(qwen3.smart_resize(frames, height, width, self.temporal, side, *area))
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        return tuple(smart_resize(height, width, side, *area))


@dataclass
class Batch:
    """B rows of L tokens, padded on the right.

    input_ids int64 [B, L]; attention_mask bool [B, L]; position_ids int64 [3, B, L]; labels int64 [B, L] with
    -100 where nothing is learned (labels[b, t] is the token at t, predicted from t - 1).
    pixels float32 [patches, patch dim] of all pictures in token order, grids int64 [pictures, 3] as (t, h, w)
    patches; vision_mask bool [B, L] marks the tokens that they fill. shown: labels of the patches, for a head
    beside the model; None where there is none. features [visual tokens, width * (1 + levels)]: what the tower
    makes of the pixels, where that is known already (`forward.Features`).
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
    """Chats and their answers -> Batch, for one processor.

    config: the model's. Without it tokens and patches are right, but a Qwen2.5-VL does not learn when a
    video's frames were taken: how many positions a second has stands there alone.
    """

    def __init__(self, processor: Any, config: Any = None) -> None:
        self.processor = processor
        self.timed = type(processor).__name__ == TIMED
        vision = getattr(config, "vision_config", None)
        self.per_second: float | None = getattr(vision, "tokens_per_second", None)
        self.tokenizer = processor.tokenizer
        self.pictures = Pictures.of(processor)
        tokens = self.tokenizer.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>"])
        self.image_id, self.video_id = tokens
        self.end = self.tokenizer.eos_token or "<|im_end|>"

    def __call__(self, chats: Sequence[Chat], answers: Sequence[str]) -> Batch:
        """Batch of one answer a chat; the answer and the end token are learned."""
        prompts = self.tokenizer([self._text(c) for c in chats], add_special_tokens=False)["input_ids"]
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

    def _text(self, chat: Chat) -> str:
        """The chat with one placeholder a picture, or a pair of a video's frames (Qwen3-VL)."""
        text = template_text(self.processor, chat)
        if not self.timed or not chat.videos:
            return text
        first, *rest = unmarked_videos(self.processor, text).split(self.processor.video_token)
        return first + "".join(
            self._frames(clip) + after for clip, after in zip(chat.videos, rest, strict=True)
        )

    def _frames(self, clip: Clip) -> str:
        """A video as Qwen3-VL reads it: each pair of frames behind the time of its middle."""
        p = self.processor
        one = f"{p.vision_start_token}{p.video_token}{p.vision_end_token}"
        times = [index / clip.rate for index in clip.indices]
        n = self.pictures.temporal
        times += times[-1:] * (-len(times) % n)
        pairs = zip(times[::n], times[n - 1 :: n], strict=True)
        return "".join(f"<{(begin + end) / 2:.1f} seconds>{one}" for begin, end in pairs)

    def _times(self, clip: Clip, count: int) -> Tensor:
        """The temporal positions of a video's `count` pairs of frames, from its start: int64 [count]."""
        if self.per_second is None:
            return torch.arange(count)
        # As Qwen2.5-VL's processor and model do, in float32.
        sampled = len(clip.indices) / clip.total * clip.rate
        return (
            torch.arange(count) * (self.per_second * torch.tensor(self.pictures.temporal / sampled))
        ).long()

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

        waiting = 0  # placeholders of the last video that are yet to come: Qwen3-VL has one a pair of frames
        for token in prompt:
            if token not in (self.image_id, self.video_id):
                ids.append(token)
                run += 1
                continue
            video = token == self.video_id
            flush()
            if not waiting:
                clip = next(videos) if video else None
                patch, grid = patchify(
                    clip.frames if clip is not None else next(images)[None], self.pictures, video
                )
                t, h, w = grid[0], grid[1] // self.pictures.merge, grid[2] // self.pictures.merge
                patches.append(patch)
                grids.append(grid)
                split = video and self.timed
                when = self._times(clip, t) if clip is not None and not split else torch.arange(1)
                waiting = t if split else 1
            waiting -= 1
            ids += [token] * (len(when) * h * w)
            places = torch.meshgrid(when, torch.arange(h), torch.arange(w), indexing="ij")
            positions.append(at + torch.stack(places).flatten(1))
            at += max(h, w)  # as the model does: time does not count
        ids += reply
        run += len(reply)
        flush()
        return torch.tensor(ids), torch.cat(positions, 1), len(reply), patches, grids


def patchify(frames: Tensor, pictures: Pictures, video: bool = False) -> tuple[Tensor, tuple[int, int, int]]:
    """uint8 [T, 3, H, W] -> (float32 [patches, 3 * temporal * patch^2], (t, h, w)), as Qwen-VL's processors
    do.

    Pictures whose sides are not multiples of patch * merge, or whose area is outside the processor's limits,
    are resized by the processor's own rule first.
    """
    p, m = pictures.patch, pictures.merge
    height, width = frames.shape[-2:]
    to = pictures.size(len(frames), height, width, video)
    if to != (height, width):
        from torchvision.transforms.v2 import functional as tv

        frames = tv.resize(frames, list(to), tv.InterpolationMode.BICUBIC, antialias=True)
        height, width = to
    x = frames.float()
    colours = (pictures.mean, pictures.std)
    if video and pictures.clip_mean and pictures.clip_std:
        colours = (pictures.clip_mean, pictures.clip_std)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in colours)
    x = (x - mean) / std
    if len(x) % pictures.temporal:  # a still is shown to both frames of a patch
        x = torch.cat([x, x[-1:].expand(pictures.temporal - len(x) % pictures.temporal, -1, -1, -1)])
    t, h, w = len(x) // pictures.temporal, height // p, width // p
    x = x.view(t, pictures.temporal, 3, h // m, m, p, w // m, m, p).permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
    return x.reshape(t * h * w, -1), (t, h, w)
