"""Which split a group of pictures is in: a function of its name and the recipe's seed, so that no group is
parted and rows that come later move none."""

from __future__ import annotations

from hashlib import blake2b

from .recipe import Split


def split_of(group: str, seed: int, shares: Split) -> str:
    """ "test", "validation" or "train"."""
    name = f"{seed} {group}".encode("utf-8", "surrogatepass")
    place = int.from_bytes(blake2b(name, digest_size=8).digest(), "big") / 2**64
    if place < shares.test:
        return "test"
    return "validation" if place < shares.test + shares.validation else "train"
