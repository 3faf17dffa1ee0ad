"""Request in, trace out: a Qwen-VL backbone that reasons, plans and writes the four parts of a trace.

reasoner = Reasoner.load("models/Qwen2-VL-7B-Instruct", adapter="evlm.safetensors")
reasoned = reasoner.reason(Request(picture, "like this", [Reference("image", other)]))
reasoned.trace.plan.instruction
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..errors import ModelError, RequestError, TraceError
from ..plan.form import MOST_STEPS
from ..plan.mask_codec import get_codec
from ..plan.native_boxes import OWN, Size, in_our_form
from ..plan.trace import Trace, Trust, parse
from ..request import Request
from . import second_look
from .backbone import Backbone, load_backbone
from .budgets import DEFAULT_BUDGETS, Budgets
from .compiled import CompiledStep
from .confidence import Written, confidence
from .decoding import Chooser, Decoder, OnToken, Words, log_probability, silent_ids, stop_ids
from .guide import WHOLE_FORM, Guide
from .guided import Vocabulary, write
from .messages import (
    FULL,
    STYLES,
    Chat,
    PromptStyle,
    build_messages,
    chosen_style,
    encode,
    seen_size,
)
from .place_grammar import PlaceGrammar
from .prefix_cache import PREFIX_BYTES, PrefixCache
from .working import working_bytes

Guided = Literal["auto", "always", "never"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 takes the likeliest token and ignores top_p and seed; the
    same seed and settings give the same text. top_p in (0, 1] keeps the likeliest tokens of that total
    probability.

    guided: whether the engine writes the form itself, so that any model gives a plan (`guided.write`); "auto"
    does it for models that were never tuned on the form. budgets: tokens a part then; together at most
    max_new_tokens, without what the form writes. style: how the question is put to a model that was never
    tuned on the form, one of `messages.STYLES`.
    """

    max_new_tokens: int = 768
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    guided: Guided = "auto"
    budgets: Budgets = DEFAULT_BUDGETS
    style: str = STYLES[0]

    def __post_init__(self) -> None:
        if not 1 <= self.max_new_tokens <= 65536:
            raise RequestError(f"max_new_tokens {self.max_new_tokens}: expected 1 to 65,536")
        if not math.isfinite(self.temperature) or (self.temperature != 0 and self.temperature < 1e-3):
            raise RequestError(
                f"temperature {self.temperature}: expected 0 (deterministic), or 0.001 or more"
            )
        if not 0 < self.top_p <= 1:
            raise RequestError(f"top_p {self.top_p}: expected above 0 and at most 1")
        if not 0 <= self.seed < 1 << 63:
            raise RequestError(f"seed {self.seed}: expected 0 to 2^63 - 1")
        if self.guided not in get_args(Guided):
            raise RequestError(f"guided {self.guided!r:.40}: expected {', '.join(get_args(Guided))}")
        if self.style not in STYLES:
            raise RequestError(f"style {self.style!r:.40}: expected {', '.join(STYLES)}")
        Budgets(*self.budgets).check()


@dataclass(frozen=True)
class Generated:
    """A text as the model wrote it. tokens: how many, the end token included; seconds: wall time from
    the request to the last token; finished: False when max_new_tokens cut it off; notes: what was done
    otherwise than it was asked for, in words; seen: the original's size as the model saw it, where its boxes
    are in pixels of that; written: its tokens with their probabilities, asked: tokens of the question, both
    where they are known."""

    text: str
    tokens: int
    seconds: float
    finished: bool = True
    notes: tuple[str, ...] = ()
    seen: Size | None = None
    written: tuple[Written, ...] = field(default=(), repr=False, compare=False)
    asked: int | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Reasoned(Generated):
    """A text that was understood: its trace, with the plan in `trace.plan`."""

    trace: Trace = field(kw_only=True)

    @property
    def confidence(self) -> float | None:
        """How sure the model was of its plan, 0..1; None where that is not known (`confidence`)."""
        return self.trace.plan.confidence


class Reasoner:
    """A loaded backbone. Not safe for use by two threads at once.

    prefix_bytes: the most that is kept of what prompts begin with, for the next one on the same picture.
    compiled: whether the forward of one token is (`compiled.CompiledStep`).
    """

    def __init__(self, backbone: Backbone, prefix_bytes: int = PREFIX_BYTES, compiled: bool = False) -> None:
        self.backbone = backbone
        self.compiled = CompiledStep(backbone.model) if compiled else None
        self.prefixes = PrefixCache(prefix_bytes)
        self.processor = backbone.processor
        self.style = backbone.request_style
        self.codec = get_codec(backbone.codec)
        self._stops = stop_ids(backbone)
        self._silent = silent_ids(backbone.processor.tokenizer) | self._stops
        self._vocabulary: Vocabulary | None = None

    def working_bytes(self, request: Request, max_new_tokens: int | None = None) -> int:
        """About how much memory a request needs beside the weights (`working`)."""
        answer = Sampling.max_new_tokens if max_new_tokens is None else max_new_tokens
        backbone = self.backbone
        return working_bytes(backbone.model, self.processor, request, answer, backbone.max_frames)

    @classmethod
    def load(
        cls,
        source: str | Path,
        adapter: str | Path | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        attention: str | None = None,
        quantize: str | None = None,
        max_pixels: int | None = None,
        min_pixels: int | None = None,
        compiled: bool = False,
        style: str | None = None,
    ) -> Reasoner:
        """From a Hugging Face folder of Qwen2-VL, Qwen2.5-VL or Qwen3-VL; nothing is downloaded.

        adapter: LoRA, a PEFT folder or a `.safetensors` of ours; merged into the weights (kept apart in
        4 bit).
        dtype: "auto" (`backbone.auto_dtype`), "fp32", "fp16" or "bf16". device: None takes the best there is.
        attention: "sdpa", "eager", "flash_attention_2" or None for transformers' choice. quantize:
        "4bit", which needs bitsandbytes and CUDA. min_pixels, max_pixels: size of each picture as the
        model sees it; None takes the model's own limits, at most one megapixel. compiled: with torch.compile,
        CUDA graphs and a cache of fixed length; the first token takes a minute or more, later ones can be
        faster. Raises ModelError, or CheckpointError for an adapter that does not fit.
        """
        made = load_backbone(
            source, adapter, dtype, device, attention, quantize, max_pixels, min_pixels, style
        )
        if compiled and made.quantized:
            raise ModelError("compile is for weights that are not quantised; turn it off, or load in bf16")
        return cls(made, compiled=compiled)

    @property
    def module(self) -> nn.Module:
        """The transformers model itself."""
        return self.backbone.model

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def to(self, device: str | torch.device) -> Reasoner:
        """Moves the weights. Raises ModelError for a quantised model, which cannot move."""
        if self.backbone.quantized:
            raise ModelError("a 4-bit model stays on its device; unload it and load it again instead")
        self.forget()
        self.module.to(device)
        return self

    @property
    def kept_bytes(self) -> int:
        """What lies on the device beside the weights from one text to the next."""
        return self.prefixes.nbytes + (0 if self.compiled is None else self.compiled.nbytes)

    def forget(self) -> None:
        """Drops that."""
        self.prefixes.clear()
        if self.compiled is not None:
            self.compiled.clear()

    def _decoder(self) -> Decoder:
        return Decoder(self.backbone.model, self.prefixes, self.compiled)

    def reason(
        self,
        request: Request,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
        repair: bool = True,
    ) -> Reasoned:
        """The trace for a request. `on_token` is called after each token with the text that has come since,
        "" while more is awaited (text is made some 50 times a second); what it raises stops the generation
        and comes out here. `repair`: mend near misses of the grammar (`trace.parse`). Raises
        TraceError when the text holds no plan, RequestError when the request does not fit into the
        model's context."""
        sampling = sampling or Sampling()
        style = chosen_style(self.style, sampling.style)
        generated = self.generate(request, sampling, on_token)
        how = (self.backbone.trust, style, self.backbone.temperature)
        reasoned = understood(generated, repair, *how)
        return self._look_again(request, style, reasoned) if self.backbone.second_look else reasoned

    def _look_again(self, request: Request, style: PromptStyle, reasoned: Reasoned) -> Reasoned:
        """With the confidence of a second look."""
        chat = build_messages(request, self.codec, style, self.backbone.max_frames)
        first, second = (
            second_look.scored(self.module, self.processor, each, reasoned.text)
            for each in (chat, second_look.in_neutral_light(chat, request))
        )
        sure = second_look.confidence(first, second, self.backbone.temperature or 1.0)
        unknown = (
            f"how sure the model is is not known: its probabilities are not finite in {self.module.dtype}"
        )
        notes = reasoned.notes if sure is not None else (*reasoned.notes, unknown)
        plan = replace(reasoned.trace.plan, confidence=sure)
        return replace(reasoned, notes=notes, trace=replace(reasoned.trace, plan=plan))

    @torch.inference_mode()
    def generate(
        self, request: Request, sampling: Sampling | None = None, on_token: OnToken | None = None
    ) -> Generated:
        """As `reason`, but the text is returned whether or not it is a trace."""
        sampling = sampling or Sampling()
        style = chosen_style(self.style, sampling.style)
        chat = build_messages(request, self.codec, style, self.backbone.max_frames)
        return self.answer(chat, sampling, on_token, style)

    @torch.inference_mode()
    def answer(
        self,
        chat: Chat,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
        style: PromptStyle | None = None,
    ) -> Generated:
        """As `generate`, of any chat. style: in which it asks for a trace, and by which the text is held to
        the form then; None where it asks something else."""
        sampling = sampling or Sampling()
        start = time.perf_counter()
        words = Words(self.processor.tokenizer, self._silent, on_token)
        if style is not None and self.is_guided(sampling):
            tokens, notes = self._guided(chat, style, sampling, words)
            seconds = time.perf_counter() - start
            return Generated(words.finish(), tokens, seconds, notes=notes, written=words.written())
        inputs = encode(self.processor, [chat])
        seen = self._seen(chat, inputs)
        asked = int(inputs["input_ids"].shape[1])
        self._check_context(asked, sampling.max_new_tokens)
        decoder, choose = self._decoder(), Chooser(sampling, self.backbone.model)
        tokens, notes = 0, ()
        for token, log in self._tokens(decoder, inputs, choose):
            tokens += 1
            words.add(token, log)
            if token in self._stops or tokens == sampling.max_new_tokens:
                break
        finished = token in self._stops
        if not finished and sampling.guided != "never":
            more, notes = self._rescue(decoder, token, choose, sampling, words)
            finished, tokens = more > 0, tokens + more
        seconds = time.perf_counter() - start
        return Generated(words.finish(), tokens, seconds, finished, notes, seen, words.written(), asked)

    def _tokens(self, decoder: Decoder, inputs: Any, choose: Chooser) -> Iterator[tuple[int, Tensor]]:
        """Endless stream of tokens with their log probabilities: prefill, then one forward for each."""
        logits = decoder.prefill(inputs)
        while True:
            token = choose(logits)
            yield token, log_probability(logits, token)
            logits = decoder.feed([token])

    def is_guided(self, sampling: Sampling) -> bool:
        """Whether a text would be written in the form by the engine."""
        return sampling.guided == "always" or (sampling.guided == "auto" and not self.backbone.tuned)

    def _rescue(
        self, decoder: Decoder, last: int, choose: Chooser, sampling: Sampling, words: Words
    ) -> tuple[int, tuple[str, ...]]:
        """Brings a text that max_new_tokens cut off to its end, where it is the beginning of the form and the
        context has room. last: its last token, which the model has not read yet. Gives the tokens written, 0
        where none were, and notes."""
        vocabulary, budgets = self._known_words(), Budgets(*sampling.budgets)
        resumed = Guide.resume(words.all_text(), budgets.output, self._place())
        if (
            resumed is None
            or decoder.length + budgets.output + len(vocabulary.encode(WHOLE_FORM)) > self.context
        ):
            return 0, ()
        guide, step = resumed
        form, lead = vocabulary.encode(step.form), vocabulary.encode(step.held)
        for token in form:
            words.add(token)
        logits = decoder.feed([last, *form, *lead])
        tokens = write(decoder, logits, choose, guide, vocabulary, words, lead)
        note = f"cut off after max_new_tokens, {sampling.max_new_tokens:,}: closed, and the plan written"
        return len(form) + len(lead) + tokens, (note, *guide.notes)

    def _known_words(self) -> Vocabulary:
        if self._vocabulary is None:
            size = int(self.backbone.model.get_output_embeddings().weight.shape[0])  # type: ignore[operator]
            self._vocabulary = Vocabulary(self.processor.tokenizer, size, self._stops)
        return self._vocabulary

    def _place(self, seen: Size | None = None) -> PlaceGrammar:
        return PlaceGrammar(self.codec.grid if self.backbone.tuned else None, self.style.boxes, seen)

    def _seen(self, chat: Chat, inputs: Any) -> Size | None:
        """The original's size as the model sees it, where its boxes are in pixels of that."""
        return seen_size(self.processor, chat, inputs) if self.style.boxes.pixels else None

    def _guided(
        self, chat: Chat, style: PromptStyle, sampling: Sampling, words: Words
    ) -> tuple[int, tuple[str, ...]]:
        """Writes the form with the model. Gives the tokens of the answer, and notes."""
        vocabulary = self._known_words()
        budgets = Budgets(*sampling.budgets).within(sampling.max_new_tokens)
        guide = Guide(budgets, self._place(), style.parts)
        inputs = encode(self.processor, [chat], [guide.opening])
        guide.place = self._place(self._seen(chat, inputs))
        lead = vocabulary.encode(guide.place.lead("")) if self.style.boxes is not OWN else []
        form = len(vocabulary.encode(WHOLE_FORM)) + (MOST_STEPS * len(lead) + budgets.output if lead else 0)
        self._check_context(inputs["input_ids"].shape[1], sum(budgets) + form)
        opening = vocabulary.encode(guide.opening)
        for token in opening:
            words.add(token)
        decoder, choose = self._decoder(), Chooser(sampling, self.backbone.model)
        tokens = write(decoder, decoder.prefill(inputs), choose, guide, vocabulary, words)
        return len(opening) + tokens, tuple(guide.notes)

    @property
    def context(self) -> int:
        """Tokens that the model holds, prompt and answer together."""
        config: Any = self.module.config
        return int(getattr(config, "text_config", config).max_position_embeddings)

    def _check_context(self, prompt: int, new: int) -> None:
        context = self.context
        if prompt + new > context:
            raise RequestError(
                f"the request takes {prompt:,} tokens and the answer up to {new:,}, the model holds "
                f"{context:,}; "
                "lower max_pixels, use fewer references, or shorten the prompt"
            )


def understood(
    generated: Generated,
    repair: bool = True,
    trust: Trust = "tuned",
    style: PromptStyle = FULL,
    temperature: float | None = None,
) -> Reasoned:
    """The text with its trace, whose plan is trusted so and says how sure the model was. style: in which it
    was asked. temperature: of how sure. Raises TraceError, which says so where the text was cut off."""
    text, tokens, finished = generated.text, generated.tokens, generated.finished
    try:
        held = style.boxes.pixels and generated.seen is None  # to the form, with the place in our numbers
        ours = text if held else in_our_form(text, style.boxes, generated.seen)
        trace = parse(ours, repair, finished, style.parts)
    except TraceError as error:
        if finished:
            raise
        cut = f"the answer was cut off after {tokens} tokens; raise max_new_tokens"
        raise type(error)(error.part, error.offset, f"{error.reason} ({cut})") from None
    sure = confidence(trace.plan, generated.written, temperature)
    if trust != trace.plan.trust or sure is not None:
        trace = replace(trace, plan=replace(trace.plan, trust=trust, confidence=sure))
    more = (generated.notes, generated.seen, generated.written)
    return Reasoned(text, tokens, generated.seconds, finished, *more, trace=trace)
