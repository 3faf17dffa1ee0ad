"""Lets transformers 4.57 read folders that transformers 5 wrote: the bundled model, and users' own
fine-tunes. And the names that its versions give to one and the same thing.

What differs in folders: rotary settings and the tying of embeddings moved within config.json, and the
tokenizer is saved under a class name that the older version does not know. Folders of the hub have the older
form, which both read.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.families import REASONERS
from ..models.loading import read_json


def cache_name(model: Any) -> str:
    """What a model's forward calls the keys and values that it keeps, as an argument and in its output:
    `cache`, or `past_key_values` in older transformers; 5.40 no longer takes the old name."""
    # The class is asked: a hook put before one model's forward hides what that takes.
    return "cache" if "cache" in inspect.signature(type(model).forward).parameters else "past_key_values"


def new_cache(config: Any, layers: Sequence[Sequence[tuple[Tensor, Tensor]]] = ()) -> Any:
    """An empty cache for a model's forward, or one that holds pieces read before, in their order: of each
    piece the keys and values [1, heads, tokens, size] of every layer."""
    from transformers import DynamicCache

    cache = DynamicCache(config=config)
    for number, pieces in enumerate(zip(*layers, strict=True)):
        keys, values = (torch.cat(parts, dim=2) for parts in zip(*pieces, strict=True))
        cache.update(keys, values, number)
    return cache


def static_cache(config: Any, length: int) -> Any:
    """A cache of tensors that hold `length` tokens from the beginning on."""
    from transformers import StaticCache

    return StaticCache(config=config, max_cache_len=length)


def fill(cache: Any, layers: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Writes keys and values [1, heads, tokens, size] of each layer into an empty cache of fixed length."""
    for number, (keys, values) in enumerate(layers):
        # Version 4 takes what is written first to stand at 0, as it does here, where it is not told.
        cache.update(keys, values, number)


def positions_in_cache(model: Any, length: int, count: int, device: torch.device) -> dict[str, Tensor]:
    """What a forward of `count` tokens behind `length` others must be told of a cache of fixed length:
    version 4 is told where they go, version 5 counts by itself."""
    if "cache_position" not in inspect.signature(type(model).forward).parameters:
        return {}
    return {"cache_position": torch.arange(length, length + count, device=device)}


def written_by_newer(folder: Path) -> bool:
    """True where transformers 4 is installed and transformers 5 saved the folder."""
    import transformers

    saved = str(read_json(folder / "config.json", "a model's configuration").get("transformers_version", "4"))
    return saved.startswith("5.") and transformers.__version__.startswith("4.")


def load_config(folder: Path) -> Any:
    """The configuration with its rotary settings and its tying where transformers 4 looks for them."""
    from transformers import AutoConfig

    saved = read_json(folder / "config.json", "a model's configuration")
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    rotary = dict(saved["text_config"]["rope_parameters"])
    config.text_config.rope_theta = rotary.pop("rope_theta")
    config.text_config.rope_scaling = rotary
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = bool(
        saved.get("tie_word_embeddings")
    )
    return config


def load_processor(folder: Path, family: str) -> Any:
    """The family's processor around the folder's tokenizer.json."""
    import transformers
    from tokenizers import Tokenizer

    saved = read_json(folder / "tokenizer_config.json", "a tokenizer's configuration")
    extra = saved.get("extra_special_tokens") or saved.get("additional_special_tokens") or []
    tokenizer = transformers.Qwen2TokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(folder / "tokenizer.json")),
        **{
            key: saved[key]
            for key in ("eos_token", "pad_token", "padding_side", "model_max_length")
            if key in saved
        },
        # Version 4 knows as special only what its constructor is told, whatever tokenizer.json says.
        additional_special_tokens=list(extra.values() if isinstance(extra, dict) else extra),
        clean_up_tokenization_spaces=False,
    )
    template = folder / "chat_template.jinja"
    return getattr(transformers, REASONERS[family].processor)(
        transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, use_fast=True),
        tokenizer,
        transformers.AutoVideoProcessor.from_pretrained(folder, local_files_only=True),
        chat_template=template.read_text(encoding="utf-8") if template.is_file() else None,
    )
