"""Gaussians as they are optimised and saved: raw parameters, row by row, nothing rounded on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..errors import SceneError

SH_C0 = 0.28209479177387814  # the constant harmonic; a plain colour c is stored as (c - .5) / SH_C0
MAX_GAUSSIANS = 50_000_000
COEFFICIENTS = (1, 4, 9, 16)  # K of spherical harmonics of degree 0..3


@dataclass(frozen=True, eq=False)
class Gaussians:
    """N anisotropic Gaussians, as 3D Gaussian Splatting parametrises them (Kerbl et al. 2023, section 4).

    means: [N, 3], world units. log_scales: [N, 3], natural logarithm of the standard deviations along the
    Gaussian's own axes. quats: [N, 4], w x y z, of any length > 0: normalised where they are used.
    logits: [N], opacity before the sigmoid. sh: [N, K, 3], spherical harmonics of the colour, K = 1, 4, 9
    or 16; the colour is .5 + SH_C0 * sh[:, 0] + ..., clamped at 0. All of one float dtype, on one device.

    Raises SceneError: a shape, dtype or device that does not fit the others.
    """

    means: Tensor
    log_scales: Tensor
    quats: Tensor
    logits: Tensor
    sh: Tensor

    def __post_init__(self) -> None:
        n = len(self.means)
        if n > MAX_GAUSSIANS:
            raise SceneError(f"{n} Gaussians; at most {MAX_GAUSSIANS} are accepted")
        coefficients = self.sh.shape[1] if self.sh.ndim == 3 else -1
        if coefficients not in COEFFICIENTS:
            raise SceneError(f"sh is {list(self.sh.shape)}, expected [{n}, K, 3] with K one of 1, 4, 9, 16")
        wanted = {
            "means": (n, 3),
            "log_scales": (n, 3),
            "quats": (n, 4),
            "logits": (n,),
            "sh": (n, coefficients, 3),
        }
        for name, shape in wanted.items():
            tensor: Tensor = getattr(self, name)
            if tuple(tensor.shape) != shape:
                raise SceneError(f"{name} is {list(tensor.shape)}, expected {list(shape)}")
            if not tensor.is_floating_point() or tensor.dtype != self.means.dtype:
                raise SceneError(
                    f"{name} is {tensor.dtype}, expected one float type, as means' {self.means.dtype}"
                )
            if tensor.device != self.means.device:
                raise SceneError(f"{name} lies on {tensor.device}, means on {self.means.device}")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def degree(self) -> int:
        """Of the spherical harmonics, 0..3."""
        return COEFFICIENTS.index(self.sh.shape[1])

    @property
    def scales(self) -> Tensor:
        """[N, 3], standard deviations in world units."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """[N] in 0..1."""
        return self.logits.sigmoid()

    @property
    def colours(self) -> Tensor:
        """[N, 3], what `sh` gives where no direction counts; not clamped."""
        return 0.5 + SH_C0 * self.sh[:, 0]

    def tensors(self) -> dict[str, Tensor]:
        """name -> tensor, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def map(self, change: Callable[[Tensor], Tensor]) -> Gaussians:
        """The same Gaussians with `change` applied to every tensor."""
        return Gaussians(**{name: change(tensor) for name, tensor in self.tensors().items()})

    def rows(self, which: Tensor) -> Gaussians:
        """Those that `which` picks: bool [N], or int64 indices [M]."""
        return self.map(lambda tensor: tensor[which])

    def to(self, target: torch.device | torch.dtype | str) -> Gaussians:
        """On another device, or in another float type."""
        return self.map(lambda tensor: tensor.to(target))

    def detached(self) -> Gaussians:
        return self.map(Tensor.detach)

    def with_degree(self, degree: int) -> Gaussians:
        """With spherical harmonics of that degree: higher ones dropped, missing ones 0."""
        if degree not in range(len(COEFFICIENTS)):
            raise SceneError(f"degree {degree}: spherical harmonics of degree 0, 1, 2 or 3")
        count = COEFFICIENTS[degree]
        sh = self.sh[:, :count]
        if sh.shape[1] < count:
            sh = torch.cat([sh, sh.new_zeros(len(sh), count - sh.shape[1], 3)], 1)
        return replace(self, sh=sh)

    def finite(self) -> Tensor:
        """bool [N]: rows whose numbers are all finite and whose quaternion has a length."""
        good = torch.ones(len(self), dtype=torch.bool, device=self.means.device)
        for tensor in self.tensors().values():
            good &= torch.isfinite(tensor).flatten(1).all(1) if tensor.ndim > 1 else torch.isfinite(tensor)
        return good & (self.quats != 0).any(1)


def joined(parts: Iterable[Gaussians]) -> Gaussians:
    """All rows of several, in order; the highest degree among them. Raises SceneError: of nothing."""
    several = list(parts)
    if not several:
        raise SceneError("no Gaussians to join")
    degree = max(part.degree for part in several)
    tensors = [part.with_degree(degree).tensors() for part in several]
    return Gaussians(**{name: torch.cat([t[name] for t in tensors]) for name in tensors[0]})
