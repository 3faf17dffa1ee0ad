"""A tiny Qwen2-VL of the real classes: its tokenizer, processor and untrained model.

64 x 64 pictures become 16 tokens (patches of 8, merged 2 x 2). The tokenizer is a byte-level BPE like Qwen's,
with a pre-tokenizer of its own: whole words, whole numbers and the trace's tags are one token each, because
every token of a trace costs time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from evlm.plan.trace import render

VOCABULARY = 1280
SIZE = 64
PATCH = 8
SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# words, numbers and spans of digits with the space before them; runs of tags; "name:" at the start of a line
SPLIT = r"(?:\n?</?[a-z]+>\n?)+|\n?[a-z]+:| ?[A-Za-z]+| ?[0-9]+(?:-[0-9]+)*| ?[^\sA-Za-z0-9]|\s+"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>"
    "{% for item in message.content %}"
    "{% if item.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif item.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ item.text }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


def corpus(seed: int = 0, questions: int = 6000) -> Iterator[str]:
    """Texts of the training split: requests and traces."""
    from ..world.questions import ask
    from ..world.traces import write_trace

    rng = random.Random(f"corpus {seed}")
    for _ in range(questions):
        question = ask(rng, "train")
        refs = " ".join(f" reference {i} {r.kind} {r.text}" for i, r in enumerate(question.refs, 1))
        yield f"original {refs} prompt {question.prompt or 'none'}"
        yield render(write_trace(rng, question))


def make_tokenizer(texts: Iterator[str] | None = None) -> Any:
    """A PreTrainedTokenizerFast; any text round-trips (byte level)."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=4,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts or corpus(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_start_token": "<|vision_start|>",
            "vision_end_token": "<|vision_end|>",
        },
    )


def make_processor(tokenizer: Any, size: int = SIZE, patch: int = PATCH) -> Any:
    """The real Qwen2VLProcessor at this model's patch size; every picture is brought to about size x size
    pixels."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor, Qwen2VLVideoProcessor

    common: dict[str, Any] = {
        "size": {"shortest_edge": size * size, "longest_edge": size * size},
        "patch_size": patch,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    video = Qwen2VLVideoProcessor(**common, do_sample_frames=False, cap_pixels_per_frame=False)
    return Qwen2VLProcessor(Qwen2VLImageProcessor(**common), tokenizer, video, chat_template=TEMPLATE)


def make_model(
    tokenizer: Any,
    seed: int = 0,
    width: int = 160,
    layers: int = 4,
    head: int = 32,
    vision_width: int = 96,
    vision_depth: int = 3,
    vision_head: int = 16,
    patch: int = PATCH,
) -> Any:
    """An untrained Qwen2VLForConditionalGeneration, in float32; of about 2 M parameters as it is.

    tokenizer: whose tokens it has.
    seed: of the weights.
    width, layers, head: of the language model; head is the width of one.
    vision_width, vision_depth, vision_head: of the vision tower. patch: pixels of its patches.
    """
    import torch
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    vocabulary = len(tokenizer)
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("image_token_id", "<|image_pad|>"),
            ("video_token_id", "<|video_pad|>"),
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
        )
    }
    text = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // head,
        "num_key_value_heads": width // head,  # one key for all heads copies words badly
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "mrope_section": [head // 8, head * 3 // 16, head * 3 // 16],
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": vision_depth,
        "embed_dim": vision_width,
        "hidden_size": width,
        "mlp_ratio": 3,
        "num_heads": vision_width // vision_head,
        "patch_size": patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2VLForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.do_sample = False
    return model
