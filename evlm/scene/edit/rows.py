"""The selected rows of a scene as parameters of their own: what is not selected cannot change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import torch
from torch import Tensor

from ...errors import SceneError
from ..camera import Camera
from ..fit.adam import Adam
from ..fit.densify import Growth, grown, pulled
from ..gaussians import Gaussians, joined
from ..raster.project import LOGIT_MAX

# Of scenes of about four units, and of a few hundred steps; the means' goes with the scene's extent.
RATES = {"means": 1e-3, "log_scales": 1e-2, "quats": 5e-3, "logits": 5e-2, "sh": 5e-2}
HIGHER = 1 / 20  # of the rate of `sh`, for the harmonics that depend on the direction
UNITS = 4.0
_NAMES = tuple(field.name for field in fields(Gaussians))
_ANCHORED = ("means", "log_scales")


class Rows:
    """Parameters [M, ...] of the selected rows, Adam over them, and the scene with them in their places.

    extent: of the scene, in world units. anchor: weight of the squares by which means and scales have left
    where they began. The constant harmonic is a parameter apart ("sh"); the others ("higher") learn slower.
    index: [M], the selected rows' places in the scene. home: for each row of the scene, its number in the
    scene that was given, -1 for one that has grown; those come last.
    """

    def __init__(self, gaussians: Gaussians, selection: Tensor, extent: float, anchor: float = 0.0) -> None:
        if tuple(selection.shape) != (len(gaussians),) or selection.dtype != torch.bool:
            raise SceneError(
                f"the selection is {list(selection.shape)} {selection.dtype}, "
                f"expected bool [{len(gaussians)}]"
            )
        self.given, self.selection, self.anchor = gaussians, selection, anchor
        self.home = torch.arange(len(gaussians), device=selection.device)
        self.all, self.index = gaussians, selection.nonzero().flatten()
        self._take(_parts(gaussians.rows(selection).detached()))
        self._kept_visible()
        rates = {**RATES, "means": RATES["means"] * extent / UNITS, "higher": RATES["sh"] * HIGHER}
        self._rates = {name: rates[name] for name in self.parameters}
        self.forget_moments()
        self._began = {name: self.parameters[name].detach().clone() for name in _ANCHORED}
        self.pull = torch.zeros_like(self.parameters["logits"]).detach()

    def whole(self) -> Gaussians:
        """All rows, with gradients to the parameters; the others are the scene's own, to the bit."""
        mine = self._owned()
        tensors = self.all.tensors()
        return Gaussians(
            **{name: tensors[name].index_put((self.index,), getattr(mine, name)) for name in _NAMES}
        )

    def step(self, loss: Tensor, share: float, decay: float, camera: Camera | None = None) -> None:
        """One step down the loss. share: 0..1 of the way, at the end of which the rates are `decay` of what
        they were at first. camera: that of the loss, for growth."""
        if self.anchor:
            moved = [(self.parameters[name] - began).square().mean() for name, began in self._began.items()]
            loss = loss + self.anchor * sum(moved[1:], moved[0])
        found = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        grads = {
            name: torch.zeros_like(parameter) if grad is None else grad.nan_to_num(0.0, 0.0, 0.0)
            for (name, parameter), grad in zip(self.parameters.items(), found, strict=True)
        }  # not finite of rows that are too large to be drawn
        if camera is not None:
            self.pull += pulled(grads["means"], self.parameters["means"].detach(), camera)
        self.steps += 1
        pace: dict[str, Tensor | float] = {name: rate * decay**share for name, rate in self._rates.items()}
        self.adam.step(self.parameters, grads, pace, self.steps)
        self._kept_visible()

    def grow(self, growth: Growth, most: int, seed: int) -> None:
        """Of the selected rows those that show nothing go, and where detail lacks copies come, up to `most`;
        the others keep their order, and new ones come last."""
        owned = self._owned().detached()
        stays, new = grown(owned, self.pull, growth, most, seed)
        gone = torch.zeros(len(self.all), dtype=torch.bool, device=self.index.device)
        gone[self.index[~stays]] = True
        self.home = torch.cat([self.home[~gone], self.home.new_full((len(new),), -1)])
        parts = {
            name: torch.cat([tensor.detach()[stays], fresh])
            for (name, tensor), fresh in zip(self.parameters.items(), _parts(new).values(), strict=True)
        }
        self._began = {
            name: torch.cat([tensor[stays], parts[name][int(stays.sum()) :]])
            for name, tensor in self._began.items()
        }
        self._place(parts)
        self.adam.keep(stays, len(new))
        self.pull = torch.zeros_like(self.parameters["logits"]).detach()

    def forget_moments(self) -> None:
        """As Adam was at first."""
        self.adam, self.steps = Adam(self.parameters), 0

    def state(self) -> dict[str, Tensor]:
        """Parameters, what Adam knows of them, and where rows have come or gone, which; see `load`."""
        found: dict[str, Tensor] = {"steps": torch.tensor(self.steps), "pull": self.pull.clone()}
        for name, parameter in self.parameters.items():
            found[name] = parameter.detach().clone()
            if self.steps:
                found[f"{name}.first"] = self.adam.first[name].clone()
                found[f"{name}.second"] = self.adam.second[name].clone()
        if self.all is not self.given:
            found["home"] = self.home.clone()
            found |= {f"{name}.began": tensor.clone() for name, tensor in self._began.items()}
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state()`, in the same bits. Raises SceneError: of another number of rows."""
        device = self.selection.device
        self.home = state.get("home", torch.arange(len(self.given))).to(device)
        count = int((self.home < 0).sum()) + int(self.selection[self.home[self.home >= 0]].sum())

        def taken(key: str, like: Tensor) -> Tensor:
            shape = (count, *like.shape[1:])
            if key not in state or tuple(state[key].shape) != shape:
                raise SceneError(f"a state without {key} {list(shape)}: it is of another edit")
            return state[key].to(like, copy=True)

        self._place({name: taken(name, tensor.detach()) for name, tensor in self.parameters.items()})
        self.forget_moments()
        self.steps = int(state.get("steps", torch.tensor(0)))
        if self.steps:
            for name, parameter in self.parameters.items():
                self.adam.first[name] = taken(f"{name}.first", parameter.detach())
                self.adam.second[name] = taken(f"{name}.second", parameter.detach())
        self.pull = taken("pull", self.parameters["logits"].detach())
        if "home" in state:
            self._began = {name: taken(f"{name}.began", self.parameters[name].detach()) for name in _ANCHORED}

    def _place(self, parts: dict[str, Tensor]) -> None:
        """The parameters anew, and the scene around them, as `home` says."""
        self._take(parts)
        old = self.home[self.home >= 0]
        lasting = torch.cat([self.selection[old], self.selection.new_ones(len(self.home) - len(old))])
        self.index = lasting.nonzero().flatten()
        if len(old) == len(self.home) == len(self.given):
            self.all = self.given
        else:  # what stands in the selected rows is never seen: `whole` puts the parameters there
            new = self._owned().detached().rows(torch.arange(len(old), len(self.home)) - len(self.home))
            self.all = joined([self.given.rows(old), new]) if len(new) else self.given.rows(old)

    def _take(self, parts: dict[str, Tensor]) -> None:
        self.parameters = {name: tensor.detach().clone().requires_grad_() for name, tensor in parts.items()}

    def _owned(self) -> Gaussians:
        parts = {name: tensor for name, tensor in self.parameters.items() if name != "higher"}
        sh = torch.cat([self.parameters["sh"], self.parameters["higher"]], 1)
        return Gaussians(**{**parts, "sh": sh})

    def _kept_visible(self) -> None:
        """Beyond LOGIT_MAX a logit has no gradient, and would not come back."""
        with torch.no_grad():
            self.parameters["logits"].clamp_(max=LOGIT_MAX)


def _parts(gaussians: Gaussians) -> dict[str, Tensor]:
    """The parameters of Gaussians, by name."""
    tensors = gaussians.tensors()
    return {**tensors, "sh": tensors["sh"][:, :1], "higher": tensors["sh"][:, 1:]}
