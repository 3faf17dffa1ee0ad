"""The selected rows of a scene as parameters of their own: what is not selected cannot change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor, nn

from ...errors import SceneError
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
        self.parameters = {name: nn.Parameter(tensor.clone()) for name, tensor in parts.items()}
        self._kept_visible()
        rates = {**RATES, "means": RATES["means"] * extent / UNITS, "higher": RATES["sh"] * HIGHER}
        self._rates = [rates[name] for name in self.parameters]
        groups = [{"params": [each], "lr": rates[name]} for name, each in self.parameters.items()]
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
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
        for group, rate in zip(self.adam.param_groups, self._rates, strict=True):
            group["lr"] = rate * decay**share
        if self.anchor:
            moved = [(self.parameters[name] - began).square().mean() for name, began in self._began.items()]
            loss = loss + self.anchor * sum(moved[1:], moved[0])
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        for parameter in self.parameters.values():
            if parameter.grad is not None:  # of rows that are too large to be drawn
                parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        self.adam.step()
        self._kept_visible()

    def _kept_visible(self) -> None:
        """Beyond LOGIT_MAX a logit has no gradient, and would not come back."""
        with torch.no_grad():
            self.parameters["logits"].clamp_(max=LOGIT_MAX)

    def forget_moments(self) -> None:
        """As Adam was at first."""
        self.adam.state.clear()

    def state(self) -> dict[str, Tensor]:
        """Parameters, and what Adam knows of them, by name; see `load`."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.parameters.items():
            found[name] = parameter.detach().clone()
            for key, value in self.adam.state.get(parameter, {}).items():
                found[f"{name}.{key}"] = value.clone()
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state()`, in the same bits. Raises SceneError: of another number of rows."""
        for name, parameter in self.parameters.items():
            if name not in state or state[name].shape != parameter.shape:
                raise SceneError(f"a state without {name} {list(parameter.shape)}: it is of another edit")
            with torch.no_grad():
                parameter.copy_(state[name])
            known = {
                key.split(".")[1]: v.clone() if key.endswith(".step") else v.to(parameter, copy=True)
                for key, v in state.items()
                if key.startswith(f"{name}.")
            }
            self.adam.state.pop(parameter, None)
            if known:
                self.adam.state[parameter] = known
