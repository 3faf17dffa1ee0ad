"""The model with its adapters, and what turns examples into its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from evlm.adapter.checkpoint import AdapterMeta, config_hash
from evlm.adapter.lora import Lora
from evlm.errors import RecordError
from evlm.models.loading import pick_device
from evlm.models.quantized import keep_plain_on_cpu
from evlm.plan.form import PARTS
from evlm.plan.mask_codec import get_codec
from evlm.reason.backbone import Backbone, load_backbone
from evlm.reason.messages import Chat, PromptStyle, build_messages, tuned_on
from evlm.request import Request

from ..config.recipe import Config, Phase
from ..model.batch import Batch, Collator
from ..model.forward import Features
from ..model.lean import usable
from ..model.logprobs import How, base_of
from ..model.packing import checkpoint_layers, is_checkpointed
from ..model.prompts import Prompts
from ..model.ranks import Ranks
from ..model.reference import keep_frozen
from ..model.shards import Shards, supported
from ..model.skeleton import base_folder
from .adapter import REFERENCE, lora_targets, unfreeze
from .rows import Example, Rows, rows_for

TOKENS = 640  # learned from at once on a CPU


@dataclass
class Learner:
    """The model with its adapter, and what turns examples into its inputs."""

    model: Any  # peft.PeftModel, or a transformers model whose own weights learn
    processor: Any
    style: Any
    codec: Any
    max_frames: int
    meta: AdapterMeta
    device: torch.device
    ranks: Ranks = field(default_factory=Ranks)
    train: str = "lora"
    collate: Collator = field(init=False)
    features: Features = field(init=False)

    def __post_init__(self) -> None:
        self.collate = Collator(self.processor, base_of(self.model).config)
        self.features = Features(base_of(self.model))

    def batch(self, examples: list[Example]) -> Batch:
        """Questions and answers as the model's inputs, with what its frozen vision tower makes of the
        pictures. Raises RecordError for a row that is longer than the model's context."""
        batch = self.collate([e.chat for e in examples], [e.answer for e in examples])
        context = base_of(self.model).config.get_text_config().max_position_embeddings
        for example, length in zip(examples, batch.attention_mask.sum(1).tolist(), strict=True):
            if length > context:  # a batch of them would take all memory before the model said anything
                raise RecordError(
                    f"row {example.name or example.answer[:40]!r}: {length:,} tokens with its pictures, the "
                    f"model holds {context:,}; shorten the row or take it out, or lower model.max_pixels"
                )
        return self.features(batch)

    def chat(self, request: Request) -> Chat:
        """The request as this model reads it."""
        return build_messages(request, self.codec, self.style, self.max_frames)

    @property
    def merge(self) -> int:
        """Patches a side that become one token."""
        return int(base_of(self.model).config.vision_config.spatial_merge_size)

    def together(
        self, prompts: Prompts, responses: Sequence[Tensor], rows: int | None = None
    ) -> list[list[int]]:
        """Which rows are learned from at once, in parts that change no gradient. rows: at most so many.

        On a CPU, where more tokens at once are no faster, so few that what is kept of them for the backward
        pass stays small."""
        lengths = [n + len(r) for n, r in zip(prompts.lengths.tolist(), responses, strict=True)]
        most = TOKENS if usable(base_of(self.model).model.language_model) else sum(lengths)
        parts: list[list[int]] = []
        for row, length in enumerate(lengths):
            if not parts or len(parts[-1]) == rows or sum(lengths[n] for n in parts[-1]) + length > most:
                parts.append([])
            parts[-1].append(row)
        return parts

    @property
    def how(self) -> How:
        """How answers behind a shared prompt are scored with a graph: checkpointed layers keep no keys and
        values, so there it is all in one row."""
        return "packed" if is_checkpointed(base_of(self.model).model.language_model) else "cached"

    def rows(self, config: Config, phase: Phase) -> Rows:
        """What the phase learns from, in the words that this model was made for. Raises RecordError."""
        return rows_for(config, phase, self.style, self.codec, self.max_frames)

    @property
    def names(self) -> tuple[str, str]:
        """What a run leaves in its folder: the last and the best of what was learned."""
        return (
            ("adapter.safetensors", "best.safetensors") if self.train == "lora" else ("model", "best-model")
        )

    def trainable(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.requires_grad]


def style_of(config: Config, own: PromptStyle) -> PromptStyle:
    """How the run puts a request, and which parts it has of an answer. own: the base model's."""
    if config.parts == "own":
        return own
    return tuned_on(own, "full" if config.parts == "mixed" else config.parts)


def load_learner(config: Config, ranks: Ranks | None = None) -> Learner:
    """The backbone with a fresh adapter, whose first values are the seed's alone. ranks: who trains; with
    model.shard they split it among them, and all must call this. Raises ModelError, ConfigError."""
    from peft import LoraConfig, get_peft_model

    settings, device = (
        config.lora,
        pick_device(None if config.model.device == "auto" else config.model.device),
    )
    ranks = ranks or Ranks()
    split = config.model.shard and ranks.count > 1
    if split:
        supported()
    backbone = load_backbone(
        base_folder(config.model.base),
        config.model.adapter,
        config.model.dtype,
        torch.device("cpu") if split else device,  # no GPU ever holds all of what is split
        config.model.attention,
        config.model.quantize,
        config.model.max_pixels,
    )
    keep_plain_on_cpu(backbone.model, every=True)
    style = style_of(config, backbone.style)
    if style.parts != PARTS:
        config.check_whole(f"parts 'own' of {config.model.base}, {', '.join(style.parts)} alone")
    if config.model.train != "lora":
        return _own_weights(config, backbone, ranks, device)
    targets = lora_targets(backbone.model, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = get_peft_model(
            backbone.model,
            LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha,
                lora_dropout=settings.dropout,
                target_modules=targets,
                use_rslora=settings.use_rslora,
                use_dora=settings.use_dora,
            ),
        )
    if any(phase.frozen for phase in config.phases):
        model.add_adapter(REFERENCE, model.peft_config["default"])
        model.set_adapter("default")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name and ".default." in name)
    if split:
        layers = base_of(model).model.language_model.layers
        ranks = replace(ranks, shards=Shards(layers, device))
        model.to(device)
    if config.model.checkpointing:
        checkpoint_layers(base_of(model))
    meta = AdapterMeta(
        Lora(
            rank=settings.rank,
            alpha=settings.alpha,
            targets=tuple(sorted(targets)),
            rslora=settings.use_rslora,
            dora=settings.use_dora,
        ),
        base_model=config.model.base,
        base_config_hash=config_hash(backbone.model.config),
        prompt=style_of(config, backbone.style).name,
        mask_codec=backbone.codec,
    )
    return Learner(
        model,
        backbone.processor,
        style_of(config, backbone.style),
        get_codec(backbone.codec),
        backbone.max_frames,
        meta,
        device,
        ranks,
    )


def _own_weights(config: Config, backbone: Backbone, ranks: Ranks, device: torch.device) -> Learner:
    """The backbone itself, some or all weights of which learn."""
    unfreeze(backbone.model, config.model.train)
    if any(phase.frozen for phase in config.phases):
        keep_frozen(backbone.model)
    if config.model.checkpointing:
        checkpoint_layers(backbone.model)
    meta = AdapterMeta(
        Lora(1, 1.0),
        base_model=config.model.base,
        base_config_hash=config_hash(backbone.model.config),
        prompt=style_of(config, backbone.style).name,
        mask_codec=backbone.codec,
    )
    codec = get_codec(backbone.codec)
    return Learner(
        backbone.model,
        backbone.processor,
        style_of(config, backbone.style),
        codec,
        backbone.max_frames,
        meta,
        device,
        ranks,
        config.model.train,
    )
