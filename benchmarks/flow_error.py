"""How far the optical flow without weights is from the truth, on clips of the world's test split.

    OMP_NUM_THREADS=1 python -m benchmarks.flow_error [--clips 20] [--seed 1]

EPE: distance in pixels between the flow and the true one, mean over the pixels of things that are seen in
both frames (`moving` things alone; the ground beside them for comparison). `lk`: Lucas-Kanade. `object`: each
thing's affine motion in its true mask, refined. Exit code 1 where `object` misses the bar.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict

import numpy as np
import torch

from evlm.motion.affine import object_flow
from evlm.motion.flow import consistent, lk
from trainer.world.clip_rows import clip_at
from trainer.world.rows import Recipe

BAR = 0.3  # pixels, on moving things
STILL = 0.1  # a thing that moves by less stands


def measure(clips: int, seed: int) -> dict[str, float]:
    """Means over all pairs of neighbouring frames of all clips: EPE of each kind, motion in pixels, the share
    that is consistent there and back, milliseconds a pair."""
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(clips):
        film = clip_at(Recipe(seed, "test"), number)[1].film
        frames = torch.from_numpy(film.render()).float() / 255
        for f in range(film.frames - 1):
            truth, hidden = film.flow(f, f + 1)
            if hidden.all():  # a cut
                continue
            true, seen = torch.from_numpy(truth)[None], torch.from_numpy(~hidden)[None]
            first, second = frames[f : f + 1], frames[f + 1 : f + 2]
            began = time.process_time()
            flow = lk(first, second)
            found["lk_ms"].append((time.process_time() - began) * 1e3)
            owners, later = (torch.from_numpy(film.owners(at))[None] for at in (f, f + 1))
            apart = (flow - true).norm(dim=-1)
            found["ground"].append(float(apart[(owners < 0) & seen].mean()))
            good = consistent(flow, lk(second, first))
            for index in range(len(film.at(f)[0].scene.things)):
                mask = owners == index
                inside = mask & seen
                if int(inside.sum()) < 12 or float(true[inside].norm(dim=-1).mean()) < STILL:
                    continue
                began = time.process_time()
                own = object_flow(first, second, mask, later == index, flow)
                found["object_ms"].append((time.process_time() - began) * 1e3)
                found["motion"].append(float(true[inside].norm(dim=-1).mean()))
                found["lk"].append(float(apart[inside].mean()))
                found["object"].append(float((own - true)[inside].norm(dim=-1).mean()))
                found["consistent"].append(float(good[inside].float().mean()))
    return {"pairs": float(len(found["lk_ms"])), **{name: float(np.mean(v)) for name, v in found.items()}}


def main(clips: int, seed: int) -> int:
    figures = measure(clips, seed)
    for name, value in figures.items():
        print(f"{name:12}{value:9.3f}")
    kept = figures["object"] <= BAR
    print(f"EPE on moving things {figures['object']:.3f} px: bar {BAR}, {'kept' if kept else 'MISSED'}")
    return 0 if kept else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    raise SystemExit(main(options.clips, options.seed))
