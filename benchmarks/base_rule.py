"""How near the truth the final mask comes when the plan's place is wrong: the rule for a model that was never
trained on masks beside the rule for one that was, with the bundled detector and segmenter.

    OMP_NUM_THREADS=1 python -m benchmarks.base_rule [--scenes 200] [--seed 5]

Held-out scenes of the world, one named thing each. The plan's box is the thing's own ("right"), shifted by
half its size in both directions ("shifted"), or not there ("absent"). The truth is the thing's silhouette.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor

BAR = 0.9  # of the base rule, with the place shifted
PLACES = ("right", "shifted", "absent")
RULES = ("base", "tuned")


def main(scenes: int, seed: int) -> int:
    import evlm
    from evlm.boxes import bounding_box
    from evlm.ground.grounder import Grounder
    from evlm.pipeline import ground_plan, segment_plan
    from evlm.plan.mask_codec import BoxSpans, mask_iou
    from evlm.plan.trace import Plan
    from evlm.segment.segmenter import Segmenter
    from trainer.bundle.objects import samples, targets

    bundled = Path(evlm.__file__).parent / "bundled"
    grounder, segmenter = Grounder.load(bundled / "detector"), Segmenter.load(bundled / "segmenter")
    rng, stream = random.Random(seed), samples("test", seed)
    found: dict[tuple[str, str], list[float]] = {(place, rule): [] for place in PLACES for rule in RULES}
    for _ in range(scenes):
        sample = next(stream)
        number = rng.choice(targets(sample.things, "test"))
        frames = torch.from_numpy(sample.picture).float()[None] / 255
        truth, label = torch.from_numpy(sample.silhouettes[number]).float(), sample.things[number].label
        corners = bounding_box(truth)
        assert corners is not None
        sides = rng.choice((-1, 1)), rng.choice((-1, 1))
        codec = BoxSpans()
        texts = {
            "right": codec.encode(filled(corners, truth)),
            "shifted": codec.encode(filled(shifted(corners, sides, truth.shape[0]), truth)),
            "absent": None,
        }
        for (place, rule), overlaps in found.items():
            plan = Plan(f"make the {label} glow", (label,), texts[place], trust=rule)  # type: ignore[arg-type]
            grounded = ground_plan(grounder, frames, plan)
            decided, _ = segment_plan(segmenter, frames, plan, grounded.boxes, 0.03, grounded.region)
            mask = torch.ones_like(frames[..., 0]) if decided.mask is None else decided.mask
            overlaps.append(mask_iou(mask[0], truth))
    print(f"{scenes} scenes, seed {seed}; mean IoU of the final mask, and the share of scenes above {BAR}")
    means = {key: sum(each) / len(each) for key, each in found.items()}
    for place in PLACES:
        row = (
            f"{rule} {means[place, rule]:.4f} ({sum(v >= BAR for v in found[place, rule]) / scenes:.0%})"
            for rule in RULES
        )
        print(f"place {place:8s} " + "   ".join(row))
    return 0 if means["shifted", "base"] >= BAR else 1


def shifted(
    corners: tuple[int, int, int, int], sides: tuple[int, int], size: int
) -> tuple[int, int, int, int]:
    """Half its width and its height away, to the given sides; the other way where that leaves the picture."""
    moved = list(corners)
    for axis, side in enumerate(sides):
        low, high = corners[axis], corners[axis + 2]
        half = max(1, (high - low) // 2)
        step = half * side if low + half * side >= 0 and high + half * side <= size else -half * side
        moved[axis], moved[axis + 2] = low + step, high + step
    return moved[0], moved[1], moved[2], moved[3]


def filled(corners: tuple[int, int, int, int], like: Tensor) -> Tensor:
    """The rectangle as a mask [H, W]."""
    mask = torch.zeros_like(like)
    x0, y0, x1, y1 = corners
    mask[max(0, y0) : y1, max(0, x0) : x1] = 1
    return mask


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    raise SystemExit(main(options.scenes, options.seed))
