"""A share of a source's questions that is held out: which ones is a function of the questions alone, so that
training and measuring agree on it whatever else they leave out."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from hashlib import blake2b

from evlm.records import Row

from .conversation import Conversation


def question_key(item: Row | Conversation) -> int:
    """What all answers to one question have in common: 64 bits."""
    if isinstance(item, Row):
        name = item.question
    else:
        pictures = [blake2b(i, digest_size=8).hexdigest() if isinstance(i, bytes) else i for i in item.images]
        name = json.dumps([item.messages, pictures, item.videos])
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def held_out(keys: Iterable[int], share: float) -> set[int]:
    """The questions that are held out: the share of all, at least one, and never the last one left.

    keys: `question_key` of every row of the split. share: 0 to 1; 0 holds out none.
    """
    every = sorted(set(keys))
    count = max(1, math.floor(share * len(every) + 0.5)) if share else 0
    return set(every[: min(count, max(0, len(every) - 1))])
