"""Small random models of the real architectures, saved in the exact layouts that users have. Not a test
file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
FAMILIES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif item['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ item['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer() -> Any:
    """Byte-level BPE without merges: 256 bytes and Qwen's special tokens, so one character may be several
    tokens."""
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    # The processors of transformers 4 accept no other class; that of 5 would bring its own pre-tokenizer.
    kind = hf.Qwen2TokenizerFast if int(hf.__version__[0]) < 5 else hf.PreTrainedTokenizerFast
    return kind(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[word for word in SPECIAL if word not in ("<|im_end|>", "<|endoftext|>")],
    )


def make_processor(family: str = "qwen2_vl") -> Any:
    """The family's own processor for 32 to 64 pixel pictures, patch 8, merge 2."""
    import transformers as hf

    tokenizer = make_tokenizer()
    size = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    shape: dict[str, Any] = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "size": size}
    new = int(hf.__version__[0]) >= 5
    images = (hf.Qwen2VLImageProcessor if new else hf.Qwen2VLImageProcessorFast)(**shape)
    if family == "qwen3_vl":
        clips: Any = hf.Qwen3VLVideoProcessor(**{**shape, "size": {**size, "longest_edge": 8 * 64 * 64}})
        return hf.Qwen3VLProcessor(images, tokenizer, clips, chat_template=TEMPLATE)
    clips = hf.Qwen2VLVideoProcessor(**shape)
    kind = hf.Qwen2VLProcessor if family == "qwen2_vl" else hf.Qwen2_5_VLProcessor
    return kind(images, tokenizer, clips, chat_template=TEMPLATE)


def make_model(family: str = "qwen2_vl", seed: int = 0) -> Any:
    """A random model of about 0.1 M parameters in float32, in eval mode."""
    import transformers as hf

    tokenizer = make_tokenizer()
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in SPECIAL}
    text: dict[str, Any] = {
        "vocab_size": 256 + len(SPECIAL),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]},
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 8, "spatial_merge_size": 2}
    if family == "qwen2_vl":
        vision.update(embed_dim=16, hidden_size=32, mlp_ratio=2)
        config, kind = hf.Qwen2VLConfig, hf.Qwen2VLForConditionalGeneration
    elif family == "qwen2_5_vl":
        vision.update(
            hidden_size=16,
            out_hidden_size=32,
            intermediate_size=32,
            window_size=32,
            fullatt_block_indexes=[1],
        )
        config, kind = hf.Qwen2_5_VLConfig, hf.Qwen2_5_VLForConditionalGeneration
    else:
        vision.update(
            hidden_size=16,
            out_hidden_size=32,
            intermediate_size=32,
            num_position_embeddings=64,
            deepstack_visual_indexes=[0],
        )
        text["head_dim"] = 8
        text["rope_scaling"]["mrope_interleaved"] = True
        config, kind = hf.Qwen3VLConfig, hf.Qwen3VLForConditionalGeneration
    whole = config(
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = kind(whole).eval()
    with torch.no_grad():  # the default 0.02 makes every token alike; this makes greedy decoding decide
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.15)
    return model


def save_folder(folder: Path, family: str = "qwen2_vl", seed: int = 0, shard: str = "100KB") -> Path:
    """A Hugging Face folder with sharded weights, as a download from the hub lies on disk."""
    make_model(family, seed).save_pretrained(folder, max_shard_size=shard)
    make_processor(family).save_pretrained(folder)
    return folder
