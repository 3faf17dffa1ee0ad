"""A fit of a scene that moves: Gaussians at rest and their motion, from pictures that know their time.

Times are opened one after another, so that what moves is followed and not searched for: a new key begins
where the last one stands. The same bytes however often it is stopped and resumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import SceneError
from ..camera import Camera
from ..gaussians import Gaussians
from ..motion import Learned
from ..raster import rasterize
from ..raster.project import LOGIT_MAX
from .adam import Adam
from .fitting import HELD, FitStep
from .losses import photometric
from .rates import extent, rates
from .state import REMEDY, files_of, load_tensors, save_tensors

PACE = {"shifts": 2.5e-3, "turns": 1e-2, "weights": 5e-2,  # of shifts in the scene's extent
        "places": 2e-2, "later": 2e-2, "inward": 5e-3, "outward": 1e-2}  # fmt: skip


@dataclass(frozen=True)
class TimeFit:
    """How it is fitted. iterations: one picture each. opening: the share of them in which times are opened;
    newest: of their draws, the share from the last time opened. steady: the weight of the motion's speed.
    structure, background, backend, seed: as FitSettings'."""

    iterations: int = 400
    opening: float = 0.5
    newest: float = 0.3
    steady: float = 1e-3
    structure: float = 0.2
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    backend: str = "auto"
    seed: int = 0


class FittingInTime:
    """Gaussians and a motion on their way to pictures. gaussians, motion: as they are now."""

    def __init__(
        self,
        gaussians: Gaussians,
        motion: Learned,
        cameras: Sequence[Camera],
        photographs: Sequence[Callable[[], Tensor]],
        settings: TimeFit | None = None,
    ) -> None:
        """cameras: each with its time. photographs: for each camera a function that gives its picture,
        [H, W, 3] in 0..1. Raises SceneError: numbers that do not fit, a camera without a time."""
        self.settings = settings or TimeFit()
        if not cameras or len(cameras) != len(photographs):
            raise SceneError(
                f"{len(photographs)} pictures for {len(cameras)} cameras; a fit needs one of each"
            )
        timeless = [each.name or str(number) for number, each in enumerate(cameras) if each.time is None]
        if timeless:
            raise SceneError(
                f"camera {timeless[0]!r} has no time, nor have {len(timeless) - 1} others: a scene that "
                "moves is fitted to pictures that know their time in 0..1"
            )
        if self.settings.iterations < 1:
            raise SceneError(f"{self.settings.iterations} iterations; at least 1 is needed")
        self.cameras, self.photographs = tuple(cameras), tuple(photographs)
        self._began = gaussians.detached(), motion
        self.gaussians = gaussians.detached().map(Tensor.clone)
        self.motion = _with(motion, {name: t.detach().clone() for name, t in motion.learned().items()})
        self.adam = Adam(self._owned())
        self.extent = extent(self.cameras, self.gaussians.means)
        self.done = 0
        times = sorted({float(camera.time or 0.0) for camera in cameras})
        self._pictures = [
            [number for number, camera in enumerate(cameras) if camera.time == time] for time in times
        ]
        self._times = times
        self._held: dict[int, Tensor] = {}
        self._background = torch.tensor(self.settings.background).to(self.gaussians.means)

    def step(self) -> FitStep:
        """One picture, drawn by the seed and by how many have been."""
        settings = self.settings
        opened = self._opened(self.done)
        number = self._draw(opened)
        camera = self.cameras[number]
        leaves = {name: tensor.detach().requires_grad_() for name, tensor in self._owned().items()}
        gaussians = Gaussians(**{name: leaves[name] for name in self.gaussians.tensors()})
        motion = _with(self.motion, {name: leaves[name] for name in self.motion.learned()})
        time = float(camera.time or 0.0)
        rendering = rasterize(motion.at(gaussians, time), camera, self._background, backend=settings.backend)
        loss = photometric(rendering.image, self._photograph(number), settings.structure)
        loss = loss + settings.steady * motion.speed()
        if not torch.isfinite(loss):
            raise SceneError(
                f"the fit lost its numbers in iteration {self.done + 1} ({camera.name}, time {time:g})"
            )
        loss.backward()
        grads = {name: torch.zeros_like(t) if t.grad is None else t.grad for name, t in leaves.items()}
        self.adam.step(self._owned(), grads, self._rates(), self.done + 1)
        self.gaussians.logits.clamp_(max=LOGIT_MAX)
        self.done += 1
        self._follow(self._opened(self.done))
        picture = rendering.image.detach()
        return FitStep(self.done, settings.iterations, float(loss.detach()), len(self.gaussians), picture)

    def run(
        self, on_step: Callable[[FitStep], None] | None = None, state: Path | None = None, every: int = 100
    ) -> tuple[Gaussians, Learned]:
        """All iterations that are left, as Fitting.run. Raises SceneError: a state of another fit, or a
        damaged one."""
        belongs = self._fingerprint() if state is not None else ""
        if state is not None and state.exists():
            self._resume(state, belongs)
        while self.done < self.settings.iterations:
            told = self.step()
            if state is not None and (self.done % every == 0 or self.done == self.settings.iterations):
                self._save(state, belongs)
            if on_step is not None:
                on_step(told)
        return self.gaussians, self.motion

    def _owned(self) -> dict[str, Tensor]:
        return {**self.gaussians.tensors(), **self.motion.learned()}

    def _rates(self) -> dict[str, Tensor | float]:
        found = rates(self.done, self.settings.iterations, self.extent, self.gaussians.sh)
        fall = 0.1 ** (self.done / self.settings.iterations)
        found |= {name: PACE[name] * fall for name in self.motion.learned()}
        if "shifts" in found:
            found["shifts"] = PACE["shifts"] * fall * self.extent
        return found

    def _opened(self, done: int) -> int:
        """How many of the times are open."""
        early = self.settings.iterations * self.settings.opening
        return len(self._times) if done >= early else 1 + int(len(self._times) * done / early)

    def _draw(self, opened: int) -> int:
        draw = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.done)
        chance = torch.rand(3, generator=draw, dtype=torch.float64).tolist()
        newest = opened < len(self._times) and chance[0] < self.settings.newest
        at = opened - 1 if newest else int(chance[1] * opened)
        pictures = self._pictures[at]
        return pictures[int(chance[2] * len(pictures))]

    @torch.no_grad()
    def _follow(self, opened: int) -> None:
        """Keys behind the last open time stand where the last open key stands."""
        if opened == len(self._times) and self.done > self.settings.iterations * self.settings.opening:
            return
        self.motion.follow(self.motion.keys.between(self._times[opened - 1])[1])

    def _photograph(self, number: int) -> Tensor:
        if number in self._held:
            return self._held[number]
        camera, picture = self.cameras[number], self.photographs[number]().to(self.gaussians.means)
        if tuple(picture.shape) != (camera.height, camera.width, 3):
            raise SceneError(
                f"the picture of camera {camera.name!r} is {list(picture.shape)}, the camera's is "
                f"[{camera.height}, {camera.width}, 3]: scale one of the two"
            )
        if sum(each.numel() * each.element_size() for each in self._held.values()) < HELD:
            self._held[number] = picture
        return picture

    def _fingerprint(self) -> str:
        """Of what the fit was given; of pictures their cameras, and of those that are files names, sizes
        and times."""
        gaussians, motion = self._began
        digest = hashlib.blake2b(digest_size=16)
        for tensor in [*gaussians.tensors().values(), motion.keys.times, *motion.tensors().values()]:
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        for camera in self.cameras:
            said = (
                camera.view.tolist(),
                camera.intrinsics.tolist(),
                camera.width,
                camera.height,
                camera.name,
            )
            digest.update(repr((*said, camera.time)).encode())
        digest.update(files_of(self.photographs))
        digest.update(repr(sorted(asdict(self.settings).items())).encode())
        return digest.hexdigest()

    def _save(self, path: Path, belongs: str) -> None:
        tensors = self._owned()
        moments = {f"{name}.{which}": t for which, of in ((1, self.adam.first), (2, self.adam.second))
                   for name, t in of.items()}  # fmt: skip
        save_tensors(path, {**tensors, **moments}, belongs, self.done)

    def _resume(self, path: Path, belongs: str) -> None:
        tensors, done = load_tensors(path, belongs)
        for name, tensor in self._owned().items():
            places = {name: tensor, f"{name}.1": self.adam.first[name], f"{name}.2": self.adam.second[name]}
            for key, place in places.items():
                if key not in tensors or tensors[key].shape != place.shape:
                    raise SceneError(f"{path}: the fit's state has no {key} of this scene; {REMEDY}")
                place.copy_(tensors[key])
        self.done = done


def _with(motion: Learned, learned: dict[str, Tensor]) -> Learned:
    return type(motion).from_tensors(motion.keys, {**motion.tensors(), **learned})
