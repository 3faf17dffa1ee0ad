"""A field of motion over place and time, held in six planes (Cao and Johnson 2023, HexPlane, arXiv
2301.09632, section 3.2), written from the text.

f(x, y, z, t) = [P_xy * P_zt, P_xz * P_yt, P_yz * P_xt], the planes read between their nodes, each pair
multiplied; a small network makes of it how far a row at rest at x, y, z has moved and turned at t. Unlike
bases it bends and stretches: no two rows share a rigid motion unless they learn to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ...errors import SceneError
from ..gaussians import Gaussians
from .keys import Keys, carried, fits, moved
from .turns import product

PLACES = ((0, 1), (0, 2), (1, 2))  # xy, xz, yz
ACROSS = (2, 1, 0)  # z, y, x: what each of these leaves out goes with time
NODES, CHANNELS, WIDTH = 24, 8, 32  # of a plane's side; of a plane; of the network's middle
ROOM = 0.05  # of the box of all moving rows, around it


@dataclass(frozen=True, eq=False)
class HexPlane:
    """low, size: [3], the box of the moving rows at rest; beyond it the rim's values hold. places:
    [3, C, S, S], over two axes each. later: [3, C, K, S], over the keys and the third. inward: [3 C, H],
    outward: [H, 6], the network, of 3 shares of the box's longest side and a turn. Raises SceneError: shapes
    that do not fit each other."""

    keys: Keys
    moving: Tensor
    low: Tensor
    size: Tensor
    places: Tensor
    later: Tensor
    inward: Tensor
    outward: Tensor
    kind: ClassVar[str] = "hexplane"

    def __post_init__(self) -> None:
        channels = self.places.shape[1] if self.places.ndim == 4 else 0
        nodes = self.places.shape[-1] if self.places.ndim else 0
        width = self.inward.shape[-1] if self.inward.ndim else 0
        wanted: dict[str, tuple[int, ...]] = {
            "low": (3,),
            "size": (3,),
            "places": (3, channels, nodes, nodes),
            "later": (3, channels, len(self.keys), nodes),
            "inward": (3 * channels, width),
            "outward": (width, 6),
        }
        for name, shape in wanted.items():
            found = tuple(getattr(self, name).shape)
            if found != shape or 0 in shape:
                raise SceneError(f"the motion's {name} are {list(found)}, expected {list(shape)}")
        if not bool((self.size > 0).all()):
            raise SceneError(f"the motion's size is {self.size.tolist()}, expected above 0")

    @classmethod
    def begin(
        cls, gaussians: Gaussians, moving: Tensor, keys: Keys, nodes: int = NODES, seed: int = 0
    ) -> HexPlane:
        """At rest: the network's last layer is 0. moving: bool [N]. Raises SceneError: nothing moves."""
        points = gaussians.means.detach()[moving]
        if not len(points):
            raise SceneError("nothing of the scene moves: it needs no motion")
        low, high = points.amin(0), points.amax(0)
        room = ROOM * float((high - low).max()) or ROOM
        draw = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=draw).to(points)

        places = 0.3 * drawn(3, CHANNELS, nodes, nodes)
        later = 1 + 0.1 * drawn(3, CHANNELS, len(keys), nodes)
        inward = drawn(3 * CHANNELS, WIDTH) / (3 * CHANNELS) ** 0.5
        outward = torch.zeros(WIDTH, 6).to(points)
        return cls(keys, moving, low - room, high - low + 2 * room, places, later, inward, outward)

    def at(self, gaussians: Gaussians, time: float) -> Gaussians:
        """See Motion."""
        fits(gaussians, self.moving)
        means, quats = gaussians.means[self.moving], gaussians.quats[self.moving]
        if not len(means):
            return gaussians
        before, _, share = self.keys.between(time)
        inside = 2 * (means - self.low) / self.size - 1
        last = max(1, len(self.keys) - 1)
        now = torch.full_like(inside[:, :1], 2 * (before + share) / last - 1)
        features = [
            _read(self.places[at], inside[:, (one, other)])
            * _read(self.later[at], torch.cat([inside[:, across : across + 1], now], 1))
            for at, ((one, other), across) in enumerate(zip(PLACES, ACROSS, strict=True))
        ]
        found = F.relu(torch.cat(features, 1) @ self.inward) @ self.outward
        turns = F.normalize(torch.cat([torch.ones_like(found[:, :1]), found[:, 3:]], 1), dim=1)
        means = means + found[:, :3] * self.size.max()
        return moved(gaussians, self.moving, means, product(turns, quats))

    def speed(self) -> Tensor:
        """How much the planes differ from key to key, and from node to node: a number that a fit keeps
        small."""
        found = self.places.diff(dim=2).square().mean() + self.places.diff(dim=3).square().mean()
        return found + self.later.diff(dim=2).abs().mean() if len(self.keys) > 1 else found

    def follow(self, last: int) -> None:
        """Keys behind that of number `last` are as that one is."""
        self.later[:, :, last + 1 :] = self.later[:, :, last : last + 1]

    def learned(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("places", "later", "inward", "outward")}

    def tensors(self) -> dict[str, Tensor]:
        return {"moving": self.moving, "low": self.low, "size": self.size, **self.learned()}

    def taken(self, home: Tensor) -> HexPlane:
        """See Motion."""
        stays, _ = carried(self.moving, home)
        return self.from_tensors(self.keys, {**self.tensors(), "moving": stays})

    def to(self, target: torch.device | str) -> HexPlane:
        """See Motion."""
        return self.from_tensors(self.keys, {name: each.to(target) for name, each in self.tensors().items()})

    @classmethod
    def from_tensors(cls, keys: Keys, tensors: dict[str, Tensor]) -> HexPlane:
        names = ("moving", "low", "size", "places", "later", "inward", "outward")
        return cls(keys, *(tensors[name] for name in names))


def _read(plane: Tensor, at: Tensor) -> Tensor:
    """[M, C] of a plane [C, H, W] at places [M, 2] in -1..1 (along W, along H), between its nodes."""
    found = F.grid_sample(plane[None], at[None, None], "bilinear", "border", align_corners=True)
    return found[0, :, 0].T
