"""Schedules of a scene's edit, with editors that err, against Instruct-NeRF2NeRF's dataset update.

    OMP_NUM_THREADS=1 python -m benchmarks.scene_edit [--seeds 5] [--sigma 0.1 0.2] [--editors noisy leaning]

Each seed is a scene of the solid world, fitted from its exact views, and a recolouring of one of its solids.
Both sides see the same scene, selection and views, and use the same learning rates and their decay.
`noisy` and `leaning`
are the editors of trainer/world/solid_painters.py: one errs anew in every draw, the other by what it sees.
dB: PSNR inside the edited solid on views held out, against their true pictures. Every
painting is charged what the bundled editor takes for it.

What fewer paintings cost is asked for by name:

    python -m benchmarks.scene_edit --seeds 3 --arms consistent "consistent, 1 round" "consistent, 4 views"
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from evlm.scene import Camera, Gaussians
from evlm.scene.edit import EditView, SceneEdit, edit_rows, edit_views
from evlm.scene.edit.painters import ViewPainter
from evlm.scene.fit import FitSettings, Fitting, from_points
from evlm.scene.points import Points
from evlm.scene.poses.views import farthest
from evlm.scene.raster import rasterize
from trainer.world.raytrace import SKY_RGB, surface, view
from trainer.world.solid import random_solids
from trainer.world.solid_cameras import ring
from trainer.world.solid_edits import SolidEdit, random_solid_edit
from trainer.world.solid_painters import LeaningPainter, NoisyPainter

CHARGE = 0.44  # seconds of a painting by the bundled editor
VIEWS, HELD, POINTS, FIT = 16, 8, 3000, 400
ROUNDS = SceneEdit(views=VIEWS, settled=0)
ARMS = {
    "consistent": ROUNDS,  # 48 paintings
    "consistent, 2 rounds": replace(ROUNDS, strengths=(1.0, 0.6)),
    "direct": replace(ROUNDS, schedule="direct", steps=16),
    "in2n": replace(ROUNDS, schedule="in2n", updates=2.5),  # 40 paintings, 400 steps
    "in2n, as many paintings": replace(ROUNDS, schedule="in2n", updates=3.0),
}
FEWER = {
    "consistent, 1 round": replace(ROUNDS, strengths=(1.0,)),
    "consistent, 4 views": replace(ROUNDS, views=4),
}
BARS = {"noisy": (0.0, -0.1), "leaning": (0.5, 0.5)}  # dB at equal time, at equal paintings
EDITORS = {"noisy": NoisyPainter, "leaning": LeaningPainter}


@dataclass(frozen=True)
class Case:
    """A fitted scene and an edit of it, with its truth. selected: bool [N]."""

    edit: SolidEdit
    gaussians: Gaussians
    selected: Tensor
    background: Tensor
    views: list[EditView]
    held: tuple[Camera, ...]
    truth: list[Tensor]
    covers: list[Tensor]

    def score(self, gaussians: Gaussians) -> tuple[float, float]:
        """(dB inside the edited solid, dB where it is not seen), of the views held out."""
        inside, outside = [], []
        for camera, truth, cover in zip(self.held, self.truth, self.covers, strict=True):
            with torch.no_grad():
                shown = rasterize(gaussians, camera, self.background).image.clamp(0, 1)
            squares = (shown - truth).square()
            if bool((cover > 0.99).any()):
                inside.append(float(squares[cover > 0.99].mean()))
            outside.append(float(squares[cover == 0].mean()))
        return _db(inside), _db(outside)


def _db(squares: Sequence[float]) -> float:
    return -10 * math.log10(sum(squares) / len(squares))


def make_case(seed: int) -> Case:
    """The scene and the edit of a seed."""
    rng = random.Random(f"scene edit {seed}")
    edit: SolidEdit | None = None
    while edit is None:
        edit = random_solid_edit(rng, "recolour", random_solids(rng, 3))
    assert edit.target is not None and edit.outcome is not None
    cameras, held = ring(VIEWS), ring(HELD, held_out=True)
    background = torch.tensor(SKY_RGB[edit.source.sky])
    pictures = [_colours(view(edit.source, camera).picture) for camera in cameras]
    seen = surface(edit.source, cameras, POINTS, 0.01, seed)
    points = Points(torch.from_numpy(seen.points).float(), torch.from_numpy(seen.colours).float())
    settings = FitSettings(FIT, tuple(background.tolist()), seed=seed)
    fitting = Fitting(from_points(points), cameras, [lambda p=p: p for p in pictures], settings)
    gaussians = fitting.run()
    selected = torch.from_numpy(seen.owners) == edit.source.solids.index(edit.target)
    results = [view(edit.result, camera) for camera in held]
    number = edit.result.solids.index(edit.outcome)
    return Case(
        edit,
        gaussians,
        selected,
        background,
        edit_views(gaussians, selected, cameras, None, background),
        held,
        [_colours(each.picture) for each in results],
        [torch.from_numpy(each.coverage[number]) for each in results],
    )


def _colours(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(picture).float() / 255


class Counted:
    """A scripted editor, its paintings and its own seconds: those are taken off, and each is charged."""

    def __init__(self, painter: ViewPainter) -> None:
        self.painter, self.together = painter, painter.together
        self.calls, self.seconds = 0, 0.0

    def paint(
        self, views: Sequence[EditView], current: Sequence[Tensor], strength: float, draw: int
    ) -> list[Tensor]:
        began = time.process_time()
        painted = self.painter.paint(views, current, strength, draw)
        self.calls, self.seconds = self.calls + len(views), self.seconds + time.process_time() - began
        return painted


def main(seeds: int, sigmas: Sequence[float], editors: Sequence[str], arms: Sequence[str]) -> int:
    torch.set_num_threads(1)
    results: dict[tuple[str, float, str], list[tuple[float, float, float, float]]] = {}
    for seed in range(seeds):
        case = make_case(seed)
        inside, outside = case.score(case.gaussians)
        print(f"seed {seed}: {len(case.gaussians)} Gaussians, outside {outside:.1f} dB before", flush=True)
        for editor in editors:
            for sigma in sigmas:
                for name in arms:
                    painter = Counted(EDITORS[editor](case.edit, sigma, seed))
                    settings = replace((ARMS | FEWER)[name], seed=seed)
                    which = farthest([each.camera for each in case.views], settings.views)
                    views = [case.views[at] for at in which]
                    began = time.process_time()
                    edited, _ = edit_rows(
                        case.gaussians, case.selected, views, painter, settings, case.background
                    )
                    took = time.process_time() - began - painter.seconds
                    for key, tensor in edited.tensors().items():
                        assert torch.equal(
                            tensor[~case.selected], case.gaussians.tensors()[key][~case.selected]
                        )
                    inside, after = case.score(edited)
                    row = (inside, painter.calls, took + CHARGE * painter.calls, after - outside)
                    results.setdefault((editor, sigma, name), []).append(row)
                    print(f"  {editor} {sigma:g} {name}: {inside:.2f} dB, {row[2]:.1f} s", flush=True)
    return _report(results, editors, sigmas, arms)


def _report(
    results: dict[tuple[str, float, str], list[tuple[float, float, float, float]]],
    editors: Sequence[str],
    sigmas: Sequence[float],
    arms: Sequence[str],
) -> int:
    missed = False
    print("| editor | sigma | schedule | dB inside | paintings | seconds | outside, change in dB |")
    print("|---|---|---|---|---|---|---|")
    for editor in editors:
        for sigma in sigmas:
            for name in arms:
                level, calls, seconds, outside = np.mean(results[editor, sigma, name], 0)
                row = f"{level:.2f} | {calls:.0f} | {seconds:.1f} | {outside:+.2f}"
                print(f"| {editor} | {sigma:g} | {name} | {row} |")
            bars = dict(zip(("in2n", "in2n, as many paintings"), BARS[editor], strict=True))
            for rival, bar in (bars | dict.fromkeys(FEWER, -math.inf)).items():  # of those there is none
                if rival not in arms or "consistent" not in arms:
                    continue
                ours, theirs = results[editor, sigma, "consistent"], results[editor, sigma, rival]
                gains = np.array([a[0] - b[0] for a, b in zip(ours, theirs, strict=True)])
                low, high = _interval(gains)
                time_ratio = np.mean([a[2] for a in ours]) / np.mean([b[2] for b in theirs])
                said = "" if gains.mean() >= bar else f": missed (bar {bar:+g})"
                missed |= bool(said)
                print(
                    f"{editor} {sigma:g}: consistent over {rival} {gains.mean():+.2f} dB "
                    f"[{low:+.2f}, {high:+.2f}], {time_ratio:.2f}x its time{said}"
                )
    return int(missed)


def _interval(gains: np.ndarray) -> tuple[float, float]:
    """95 % of 10,000 bootstraps of the mean."""
    rng = np.random.default_rng(0)
    means = rng.choice(gains, (10_000, len(gains))).mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.1, 0.2])
    parser.add_argument("--editors", nargs="+", choices=list(BARS), default=list(BARS))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS | FEWER), default=list(ARMS))
    options = parser.parse_args()
    raise SystemExit(main(options.seeds, options.sigma, options.editors, options.arms))
