"""How much memory a step will take, from shapes alone. Estimates: a tenth more or less is to be expected, and
what the framework itself holds comes on top."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from evlm.reason.backbone import DEFAULT_MAX_PIXELS
from evlm.reason.system_text import tuned_text

from ..config.recipe import Config, Phase
from ..learner.adapter import lora_targets, unfreeze

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
FOUR_BIT = 0.516  # bytes of an NF4 weight with its doubly quantised scales (QLoRA, arXiv 2305.14314)
_LOGITS = {"cpu": 1 << 21}  # as trainer.model.token_logprobs chunks them; elsewhere 1 << 28
_TOGETHER = {"cpu": 32}  # as trainer.model.sampling grows them; elsewhere 256


LETTERS = 4.0  # of a token, in English
ANSWER = 250.0  # tokens of a trace with its mask


@dataclass(frozen=True)
class Length:
    """Tokens of a row: the question with its pictures, and the answer; means of some rows, and the longest
    whole row. pictures: tokens of the prompt that are a picture's."""

    prompt: float
    answer: float
    longest: float
    pictures: float = 0.0

    @property
    def row(self) -> float:
        return self.prompt + self.answer


def assumed(config: Config, model: nn.Module) -> Length:
    """A row that nobody has read: the words of the full style, one picture as large as the recipe lets it be,
    and an answer of the length that the procedural world's have in Qwen's vocabulary."""
    vision: Any = model.config.vision_config  # type: ignore[union-attr]
    side = vision.patch_size * vision.spatial_merge_size
    pictures = (config.model.max_pixels or DEFAULT_MAX_PIXELS) // side**2
    prompt = len(tuned_text(8)) / LETTERS + pictures
    return Length(prompt, ANSWER, prompt + ANSWER, pictures)


def learning(config: Config, model: Any) -> int:
    """Parameters that learn: of the adapter, or of the model's own. Raises ConfigError."""
    if config.model.train != "lora":
        unfreeze(model, config.model.train)
        return sum(p.numel() for p in model.parameters() if p.requires_grad)
    modules = dict(model.named_modules())
    places = [modules[name] for name in lora_targets(model, config.lora)]
    lengths = sum(each.out_features for each in places) if config.lora.use_dora else 0
    return lengths + sum(config.lora.rank * (each.in_features + each.out_features) for each in places)


def fixed(config: Config, model: nn.Module, trained: int) -> dict[str, float]:
    """Bytes that are there all the time, by what they are. model: on any device, the meta device too.
    trained: parameters of the adapter, or those of the model's own that learn."""
    size, frozen = BYTES[config.model.dtype], any(phase.frozen for phase in config.phases)
    everything = sum(parameter.numel() for parameter in model.parameters())
    weights = float(everything * size)
    if config.model.quantize:
        linear = sum(
            module.weight.numel()
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not name.endswith("lm_head")
        )
        weights = (everything - linear) * size + linear * FOUR_BIT
    return {
        "weights": weights,
        **({"adapter": 4.0 * trained} if config.model.train == "lora" else {}),
        **({"reference": 4.0 * trained} if frozen else {}),
        "gradients": 4.0 * trained,
        "optimiser": 8.0 * trained,
    }


def split(config: Config, model: nn.Module) -> float:
    """Bytes of the weights that model.shard splits over the processes: those of the decoder layers."""
    names = (name for name, _ in model.named_modules() if name.endswith("language_model.layers"))
    layers = model.get_submodule(next(names))
    return float(sum(p.numel() for p in layers.parameters()) * BYTES[config.model.dtype])


def passing(config: Config, phase: Phase, text: Any, length: Length, device: str) -> dict[str, float]:
    """Bytes that a step of a phase takes and gives back. text: the language model's configuration. device:
    its type ("cpu", "cuda")."""
    size = BYTES[config.model.dtype]
    rows = phase.micro_batch or phase.batch
    tokens = rows * length.longest
    parts = {}
    if phase.kind == "dpo":
        tokens *= 2
    if phase.kind in ("rkto", "group"):
        samples = phase.rewards.samples
        if phase.kind == "group" or phase.rkto.reinforce != "none":
            tokens += rows * samples * length.answer
        growing = min(samples * phase.batch, _TOGETHER.get(device, 256))
        parts["samples' keys and values"] = (
            growing * (length.prompt + phase.rewards.max_new_tokens) * cached(text) * size
        )
    if (
        phase.kind != "sft"
    ):  # eta0: the prompts' keys and values, with all answers behind one prompt at a time
        parts["prompts' keys and values"] = phase.batch * length.row * cached(text) * size
    layers = text.num_hidden_layers
    if config.model.checkpointing:  # each layer's input, and one layer at a time
        parts["activations"] = tokens * (layers * text.hidden_size * size + kept(config, text))
    else:
        parts["activations"] = tokens * layers * kept(config, text)
    numbers = min(_LOGITS.get(device, 1 << 28), rows * length.answer * text.vocab_size)
    parts["logits"] = 3.0 * 4 * numbers
    return parts


def kept(config: Config, text: Any) -> float:
    """Bytes that a layer keeps for the backward pass, for each token, where nothing is computed twice.

    Of the frozen layer: six vectors of its width (what enters its norms, projections and attention) and four
    of its inner width. Of LoRA: the products with A, and, where the adapter is of another dtype than the
    weights or drops some of its input, a copy of each module's input in float32, with dropout its mask.
    """
    size, lora, wide, inner = BYTES[config.model.dtype], config.lora, text.hidden_size, text.intermediate_size
    modules = {"down_proj": inner}
    into = sum(modules.get(name, wide) for name in lora.targets)
    copied = 4.0 if size != 4 or lora.dropout else 0.0
    masked = 1.0 if lora.dropout else 0.0
    norms = 2 * 4.0 * wide if size != 4 else 0.0  # which are computed in float32
    frozen = size * (6.0 * wide + 4.0 * inner) + norms
    if config.model.train != "lora":
        return frozen
    return frozen + 4.0 * lora.rank * len(lora.targets) + into * (copied + masked)


def looking(config: Config, phase: Phase, vision: Any, length: Length) -> dict[str, float]:
    """Bytes that the vision tower keeps for the backward pass; nothing where it does not learn. vision: its
    configuration."""
    if not config.lora.vision and config.model.train != "full":
        return {}
    wide = getattr(vision, "embed_dim", None) or vision.hidden_size
    patches = (phase.micro_batch or phase.batch) * length.pictures * vision.spatial_merge_size**2
    block = seen(config, vision)
    if config.model.checkpointing:  # each block's input, and one block at a time
        return {"vision tower": patches * (vision.depth * wide * BYTES[config.model.dtype] + block)}
    return {"vision tower": patches * vision.depth * block}


def seen(config: Config, vision: Any) -> float:
    """Bytes that a block of the vision tower keeps for each patch, as `kept`: eleven vectors of its width,
    three of its inner one, and what LoRA on its four modules adds."""
    size, lora = BYTES[config.model.dtype], config.lora
    wide = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(wide * vision.mlp_ratio)
    copied = (4.0 if size != 4 or lora.dropout else 0.0) + (1.0 if lora.dropout else 0.0)
    return size * (11.0 * wide + 3.0 * inner) + 4.0 * 4.0 * lora.rank + copied * (3.0 * wide + inner)


def cached(text: Any) -> float:
    """Numbers that all layers' keys and values hold, for each token."""
    head = getattr(text, "head_dim", None) or text.hidden_size / text.num_attention_heads
    return 2.0 * text.num_hidden_layers * head * text.num_key_value_heads
