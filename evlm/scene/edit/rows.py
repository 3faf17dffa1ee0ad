"""The selected rows of a scene as parameters of their own: what is not selected cannot change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor

from ...errors import SceneError
from ..fit.adam import Adam
from ..gaussians import Gaussians
from ..raster.project import LOGIT_MAX

# Of scenes of about four units, and of a few hundred steps; the means' goes with the scene's extent.
RATES = {"means": 1e-3, "log_scales": 1e-2, "quats": 5e-3, "logits": 5e-2, "sh": 5e-2}
HIGHER = 1 / 20  # of the rate of `sh`, for the harmonics that depend on the direction
UNITS = 4.0
_NAMES = tuple(field.name for field in fields(Gaussians))


class Rows:
    """Parameters [M, ...] of the selected rows, Adam over them, and the scene with them in their places.

    extent: of the scene, in world units. anchor: weight of the squares by which means and scales have left
    where they began. The constant harmonic is a parameter apart ("sh"); the others ("higher") learn slower.
    """

    def __init__(self, gaussians: Gaussians, selection: Tensor, extent: float, anchor: float = 0.0) -> None:
        if tuple(selection.shape) != (len(gaussians),) or selection.dtype != torch.bool:
            raise SceneError(
                f"the selection is {list(selection.shape)} {selection.dtype}, "
                f"expected bool [{len(gaussians)}]"
            )
        self.all, self.index, self.anchor = gaussians, selection.nonzero().flatten(), anchor
        chosen = gaussians.rows(selection).detached().tensors()
        parts = {**chosen, "sh": chosen["sh"][:, :1], "higher": chosen["sh"][:, 1:]}
        self.parameters = {name: tensor.clone().requires_grad_() for name, tensor in parts.items()}
        self._kept_visible()
        rates = {**RATES, "means": RATES["means"] * extent / UNITS, "higher": RATES["sh"] * HIGHER}
        self._rates = {name: rates[name] for name in self.parameters}
        self.forget_moments()
        self._began = {name: chosen[name].clone() for name in ("means", "log_scales")}

    def whole(self) -> Gaussians:
        """All rows, with gradients to the parameters; the others are the scene's own, to the bit."""
        sh = torch.cat([self.parameters["sh"], self.parameters["higher"]], 1)
        mine = {**self.parameters, "sh": sh}
        tensors = self.all.tensors()
        return Gaussians(**{name: tensors[name].index_put((self.index,), mine[name]) for name in _NAMES})

    def step(self, loss: Tensor, share: float, decay: float) -> None:
        """One step down the loss. share: 0..1 of the way, at the end of which the rates are `decay` of what
        they were at first."""
        if self.anchor:
            moved = [(self.parameters[name] - began).square().mean() for name, began in self._began.items()]
            loss = loss + self.anchor * sum(moved[1:], moved[0])
        found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        grads = {
            name: torch.zeros_like(parameter) if grad is None else grad.nan_to_num(0.0, 0.0, 0.0)
            for (name, parameter), grad in zip(self.parameters.items(), found, strict=True)
        }  # not finite of rows that are too large to be drawn
        self.steps += 1
        pace: dict[str, Tensor | float] = {name: rate * decay**share for name, rate in self._rates.items()}
        self.adam.step(self.parameters, grads, pace, self.steps)
        self._kept_visible()

    def _kept_visible(self) -> None:
        """Beyond LOGIT_MAX a logit has no gradient, and would not come back."""
        with torch.no_grad():
            self.parameters["logits"].clamp_(max=LOGIT_MAX)

    def forget_moments(self) -> None:
        """As Adam was at first."""
        self.adam, self.steps = Adam(self.parameters), 0

    def state(self) -> dict[str, Tensor]:
        """Parameters, and what Adam knows of them, by name; see `load`."""
        found: dict[str, Tensor] = {"steps": torch.tensor(self.steps)}
        for name, parameter in self.parameters.items():
            found[name] = parameter.detach().clone()
            if self.steps:
                found[f"{name}.first"] = self.adam.first[name].clone()
                found[f"{name}.second"] = self.adam.second[name].clone()
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state()`, in the same bits. Raises SceneError: of another number of rows."""
        self.forget_moments()
        self.steps = int(state.get("steps", torch.tensor(0)))
        for name, parameter in self.parameters.items():
            kept = {name: parameter}
            if self.steps:
                kept |= {f"{name}.first": self.adam.first[name], f"{name}.second": self.adam.second[name]}
            for key, tensor in kept.items():
                if key not in state or state[key].shape != parameter.shape:
                    raise SceneError(f"a state without {key} {list(parameter.shape)}: it is of another edit")
                with torch.no_grad():
                    tensor.copy_(state[key])
