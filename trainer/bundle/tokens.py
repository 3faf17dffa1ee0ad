"""A small CLIP tokenizer: the real byte-level BPE with merges for the world's words only."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

Pair = tuple[str, str]


def clip_tokenizer(words: Iterable[str], length: int, pad: str = "!") -> Any:
    """A `CLIPTokenizer` that has one token for each of `words`; any other text falls apart into smaller
    pieces.

    length: `model_max_length`. pad: the padding token ("!", the first id, is OWL-ViT's). As in CLIP the end
    token has the highest id, because the text models look for it with argmax.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    merges = merges_for(words)
    alphabet = sorted(ByteLevel.alphabet())
    tokens = dict.fromkeys(
        [*alphabet, *(letter + "</w>" for letter in alphabet), *(a + b for a, b in merges)]
    )
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=length)


def merges_for(words: Iterable[str]) -> list[Pair]:
    """Merges, most urgent first, that leave each word (lower case letters) as one token ending in "</w>".

    A merge made for one word also bites in others ("ring" has "ri", so does "striped"): merges are added
    until every word comes out whole.
    """
    vocabulary = sorted(set(words))
    merges: dict[Pair, int] = {}
    whole = False
    while not whole:
        whole = True
        for word in vocabulary:
            while len(pieces := _apply(word, merges)) > 1:
                merges[pieces[0], pieces[1]] = len(merges)
                whole = False
    return list(merges)


def _apply(word: str, merges: dict[Pair, int]) -> list[str]:
    pieces = [*word[:-1], word[-1] + "</w>"]
    while ranked := [(merges[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in merges]:
        _, i = min(ranked)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces
