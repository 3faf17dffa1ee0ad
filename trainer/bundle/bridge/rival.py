"""The cheap rival of a bridge: InstructPix2Pix that sees the reference pasted beside its picture, and learns
to look there by updates of low rank in all its attention, in as many steps."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from evlm.edit.bridge_attention import Low
from evlm.edit.ip2p import IP2P
from evlm.edit.parts import Parts, load_parts
from evlm.edit.protocol import EditSettings

from ...model.optim import make_optimizer, schedule
from .data import Pool, Sample, beside_of
from .train import Recipe, State, batch_rows, learnable, restored, velocity_loss


class Pasted(IP2P):
    """shown: the reference, [1, H, W, 3] in 0..1; None: an empty place beside the picture."""

    def __init__(self, parts: Parts, rank: int) -> None:
        super().__init__(parts)
        self.low = _low_rank(self.unet, rank)
        self.shown: Tensor | None = None

    @classmethod
    def begin(cls, folder: Path, rank: int, seed: int = 0) -> Pasted:
        torch.manual_seed(seed)
        editor = cls(learnable(load_parts(folder / "editor", torch.float32)), rank)
        for module in (editor.unet, editor.vae, editor.text_encoder):
            module.requires_grad_(False)
        return editor

    def put(self, file: Path) -> Pasted:
        self.low.load_state_dict(load_file(file))
        return self

    def of(self, sample: Sample) -> Pasted:
        """The same editor, shown the first reference of a sample."""
        editor = copy.copy(self)
        editor.shown = sample.shown
        return editor

    def paint(
        self, picture: Tensor, text: Tensor, mask: Tensor | None, settings: EditSettings, *_: Any, **__: Any
    ) -> Tensor:
        """As IP2P's, beside the reference, which is held as it is."""
        height = picture.shape[2]
        beside = beside_of(self, self.shown, height).expand(len(picture), -1, -1, -1)
        held = picture.new_zeros(len(picture), 1, height, height)
        free = picture.new_ones(len(picture), 1, *picture.shape[2:]) if mask is None else mask
        wide = torch.cat([beside, picture], 3)
        painted = super().paint(wide, text, torch.cat([held, free], 3), settings)
        return painted[..., height:]


def train_rival(
    folder: Path, out: Path, work: Path, pool: Pool, seed: int, log: Callable[[str], None], recipe: Recipe
) -> Pasted:
    """As many steps as the bridge's second and third stages have together, on the same pool; goes on from the
    newest state in `work`, and writes `out`."""
    editor = Pasted.begin(folder, recipe.shape.rank, seed)
    about = {**asdict(recipe), "parts": ()}  # which the rival has not
    state = State(work / "rival-state.safetensors", editor.low, f"rival {seed} {about}")
    _, first, tensors = state.load()
    steps = recipe.steps[1] + recipe.steps[2]
    optimizer = make_optimizer(editor.low, recipe.lr_muon[2], recipe.lr_adam[1])
    restored(optimizer, tensors)
    blank = editor.read("", [])[:1]
    for step in range(first, steps):
        rng = random.Random(f"rival {seed} {step}")
        torch.manual_seed(rng.randrange(2**31))
        rows = batch_rows(rng, pool, recipe.batches[1], alike=True)
        loss = rival_loss(editor, pool, rows, blank, recipe)
        loss.backward()
        nn.utils.clip_grad_norm_(editor.low.parameters(), 1.0)
        optimizer.set_lr(schedule(step, steps))
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % recipe.save_every == 0 or step + 1 == steps:
            log(f"rival: {step + 1}/{steps} loss {loss.item():.4f}")
            state.save(optimizer, 0, step + 1)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in editor.low.state_dict().items()}, out)
    return editor


def rival_loss(editor: Pasted, pool: Pool, rows: list[int], blank: Tensor, recipe: Recipe) -> Tensor:
    source, result, place, beside = (
        torch.stack([part[at] for at in rows]).float()
        for part in (pool.source, pool.result, pool.place, pool.beside)
    )
    text = torch.stack([pool.text[at] for at in rows]).float()
    text = torch.where((torch.rand(len(rows)) < recipe.plain)[:, None, None], blank, text)
    beside = torch.where((torch.rand(len(rows)) < recipe.drop)[:, None, None, None], 0, beside)
    scale = float(editor.vae.config.scaling_factor)
    wide = (
        torch.cat([beside, source], 3),
        torch.cat([beside * scale, result], 3),
        torch.cat([torch.zeros_like(beside[:, :1]), place], 3),
    )
    return velocity_loss(editor.unet, *wide, recipe, encoder_hidden_states=text)


def _low_rank(unet: Any, rank: int) -> nn.ModuleDict:
    """Updates of every projection of a UNet's attention, added to what it gives."""
    updates = nn.ModuleDict()
    for name, attn in unet.named_modules():
        if not (hasattr(attn, "to_q") and hasattr(attn, "to_out")):
            continue
        for each in (attn.to_q, attn.to_k, attn.to_v, attn.to_out[0]):
            low = Low(each.in_features, each.out_features, rank)
            updates[f"{name.replace('.', '-')}-{len(updates)}"] = low
            each.register_forward_hook(lambda _, given, made, low=low: made + low(given[0]))
    return updates
