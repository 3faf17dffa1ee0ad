"""The editor's recipe: autoencoder first, then UNet and text encoder together, from nothing, on one core.

Steps decide, not seconds: the same seed and recipe give the same model on the same machine. A run that was
cut off goes on from the last save in its work folder.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.amp import autocast

from trainer.model.optim import make_optimizer, schedule

from .check import choose_guidance
from .data import LOCAL, WHOLE, Pair, batches, draw_pairs
from .models import build_scheduler, build_text_encoder, build_tokenizer, build_unet, build_vae
from .vae import train_vae

WORK = Path(__file__).resolve().parents[3] / "runs" / "bundle" / "editor"
DEFAULTS = {
    "best_resolution": 32,
    "full_frame_resolution": 64,
    "steps": 10,
    "guidance": 2.0,
    "image_guidance": 1.0,
}


@dataclass(frozen=True)
class Phase:
    """What is drawn from the epoch `start` on: so many pairs an epoch, of these kinds.

    lean: how far the times lean to the noisy end, where it is decided what the edit is.
    """

    start: int
    crops: int
    frames: int
    local: dict[str, float]
    whole: dict[str, float]
    lean: float


# Colours and removals are learnt in a quarter of the run; drawing a thing where there was none takes longest.
PHASES = (
    Phase(0, 6144, 768, LOCAL, WHOLE, 2),
    Phase(
        8,
        5376,
        1024,
        {"replace": 0.3, "retexture": 0.13, "add": 0.27, "move": 0.18, "recolour": 0.06, "remove": 0.06},
        {"weather": 0.5, "ground": 0.22, "restyle": 0.28},
        3,
    ),
    Phase(
        12,
        5376,
        1024,
        {"add": 0.4, "move": 0.2, "replace": 0.16, "retexture": 0.14, "recolour": 0.06, "remove": 0.04},
        {"weather": 0.56, "ground": 0.22, "restyle": 0.22},
        3,
    ),
    Phase(  # polish: dots were lost in recolouring
        17,
        5376,
        640,
        {"recolour": 0.42, "add": 0.16, "move": 0.16, "replace": 0.14, "retexture": 0.08, "remove": 0.04},
        {"weather": 0.7, "ground": 0.1, "restyle": 0.2},
        3,
    ),
)


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what comes out. Batches are of crops near `best` pixels a side, or of whole
    frames."""

    vae_steps: int = 1500
    vae_width: int = 32
    widths: tuple[int, int, int] = (64, 96, 128)
    epochs: int = 17
    polish: int = 2  # epochs more, from `polish_rate` of the rates down to nothing again
    polish_rate: float = 0.3
    phases: tuple[Phase, ...] = PHASES
    passes: int = 2  # over an epoch's pairs
    batch: int = 48
    whole_batch: int = 16
    best: int = 32
    lr_muon: float = 0.015
    lr_adam: float = 1.5e-3
    decay_from: float = 0.6  # share of the run after which the rates fall to nothing, in a straight line
    changed: float = 5.0  # weight of the part that changes
    drop: float = 0.05  # of the text, of the picture, of both: what guidance needs
    ema: float = 0.998
    validation: int = 270  # edits to choose the guidance by; 0 keeps the one of DEFAULTS
    solids: float = 0.0  # share of pairs that are stills of solids
    clips: float = 0.0  # and of those that are frames of clips, where the kind of edit allows it
    half: bool = True  # compute in bfloat16


class Editor(nn.Module):
    """What is trained after the autoencoder."""

    def __init__(self, unet: Any, text: Any) -> None:
        super().__init__()
        from diffusers.models.attention_processor import AttnProcessor

        self.unet, self.text = unet, text
        # on a CPU the backward of torch's fused attention is slow in bf16
        self.unet.set_attn_processor(AttnProcessor())
        self.text.set_attn_implementation("eager")

    def forward(self, noisy: Tensor, picture: Tensor, times: Tensor, tokens: Tensor) -> Tensor:
        """Predicted v [B, 4, h, w] of noisy latents beside the picture's (unscaled) latents."""
        hidden = self.text(tokens)[0]
        return self.unet(torch.cat([noisy, picture], 1), times, hidden).sample


def train(
    out: Path,
    seed: int = 0,
    log: Callable[[str], None] = print,
    recipe: Recipe | None = None,
    work: Path = WORK,
) -> None:
    """Train everything and save the diffusers folder to `out`; work in progress lies in `work`."""
    recipe = recipe or Recipe()
    work.mkdir(parents=True, exist_ok=True)
    vae = trained_vae(work / "vae.safetensors", seed, recipe, log)
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    editor = Editor(build_unet(recipe.widths), build_text_encoder(tokenizer))
    run_epochs(editor, vae, tokenizer, recipe, work, seed, log)
    export(out, vae, editor, tokenizer)
    if recipe.validation:
        choose_guidance(out, recipe.validation, log=log)


def run_epochs(
    editor: Editor,
    vae: Any,
    tokenizer: Any,
    recipe: Recipe,
    work: Path,
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Trains the editor in place, from the newest save in the folder `work`; it ends as its average."""
    average = {name: value.clone() for name, value in editor.state_dict().items()}
    optimizer = make_optimizer(editor, recipe.lr_muon, recipe.lr_adam)
    first = _resume(work, editor, optimizer, average)
    total = recipe.epochs + recipe.polish
    for epoch in range(first, total):
        loss = run_epoch(editor, vae, tokenizer, optimizer, average, recipe, seed, epoch)
        log(f"epoch {epoch + 1}/{total} " + " ".join(f"{k} {v:.4f}" for k, v in loss.items()))
        _save(work, editor, optimizer, average, epoch + 1)
    editor.load_state_dict(average)


def trained_vae(path: Path, seed: int, recipe: Recipe, log: Callable[[str], None]) -> Any:
    """The autoencoder: read from `path` when it is there, else trained and written."""
    torch.manual_seed(seed)
    vae = build_vae(recipe.vae_width)
    if path.exists():
        tensors = load_file(path)
        vae.register_to_config(scaling_factor=tensors.pop("scaling_factor").item())
        vae.load_state_dict(tensors)
    else:
        train_vae(vae, seed, recipe.vae_steps, log)
        scale = {"scaling_factor": torch.tensor(float(vae.config.scaling_factor))}
        _write(path, vae.state_dict() | scale)
    return vae.eval().requires_grad_(False)


def run_epoch(
    editor: Editor,
    vae: Any,
    tokenizer: Any,
    optimizer: Any,
    average: dict[str, Tensor],
    recipe: Recipe,
    seed: int,
    epoch: int,
) -> dict[str, float]:
    """One pool of fresh pairs, `passes` times over. Returns the mean loss of local and of whole-frame
    batches.

    editor, optimizer: trained in place.
    vae, tokenizer: frozen, turn pairs into latents and tokens.
    average: of the editor's weights, moved along.
    recipe, seed, epoch: decide what is drawn.
    """
    rng = random.Random(f"editor {seed} {epoch}")
    torch.manual_seed(seed * 100_003 + epoch)
    phase = [phase for phase in recipe.phases if phase.start <= epoch][-1]
    local, whole = (
        Pool(
            draw_pairs(rng, mix, count, recipe.best, recipe.solids, recipe.clips),
            vae,
            tokenizer,
            recipe.half,
        )
        for mix, count in ((phase.local, phase.crops), (phase.whole, phase.frames))
    )
    blank = torch.tensor(tokenizer("", padding="max_length").input_ids)
    losses: dict[str, list[float]] = {"local": [], "whole": []}
    scheduler = build_scheduler()
    editor.train()
    for done, (kind, pool, numbers) in enumerate(plan := list(_order(rng, local, whole, recipe))):
        optimizer.set_lr(rate(recipe, epoch + done / len(plan)))
        loss = diffusion_loss(editor, scheduler, pool, numbers, blank, recipe, phase.lean)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(editor.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        _follow(average, editor, recipe.ema)
        losses[kind].append(loss.item())
    return {kind: sum(values) / max(1, len(values)) for kind, values in losses.items()}


class Pool:
    """Pairs as latents: `source` unscaled and `result` scaled, each [4, h, w], the changed part [1, h, w],
    tokens."""

    def __init__(self, pairs: list[Pair], vae: Any, tokenizer: Any, half: bool = True) -> None:
        self.sizes = [(p.source.shape[0], p.source.shape[1]) for p in pairs]
        orders = [p.edit.instruction for p in pairs]
        self.tokens = torch.tensor(tokenizer(orders, padding="max_length", truncation=True).input_ids)
        self.source: list[Tensor] = [torch.empty(0)] * len(pairs)
        self.result: list[Tensor] = [torch.empty(0)] * len(pairs)
        self.mask = [nn.functional.max_pool2d(p.mask[None], 2) for p in pairs]
        for numbers in batches(random.Random(0), self.sizes, 64):
            source = encode(vae, torch.stack([pairs[n].source for n in numbers]), half)
            result = encode(vae, torch.stack([pairs[n].result for n in numbers]), half)
            result = result * vae.config.scaling_factor
            for k, n in enumerate(numbers):
                self.source[n], self.result[n] = source[k], result[k]


@torch.no_grad()
def encode(vae: Any, pictures: Tensor, half: bool = True) -> Tensor:
    """Unscaled latents [B, 4, h / 2, w / 2] of pictures [B, h, w, 3] in 0..1."""
    with autocast("cpu", torch.bfloat16, enabled=half):
        return vae.encode(pictures.movedim(-1, 1) * 2 - 1).latent_dist.mode().float()


def diffusion_loss(
    editor: Editor,
    scheduler: Any,
    pool: Pool,
    numbers: list[int],
    blank: Tensor,
    recipe: Recipe,
    lean: float,
) -> Tensor:
    """Squared error of v, weighed by where the picture changes.

    pool, numbers: the batch's pairs.
    blank: int64 [T], tokens of no text.
    lean: how far times lean to the noisy end (1: not at all).
    """
    source, result, mask = (
        torch.stack([part[n] for n in numbers]) for part in (pool.source, pool.result, pool.mask)
    )
    tokens = pool.tokens[numbers]
    count = len(numbers)
    dice = torch.rand(count)
    tokens = torch.where((dice < 2 * recipe.drop)[:, None], blank, tokens)
    source = torch.where(((dice >= recipe.drop) & (dice < 3 * recipe.drop))[:, None, None, None], 0.0, source)
    times = 999 - (torch.rand(count).pow(lean) * 1000).long()
    noise = torch.randn_like(result)
    noisy = scheduler.add_noise(result, noise, times)
    target = scheduler.get_velocity(result, noise, times)
    with autocast("cpu", torch.bfloat16, enabled=recipe.half):
        predicted = editor(noisy, source, times, tokens)
    weight = 1 + (recipe.changed - 1) * mask.expand_as(target)
    return (weight * (predicted.float() - target).square()).sum() / weight.sum()


def rate(recipe: Recipe, epoch: float) -> float:
    """Factor of the learning rates: a short rise, a long plain, a straight fall from `decay_from` on; then a
    small tooth, the polish."""
    if epoch >= recipe.epochs:
        return recipe.polish_rate * schedule(epoch - recipe.epochs, recipe.polish, warmup=0, cooldown=1.0)
    step, steps = 100 * epoch, 100 * recipe.epochs  # hundredths of an epoch
    return schedule(step, steps, warmup=50, cooldown=1 - recipe.decay_from)


def export(out: Path, vae: Any, editor: Editor, tokenizer: Any) -> None:
    """Write the diffusers folder, fp16 safetensors, with evlm.json beside model_index.json."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    pipeline = StableDiffusionInstructPix2PixPipeline(
        vae=vae,
        text_encoder=editor.text,
        tokenizer=tokenizer,
        unet=editor.unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    pipeline.to(torch.float32)
    for part in ("unet", "vae"):  # where they were read from is nobody's business
        path = out / part / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (out / "evlm.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n", encoding="utf-8")


def _order(
    rng: random.Random, local: Pool, whole: Pool, recipe: Recipe
) -> Iterator[tuple[str, Pool, list[int]]]:
    plan: list[tuple[str, Pool, list[int]]] = []
    for _ in range(recipe.passes):
        plan += [("local", local, numbers) for numbers in batches(rng, local.sizes, recipe.batch)]
        plan += [("whole", whole, numbers) for numbers in batches(rng, whole.sizes, recipe.whole_batch)]
    rng.shuffle(plan)
    yield from plan


def _follow(average: dict[str, Tensor], editor: Editor, decay: float) -> None:
    state = editor.state_dict()
    floats = [name for name, value in average.items() if value.is_floating_point()]
    torch._foreach_lerp_([average[n] for n in floats], [state[n] for n in floats], 1 - decay)


def _save(
    work: Path, editor: Editor, optimizer: torch.optim.Optimizer, average: dict[str, Tensor], epoch: int
) -> None:
    """One file with weights, their average and the optimiser's state, replaced whole."""
    tensors = {f"model.{name}": value for name, value in editor.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"state.{number}.{key}": torch.as_tensor(value) for key, value in state.items()}
    tensors["epoch"] = torch.tensor(epoch)
    _write(work / "editor.safetensors", tensors)


def _resume(work: Path, editor: Editor, optimizer: torch.optim.Optimizer, average: dict[str, Tensor]) -> int:
    """Load the last save, when there is one. Returns the first epoch still to run."""
    path = work / "editor.safetensors"
    if not path.exists():
        return 0
    tensors = load_file(path)
    editor.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
    for name, value in average.items():
        value.copy_(tensors[f"average.{name}"])
    whole = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("state."):
            _, number, name = key.split(".")
            whole["state"].setdefault(int(number), {})[name] = int(value) if name == "step" else value
    optimizer.load_state_dict(whole)
    return int(tensors["epoch"])


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    part = path.with_suffix(".part")
    save_file({name: value.contiguous().clone() for name, value in tensors.items()}, part)
    os.replace(part, path)
