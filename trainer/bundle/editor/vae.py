"""The editor's autoencoder, trained on patches of frames and on the crops that edits see."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp import autocast
from torch.nn import functional as F

from trainer.model.optim import make_optimizer, schedule

from .data import LOCAL, WHOLE, draw_pairs

PATCH = 32
KL = 1e-6


def train_vae(vae: Any, seed: int, steps: int, log: Callable[[str], None], batch: int = 32) -> None:
    """Train in place: L1 plus squared error, a trace of KL; sets `scaling_factor` to one over the latents'
    spread."""
    torch.manual_seed(seed)
    rng = random.Random(f"vae {seed}")
    optimizer = make_optimizer(vae, lr_muon=0.02, lr_adam=2e-3)
    pool = torch.empty(0)
    vae.train()
    for step in range(steps):
        if step % 100 == 0:
            pool = patches(rng, 12 * batch)
        pictures = pool[torch.randint(len(pool), (batch,))]
        optimizer.set_lr(schedule(step, steps))
        with autocast("cpu", torch.bfloat16):
            posterior = vae.encode(pictures).latent_dist
            latents = posterior.sample() if step % 2 else posterior.mode()
            restored = vae.decode(latents).sample
        error = restored.float() - pictures
        loss = error.abs().mean() + 4 * error.square().mean() + KL * posterior.kl().float().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps - 1:
            psnr = -10 * torch.log10(error.square().mean() / 4)
            log(f"vae {step}/{steps} loss {loss.item():.4f} psnr {psnr.item():.1f}")
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(patches(rng, 8 * batch)).latent_dist.mode()
    vae.register_to_config(scaling_factor=1 / latents.std().item())


def patches(rng: random.Random, count: int) -> Tensor:
    """Pictures to restore, [N, 3, PATCH, PATCH] in -1..1: results of all kinds of edits, half of them
    sources."""
    pairs = [*draw_pairs(rng, LOCAL, count // 2, PATCH), *draw_pairs(rng, WHOLE, count - count // 2, PATCH)]
    out = []
    for pair in pairs:
        picture = pair.result if rng.random() < 0.6 else pair.source
        height, width = (max(0, PATCH - s) for s in picture.shape[:2])
        picture = F.pad(picture.movedim(-1, 0), (0, width, 0, height), mode="replicate")
        y, x = (rng.randint(0, s - PATCH) for s in picture.shape[1:])
        out.append(picture[:, y : y + PATCH, x : x + PATCH])
    return torch.stack(out) * 2 - 1
