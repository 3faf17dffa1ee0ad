"""Schedules of a moving scene's edit, with an editor that errs, at equal total time.

    OMP_NUM_THREADS=1 python -m benchmarks.scene_in_time_edit [--seeds 3] [--sigma 0.1] [--iterations 400]

Each seed is a scene of moving solids, fitted from its exact pictures (8 cameras, 8 times, 48 px), and another
colour for one that moves. It is edited from 4 places at 4 times by a scripted editor, which paints the truth
and errs anew in every view and draw by `sigma` (trainer/world/solid_painters.py); what it is shown counts for
nothing. Every painting is charged what the bundled editor takes. `canonical` and `pseudo3d` paint twice as
often as there are views; `iterative` is given as many paintings as fit into `canonical`'s time. dB: PSNR
inside the edited solid from 4 places held out, at all 8 times. Rest and motion keep their bits, or it fails.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.scene_edit import CHARGE, Counted
from benchmarks.scene_in_time import POINTS, SIZE, TIMES, VIEWS, fitted, seen_to_turn, shots
from evlm.scene import Gaussians
from evlm.scene.edit import EditView, SceneEdit, edit_rows, edit_views
from evlm.scene.motion import Motion
from evlm.scene.moving import views_in_time
from evlm.scene.raster import rasterize
from trainer.world.moving import MovingScene, random_moving
from trainer.world.raytrace import SKY_RGB, surface, view
from trainer.world.solid_cameras import ring
from trainer.world.solid_edits import recolour
from trainer.world.solid_painters import seeded, stains

PAIRS, AT, HELD = 16, 4, 4
COLOURS = ("red", "green", "blue", "yellow")
SETTINGS = SceneEdit("canonical", views=PAIRS, times=AT, settled=0)
ARMS = ("canonical", "iterative", "pseudo3d")
T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}  # of so many seeds


@dataclass(frozen=True, eq=False)
class Case:
    """A fitted scene that moves, and an edit of it with its truth. selected: bool [N]. held: cameras with
    their time, what they are to show, and bool [H, W], where the edited solid alone is."""

    gaussians: Gaussians
    motion: Motion
    selected: Tensor
    background: Tensor
    views: list[EditView]
    result: MovingScene
    held: list[tuple[EditView, Tensor]]

    def score(self, gaussians: Gaussians) -> float:
        """dB inside the edited solid."""
        squares = []
        for each, truth in self.held:
            at = self.motion.at(gaussians, float(each.camera.time or 0))
            with torch.no_grad():
                shown = rasterize(at, each.camera, self.background).image.clamp(0, 1)
            squares.append(float((shown - truth)[each.mask].square().mean()))
        return -10 * math.log10(statistics.mean(squares))


class Noisy:
    """See trainer.world.solid_painters.NoisyPainter: the same at every time, of which each errs anew."""

    together = 8

    def __init__(self, result: MovingScene, sigma: float, seed: int) -> None:
        self.result, self.sigma, self.seed = result, sigma, seed

    def paint(
        self, views: Sequence[EditView], current: Sequence[Tensor], strength: float, draw: int
    ) -> list[Tensor]:
        """As `ViewPainter.paint`."""
        painted = []
        for each in views:
            at = float(each.camera.time or 0)
            truth = torch.from_numpy(view(self.result.at(at), each.camera).picture).float() / 255
            generator = seeded(each, self.seed + 101 * round(1000 * at), draw)
            shift = torch.randn(3, generator=generator)
            painted.append((truth + self.sigma * (shift + stains(each, generator))).clamp(0, 1))
        return painted


def make_case(seed: int, iterations: int) -> Case:
    """The scene and the edit of a seed."""
    rng = random.Random(f"edit in time {seed}")
    while True:
        moving = random_moving(rng)
        goes = [
            number
            for number, (solid, way) in enumerate(zip(moving.scene.solids, moving.ways, strict=True))
            if not way.still and seen_to_turn(solid, way)
        ]
        if goes:
            break
    number = rng.choice(goes)
    solid = moving.scene.solids[number]
    edit = recolour(moving.scene, solid, rng.choice([each for each in COLOURS if each != solid.colour]))
    result = moving.edited(edit.result)
    times = [at / (TIMES - 1) for at in range(TIMES)]
    cameras = ring(VIEWS, SIZE)
    gaussians, motion, _ = fitted(moving, shots(moving, cameras, times), TIMES, iterations, 8, seed)
    owners = surface(moving.scene, cameras, POINTS, noise=0.01, seed=seed).owners
    selected = torch.from_numpy(owners) == number
    background = torch.tensor(SKY_RGB[moving.scene.sky])
    pairs = views_in_time(cameras, motion, PAIRS, AT)
    held = []
    for shot in shots(result, ring(HELD, SIZE, held_out=True), times):
        seen = view(result.at(float(shot.camera.time or 0)), shot.camera)
        inside = torch.from_numpy(seen.coverage[number]) > 0.99
        if bool(inside.any()):
            held.append((EditView(shot.camera, shot.picture, inside, (0, 0, SIZE, SIZE)), shot.picture))
    views = edit_views(gaussians, selected, pairs, None, background, motion=motion)
    return Case(gaussians, motion, selected, background, views, result, held)


def measure(case: Case, schedule: str, updates: float, sigma: float, seed: int) -> tuple[float, int, float]:
    """(dB, paintings, seconds with each painting charged)."""
    settings = replace(SETTINGS, schedule=schedule, updates=updates, seed=seed)
    painter = Counted(Noisy(case.result, sigma, seed))
    kept = {name: tensor.clone() for name, tensor in case.motion.tensors().items()}
    began = time.process_time()
    edited, _ = edit_rows(
        case.gaussians, case.selected, case.views, painter, settings, case.background, motion=case.motion
    )
    took = time.process_time() - began - painter.seconds
    for name, tensor in edited.tensors().items():
        assert torch.equal(tensor[~case.selected], case.gaussians.tensors()[name][~case.selected]), name
    assert all(torch.equal(kept[name], tensor) for name, tensor in case.motion.tensors().items())
    return case.score(edited), painter.calls, took + CHARGE * painter.calls


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--sigma", type=float, default=0.1)
    options.add_argument("--iterations", type=int, default=400)
    given = options.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[tuple[float, int, float]]] = {name: [] for name in ARMS}
    for seed in range(given.seeds):
        case = make_case(seed, given.iterations)
        count = len(case.views)
        base = measure(case, "canonical", 1, given.sigma, seed)
        steps = SETTINGS.steps * (count // AT + 2 * count)  # of `canonical`: one time, then all, twice
        step = (base[2] - CHARGE * base[1]) / steps
        paintings = base[2] / (CHARGE + SETTINGS.every * step)
        rows = {"canonical": base}
        rows["iterative"] = measure(case, "iterative", paintings / count, given.sigma, seed)
        rows["pseudo3d"] = measure(case, "pseudo3d", 1, given.sigma, seed)
        before = case.score(case.gaussians)
        said = ", ".join(f"{n} {db:.2f} dB {calls} {s:.1f} s" for n, (db, calls, s) in rows.items())
        print(f"seed {seed}: {count} views, before {before:.2f} dB; {said}", flush=True)
        for name in ARMS:
            found[name].append(rows[name])
    print("| schedule | dB inside | paintings | seconds | canonical is better by, dB [95 %] |")
    print("|---|---|---|---|---|")
    behind = False
    for name in ARMS:
        level, calls, seconds = (statistics.mean(row[part] for row in found[name]) for part in range(3))
        apart = [one[0] - other[0] for one, other in zip(found["canonical"], found[name], strict=True)]
        mean, more = statistics.mean(apart), math.nan
        if len(apart) in T_95:
            more = T_95[len(apart)] * statistics.stdev(apart) / math.sqrt(len(apart))
        behind |= mean < 0
        said = f"{mean:+.2f} [{mean - more:+.2f}, {mean + more:+.2f}]" if name != "canonical" else ""
        print(f"| {name} | {level:.2f} | {calls:.0f} | {seconds:.1f} | {said} |")
    return int(behind)


if __name__ == "__main__":
    sys.exit(main())
