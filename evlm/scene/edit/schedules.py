"""When which view is painted, and what the scene is fitted to in between."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import SceneError
from ..fit.densify import Growth
from ..fit.fitting import MOST_ON_CPU
from ..gaussians import Gaussians
from ..motion import Motion, posed
from ..raster import rasterize
from .journal import Journal, NoJournal
from .paint_back import paint_back
from .painters import ViewPainter
from .pseudo_views import pseudo3d
from .rows import Rows
from .settings import SceneEdit
from .views import EditView

# (views painted, all that will be as far as is known, the last of them [H, W, 3] or None). An exception that
# it raises (errors.Cancelled) stops the edit and reaches the caller; what is in the journal is not lost.
OnProgress = Callable[[int, int, "Tensor | None"], None]
_FITTED = "fitted"
CARRIED = 0.5  # strength at which other times are painted, from what the first one has brought
TIMES = 5  # that a fit would grow, were it not that it ends before the last of them


def edit_rows(
    gaussians: Gaussians,
    selection: Tensor,
    views: Sequence[EditView],
    painter: ViewPainter,
    settings: SceneEdit | None = None,
    background: Tensor | None = None,
    extent: float = 4.0,
    journal: Journal | None = None,
    on_progress: OnProgress | None = None,
    motion: Motion | None = None,
) -> tuple[Gaussians, tuple[str, ...]]:
    """(all Gaussians, the selected ones changed and the others to the bit as they were; notes).

    selection: bool [N]. views: as `edit_views` gives them. background: [3]. extent: of the scene, in units.
    journal: finished paintings and fits; what it recalls is not done again, and the result has the same bits.
    motion: of a scene that moves; it is not changed, and each view is of its camera's time.
    settings.growth above 1: selected rows that show nothing go, and new ones come last; see `edit_shape`.
    """
    edited = edit_shape(
        gaussians, selection, views, painter, settings, background, extent, journal, on_progress, motion
    )
    return edited.gaussians, edited.notes


@dataclass(frozen=True, eq=False)
class Edited:
    """gaussians: [M], the rows that were there in their order, then new ones. home: int64 [M], each one's
    number in the scene that was given, -1 of a new one. changed: bool [M], those that were selected and the
    new."""

    gaussians: Gaussians
    home: Tensor
    changed: Tensor
    notes: tuple[str, ...] = ()


def edit_shape(
    gaussians: Gaussians,
    selection: Tensor,
    views: Sequence[EditView],
    painter: ViewPainter,
    settings: SceneEdit | None = None,
    background: Tensor | None = None,
    extent: float = 4.0,
    journal: Journal | None = None,
    on_progress: OnProgress | None = None,
    motion: Motion | None = None,
) -> Edited:
    """As `edit_rows`, and where each row comes from: with `settings.growth` above 1 selected rows go and new
    ones come. Raises SceneError: growth of a scene that moves."""
    settings = settings or SceneEdit()
    if motion is not None and settings.growth > 1:
        raise SceneError("rows of a scene that moves cannot grow while it is edited: growth 1")
    job = EditJob(
        gaussians, selection, views, painter, settings, background, extent, journal, on_progress, motion
    )
    _SCHEDULES[settings.schedule](job)
    rows = job.rows
    changed = torch.zeros(len(rows.home), dtype=torch.bool, device=rows.index.device)
    changed[rows.index] = True
    return Edited(rows.whole().detached(), rows.home, changed, tuple(job.notes))


class EditJob:
    """What the schedules share: the rows, the views, and the work that is counted and kept."""

    def __init__(
        self,
        gaussians: Gaussians,
        selection: Tensor,
        views: Sequence[EditView],
        painter: ViewPainter,
        settings: SceneEdit,
        background: Tensor | None,
        extent: float,
        journal: Journal | None,
        on_progress: OnProgress | None,
        motion: Motion | None,
    ) -> None:
        self.motion = motion
        self.rows = Rows(gaussians.detached(), selection, extent, settings.anchor)
        self.first = len(self.rows.index)
        self.views, self.painter, self.settings = list(views), painter, settings
        self.background, self.journal, self.on_progress = background, journal or NoJournal(), on_progress
        self.rng = random.Random(settings.seed)
        self.notes: list[str] = []
        self.done, self.all = 0, 0
        self._state = self.journal.recall(_FITTED)
        self.fitted = 0 if self._state is None else int(self._state.pop("number"))
        # By round, of what views and paintings disagreed: those before the fit that is in the journal.
        self._known = [] if self._state is None else self._state.pop("apart").tolist()
        self.apart: list[float] = []

    def shown(self, view: EditView) -> Tensor:
        """[H, W, 3] in 0..1: what the scene shows there; outside the mask the source."""
        with torch.no_grad():
            whole = posed(self.rows.whole(), view.camera, self.motion)
            image = rasterize(whole, view.camera, self.background).image.clamp(0, 1)
        return torch.where(view.mask[..., None], image, view.source)

    def paint(
        self,
        which: Sequence[int],
        strength: float,
        draw: int,
        begun: Callable[[int], Tensor] | None = None,
    ) -> list[Tensor]:
        """Those views painted, in float16 as they are kept. begun: what each is begun from, [H, W, 3];
        without it what the scene shows there."""
        name = _painting(draw, which[0])
        kept = self.journal.recall(name)
        if kept is None:
            views = [self.views[at] for at in which]
            current = [begun(at) if begun else self.shown(self.views[at]) for at in which]
            painted = self.painter.paint(views, current, strength, draw)
            pictures = [
                torch.where(view.mask[..., None], picture.to(view.source), view.source).half()
                for view, picture in zip(views, painted, strict=True)
            ]
            kept = {f"{at:04d}": picture for at, picture in zip(which, pictures, strict=True)}
            self.journal.keep(name, kept)
        self.tell(len(which), next(iter(kept.values())).float())
        return [kept[f"{at:04d}"].to(self.views[at].source) for at in which]

    def paint_all(self, strength: float, draw: int, which: Sequence[int] | None = None) -> list[Tensor]:
        """Every view, or those, in groups that the painter takes together."""
        pictures: list[Tensor] = []
        some = range(len(self.views)) if which is None else which
        for first in range(0, len(some), self.painter.together):
            pictures += self.paint(some[first : first + self.painter.together], strength, draw)
        return pictures

    def fit(
        self, targets: Sequence[Tensor], steps: int, number: int, which: Sequence[int] | None = None
    ) -> None:
        """Adam over all views, or those, in turn, in an order that is drawn, by least squares (the paper's
        L2). number: of the fit, from 1; what the journal has of it or of a later one is taken."""
        some = range(len(self.views)) if which is None else which
        order: list[int] = []
        for step in range(steps):
            order = order or self.rng.sample(some, len(some))
            at = order.pop()
            if number > self.fitted:
                self.step(at, targets[at], step / steps)
                self.grow(step + 1, steps, number)
                self.tell(0, None)
        self.finish(number)

    def sweep(self, targets: Sequence[Tensor]) -> None:
        """The colours' closed-form fit to all views; not where a fit that is kept has begun from it."""
        if self.fitted < 1:
            paint_back(self.rows, self.views, targets, self.background, self.settings.sweeps, self.motion)

    def finish(self, number: int) -> None:
        """Keeps what the rows are after a fit, or takes it from the journal once that is reached."""
        if number > self.fitted:
            apart = torch.tensor(self.apart, dtype=torch.float64)
            self.journal.keep(_FITTED, {**self.rows.state(), "number": torch.tensor(number), "apart": apart})
        elif number == self.fitted and self._state is not None:
            self.rows.load(self._state)
            self._state = None

    def step(self, at: int, target: Tensor, share: float) -> None:
        view = self.views[at]
        whole = posed(self.rows.whole(), view.camera, self.motion)
        image = rasterize(whole, view.close, self.background).image
        loss = (image - view.cut(target)).square().mean()
        camera = view.close if self.settings.growth > 1 else None
        self.rows.step(loss, share, self.settings.decay, camera)

    def grow(self, done: int, steps: int, number: int) -> None:
        """After `done` of the `steps` of a fit, of that number; five times in each, none near its end."""
        growth = Growth(max(1, steps // TIMES), limit=self.settings.growth)
        if self.settings.growth > 1 and growth.now(done, steps):
            frozen = len(self.rows.home) - len(self.rows.index)
            most = int(self.settings.growth * self.first)
            if self.rows.index.device.type == "cpu":
                most = min(most, max(len(self.rows.index), MOST_ON_CPU - frozen))
            self.rows.grow(growth, most, (self.settings.seed * 1_000_003 + number) * 1_000_003 + done)

    def disagreement(self, targets: Sequence[Tensor]) -> float:
        """Mean distance of what the scene shows from the targets, in the masks."""
        if len(self.apart) < len(self._known):
            return float(self._known[len(self.apart)])
        apart = [
            (self.shown(view) - target)[view.mask].abs().mean()
            for view, target in zip(self.views, targets, strict=True)
        ]
        return float(torch.stack(apart).mean())

    def fit_mean(self, total: Sequence[Tensor], number: int) -> float:
        """Fits the scene to the mean of `number` paintings of each view, of which total is the sum; the first
        time from the closed form on. Returns how far it then is from that mean (`disagreement`)."""
        targets = [each / number for each in total]
        if number == 1:
            self.sweep(targets)
        self.rows.forget_moments()
        self.fit(targets, self.settings.steps * len(self.views), number)
        self.apart.append(self.disagreement(targets))
        return self.apart[-1]

    def tell(self, views: int, picture: Tensor | None) -> None:
        self.done += views
        if self.on_progress is not None:
            self.on_progress(self.done, self.all, picture)


def _painting(draw: int, first: int) -> str:
    """What the journal calls the painting of views from `first` on."""
    return f"painted-{draw:04d}-{first:04d}"


def _consistent(job: EditJob) -> None:
    """All views are painted, round after round. What the scene is fitted to is the mean of all paintings of
    a view: each round is another draw of the same edit, and the mean of n draws strays by 1 / sqrt(n) of
    one."""
    settings, count = job.settings, len(job.views)
    job.all = count * len(settings.strengths)
    total = [torch.zeros_like(view.source) for view in job.views]
    before = float("inf")
    for number, strength in enumerate(settings.strengths, 1):
        for at, picture in enumerate(job.paint_all(strength, number)):
            total[at] += picture
        now = job.fit_mean(total, number)
        if now > (1 - settings.settled) * before:
            left = len(settings.strengths) - number
            if left:
                job.notes.append(f"the views agree as well as they will: {left} further rounds were left out")
            break
        before = now


def _canonical(job: EditJob) -> None:
    """The views of one time are painted, and the scene is fitted to them: as it moves, it shows the edit at
    every time. From that those of the other times are painted, and then, with less and less freedom, all."""
    settings, count = job.settings, len(job.views)
    times = [view.camera.time or 0.0 for view in job.views]
    key = max(sorted(set(times)), key=lambda time: (times.count(time), time == times[0]))
    first = [at for at, time in enumerate(times) if time == key]
    others = [at for at, time in enumerate(times) if time != key]
    if not others:
        _consistent(job)
        return
    last = settings.strengths[2:]
    job.all = count * (1 + len(last))
    total = [view.source for view in job.views]
    painted = job.paint_all(settings.strengths[0], 1, first)
    for at, picture in zip(first, painted, strict=True):
        total[at] = picture
    if job.fitted < 1:
        some = [job.views[at] for at in first]
        paint_back(job.rows, some, painted, job.background, settings.sweeps, job.motion)
    job.rows.forget_moments()
    job.fit(total, settings.steps * len(first), 1, first)
    for at, picture in zip(others, job.paint_all(CARRIED, 2, others), strict=True):
        total[at] = picture
    job.rows.forget_moments()
    job.fit(total, settings.steps * count, 2)
    before = job.disagreement(total)
    job.apart.append(before)
    for number, strength in enumerate(last, 2):
        for at, picture in enumerate(job.paint_all(strength, number + 1)):
            total[at] = total[at] * ((number - 1) / number) + picture / number
        job.rows.forget_moments()
        job.fit(total, settings.steps * count, number + 1)
        now = job.disagreement(total)
        job.apart.append(now)
        if now > (1 - settings.settled) * before:
            break
        before = now


def _direct(job: EditJob) -> None:
    """All views are painted once, and the scene is fitted to them."""
    job.all = len(job.views)
    targets = job.paint_all(1.0, 1)
    job.fit(targets, job.settings.steps * len(job.views), 1)


def _in2n(job: EditJob) -> None:
    """One view is painted anew every few steps of one fit to the dataset of the newest paintings; it begins
    from what the scene shows, noised to a level that is drawn (Haque et al. 2023, section 4.2)."""

    def a_round() -> list[int]:
        return job.rng.sample(range(len(job.views)), len(job.views))

    _one_by_one(job, a_round)


def _iterative(job: EditJob) -> None:
    """`in2n` over cameras and times (the paper's Figure 8): one after another is of another time, and every
    time is as often painted, by whichever of its cameras the draw says."""
    times: dict[float, list[int]] = {}
    for at, view in enumerate(job.views):
        times.setdefault(view.camera.time or 0.0, []).append(at)

    def a_round() -> list[int]:
        """Popped from its end."""
        drawn = [job.rng.sample(of, len(of)) for of in times.values()]
        found: list[int] = []
        while left := [of for of in drawn if of]:
            found += [of.pop() for of in job.rng.sample(left, len(left))]
        return found[::-1]

    _one_by_one(job, a_round)


def _one_by_one(job: EditJob, a_round: Callable[[], list[int]]) -> None:
    """a_round: the numbers of all views in an order that is drawn, the first of them last."""
    settings, count = job.settings, len(job.views)
    updates = max(1, round(settings.updates * count))
    steps, job.all = updates * settings.every, updates
    targets = [view.source for view in job.views]
    waiting: list[int] = []
    asked: list[tuple[int, float]] = []
    for _ in range(updates):
        waiting = waiting or a_round()
        asked.append((waiting.pop(), job.rng.uniform(0.02, 0.98)))
    newest: dict[int, int] = {}
    for update, (at, strength) in enumerate(asked):
        if at in {each for each, _ in asked[update + 1 : job.fitted]}:
            job.tell(1, None)  # the fit that is kept has seen a later painting of that view
        else:
            (targets[at],) = job.paint([at], strength, update + 1)
        for step in range(update * settings.every, (update + 1) * settings.every):
            drawn = job.rng.randrange(count)
            if update + 1 > job.fitted:
                job.step(drawn, targets[drawn], step / steps)
                job.grow(step + 1, steps, 1)
                job.tell(0, None)
        job.finish(update + 1)
        if at in newest:
            job.journal.drop(_painting(newest[at], at))
        newest[at] = update + 1


def _pseudo3d(job: EditJob) -> None:
    pseudo3d(job, CARRIED)


_SCHEDULES: dict[str, Callable[[EditJob], None]] = {
    "consistent": _consistent,
    "in2n": _in2n,
    "direct": _direct,
    "canonical": _canonical,
    "iterative": _iterative,
    "pseudo3d": _pseudo3d,
}
