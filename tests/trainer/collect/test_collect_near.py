"""Nearly equal pictures are found, all of them, and stay in one split."""

from __future__ import annotations

import random
import tracemalloc
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.collect.near import clusters, near_pairs, phash, repeated
from trainer.collect.recipe import Split
from trainer.collect.split import split_of


def picture(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


def distance(a: int | None, b: int | None) -> int:
    assert a is not None and b is not None
    return bin(a ^ b).count("1")


def test_a_picture_as_jpeg_and_smaller_is_near_and_others_are_far(tmp_path: Path) -> None:
    hashes = []
    for seed in range(12):
        picture(seed).save(tmp_path / "a.png")
        picture(seed).save(tmp_path / "a.jpg", quality=75)
        picture(seed).resize((100, 75)).save(tmp_path / "small.png")
        own = phash(tmp_path / "a.png")
        assert max(distance(own, phash(tmp_path / name)) for name in ("a.jpg", "small.png")) <= 6
        hashes.append(own)
    assert min(distance(a, b) for a, b in combinations(hashes, 2)) > 6


def test_a_flat_picture_is_near_to_none(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 10, 10)).save(tmp_path / "flat.png")
    assert phash(tmp_path / "flat.png") is None


def test_pairs_are_those_of_the_slow_comparison() -> None:
    dice = random.Random(1)
    hashes = [dice.getrandbits(64) for _ in range(400)]
    for n in range(0, 300, 3):
        flipped = dice.sample(range(64), dice.randint(0, 9))
        hashes[n + 1] = hashes[n] ^ sum(1 << bit for bit in flipped)
    slow = [(i, j) for i, j in combinations(range(400), 2) if bin(hashes[i] ^ hashes[j]).count("1") <= 6]
    assert len(slow) > 50 and list(near_pairs(hashes)) == slow


def test_repeated_items_are_those_of_the_slow_comparison_and_equal_ones_cost_no_memory() -> None:
    dice = random.Random(4)
    base = [dice.getrandbits(64) for _ in range(12)]
    items = [[dice.choice(base) ^ sum(1 << dice.randrange(64) for _ in range(dice.choice((0, 0, 4)))),
              dice.choice((1, 2, 1 << 40))] for _ in range(300)]  # fmt: skip
    slow: dict[int, int] = {}
    for j, item in enumerate(items):
        for i in range(j):
            if i not in slow and all(distance(a, b) <= 6 for a, b in zip(items[i], item, strict=True)):
                slow[j] = i
                break
    assert len(slow) > 200 and repeated(items) == slow
    tracemalloc.start()
    try:
        assert set(repeated([[7, 9]] * 1200).values()) == {0}
        assert set(clusters({f"{n:04}": [7] for n in range(1200)}).values()) == {"0000"}
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


def test_groups_of_near_pictures_are_one_cluster_and_one_split() -> None:
    base = random.Random(2).getrandbits(64)
    hashes = {
        "c": [base],
        "a": [base ^ 0b111111],
        "b": [base ^ (0b111111 << 6), 5],
        "far": [~base & (1 << 64) - 1],
    }
    found = clusters(hashes)
    assert found == {"a": "a", "b": "a", "c": "a", "far": "far"}
    splits = {split_of(found[group], 0, Split(0.5)) for group in ("a", "b", "c")}
    assert len(splits) == 1
