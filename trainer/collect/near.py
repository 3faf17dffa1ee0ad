"""Pictures that are nearly the same, by a 64-bit perceptual hash; groups that share one stay in one split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from evlm.files.pictures import from_pil, opened, to_pil

DISTANCE = 6  # bits; JPEG, a smaller size and a light change of tone stay below
PHASH_VERSION = 3  # another number hashes again
_FLAT = 1.0  # mean size of a coefficient below which a picture has nothing to tell it from others
_BLOCK = 256  # pictures compared with all others at once


def phash(path: Path) -> int | None:
    """The signs of the 8 x 8 lowest frequencies of a picture at 32 x 32, against their median; None for one
    that is flat, which would be near to every other flat one. Raises PictureError."""
    from PIL import ImageOps

    with opened(path) as image:
        image.draft("L", (64, 64))  # a JPEG is decoded at an eighth of its size
        deep = image.mode[0] in "IF"  # 16 bits or floats, of which "L" cuts off all above 255
        upright = to_pil(from_pil(image)[0]) if deep else ImageOps.exif_transpose(image)
        grey = np.asarray(upright.convert("L").resize((32, 32)), dtype=np.float64)
    low = (_COSINES @ grey @ _COSINES.T).reshape(-1)
    if np.abs(low[1:]).mean() < _FLAT:
        return None
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_pairs(hashes: Sequence[int], distance: int = DISTANCE) -> Iterator[tuple[int, int]]:
    """Every (i, j), i < j, whose hashes differ in at most `distance` bits; all are compared with all. Of
    equal ones each with each, so give them once."""
    values = np.array(hashes, dtype=np.uint64)
    for start in range(0, len(values), _BLOCK):
        differing = values[start : start + _BLOCK, None] ^ values[None, start:]
        bits = sum(_ONES[(differing >> np.uint64(shift)) & np.uint64(0xFFFF)] for shift in (0, 16, 32, 48))
        for i, j in np.argwhere(bits <= distance).tolist():
            if i < j:
                yield start + i, start + j


def repeated(items: Sequence[Sequence[int]], distance: int = DISTANCE) -> dict[int, int]:
    """{number: an earlier one's} of items whose hashes are all near those of an earlier, kept one."""
    firsts: dict[tuple[int, ...], int] = {}
    for number, item in enumerate(items):
        firsts.setdefault(tuple(item), number)
    once, found = list(firsts.values()), dict[int, int]()
    pairs = near_pairs([items[number][0] for number in once], distance)
    for i, j in sorted(((once[i], once[j]) for i, j in pairs), key=lambda pair: pair[::-1]):
        one, other = items[i], items[j]
        if i in found or j in found or len(one) != len(other):
            continue
        if all(bin(a ^ b).count("1") <= distance for a, b in zip(one, other, strict=True)):
            found[j] = i
    for number, item in enumerate(items):
        first = firsts[tuple(item)]
        if first != number:
            found[number] = found.get(first, first)
    return found


def clusters(hashes: Mapping[str, Sequence[int]], distance: int = DISTANCE) -> dict[str, str]:
    """The name of the cluster of each group: its first one's, in the order of their names.

    hashes: group -> those of its originals. Groups of near originals, and of near ones of those, are one
    cluster."""
    root = {group: group for group in hashes}

    def find(group: str) -> str:
        while root[group] != group:
            root[group] = root[root[group]]
            group = root[group]
        return group

    def unite(one: str, other: str) -> None:
        first, second = sorted((find(one), find(other)))
        root[second] = first

    owner: dict[int, str] = {}  # of each hash
    for group, values in sorted(hashes.items()):
        for value in values:
            unite(owner.setdefault(value, group), group)
    every = list(owner)
    for i, j in near_pairs(every, distance):
        unite(owner[every[i]], owner[every[j]])
    return {group: find(group) for group in hashes}


def _cosines() -> np.ndarray:
    at, wave = np.arange(32), np.arange(8)[:, None]
    return np.asarray(np.cos(np.pi * wave * (2 * at + 1) / 64) * np.where(wave == 0, 1, 2**0.5) / 32)


_COSINES = _cosines()
_ONES = np.array([bin(value).count("1") for value in range(1 << 16)], dtype=np.uint8)
