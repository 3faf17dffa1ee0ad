"""The fit itself: one view an iteration, the same bytes however often it is stopped and resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import SceneError
from ..camera import Camera
from ..gaussians import Gaussians, joined
from ..raster import rasterize
from ..raster.project import LOGIT_MAX
from .adam import Adam
from .densify import Growth, grown, pulled
from .losses import photometric
from .rates import extent, rates
from .state import fingerprint, read_state, write_state

MOST_ON_CPU = 200_000
HELD = 256 << 20  # bytes of photographs kept in memory; beyond it they are read again


@dataclass(frozen=True)
class FitSettings:
    """How a scene is fitted.

    iterations: one view each. background: what is behind everything, RGB in 0..1. structure: the weight of
    1 - SSIM in the loss. growth: where and when rows are added; None keeps their number. antialias, backend:
    see rasterize. seed: of the order of views and of growth.
    """

    iterations: int = 400
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    structure: float = 0.2
    growth: Growth | None = None
    antialias: bool = False
    backend: str = "auto"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class FitStep:
    """What was just done. done of total iterations; loss of this one; count of Gaussians; picture: [H, W, 3],
    the rendering of the view that was learnt from, before the step."""

    done: int
    total: int
    loss: float
    count: int
    picture: Tensor


class Fitting:
    """Gaussians on their way to photographs.

    owned: the rows that move, and after growth the new ones; others lie in `frozen` and are never touched.
    notes: grows with what a user should know.
    """

    def __init__(
        self,
        gaussians: Gaussians,
        cameras: Sequence[Camera],
        photographs: Sequence[Callable[[], Tensor]],
        settings: FitSettings | None = None,
        rows: Tensor | None = None,
    ) -> None:
        """photographs: for each camera a function that gives its picture, [H, W, 3] in 0..1. rows: bool [N],
        what may move; all by default.

        Raises SceneError: no cameras, numbers that do not fit, more Gaussians than a CPU fits.
        """
        self.settings = settings or FitSettings()
        if not cameras or len(cameras) != len(photographs):
            raise SceneError(
                f"{len(photographs)} photographs for {len(cameras)} cameras; a fit needs one of each"
            )
        if self.settings.iterations < 1:
            raise SceneError(f"{self.settings.iterations} iterations; at least 1 is needed")
        count = len(gaussians)
        if rows is not None and (rows.dtype != torch.bool or tuple(rows.shape) != (count,)):
            raise SceneError(f"rows are {list(rows.shape)} {rows.dtype}, expected [{count}] bool")
        if count > MOST_ON_CPU and gaussians.means.device.type == "cpu":
            raise SceneError(
                f"{count} Gaussians on a CPU, where at most {MOST_ON_CPU} are fitted in bearable time: use a "
                "GPU, or begin with fewer points"
            )
        moving = torch.ones(count, dtype=torch.bool, device=gaussians.means.device) if rows is None else rows
        if not moving.any():
            raise SceneError("there is no Gaussian that may move: select some, or begin with points")
        self.source = gaussians.detached()
        self.cameras = tuple(cameras)
        self.photographs = tuple(photographs)
        self._pictures: dict[int, Tensor] = {}
        self.moving = moving
        self.frozen = self.source.rows(~moving)
        self.owned = self.source.rows(moving).map(Tensor.clone)
        self.home = moving.nonzero().flatten()  # of an owned row: its number in the source; -1 of a new one
        self.adam = Adam(self.owned.tensors())
        self.pull = torch.zeros_like(self.owned.logits)
        self.done = 0
        self.notes: list[str] = []
        self.extent = extent(self.cameras, self.source.means)
        self._background = torch.tensor(self.settings.background).to(self.source.means)

    def result(self) -> Gaussians:
        """All Gaussians as they are now: the source's rows in their order, without those that went, then the
        new ones. What does not move has the source's very bits."""
        old, new = self.home >= 0, self.home < 0
        where = torch.cat([(~self.moving).nonzero().flatten(), self.home[old]])
        both = joined([self.frozen, self.owned.rows(old)])
        return joined([both.rows(where.argsort()), self.owned.rows(new)])

    def step(self) -> FitStep:
        """One view, chosen by the seed and by how many have been."""
        settings = self.settings
        number = self._view()
        camera, photograph = self.cameras[number], self._photograph(number)
        leaves = self.owned.map(lambda tensor: tensor.detach().requires_grad_())
        shown = joined([self.frozen, leaves]) if len(self.frozen) else leaves
        rendering = rasterize(
            shown,
            camera,
            self._background,
            sh_degree=self._degree(),
            antialias=settings.antialias,
            backend=settings.backend,
        )
        loss = photometric(rendering.image, photograph, settings.structure)
        if not torch.isfinite(loss):
            raise SceneError(
                f"the fit lost its numbers in iteration {self.done + 1}, view {number} ({camera.name})"
            )
        loss.backward()
        grads = {
            name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            for name, leaf in leaves.tensors().items()
        }
        self.pull += pulled(grads["means"], self.owned.means, camera)
        pace = rates(self.done, settings.iterations, self.extent, self.owned.sh)
        self.adam.step(self.owned.tensors(), grads, pace, self.done + 1)
        self.owned.logits.clamp_(max=LOGIT_MAX)
        self.done += 1
        if settings.growth is not None and settings.growth.now(self.done, settings.iterations):
            self._grow(settings.growth)
        picture = rendering.image.detach()
        return FitStep(
            self.done, settings.iterations, float(loss.detach()), len(self.frozen) + len(self.owned), picture
        )

    def run(
        self,
        on_step: Callable[[FitStep], None] | None = None,
        state: Path | None = None,
        every: int = 100,
    ) -> Gaussians:
        """All iterations that are left. on_step hears of each; what it raises (errors.Cancelled) stops the
        fit. state: a file that is written every `every` iterations, and gone on from where it is there
        already: the result then has the bits that it would have had without the stop. It is left for the
        caller to delete.

        Raises SceneError: a state of another fit, or a damaged one."""
        print_of = fingerprint(self) if state is not None else ""
        if state is not None and state.exists():
            read_state(state, self, print_of)
        while self.done < self.settings.iterations:
            told = self.step()
            if state is not None and (self.done % every == 0 or self.done == self.settings.iterations):
                write_state(state, self, print_of)
            if on_step is not None:
                on_step(told)
        return self.result()

    def _view(self) -> int:
        """Every view once in each round, in an order that the seed and the round alone decide."""
        past, place = divmod(self.done, len(self.cameras))
        draw = torch.Generator().manual_seed((self.settings.seed * 1_000_003 + past) % 2**63)
        return int(torch.randperm(len(self.cameras), generator=draw)[place])

    def _degree(self) -> int:
        """Harmonics come one degree at a time, so that the constant ones do not hide behind them."""
        each = max(1, min(1000, self.settings.iterations // (self.source.degree + 1)))
        return min(self.source.degree, self.done // each)

    def _photograph(self, number: int) -> Tensor:
        if number in self._pictures:
            return self._pictures[number]
        camera = self.cameras[number]
        picture = self.photographs[number]().to(self.source.means)
        if tuple(picture.shape) != (camera.height, camera.width, 3):
            raise SceneError(
                f"the photograph of camera {camera.name!r} is {list(picture.shape)}, the camera's picture "
                f"[{camera.height}, {camera.width}, 3]: scale one of the two"
            )
        held = sum(each.numel() * each.element_size() for each in self._pictures.values())
        if held + picture.numel() * picture.element_size() <= HELD:
            self._pictures[number] = picture
        return picture

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)

    def _grow(self, growth: Growth) -> None:
        most = int(growth.limit * int(self.moving.sum()))
        room = MOST_ON_CPU - len(self.frozen)
        if self.owned.means.device.type == "cpu" and most > room:
            most = room
            if len(self.owned) + int(growth.share * len(self.owned)) > room:
                self._note(
                    f"growth ends at {MOST_ON_CPU:,} Gaussians, the most that a CPU fits in bearable time"
                )
        stays, new = grown(self.owned, self.pull, growth, most, self.settings.seed * 1_000_003 + self.done)
        self.owned = joined([self.owned.rows(stays), new])
        self.home = torch.cat([self.home[stays], self.home.new_full((len(new),), -1)])
        self.adam.keep(stays, len(new))
        self.pull = torch.zeros_like(self.owned.logits)
