"""A moving scene of the world fitted from its exact pictures, held to the bars of a fit in time.

    OMP_NUM_THREADS=1 python -m benchmarks.scene_in_time [--seeds 3] [--iterations 400] [--bases 8]
        [--motion hexplane] [--squash]

Per seed: solids on their ways, 8 cameras that stand still at 8 times, 48 px, 2,000 points of time 0; held out
are 4 cameras between them at all times, and (in a second fit, of every other time) the times between. dB:
PSNR of the whole picture. flow: how far the rendered motion of pixels inside moving solids is from the exact
one, px, between neighbouring times; solids whose turn no picture shows are left out. still: rows of the
ground that keep their bits. CPU seconds of one thread. --squash: what moves grows and shrinks by .3 of its
height, too, which no rigid motion does.
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

from evlm.scene import Camera, Gaussians
from evlm.scene.fit import FittingInTime, TimeFit, from_points
from evlm.scene.fit.losses import psnr
from evlm.scene.motion import HexPlane, Keys, Learned, Motion, RigidBases
from evlm.scene.points import Points
from evlm.scene.raster import rasterize
from evlm.scene.select import which_move
from trainer.bundle.check_scenes import behind
from trainer.world.moving import MovingScene, Way, flow, random_moving
from trainer.world.raytrace import SKY_RGB, surface, view
from trainer.world.solid import Solid
from trainer.world.solid_cameras import ring

SIZE, VIEWS, TIMES, HELD, POINTS = 48, 8, 8, 4, 2000
BARS = {"views dB": (28.0, False), "times dB": (25.0, False), "flow px": (0.3, True), "still": (0.8, False),
        "CPU s": (60.0, True)}  # fmt: skip


@dataclass(frozen=True)
class Shot:
    """A camera with its time, and what it sees."""

    camera: Camera
    picture: Tensor

    def __call__(self) -> Tensor:
        return self.picture


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--iterations", type=int, default=400)
    options.add_argument("--bases", type=int, default=8)
    options.add_argument("--motion", choices=["bases", "hexplane"], default="bases")
    options.add_argument("--squash", action="store_true")
    given = options.parse_args()
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {name: [] for name in BARS}
    for seed in range(given.seeds):
        values = measure(seed, given.iterations, given.bases, given.motion, 0.3 if given.squash else 0.0)
        for name, value in values.items():
            found[name].append(value)
        print(
            f"seed {seed}: " + ", ".join(f"{name} {value:.3g}" for name, value in values.items()), flush=True
        )
    kept = True
    for name, (bar, most) in BARS.items():
        mean = statistics.mean(value for value in found[name] if not math.isnan(value))
        good = mean <= bar if most else mean >= bar
        kept &= good
        print(f"{name}: {mean:.3g} (bar {'<=' if most else '>='} {bar:g}){'' if good else ' missed'}")
    return int(not kept)


def measure(
    seed: int, iterations: int, bases: int, kind: str = "bases", squash: float = 0.0
) -> dict[str, float]:
    moving = random_moving(random.Random(f"in time {seed}"))
    ways = tuple(way if way.still else replace(way, squash=squash) for way in moving.ways)
    moving = MovingScene(moving.scene, ways)
    times = [number / (TIMES - 1) for number in range(TIMES)]
    seen = shots(moving, ring(VIEWS, SIZE), times)
    held = shots(moving, ring(HELD, SIZE, held_out=True), times)
    began = time.process_time()
    gaussians, motion, rows = fitted(moving, seen, TIMES, iterations, bases, seed, kind)
    spent = time.process_time() - began
    odd = [shot for shot in seen if times.index(float(shot.camera.time or 0)) % 2 == 0]
    fewer, path, _ = fitted(moving, odd, TIMES // 2, iterations, bases, seed, kind)
    between = [shot for shot in held if 0 < times.index(float(shot.camera.time or 0)) < TIMES - 1
               and times.index(float(shot.camera.time or 0)) % 2 == 1]  # fmt: skip
    ground = gaussians.means[:, 2].abs() < 0.05
    return {
        "views dB": quality(gaussians, motion, moving, held),
        "times dB": quality(fewer, path, moving, between),
        "flow px": flow_error(gaussians, motion, moving, held, times),
        "still": float((~rows)[ground].float().mean()),
        "CPU s": spent,
    }


def fitted(
    moving: MovingScene,
    seen: Sequence[Shot],
    keys: int,
    iterations: int,
    bases: int,
    seed: int,
    kind: str = "bases",
) -> tuple[Gaussians, Motion, Tensor]:
    """(Gaussians, their motion, which rows move: bool [N])."""
    found = surface(moving.scene, ring(VIEWS, seen[0].camera.width), POINTS, noise=0.01, seed=seed)
    cloud = Points(torch.from_numpy(found.points).float(), torch.from_numpy(found.colours).float())
    gaussians, cameras = from_points(cloud, seed=seed), [shot.camera for shot in seen]
    rows, _ = which_move(gaussians, cameras, seen)
    known = torch.tensor(sorted({float(camera.time or 0) for camera in cameras}), dtype=torch.float64)
    assert len(known) == keys
    if kind == "hexplane":
        motion: Learned = HexPlane.begin(gaussians, rows, Keys(known), seed=seed)
    else:
        motion = RigidBases.begin(gaussians, rows, Keys(known), bases, seed)
    settings = TimeFit(iterations=iterations, background=behind(moving.scene), seed=seed)
    return *FittingInTime(gaussians, motion, cameras, seen, settings).run(), rows


def shots(moving: MovingScene, cameras: Sequence[Camera], times: Sequence[float]) -> list[Shot]:
    return [
        Shot(replace(camera, time=at), torch.from_numpy(view(moving.at(at), camera).picture).float() / 255)
        for camera in cameras
        for at in times
    ]


def quality(gaussians: Gaussians, motion: Motion, moving: MovingScene, held: Sequence[Shot]) -> float:
    background = torch.tensor(SKY_RGB[moving.scene.sky])
    with torch.no_grad():
        return statistics.mean(
            psnr(rasterize(motion.at(gaussians, at), shot.camera, background).image.clamp(0, 1), shot.picture)
            for shot in held
            for at in [float(shot.camera.time or 0)]
        )


def flow_error(
    gaussians: Gaussians, motion: Motion, moving: MovingScene, held: Sequence[Shot], times: Sequence[float]
) -> float:
    """Mean end point error, px, over pixels that only moving solids fill and that stay in sight; NaN where
    none moves as one could see."""
    errors = []
    moves = [
        not way.still and seen_to_turn(solid, way)
        for solid, way in zip(moving.scene.solids, moving.ways, strict=True)
    ]
    for shot in held:
        at = times.index(float(shot.camera.time or 0))
        if at + 1 == len(times) or not any(moves):
            continue
        true = flow(moving, shot.camera, times[at], times[at + 1])
        cover = torch.from_numpy(view(moving.at(times[at]), shot.camera).coverage)
        inside = (cover[moves].amax(0) > 0.99) & torch.from_numpy(true.seen)
        if not bool(inside.any()):
            continue
        here, there = (motion.at(gaussians, time) for time in times[at : at + 2])
        shown = rendered_flow(here, there, shot.camera)
        apart = (shown - torch.from_numpy(true.pixels)).norm(dim=-1)
        errors.append(float(apart[inside].mean()))
    return statistics.mean(errors) if errors else float("nan")


def seen_to_turn(solid: Solid, way: Way) -> bool:
    """Whether its turning, where it turns, can be seen at all: a plain ball's cannot."""
    return not way.angle or solid.shape == "box" or solid.texture in ("dotted", "checkered")


def rendered_flow(here: Gaussians, there: Gaussians, camera: Camera) -> Tensor:
    """[H, W, 2] of pixels: the way of each Gaussian's centre across the picture, drawn in the place of its
    colour, over the picture's alpha."""
    with torch.no_grad():
        way = camera.project(there.means)[0] - camera.project(here.means)[0]
        drawn = rasterize(here, camera, channels=way.float())
        return drawn.image / drawn.alpha.clamp(min=1e-3)[..., None]


if __name__ == "__main__":
    sys.exit(main())
