"""Where the bundled chain edits clips of the moving world, from the request on: reasoner, detector, and the
things followed by the bundled tracker, or drawn anew in every frame (the segmenter alone).

    OMP_NUM_THREADS=1 python -m benchmarks.clip_places [--clips 30] [--seed 11]

Clips in which a thing moves over three cells, turns, or is hidden or away, as in `clip_edit`; those
whose plan names another thing are counted and left out. IoU: of the places with the exact ones, mean over the
frames in which the thing is there. Covered: share of it that is edited. Away: of the frames in which it is
not seen, those that stay as they are; mean over clips that have any. The difference is paired, with a 95 %
bootstrap interval over clips.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import evlm
from evlm.models.zoo import ROLES
from evlm.pipeline import Pipeline
from evlm.request import Request
from evlm.video.settings import VideoSettings

from .clip_figures import interval, mean, questions

ARMS = {"every frame": VideoSettings(track="every-frame"), "tracker": VideoSettings()}
THERE = 6  # pixels from which a thing is there, as in `bundle check --only tracker`


class Places(NamedTuple):
    iou: float
    covered: float
    away: float | None


def measured(found: Tensor, truth: Tensor) -> Places:
    """bool [F, H, W] each."""
    there = [(a, t) for a, t in zip(found, truth, strict=True) if t.sum() >= THERE]
    gone = [float(not a.any()) for a, t in zip(found, truth, strict=True) if not t.any()]
    return Places(
        mean([float((a & t).sum() / (a | t).sum()) for a, t in there]),
        mean([float((a & t).sum() / t.sum()) for a, t in there]),
        mean(gone) if gone else None,
    )


def main(clips: int, seed: int) -> int:
    torch.set_num_threads(1)
    bundled = Path(evlm.__file__).parent / "bundled"
    pipeline = Pipeline.load({role: bundled / role for role in ROLES}, device="cpu")
    arms: dict[str, list[Places]] = {arm: [] for arm in ARMS}
    other = 0
    for number, clip in enumerate(questions(clips, 16, seed)):
        truth = torch.from_numpy(np.asarray(clip.regions())).bool()
        frames = torch.from_numpy(clip.pictures()[0]).float() / 255
        request = Request(frames, clip.edit.instruction, (), 8.0)
        reasoned = pipeline.reasoner.reason(request)
        if reasoned.trace.plan.targets != clip.edit.targets:
            other += 1
            continue
        for arm, places in arms.items():
            (step,) = pipeline.plan(request, reasoned, video=ARMS[arm]).steps
            mask = torch.ones(truth.shape) if step.mask is None else step.mask.expand(truth.shape)
            places.append(measured(mask >= 0.5, truth))
        told = ", ".join(f"{arm} {places[-1].iou:.3f}" for arm, places in arms.items())
        print(f"{number:3} {clip.edit.instruction}: {told}", flush=True)
    for arm, places in arms.items():
        away = [each.away for each in places if each.away is not None]
        print(
            f"{arm}: {len(places)} clips ({other} named another thing), "
            f"IoU {mean([p.iou for p in places]):.3f}, "
            f"covered {mean([p.covered for p in places]):.3f}, away {mean(away):.3f}"
        )
    gained = [b.iou - a.iou for a, b in zip(*arms.values(), strict=True)]
    low, high = interval(np.array(gained))
    print(f"tracker less every frame: IoU {mean(gained):+.3f} [{low:+.3f}, {high:+.3f}]")
    return int(low <= 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=30)
    parser.add_argument("--seed", type=int, default=11)
    sys.exit(main(**vars(parser.parse_args())))
