"""The seam finder on drawn diptychs whose seam is known, beside a cut in the middle; and on other pictures.

    python -m benchmarks.seams [--count 300] [--others 200] [--seed 0]

Fractal scenes with poles that look like seams, before and after an edit; tight, with a border of 2 to 24
pixels, or of unequal halves; JPEG of quality 75 to 95. A seam is found where both its sides are within 2
pixels.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import time
from collections import defaultdict
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from trainer.collect.diptych import split

KINDS = ("tight", "border", "unequal")
BARS = {"found": 0.95, "others let through": 0.01}


class Drawn(NamedTuple):
    """start, stop: the seam's columns, as `diptych.Seam` has them."""

    picture: Image.Image
    kind: str
    start: int
    stop: int


def diptych(seed: str, kind: str, height: int = 384) -> Drawn:
    """A scene and the same one edited, side by side."""
    dice = random.Random(seed)
    before = scene(dice, height, round(height * dice.uniform(0.8, 1.2)))
    after = edited(dice, before)
    border = dice.randint(2, 24) if kind == "border" else 0
    if kind == "unequal":
        cut = max(6, round(before.shape[1] * dice.uniform(0.03, 0.15)))
        narrow = slice(cut, None) if dice.random() < 0.5 else slice(None, -cut)
        before, after = (before[:, narrow], after) if dice.random() < 0.5 else (before, after[:, narrow])
    shade = np.full((height, border, 3), dice.choice((0, 128, 255)), np.uint8)
    picture = jpeg(dice, np.concatenate([before, shade, after], 1))
    return Drawn(picture, kind, before.shape[1], before.shape[1] + border)


def other(seed: str, height: int = 384) -> Image.Image:
    """No diptych: one wide scene, or two scenes that have nothing to do with each other."""
    dice = random.Random(seed)
    width = round(height * dice.uniform(0.8, 1.2))
    if dice.random() < 0.5:
        return jpeg(dice, scene(dice, height, 2 * width))
    return jpeg(dice, np.concatenate([scene(dice, height, width), scene(dice, height, width)], 1))


def scene(dice: random.Random, height: int, width: int) -> NDArray[np.uint8]:
    """Noise of every scale, a few things, and poles from top to bottom."""
    noise = np.random.default_rng(dice.getrandbits(32))
    total = np.zeros((height, width, 3), np.float32)
    for octave in range(1, 7):
        size = 2**octave
        coarse = Image.fromarray(noise.integers(0, 256, (size, size, 3), dtype=np.uint8))
        total += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32) / 2**octave
    pixels = np.clip(128 + (total - total.mean()) * 1.4, 0, 255).astype(np.uint8)
    for _ in range(dice.randint(3, 7)):
        w, h = dice.randint(width // 16, width // 4), dice.randint(height // 16, height // 4)
        x, y = dice.randrange(width - w), dice.randrange(height - h)
        pixels[y : y + h, x : x + w] = noise.integers(0, 256, 3)
    for _ in range(dice.randint(0, 3)):
        x = dice.randrange(width - 12)
        pixels[:, x : x + dice.randint(2, 12)] = noise.integers(0, 256, 3)
    return pixels


def edited(dice: random.Random, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A part recoloured, the tone a little different, and grain, for a maker draws all of it again."""
    height, width = pixels.shape[:2]
    noise = np.random.default_rng(dice.getrandbits(32))
    after = pixels.astype(np.float32) * dice.uniform(0.94, 1.06) + dice.uniform(-6, 6)
    w, h = dice.randint(width // 8, width // 3), dice.randint(height // 8, height // 3)
    x, y = dice.randrange(width - w), dice.randrange(height - h)
    after[y : y + h, x : x + w] = 0.4 * after[y : y + h, x : x + w] + 0.6 * noise.integers(0, 256, 3)
    return np.clip(after + noise.normal(0, 4, after.shape), 0, 255).astype(np.uint8)


def jpeg(dice: random.Random, pixels: NDArray[np.uint8]) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=dice.randint(75, 95))
    return Image.open(file).convert("RGB")


def measure(count: int, others: int, seed: int, height: int = 384) -> dict[str, float]:
    """Shares: found and cut right in the middle, in all and of each kind; others let through; seconds."""
    right: dict[str, list[bool]] = defaultdict(list)
    agrees, through, began = [], 0, time.process_time()
    for number in range(count):
        drawn = diptych(f"{seed} {number}", KINDS[number % len(KINDS)], height)
        halves, middle = split(drawn.picture), drawn.picture.width // 2
        near = halves is not None and max(
            abs(halves.seam.start - drawn.start), abs(halves.seam.stop - drawn.stop)) <= 2  # fmt: skip
        cut = max(abs(middle - drawn.start), abs(middle - drawn.stop)) <= 2
        for name in ("", f" ({drawn.kind})"):
            right[f"found{name}"].append(near)
            right[f"cut in the middle{name}"].append(cut)
        agrees.append(halves.agrees if halves else 0.0)
    for number in range(others):
        through += split(other(f"other {seed} {number}", height)) is not None
    shares = {name: float(np.mean(values)) for name, values in sorted(right.items())}
    shares["rejected"] = float(np.mean(np.equal(agrees, 0)))
    shares["others let through"] = through / max(1, others)
    shares["CPU seconds a picture, with its drawing"] = (time.process_time() - began) / (count + others)
    return shares


def main(count: int, others: int, seed: int) -> int:
    found = measure(count, others, seed)
    for name, value in found.items():
        print(f"{name}: {value:.3f}")
    return int(found["found"] < BARS["found"] or found["others let through"] > BARS["others let through"])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--others", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sys.exit(main(args.count, args.others, args.seed))
