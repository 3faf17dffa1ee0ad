"""A mask of the first frame carried through clips of the moving world by its motion, with the exact masks.

    OMP_NUM_THREADS=1 python -m benchmarks.mask_by_flow [--clips 20] [--size 64]

Of each clip a thing that moves (by itself or with the camera), its mask in the first frame given. IoU: with
what is seen of the thing, mean over the frames in which it is seen; static: of the first frame's mask left
where it is. Said absent: of the frames in which it is not seen (hidden, away, behind a cut), those that have
no mask. Exit code 1 where the mean IoU is below the bar.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from evlm.segment.flow_tracker import FlowTracker
from evlm.segment.tracker import Prompt
from trainer.world.clips import Film, random_film
from trainer.world.scene import Thing, random_scene

BAR = 0.8


@dataclass(frozen=True)
class Carried:
    """kind: of the thing's path. flow, static: IoU, mean over frames. away, said: frames in which it is not
    seen, and those of them without a mask."""

    kind: str
    flow: float
    static: float
    away: int
    said: int
    notes: tuple[str, ...]


def films(seed: int = 7) -> Iterator[tuple[Film, Thing]]:
    """Clips and things in them that move and are seen at first."""
    rng, number = random.Random(seed), 0
    while True:
        scene = random_scene(rng, weather="clear")
        film = random_film(rng, scene, number)
        number += 1
        thing = rng.choice(scene.things)
        path = film.paths[scene.things.index(thing)]
        moves = path.kind != "still" or film.pan != (0, 0) or path.turn or path.grow != 1
        if moves and film.masks(thing, which=[0])[0].sum() >= 24:
            yield film, thing


def carried(film: Film, thing: Thing, size: int = 64) -> Carried:
    frames = torch.from_numpy(film.render(size)).float() / 255
    seen, _ = film.masks(thing, size)
    tracks = FlowTracker().track(frames, {0: [Prompt("it", mask=torch.from_numpy(seen[0]).float())]})
    found = tracks.union().numpy()
    there = [frame for frame in range(film.frames) if seen[frame].any()]
    away = [frame for frame in range(film.frames) if frame not in there]
    return Carried(
        film.paths[film.scene.things.index(thing)].kind,
        float(np.mean([iou(found[frame], seen[frame]) for frame in there])),
        float(np.mean([iou(seen[0], seen[frame]) for frame in there])),
        len(away),
        sum(not found[frame].any() for frame in away),
        tuple(tracks.notes),
    )


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def main(clips: int, size: int) -> int:
    told, began, coming = list[Carried](), time.process_time(), films()
    for number in range(clips):
        told.append(carried(*next(coming), size))
        each = told[-1]
        print(f"{number:3} {each.kind:6} IoU {each.flow:.3f}, static {each.static:.3f}", *each.notes)
    took = (time.process_time() - began) / clips / 16
    away, said = sum(each.away for each in told), sum(each.said for each in told)
    flow, static = (np.array([getattr(each, name) for each in told]) for name in ("flow", "static"))
    print(
        f"{clips} clips of {size} px: mean IoU {flow.mean():.3f} (bar {BAR}), worst {flow.min():.3f}; static "
        f"{static.mean():.3f}; said absent in {said} of {away} frames; "
        f"{took:.3f} CPU-s a frame"
    )
    return int(flow.mean() < BAR)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    torch.set_num_threads(1)
    sys.exit(main(**vars(parser.parse_args())))
