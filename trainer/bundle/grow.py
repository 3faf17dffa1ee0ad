"""Vocabularies that grow: a trained model learns new words and reads the old ones as before.

Embeddings are carried over by the *text* of their tokens, never by number: a CLIP tokenizer of ours sorts its
words, so a new one moves the numbers of others. A token that the old vocabulary lacks begins as the mean of
all old ones. A BPE that was trained on a corpus would merge anew if it were trained again, so it keeps its
merges, and those of new words stand behind them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from evlm.errors import ConfigError


def carried(old: Tensor, old_ids: Mapping[str, int], new_ids: Mapping[str, int]) -> Tensor:
    """Rows [len(new_ids), D] for a new vocabulary from those of an old one, [len(old_ids), D]: by the tokens'
    texts, the mean for new ones. Raises ConfigError where the vocabulary does not fit the rows."""
    if sorted(old_ids.values()) != list(range(len(old))):
        raise ConfigError(
            f"{len(old_ids)} tokens for {len(old)} embeddings: this is not the model's tokenizer"
        )
    rows = old.mean(0, keepdim=True).repeat(len(new_ids), 1)
    for token, number in new_ids.items():
        if token in old_ids:
            rows[number] = old[old_ids[token]]
    return rows


@torch.no_grad()
def carry_clip(model: Any, old: Any, new: Any) -> None:
    """Gives a CLIP-like text model (the editor's, the detector's) the tokenizer `new` in place of `old`: its
    embeddings and the special tokens that it knows by number. In place."""
    (place,) = (part for part in model.modules() if hasattr(part, "token_embedding"))
    embedding = place.token_embedding
    rows = carried(embedding.weight, old.get_vocab(), new.get_vocab())
    place.token_embedding = nn.Embedding.from_pretrained(rows, freeze=not embedding.weight.requires_grad)
    model.config.vocab_size = len(rows)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.config, name, getattr(new, name))
        for part in model.modules():
            if hasattr(part, name):
                setattr(part, name, getattr(new, name))


@torch.no_grad()
def carry_reasoner(model: Any, old: Any, new: Any) -> None:
    """Likewise a Qwen2-VL with tied embeddings. In place. Raises ConfigError where a token of the old
    vocabulary has another number in the new one: the model's configuration names some by number."""
    before, after = old.get_vocab(), new.get_vocab()
    moved = [token for token, number in before.items() if after.get(token) != number]
    if moved:
        raise ConfigError(
            f"{len(moved)} tokens have another number, {moved[0]!r:.40} is one: grow it by grown_bpe"
        )
    rows = carried(model.get_input_embeddings().weight[: len(before)], before, after)
    model.resize_token_embeddings(len(rows), mean_resizing=False)
    model.get_input_embeddings().weight.copy_(rows)
    model.tie_weights()


def grown_bpe(tokenizer: Any, words: Iterable[str]) -> Any:
    """A copy of a byte-level BPE (a PreTrainedTokenizerFast) that has one token for each of the words, alone
    and behind a space. A word that was one token behind a space is left as it is, so that the texts of before
    are read alike. Old tokens keep their numbers, and old merges come first."""
    from tokenizers import Tokenizer

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    vocabulary: dict[str, int] = dict(model["vocab"])
    merges: dict[tuple[str, str], int] = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    new = [word for word in sorted(set(words)) if len(_apply(_spelled(f" {word}"), merges)) > 1]
    spelled = [_spelled(form) for word in new for form in (word, f" {word}")]
    whole = False
    while not whole:  # a merge made for one word also bites in others
        whole = True
        for word in spelled:
            while len(pieces := _apply(word, merges)) > 1:
                merges[pieces[0], pieces[1]] = len(merges)
                vocabulary.setdefault(pieces[0] + pieces[1], len(vocabulary))
                whole = False
    model["vocab"], model["merges"] = vocabulary, [list(pair) for pair in merges]
    return type(tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **_settings(tokenizer))


def _settings(tokenizer: Any) -> dict[str, Any]:
    kept = ("eos_token", "pad_token", "padding_side", "model_max_length", "clean_up_tokenization_spaces")
    settings = {name: getattr(tokenizer, name) for name in kept}
    names = ("image_token", "video_token", "vision_start_token", "vision_end_token")
    return {**settings, "extra_special_tokens": {name: getattr(tokenizer, name) for name in names}}


def _spelled(text: str) -> str:
    """A text as the byte-level alphabet spells it."""
    from tokenizers.pre_tokenizers import ByteLevel

    return "".join(
        piece for piece, _ in ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)
    )


def _apply(word: str, merges: Mapping[tuple[str, str], int]) -> list[str]:
    pieces = list(word)
    while ranked := [(merges[pair], i) for i, pair in enumerate(pairwise(pieces)) if pair in merges]:
        _, i = min(ranked)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces
