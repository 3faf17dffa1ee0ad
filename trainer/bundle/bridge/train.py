"""Three stages, as SmartEdit's in small: what the QFormer says of a plan is CLIP's reading of it; then the
bridge, the editor frozen; then updates of low rank in the editor's cross-attention too.

A step's batch, noise and times are a function of (seed, stage, step): a run that was cut off ends in the same
bits. Steps decide, not seconds.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, autocast, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from evlm.edit.bridge import PARTS, TINY, Bridge, Seen, Shape, with_parts
from evlm.edit.bridge_editor import BridgedIP2P
from evlm.edit.parts import Parts, load_parts
from evlm.errors import ConfigError

from ...model.optim import make_optimizer, schedule
from ..editor.models import build_scheduler
from .data import Models, Pool, draw, fill, load_pool, save_pool, together

STAGES = ("say", "bridge", "low")


@dataclass(frozen=True)
class Recipe:
    """steps: of each stage; batches: rows of a step in each. pool: samples, drawn once. parts: of the bridge
    (`bridge.PARTS`). drop: how often each cue is taken away. plain: how often the text is, and the cues with
    it. changed: weight of what changes. lean: of times to the noisy end. say: weight of the first stage's
    loss in the later ones. half: whether the bridge and the UNet compute in bfloat16 in the later stages."""

    steps: tuple[int, int, int] = (1500, 2000, 1000)
    batches: tuple[int, int, int] = (64, 48, 48)
    pool: int = 3000
    parts: tuple[str, ...] = PARTS
    shape: Shape = TINY
    lr_muon: tuple[float, float, float] = (0.01, 0.01, 0.004)
    lr_adam: tuple[float, float, float] = (2e-3, 2e-3, 3e-4)
    drop: float = 0.1
    plain: float = 0.05
    changed: float = 5.0
    lean: float = 2.5
    say: float = 0.1
    save_every: int = 100
    half: bool = True


class Learning(nn.Module):
    """What learns, under one name each: the bridge, and the updates of low rank."""

    def __init__(self, editor: BridgedIP2P) -> None:
        super().__init__()
        self.bridge, self.low = editor.bridge, editor.low


def begin(folder: Path, recipe: Recipe, seed: int) -> BridgedIP2P:
    """An untrained bridge beside the editor in the folder of the bundle."""
    torch.manual_seed(seed)
    parts = learnable(load_parts(folder / "editor", torch.float32))
    editor = BridgedIP2P(parts, Bridge(with_parts(recipe.shape, recipe.parts)))
    for module in (editor.unet, editor.vae, editor.text_encoder):
        module.requires_grad_(False)
    return editor


def learnable(parts: Parts) -> Parts:
    """The same parts, whose attention is computed by products: on a CPU the fused kernel's backward takes as
    long as all the rest in bfloat16."""
    from diffusers.models.attention_processor import AttnProcessor

    parts.unet.set_attn_processor(AttnProcessor())
    return parts


def train(
    folder: Path,
    out: Path,
    work: Path,
    seed: int = 0,
    log: Callable[[str], None] = print,
    recipe: Recipe | None = None,
) -> BridgedIP2P:
    """Trains a bridge to the bundle in `folder`, writes the file `out`, and goes on from the newest state in
    `work`. Raises ConfigError for the state of another recipe."""
    recipe = recipe or Recipe()
    editor = begin(folder, recipe, seed)
    pool = pool_of(folder, work.parent, recipe, seed, editor, log)
    state = State(work / "bridge-state.safetensors", Learning(editor), f"{seed} {recipe}")
    learn(editor, pool, recipe, seed, state, log)
    editor.save(out, "bundled", {"seed": seed, "recipe": {**asdict(recipe), "shape": {}}})
    log(f"bridge: {out}, {out.stat().st_size / 1e6:.1f} MB")
    return editor


def pool_of(
    folder: Path, work: Path, recipe: Recipe, seed: int, editor: BridgedIP2P, log: Callable[[str], None]
) -> Pool:
    """The recipe's samples with their cues, from the disk where they are there: studies share them."""
    about, path = f"2 {recipe.pool} {seed}", work / f"bridge-pool-{recipe.pool}-{seed}.safetensors"
    pool = load_pool(path, about)
    if pool is None:
        log(f"bridge: looking at {recipe.pool} samples")
        rng = random.Random(f"bridge pool {seed}")
        pool = fill(Models(folder, editor), [draw(rng, "train") for _ in range(recipe.pool)])
        save_pool(path, pool, about)
    return pool


class State:
    """Weights, the optimiser's state and how far a training is, in one file that is replaced whole."""

    def __init__(self, path: Path, learning: nn.Module, about: str) -> None:
        self.path, self.learning, self.about = path, learning, about

    def save(self, optimizer: torch.optim.Optimizer, stage: int, step: int) -> None:
        from safetensors.torch import save_file

        tensors = {f"model.{name}": value for name, value in self.learning.state_dict().items()}
        for number, state in optimizer.state_dict()["state"].items():
            tensors |= {f"state.{number}.{key}": torch.as_tensor(value) for key, value in state.items()}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
        meta = {"stage": str(stage), "step": str(step), "about": self.about}
        save_file(whole, self.path.with_suffix(".part"), meta)
        os.replace(self.path.with_suffix(".part"), self.path)

    def load(self) -> tuple[int, int, dict[str, Tensor]]:
        """(stage, step, the optimiser's tensors), after the weights are loaded; zeros where there is no
        state. Raises ConfigError for one of another recipe."""
        from safetensors import safe_open

        if not self.path.is_file():
            return 0, 0, {}
        with safe_open(self.path, "pt") as file:
            meta = file.metadata()
            if meta["about"] != self.about:
                raise ConfigError(f"{self.path} is of another recipe: name another --work, or remove it")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        own = {name[6:]: value for name, value in tensors.items() if name.startswith("model.")}
        self.learning.load_state_dict(own)
        return int(meta["stage"]), int(meta["step"]), tensors


def learn(
    editor: BridgedIP2P, pool: Pool, recipe: Recipe, seed: int, state: State, log: Callable[[str], None]
) -> None:
    """All stages, from the newest state."""
    at, first, tensors = state.load()
    if "states" not in recipe.parts:
        at, first = max((at, first), (1, 0))  # the QFormer has nothing to say
    for stage in range(at, len(STAGES)):
        with learning(editor, stage):
            optimizer = make_optimizer(state.learning, recipe.lr_muon[stage], recipe.lr_adam[stage])
            restored(optimizer, tensors)
            for step in range(first, recipe.steps[stage]):
                loss = step_loss(editor, pool, recipe, seed, stage, step)
                loss.backward()
                nn.utils.clip_grad_norm_([p for p in state.learning.parameters() if p.grad is not None], 1.0)
                optimizer.set_lr(schedule(step, recipe.steps[stage]))
                optimizer.step()
                optimizer.zero_grad()
                done = step + 1
                if done % recipe.save_every == 0 or done == recipe.steps[stage]:
                    gate = float(editor.bridge.gate.detach().mean())
                    told = f"{STAGES[stage]} {done}/{recipe.steps[stage]} loss {loss.item():.4f}"
                    log(f"bridge: {told} gate {gate:.3f}")
                    state.save(optimizer, stage, done)
        first, tensors = 0, {}
    editor.bridge.eval()


@contextmanager
def learning(editor: BridgedIP2P, stage: int) -> Iterator[None]:
    """What learns in a stage: in the first the QFormer, then the bridge, last the updates of low rank too."""
    saying = ("states", "queries", "query_blocks", "to_say")
    for name, parameter in editor.bridge.named_parameters():
        parameter.requires_grad_(stage > 0 or name.split(".")[0] in saying)
    editor.low.requires_grad_(stage == 2)
    editor.bridge.train()
    yield
    editor.bridge.requires_grad_(False)
    editor.low.requires_grad_(False)


def step_loss(editor: BridgedIP2P, pool: Pool, recipe: Recipe, seed: int, stage: int, step: int) -> Tensor:
    rng = random.Random(f"bridge {seed} {stage} {step}")
    torch.manual_seed(rng.randrange(2**31))
    rows = batch_rows(rng, pool, recipe.batches[stage], alike=stage > 0)
    cues = together([pool.cues[at] for at in rows])
    said = torch.stack([pool.said[at] for at in rows]).float()
    if stage == 0:
        return (editor.bridge.say(cues) - said).square().mean()
    text = torch.stack([pool.text[at] for at in rows]).float()
    known = torch.ones(text.shape[:2], dtype=torch.bool)
    cues = replace(cues, text=Seen(text, known))
    aside = {
        name: torch.rand(len(rows)) < recipe.drop for name, seen in vars(cues).items() if seen is not None
    }
    loss = diffusion_loss(editor, pool, rows, cues.without(aside), text, recipe)
    if "states" in recipe.parts:
        loss = loss + recipe.say * (editor.bridge.say(cues) - said).square().mean()
    return loss


def diffusion_loss(
    editor: BridgedIP2P, pool: Pool, rows: list[int], cues: Any, text: Tensor, recipe: Recipe
) -> Tensor:
    source, result, place = (
        torch.stack([part[at] for at in rows]).float() for part in (pool.source, pool.result, pool.place)
    )
    plain = torch.rand(len(rows)) < recipe.plain
    text = torch.where(plain[:, None, None], editor.read("", [])[:1], text)
    with autocast("cpu", torch.bfloat16, enabled=recipe.half), sdpa_kernel(SDPBackend.MATH):
        tokens = editor.bridge(cues)
    told: dict[str, Any] = {
        "encoder_hidden_states": torch.cat([text, tokens], 1),
        "cross_attention_kwargs": {"gate": editor.bridge.gate * (~plain)[:, None]},
    }
    return velocity_loss(editor.unet, source, result, place, recipe, **told)


def velocity_loss(
    unet: Any, source: Tensor, result: Tensor, place: Tensor, recipe: Recipe, **told: Any
) -> Tensor:
    """The editor's own: squared error of v, weighed by where the picture changes. source, result: latents
    [B, 4, h, w]; place: [B, 1, h, w]; told: what else the UNet takes."""
    scheduler = build_scheduler()
    times = 999 - (torch.rand(len(result)).pow(recipe.lean) * 1000).long()
    noise = torch.randn_like(result)
    noisy = scheduler.add_noise(result, noise, times)
    target = scheduler.get_velocity(result, noise, times)
    with autocast("cpu", torch.bfloat16, enabled=recipe.half):
        predicted = unet(torch.cat([noisy, source], 1), times, **told).sample
    weight = 1 + (recipe.changed - 1) * place.expand_as(target)
    return (weight * (predicted - target).square()).sum() / weight.sum()


def batch_rows(rng: random.Random, pool: Pool, count: int, alike: bool) -> list[int]:
    """Numbers of a batch; alike: of one size, which is drawn as often as the pool has it."""
    first = rng.randrange(len(pool))
    known = [at for at in range(len(pool)) if not alike or pool.sizes[at] == pool.sizes[first]]
    return rng.choices(known, k=count)


def restored(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    whole = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("state."):
            _, number, name = key.split(".", 2)
            whole["state"].setdefault(int(number), {})[name] = int(value) if name == "step" else value
    optimizer.load_state_dict(whole)
