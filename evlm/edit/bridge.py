"""The bridge: what words cannot carry, the look of a reference, as tokens beside CLIP's.

Parts of ReasonBrain (He et al., arXiv 2507.01908), small: a branch for the patches of the references and one
for the regions that are meant (their vision), an ID controller through which the targets' words look at both
(their text), a QFormer over what the reasoner's last layer held when it wrote its plan, and an enhancer of
each stream (CME). They end in `tokens` tokens of CLIP's width. `bridge_attention.py` puts them into the
editor's cross-attention behind a gate that begins at zero; `bridge_editor.py` is the editor.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import LayerNorm, Linear
from torch.nn import functional as F

from ..errors import CheckpointError
from ..files.pictures import write_atomically
from ..models.safetensors_file import read_header, read_tensors

PARTS = ("patch", "region", "id", "states", "cme")
"""What a study leaves out; without any, the tokens say nothing of the references."""
VERSION = 1
MARK = "bridge.version"  # a tensor [1, 1, 1] by which the zoo knows such a file
LOW = "unet."  # before the names of the updates of low rank, in a file
_BLOCKS = ("patch_blocks", "region_blocks", "id_blocks", "query_blocks", "enhancer_blocks")
_LIMITS = {"heads": 64, "rank": 256, **dict.fromkeys(_BLOCKS, 64)}


@dataclass(frozen=True)
class Shape:
    """patch, region, word, state, out: widths of what comes in, and of CLIP's text. width: of the bridge.
    *_blocks: how many of each part. queries: the QFormer's. tokens: that come out. rank: of the updates of
    the editor's cross-attention that count where tokens do; 0: none. parts: some of PARTS."""

    patch: int = 96
    region: int = 64
    word: int = 128
    state: int = 160
    out: int = 128
    width: int = 128
    patch_blocks: int = 2
    region_blocks: int = 1
    id_blocks: int = 1
    query_blocks: int = 2
    enhancer_blocks: int = 1
    queries: int = 8
    tokens: int = 16
    heads: int = 4
    rank: int = 8
    parts: tuple[str, ...] = PARTS


TINY = Shape()
SD15 = Shape(1280, 256, 768, 3584, 768, 768, 4, 2, 2, 4, 3, 32, 64, 8)
FLUX = Shape(1280, 256, 768, 3584, 4096, 1024, 4, 2, 2, 6, 5, 77, 154, 16, 0)


class Seen(NamedTuple):
    """values [B, N, C]; known bool [B, N]: which of them there are."""

    values: Tensor
    known: Tensor

    @classmethod
    def of(cls, *each: Tensor) -> Seen:
        """A batch of features [N_i, C] of unlike lengths."""
        values = nn.utils.rnn.pad_sequence(list(each), batch_first=True)
        lengths = torch.tensor([len(one) for one in each], device=values.device)
        return cls(values, torch.arange(values.shape[1], device=values.device) < lengths[:, None])


@dataclass(frozen=True)
class Cues:
    """What the bridge reads, each None where there is none. picture, patches: the vision tower's patches
    before its merger, of the original and of the references. regions: a segmenter's features, each the mean
    over one mask. words: CLIP's tokens of the plan's targets. states: the reasoner's last layer at the tokens
    of its plan. text: CLIP's tokens of the instruction."""

    picture: Seen | None = None
    patches: Seen | None = None
    regions: Seen | None = None
    words: Seen | None = None
    states: Seen | None = None
    text: Seen | None = None

    def without(self, names: Mapping[str, Tensor]) -> Cues:
        """names: field -> bool [B], of which rows it is taken away."""
        changes = {
            name: Seen(seen.values, seen.known & ~away[:, None])
            for name, away in names.items()
            if (seen := getattr(self, name)) is not None
        }
        return replace(self, **changes)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Cues:
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return Cues(**{
            name: Seen(seen.values.to(device, dtype), seen.known.to(device))
            for name, seen in found.items() if seen is not None
        })  # fmt: skip


class Bridge(nn.Module):
    """Cues -> tokens [B, tokens, out], and the gate through which they come, [tokens], at first all zero."""

    def __init__(self, shape: Shape = TINY) -> None:
        super().__init__()
        _check(shape)
        self.shape, width = shape, shape.width

        def blocks(count: int) -> nn.ModuleList:
            return nn.ModuleList(Block(width, shape.heads) for _ in range(count))

        self.picture = Source(shape.patch, width)
        self.patches, self.patch_blocks = Source(shape.patch, width), blocks(shape.patch_blocks)
        self.regions, self.region_blocks = Source(shape.region, width), blocks(shape.region_blocks)
        self.words, self.id_blocks = Source(shape.word, width), blocks(shape.id_blocks)
        self.states, self.query_blocks = Source(shape.state, width), blocks(shape.query_blocks)
        self.text = Source(shape.word, width)
        self.queries = nn.Parameter(torch.randn(1, shape.queries, width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, shape.tokens, width) * 0.02)  # of the tokens that come out
        enhancers = shape.enhancer_blocks if "cme" in shape.parts else 0
        self.visual = nn.ModuleList(Enhancer(width, shape.heads) for _ in range(enhancers))
        self.textual = nn.ModuleList(Enhancer(width, shape.heads) for _ in range(enhancers))
        self.gather = None if enhancers else Block(width, shape.heads)  # in their place
        self.norm, self.to_out = LayerNorm(width), Linear(width, shape.out)
        self.to_say = Linear(width, shape.out)
        self.raw_gate = nn.Parameter(torch.zeros(shape.tokens))

    @property
    def gate(self) -> Tensor:
        """[tokens], 0 or more: the weight of each token in the attention beside CLIP's, which have 1. What
        would make it negative still reaches the raw one, so that a gate that shut can open again."""
        raw = self.raw_gate
        return raw + (raw.clamp(min=0) - raw).detach()

    @property
    def shut(self) -> bool:
        """Whether no token gets through."""
        return not bool((self.raw_gate > 0).any())

    def forward(self, cues: Cues) -> Tensor:
        parts, count = self.shape.parts, _rows(cues)
        nothing = self.patches(None, count)
        patches = self.patches(cues.patches, count) if "patch" in parts else nothing
        regions = self.regions(cues.regions, count) if "region" in parts else nothing
        for block in self.patch_blocks:
            patches = Seen(block(patches.values, patches), patches.known)
        for block in self.region_blocks:
            regions = Seen(block(regions.values, regions), regions.known)
        look = _together(patches, regions)
        words = self.words(cues.words if "id" in parts else None, count)
        for block in self.id_blocks:
            words = Seen(block(words.values, look), words.known)
        states = self._queried(cues, count)
        tokens = self.places.expand(count, -1, -1)
        if self.gather is None:
            half = self.shape.tokens // 2
            picture, text = self.picture(cues.picture, count), self.text(cues.text, count)
            streams = []
            for enhancers, tokens_of, own, rest in (
                (self.visual, tokens[:, :half], picture, look),
                (self.textual, tokens[:, half:], text, words),
            ):
                for enhancer in enhancers:
                    tokens_of, own = enhancer(tokens_of, states, own, rest)
                streams.append(tokens_of)
            tokens = torch.cat(streams, 1)
        else:
            tokens = self.gather(tokens, _together(look, words, states))
        return self.to_out(self.norm(tokens))

    def say(self, cues: Cues) -> Tensor:
        """[B, out]: the mean of what the QFormer read of the states, as CLIP would have it of the
        instruction; what its first training compares."""
        return self.to_say(self._queried(cues, _rows(cues)).values.mean(1))

    def _queried(self, cues: Cues, count: int) -> Seen:
        states = self.states(cues.states if "states" in self.shape.parts else None, count)
        found = self.queries.expand(count, -1, -1)
        for block in self.query_blocks:
            found = block(found, states)
        return Seen(found, torch.ones(found.shape[:2], dtype=torch.bool, device=found.device))


class Source(nn.Module):
    """Features of one kind, to the bridge's width and with a mark of their kind, behind one that says
    "nothing more", so that there is always something to look at."""

    def __init__(self, given: int, width: int) -> None:
        super().__init__()
        self.norm, self.project = LayerNorm(given), Linear(given, width)
        self.kind = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.nothing = nn.Parameter(torch.randn(1, 1, width) * 0.02)

    def forward(self, seen: Seen | None, count: int) -> Seen:
        first = Seen(
            self.nothing.expand(count, -1, -1),
            torch.ones(count, 1, dtype=torch.bool, device=self.nothing.device),
        )
        if seen is None:
            return first
        values = self.project(self.norm(seen.values)) + self.kind
        return _together(first, Seen(torch.where(seen.known[..., None], values, 0), seen.known))


class Look(nn.Module):
    """x [B, N, W] and what it sees, which may be itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.of = LayerNorm(width), LayerNorm(width)
        self.to_q, self.to_kv = Linear(width, width), Linear(width, 2 * width)
        self.to_out = Linear(width, width)

    def forward(self, x: Tensor, seen: Seen) -> Tensor:
        def parted(values: Tensor) -> Tensor:
            return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        key, value = self.to_kv(self.of(seen.values)).chunk(2, -1)
        query = parted(self.to_q(self.before(x)))
        mask = seen.known[:, None, None]
        looked = F.scaled_dot_product_attention(query, parted(key), parted(value), attn_mask=mask)
        return x + self.to_out(looked.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A look, and what is made of it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.look = Look(width, heads)
        self.think = nn.Sequential(
            LayerNorm(width), Linear(width, 4 * width), nn.GELU(), Linear(4 * width, width)
        )

    def forward(self, x: Tensor, seen: Seen) -> Tensor:
        x = self.look(x, seen)
        return x + self.think(x)


class Enhancer(nn.Module):
    """A hybrid block of CME: the tokens look at the plan's states, the stream's own encoding at its
    references, then the tokens at that."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.plan, self.rest, self.fuse = Look(width, heads), Look(width, heads), Block(width, heads)

    def forward(self, tokens: Tensor, states: Seen, own: Seen, rest: Seen) -> tuple[Tensor, Seen]:
        own = Seen(self.rest(own.values, rest), own.known)
        return self.fuse(self.plan(tokens, states), own), own


@dataclass(frozen=True)
class BridgeMeta:
    """What a file says of itself. base: the editor that it is for, as the zoo names it. training: what made
    it, for people."""

    shape: Shape
    base: str = "bundled"
    training: Mapping[str, Any] = field(default_factory=dict)


def save_bridge(path: str | Path, tensors: Mapping[str, Tensor], meta: BridgeMeta) -> None:
    """Writes one safetensors file, in half of the bits. tensors: `state_dict` of a bridge. Raises
    CheckpointError."""
    from safetensors.torch import save

    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: a bridge is written as .safetensors, not {path.suffix!r}")
    kept = {MARK: torch.full((1, 1, 1), float(VERSION), dtype=torch.float16)}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise CheckpointError(f"{name} holds NaN or infinity and is not saved; lower the learning rate")
        kept[name] = tensor.detach().to("cpu", torch.float16, copy=True).contiguous()
    about = {"shape": asdict(meta.shape), "base": meta.base, "training": dict(meta.training)}
    content = save(kept, metadata={"evlm.bridge": json.dumps(about)})
    write_atomically(path, lambda file: file.write(content))


def load_bridge(path: str | Path) -> tuple[dict[str, Tensor], BridgeMeta]:
    """(tensors in float32, what the file says). Raises CheckpointError."""
    path = Path(path)
    header = read_header(path)
    try:
        about = json.loads(header.metadata["evlm.bridge"])
        shape = {**about["shape"], "parts": tuple(about["shape"]["parts"])}
        meta = BridgeMeta(Shape(**shape), str(about["base"]), dict(about["training"]))
        expected = {name: tuple(tensor.shape) for name, tensor in planned(meta.shape).state_dict().items()}
    except (KeyError, TypeError, ValueError, RecursionError, OverflowError) as error:
        raise CheckpointError(
            f"{path}: not a bridge of this version ({type(error).__name__}: {error!s:.120})"
        ) from None
    held = {
        name: info.shape for name, info in header.tensors.items() if name != MARK and not name.startswith(LOW)
    }
    if held != expected:
        name = min(name for name in held.keys() | expected.keys() if held.get(name) != expected.get(name))
        raise CheckpointError(
            f"{path}: does not fit the shape that it names itself: {name} is "
            f"{held.get(name, 'not there')}, expected {expected.get(name, 'none of that name')}"
        )
    tensors = read_tensors(path, header)
    if float(tensors.pop(MARK, torch.zeros(1)).flatten()[0]) != VERSION:
        raise CheckpointError(f"{path}: a bridge of another version; this one reads version {VERSION}")
    return {name: tensor.float() for name, tensor in tensors.items()}, meta


def planned(shape: Shape) -> Bridge:
    """One that takes no memory yet, for `load_state_dict(..., assign=True)`: a file may name any shape.
    Raises ValueError as `_check`."""
    with torch.device("meta"):
        return Bridge(shape)


def _check(shape: Shape) -> None:
    """Raises ValueError for a shape that cannot be built, or is none."""
    for name, value in asdict(shape).items():
        if name == "parts":
            if not set(value) <= set(PARTS):
                raise ValueError(f"parts {value}: expected some of {', '.join(PARTS)}")
        elif not isinstance(value, int) or not int(name != "rank") <= value <= _LIMITS.get(name, 16384):
            raise ValueError(f"{name} {value!r:.40}: expected a whole number in its range")
    if shape.width % shape.heads or shape.tokens % 2:
        raise ValueError(f"width {shape.width} in {shape.heads} heads, {shape.tokens} tokens: no whole parts")


def _rows(cues: Cues) -> int:
    known = [seen for each in fields(cues) if (seen := getattr(cues, each.name)) is not None]
    return len(known[0].values) if known else 1


def _together(*parts: Seen) -> Seen:
    return Seen(torch.cat([each.values for each in parts], 1), torch.cat([each.known for each in parts], 1))


def with_parts(shape: Shape, parts: Collection[str]) -> Shape:
    """The shape of a bridge that has these parts alone, as a study compares them."""
    return replace(shape, parts=tuple(part for part in PARTS if part in parts))
