"""What a bridge learns from and is measured on: weaves that only a reference shows, edits that words and a
reference name, and causes; each with the cues that the bundled models have of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from evlm.cues import look
from evlm.edit.bridge import Cues, Seen
from evlm.edit.bridge_editor import BridgedIP2P
from evlm.edit.crop import crop_box, extract, extract_mask
from evlm.edit.ip2p import IP2P
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import Plan, Trace, render
from evlm.reason.reasoner import Reasoner
from evlm.request import Reference, Request
from evlm.segment.segmenter import Segmenter

from ...world.edits import Edit
from ...world.questions import ask
from ...world.rows import to_request
from ...world.scene import Split
from ...world.traces import describe, write_trace
from ...world.whatif.ask import PLANNED, ask_what_if
from ...world.woven import WovenEdit, draw_woven
from ..editor.models import MULTIPLE

FRAME = 64
Kind = Literal["woven", "named", "what-if"]
KINDS: dict[Kind, float] = {"woven": 0.6, "named": 0.25, "what-if": 0.15}
NAMED = ("recolour", "retexture", "replace")  # that a reference may show
CODEC = BoxSpans(8)
TENSORS = ("source", "result", "place", "text", "said", "beside")


@dataclass(frozen=True)
class Sample:
    """edit: its pictures, place and reader. request, text: what the reasoner was asked and wrote."""

    kind: Kind
    edit: Edit | WovenEdit
    request: Request
    plan: Plan
    text: str

    @property
    def instruction(self) -> str:
        return self.edit.instruction

    @property
    def shown(self) -> Tensor | None:
        """The first reference picture, [1, H, W, 3] in 0..1."""
        pictures = [each.frames for each in self.request.references if each.frames is not None]
        return pictures[0][:1] if pictures else None

    def frames(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Before and after, [1, FRAME, FRAME, 3] in 0..1, and the place [1, FRAME, FRAME]; None: all."""
        before, after = (torch.from_numpy(part[:1]).float() / 255 for part in self.edit.pictures(FRAME))
        region = self.edit.region(FRAME)
        mask = None if region is None else torch.from_numpy(region)[None].float()
        if mask is not None:
            after = torch.where(mask[..., None] > 0, after, before)
        return before, after, mask


class Models:
    """The bundled chain, of which the bridge is told: reasoner, segmenter, and the editor that it is for."""

    def __init__(self, folder: Path, editor: BridgedIP2P) -> None:
        self.reasoner = Reasoner.load(folder / "reasoner", device="cpu")
        self.segmenter = Segmenter.load(folder / "segmenter", device="cpu")
        self.editor = editor

    def cues(self, sample: Sample) -> Cues:
        mask = sample.frames()[2]
        return look(
            self.editor, self.reasoner, self.segmenter, sample.request, sample.plan, sample.text, mask
        )


def draw(rng: random.Random, split: Split, kind: Kind | None = None) -> Sample:
    """A sample of that split; kind: drawn by KINDS where it is None."""
    kind = kind or rng.choices(list(KINDS), list(KINDS.values()))[0]
    if kind == "woven":
        return woven_sample(draw_woven(rng, split))
    while True:
        if kind == "named":
            question: Any = ask(rng, split, rng.choice(NAMED), "image")
            edit = question.edit
        else:
            question = ask_what_if(rng, split, rng.choice(PLANNED), null=False)
            if len(question.edit.steps) != 1:
                continue
            edit = question.edit.steps[0]
        trace = write_trace(rng, question, FRAME)
        return Sample(kind, edit, to_request(question, FRAME), trace.plan, render(trace))


def woven_sample(edit: WovenEdit) -> Sample:
    """As a reasoner would have written of it that knows the form."""
    before, shown = (torch.from_numpy(part).float() / 255 for part in (edit.pictures(FRAME)[0], edit.shown()))
    plan = Plan(edit.instruction, edit.targets, CODEC.encode(torch.from_numpy(edit.region(FRAME))), "local")
    thinking = f"reference 1 : {describe(edit.reference)} . original : {describe(edit.source)}"
    trace = Trace(thinking, edit.instruction, "this holds", plan)
    request = Request(before, edit.prompt, (Reference("image", shown),))
    return Sample("woven", edit, request, plan, render(trace))


@dataclass(frozen=True)
class Pool:
    """Samples ready to learn from, in half of the bits. sizes: of the crops' latents. source, result: latents
    [4, h, w], the latter scaled; place [1, h, w]; text [T, D], CLIP's of the instruction; said [D], its mean
    over the words; beside [4, h, h]: the reference's, as high, zeros without; cues: of one row each."""

    sizes: list[tuple[int, int]]
    source: list[Tensor]
    result: list[Tensor]
    place: list[Tensor]
    text: list[Tensor]
    said: list[Tensor]
    beside: list[Tensor]
    cues: list[Cues]

    def __len__(self) -> int:
        return len(self.sizes)


@torch.no_grad()
def fill(models: Models, samples: Sequence[Sample]) -> Pool:
    """The pool of these samples: each cut out as the editor does at work."""
    editor, pool = models.editor, Pool([], [], [], [], [], [], [], [])
    scale = float(editor.vae.config.scaling_factor)
    for sample in samples:
        before, after, mask = sample.frames()
        place = torch.ones(before.shape[:3]) if mask is None else mask
        if mask is not None:
            box = crop_box(mask, best_resolution=editor.best_resolution, multiple=MULTIPLE)
            assert box is not None  # a place is never empty
            before, after, place = extract(before, box), extract(after, box), extract_mask(mask, box)
        source, result = editor.encode(before)[0], editor.encode(after)[0] * scale
        text = editor.read(sample.instruction, [])[0]
        words = min(len(editor.tokenizer(sample.instruction).input_ids), len(text))
        pool.sizes.append((source.shape[1], source.shape[2]))
        pool.source.append(source.half())
        pool.result.append(result.half())
        pool.place.append(torch.nn.functional.max_pool2d(place[:1], editor.factor).half())
        pool.text.append(text.half())
        pool.said.append(text[:words].mean(0).half())
        pool.beside.append(beside_of(editor, sample.shown, source.shape[1])[0].half())
        pool.cues.append(models.cues(sample).to("cpu", torch.float16))
    return pool


@torch.no_grad()
def beside_of(editor: IP2P, shown: Tensor | None, height: int) -> Tensor:
    """[1, 4, height, height]: a reference's latents, unscaled, as high as a crop's; zeros without."""
    if shown is None:
        return torch.zeros(1, int(editor.vae.config.latent_channels), height, height)
    side = height * editor.factor
    small = torch.nn.functional.interpolate(
        shown.movedim(-1, 1), (side, side), mode="bilinear", antialias=True
    )
    return editor.encode(small.movedim(1, -1).clamp(0, 1))


def together(cues: Sequence[Cues]) -> Cues:
    """Rows of one batch, in full precision; what a row lacks is not known in it."""
    found = {}
    for field in fields(Cues):
        each: list[Seen | None] = [getattr(one, field.name) for one in cues]
        there = next((one for one in each if one is not None), None)
        if there is not None:
            none = there.values.new_zeros(0, there.values.shape[-1])
            found[field.name] = Seen.of(
                *(none.float() if one is None else one.values[0][one.known[0]].float() for one in each)
            )
    return Cues(**found)


def save_pool(path: Path, pool: Pool, about: str) -> None:
    """One file, replaced whole. about: what it was made of."""
    import os

    from safetensors.torch import save_file

    tensors = {}
    for at in range(len(pool)):
        for name in TENSORS:
            tensors[f"{at}.{name}"] = getattr(pool, name)[at].contiguous()
        for name, seen in vars(pool.cues[at]).items():
            if seen is not None:
                tensors[f"{at}.cues.{name}"] = seen.values[0][seen.known[0]].contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path.with_suffix(".part"), {"about": about, "count": str(len(pool))})
    os.replace(path.with_suffix(".part"), path)


def load_pool(path: Path, about: str) -> Pool | None:
    """The pool that `save_pool` wrote; None where there is none, or one of something else."""
    from safetensors import safe_open

    if not path.is_file():
        return None
    pool = Pool([], [], [], [], [], [], [], [])
    with safe_open(path, "pt") as file:
        meta, names = file.metadata() or {}, set(file.keys())
        if meta.get("about") != about:
            return None
        for at in range(int(meta["count"])):
            for name in TENSORS:
                getattr(pool, name).append(file.get_tensor(f"{at}.{name}"))
            pool.sizes.append((pool.source[-1].shape[1], pool.source[-1].shape[2]))
            pool.cues.append(Cues(**{
                field.name: Seen.of(file.get_tensor(name))
                for field in fields(Cues) if (name := f"{at}.cues.{field.name}") in names
            }))  # fmt: skip
    return pool
