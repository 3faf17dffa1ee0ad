"""The optimiser every recipe shares: Muon for matrices, AdamW for the rest, and one learning-rate schedule.

Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) orthogonalises the momentum of each
weight matrix. `torch.optim.Muon` takes 2-D parameters only and works matrix by matrix; here convolution
weights are flattened to [out, in * k * k] and equal shapes go through one batched Newton-Schulz iteration,
which is what a small model on a CPU needs.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn

MATRIX_MODULES = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def make_optimizer(
    model: nn.Module,
    lr_muon: float = 0.02,
    lr_adam: float = 2e-3,
    *,
    weight_decay: float = 0.0,
    adam_names: Iterable[str] = (),
) -> MuonAdamW:
    """Optimiser over the trainable parameters of `model`.

    Muon takes the weights of linear and convolution layers; AdamW takes embeddings (also when tied to an
    output head), biases, norms, free parameters, and every parameter whose name contains one of `adam_names`
    (an output head, say). `lr_muon` bounds the spectral norm of a step (0.02 is the usual start), `lr_adam`
    is AdamW's.
    """
    adam_names = tuple(adam_names)
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    matrices = {id(m.weight) for m in model.modules() if isinstance(m, MATRIX_MODULES)} - embeddings
    muon: list[Tensor] = []
    adam: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            chosen = id(parameter) in matrices and not any(part in name for part in adam_names)
            (muon if chosen else adam).append(parameter)
    groups = [
        {"params": muon, "lr": lr_muon, "muon": True},
        {"params": adam, "lr": lr_adam, "muon": False},
    ]
    return MuonAdamW([group for group in groups if group["params"]], weight_decay=weight_decay)


def schedule(
    step: float, steps: float, warmup: float = 50, cooldown: float | None = None, floor: float = 0.0
) -> float:
    """Factor of the learning rate at `step` of `steps`, in 0..1: up in a line over `warmup` steps, then down.

    cooldown: the last share of the steps, over which it falls in a line to nothing; before that it is level,
    so that where to stop can be decided late (Hägele et al. 2024, arXiv 2405.18392). None is a cosine down to
    `floor`.
    """
    if cooldown is not None:
        left = (steps - step) / max(1.0, cooldown * steps)
        return min(1.0, (step + 1) / max(1, warmup), left)
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def decayed(step: int, steps: int, warmup: int, how: str, cooldown: float) -> float:
    """As `schedule`, by the name that a recipe gives it: "level" with its cooldown, "cosine" or "linear"."""
    if how == "level":
        return schedule(step, steps, warmup, cooldown)
    if how == "cosine" or step < warmup:
        return schedule(step, steps, warmup)
    return (steps - step) / max(1, steps - warmup)


class MuonAdamW(torch.optim.Optimizer):
    """One optimiser with two kinds of parameter groups (`muon=True` or `False`); `set_lr(factor)` scales
    both."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-8,
    ) -> None:
        defaults = {"weight_decay": weight_decay, "momentum": momentum, "betas": betas, "eps": eps}
        super().__init__(list(params), defaults)
        for group in self.param_groups:
            group["base_lr"] = group["lr"]

    def set_lr(self, factor: float) -> None:
        """Set every group's rate to `factor` times the one it was made with."""
        for group in self.param_groups:
            group["lr"] = group["base_lr"] * factor

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            live = [p for p in group["params"] if p.grad is not None]
            if live:
                (self._muon if group["muon"] else self._adamw)(live, group)
        return loss

    def _muon(self, params: list[Tensor], group: dict[str, Any]) -> None:
        shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p in params:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            grad = p.grad
            assert grad is not None  # filtered by step()
            state["momentum"].lerp_(grad, 1 - group["momentum"])
            update = grad.lerp(state["momentum"], group["momentum"])  # Nesterov
            flat = update.flatten(1)
            shapes[flat.shape[0], flat.shape[1]].append((p, flat))
        for (rows, columns), entries in shapes.items():
            updates = orthogonalise(torch.stack([flat for _, flat in entries]))
            scale = group["lr"] * math.sqrt(max(1.0, rows / columns))
            for (p, _), update in zip(entries, updates, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-scale)

    def _adamw(self, params: list[Tensor], group: dict[str, Any]) -> None:
        for p in params:
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
        grads = [p.grad for p in params if p.grad is not None]
        means = [self.state[p]["mean"] for p in params]
        squares = [self.state[p]["square"] for p in params]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        roots = torch._foreach_sqrt(squares)
        steps = [self.state[p]["step"] for p in params]
        torch._foreach_div_(roots, [math.sqrt(1 - beta2**n) for n in steps])
        torch._foreach_add_(roots, group["eps"])
        torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
        rates = [-group["lr"] / (1 - beta1**n) for n in steps]
        torch._foreach_addcdiv_(params, means, roots, rates)


def orthogonalise(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrix of each [..., rows, columns], roughly: singular values end up in about
    0.7..1.2.

    The quintic Newton-Schulz iteration of Muon. bf16 is enough for it, but a CPU mostly emulates it (12 to
    20 times slower than float32 without AVX-512), so there it is float32.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    x = x.float() if x.device.type == "cpu" else x.bfloat16()
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).to(matrices.dtype)
