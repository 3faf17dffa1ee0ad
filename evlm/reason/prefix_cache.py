"""What a model has read of a prompt, kept for the next one that begins alike: several prompts on one picture
share the system text and the picture.

A prompt is read in pieces, whether or not anything of it is kept, so that both ways compute the same numbers:
the system text, each picture or video with the words before it, and the rest. A piece is known by its tokens,
positions and pixels and by all the pieces before it, so that what is shared ends at the first difference.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import ModelError

PREFIX_BYTES = 512 << 20
"""What a reasoner keeps at most: two to five pictures of one megapixel, with the words, of a 7B model."""

LEAST_PIECE = 128
"""Tokens: fewer are read with what follows, for that costs less than a forward of their own."""

Layers = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, both [1, heads, tokens, size]."""


class Piece(NamedTuple):
    """A part of a prompt. inputs: of one forward; positions: [3, 1, tokens]; name: its hash."""

    inputs: dict[str, Tensor]
    positions: Tensor
    name: bytes

    @property
    def tokens(self) -> int:
        return self.positions.shape[-1]


class _Medium(NamedTuple):
    """A picture or video: its tokens begin..end, its row in the grids, the rows of its pixels."""

    kind: str
    begin: int
    end: int
    row: int
    pixels: slice


_INPUTS = {
    "image": ("pixel_values", "image_grid_thw"),
    "video": ("pixel_values_videos", "video_grid_thw"),
}


def split(config: Any, inputs: dict[str, Tensor], positions: Tensor) -> list[Piece]:
    """The pieces of one prompt. config: the model's. inputs: as `messages.encode` makes them, of one chat;
    positions: [3, 1, tokens]. Raises ModelError when the processor's tokens are not those of its grids."""
    ids = inputs["input_ids"]
    media = _media(config, ids[0].tolist(), inputs)
    wanted = [media[0].begin, *(each.end for each in media)] if media else []
    cuts = [0]
    for cut in wanted:
        if cut - cuts[-1] >= LEAST_PIECE and cut < ids.shape[1]:
            cuts.append(cut)
    pieces: list[Piece] = []
    for begin, end in zip(cuts, [*cuts[1:], ids.shape[1]], strict=True):
        within = [each for each in media if begin <= each.begin < end]
        part = {name: inputs[name][:, begin:end] for name in _PER_TOKEN if name in inputs}
        for kind, (pixels, grid) in _INPUTS.items():
            if these := [each for each in within if each.kind == kind]:
                part[pixels] = inputs[pixels][these[0].pixels.start : these[-1].pixels.stop]
                part[grid] = inputs[grid][these[0].row : these[-1].row + 1]
        before = pieces[-1].name if pieces else b""
        where = positions[..., begin:end]
        pieces.append(Piece(part, where, _name(before, part, where)))
    return pieces


_PER_TOKEN = ("input_ids", "mm_token_type_ids")


def _media(config: Any, ids: list[int], inputs: dict[str, Tensor]) -> list[_Medium]:
    """In the order of the prompt. The tokens of a video may be parted by the times of its frames."""
    merged = config.vision_config.spatial_merge_size**2
    kinds = {config.image_token_id: "image", config.video_token_id: "video"}
    rows, read = dict.fromkeys(_INPUTS, 0), dict.fromkeys(_INPUTS, 0)
    found: list[_Medium] = []
    at = 0
    while at < len(ids):
        token = ids[at]
        kind = kinds.get(token)
        if kind is None:
            at += 1
            continue
        grids, begin, row = inputs.get(_INPUTS[kind][1]), at, rows[kind]
        if grids is None or row >= len(grids):
            raise ModelError(f"the processor wrote more {kind}s than it made pixels of")
        patches = int(grids[row].prod())
        left = patches // merged
        while left:
            if at == len(ids):
                raise ModelError(f"the processor wrote too few tokens for {kind} {row + 1}")
            left -= ids[at] == token
            at += 1
        found.append(_Medium(kind, begin, at, row, slice(read[kind], read[kind] + patches)))
        rows[kind], read[kind] = row + 1, read[kind] + patches
    return found


def _name(before: bytes, inputs: dict[str, Tensor], positions: Tensor) -> bytes:
    sha = hashlib.sha256(before)
    for key, value in (*sorted(inputs.items()), ("positions", positions)):
        sha.update(f"{key} {tuple(value.shape)} {value.dtype} ".encode())
        sha.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return sha.digest()


class PrefixCache:
    """Keys and values of pieces, up to `limit` bytes; 0 keeps nothing. Those used longest ago go first. They
    belong to one state of one model's weights and are dropped as soon as it is another."""

    def __init__(self, limit: int = PREFIX_BYTES) -> None:
        if limit < 0:
            raise ModelError(f"prefix cache of {limit:,} bytes: expected 0 (none) or more")
        self.limit = limit
        self.nbytes = 0
        self._kept: OrderedDict[bytes, Layers] = OrderedDict()
        self._weights: Hashable = None

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        self._kept.clear()
        self.nbytes, self._weights = 0, None

    def find(self, model: Any, pieces: Sequence[Piece]) -> list[Layers]:
        """What is kept of the first pieces, of the last piece never: its logits are wanted."""
        if not self._kept:
            return []
        if self._weights != weights_of(model):
            self.clear()
        found: list[Layers] = []
        for piece in pieces[:-1]:
            if piece.name not in self._kept:
                break
            found.append(self._kept[piece.name])
        return found

    def keep(self, model: Any, pieces: Sequence[Piece], cache: Any) -> None:
        """cache: transformers' own, which holds all the pieces."""
        layers = cache.layers
        if not self.limit:
            return
        if any(getattr(layer, "is_sliding", False) for layer in layers):
            return  # such a layer forgets the beginning
        begin, new = 0, []
        for piece in pieces[:-1]:
            end = begin + piece.tokens
            if piece.name not in self._kept:
                size = sum(t[:, :, begin:end].nbytes for each in layers for t in (each.keys, each.values))
                new.append((piece.name, begin, end, size))
            begin = end
        names = [piece.name for piece in pieces[:-1]]
        held = sum(_bytes(self._kept[name]) for name in names if name in self._kept)
        if new and self._weights is None:
            self._weights = weights_of(model)
        for name, start, end, size in new:
            if held + size > self.limit:
                break  # and none behind it, which could not be found without it
            held += size
            self._make_room(size, spared=names)
            self._kept[name] = [
                (each.keys[:, :, start:end].clone(), each.values[:, :, start:end].clone()) for each in layers
            ]
            self.nbytes += size
        for name in reversed(names):  # the first is needed by all behind it, so it goes last
            if name in self._kept:
                self._kept.move_to_end(name)

    def _make_room(self, size: int, spared: Sequence[bytes]) -> None:
        for name in [name for name in self._kept if name not in spared]:
            if self.nbytes + size <= self.limit:
                return
            self.nbytes -= _bytes(self._kept.pop(name))


def _bytes(layers: Layers) -> int:
    return sum(keys.nbytes + values.nbytes for keys, values in layers)


def weights_of(model: Any) -> Hashable:
    """Equal as long as a model's weights and the adapters in use are the same, on the same device."""
    numbers = tuple(
        (each.data_ptr(), 0 if each.is_inference() else each._version)
        for each in (*model.parameters(), *model.buffers())
    )
    adapters = tuple(
        (tuple(each.active_adapters), each.disable_adapters, tuple(sorted(each.scaling.items())))
        for each in model.modules()
        if hasattr(each, "lora_A") and hasattr(each, "active_adapters")
    )
    return id(model), numbers, adapters
