"""Request in, trace out: a Qwen-VL backbone that reasons, plans and writes the four parts of a trace.

    reasoner = Reasoner.load("models/Qwen2-VL-7B-Instruct", adapter="evlm.safetensors")
    reasoned = reasoner.reason(Request(picture, "like this", [Reference("image", other)]))
    reasoned.trace.plan.instruction

The token loop is our own rather than `generate()`: it hands M-RoPE positions to every forward, so the
`rope_deltas` that the model keeps as module state are never read and cannot be stale; it draws from its own
generator, so the global random state stays as it was; an exception from the callback simply leaves it.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError, RequestError, TraceError
from ..plan.mask_codec import get_codec
from ..plan.trace import Trace, parse
from ..request import Request
from .backbone import Backbone, load_backbone
from .messages import build_messages, encode
from .transformers_compat import cache_name

OnToken = Callable[[str], None]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. temperature 0 takes the likeliest token and ignores top_p and seed; the
    same seed and settings give the same text. top_p in (0, 1] keeps the likeliest tokens of that total
    probability."""

    max_new_tokens: int = 768
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

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


@dataclass(frozen=True)
class Generated:
    """A text as the model wrote it. tokens: how many, the end token included; seconds: wall time from
    the request to the last token; finished: False when max_new_tokens cut it off; notes: what was done
    otherwise than it was asked for, in words."""

    text: str
    tokens: int
    seconds: float
    finished: bool = True
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reasoned(Generated):
    """A text that was understood: its trace, with the plan in `trace.plan`."""

    trace: Trace = field(kw_only=True)


class Reasoner:
    """A loaded backbone. Not safe for use by two threads at once."""

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.processor = backbone.processor
        self.style = backbone.request_style
        self.codec = get_codec(backbone.codec)
        self._stops = _stop_ids(backbone)
        self._silent = _silent_ids(backbone.processor.tokenizer) | self._stops

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
    ) -> Reasoner:
        """From a Hugging Face folder of Qwen2-VL, Qwen2.5-VL or Qwen3-VL; nothing is downloaded.

        adapter: LoRA, a PEFT folder or a `.safetensors` of ours; merged into the weights (kept apart in
        4 bit).
        dtype: "auto" (`backbone.auto_dtype`), "fp32", "fp16" or "bf16". device: None takes the best there is.
        attention: "sdpa", "eager", "flash_attention_2" or None for transformers' choice. quantize:
        "4bit", which needs bitsandbytes and CUDA. min_pixels, max_pixels: size of each picture as the
        model sees it; None takes the model's own limits, at most one megapixel. Raises ModelError, or
        CheckpointError for an adapter that does not fit.
        """
        return cls(load_backbone(source, adapter, dtype, device, attention, quantize, max_pixels, min_pixels))

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
        self.module.to(device)
        return self

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
        generated = self.generate(request, sampling, on_token)
        return understood(generated, repair)

    @torch.inference_mode()
    def generate(
        self, request: Request, sampling: Sampling | None = None, on_token: OnToken | None = None
    ) -> Generated:
        """As `reason`, but the text is returned whether or not it is a trace."""
        sampling = sampling or Sampling()
        start = time.perf_counter()
        chat = build_messages(request, self.codec, self.style, self.backbone.max_frames)
        inputs = encode(self.processor, [chat])
        self._check_context(inputs["input_ids"].shape[1], sampling.max_new_tokens)
        choose = _Chooser(sampling, self.backbone.model)
        words = Words(self.processor.tokenizer, self._silent, on_token)
        tokens = 0
        for token in self._tokens(inputs, choose):
            tokens += 1
            words.add(token)
            if token in self._stops or tokens == sampling.max_new_tokens:
                break
        text = words.finish()
        return Generated(text, tokens, time.perf_counter() - start, token in self._stops)

    def _tokens(self, inputs: Any, choose: _Chooser) -> Any:
        """Endless stream of tokens: prefill, then one forward for each."""
        model: Any = self.module
        device = self.device
        inputs = {name: value.to(device) for name, value in inputs.items() if isinstance(value, Tensor)}
        positions = prompt_positions(model, inputs)
        # One sequence has no padding: without a mask the attention takes its fast causal path.
        inputs = {name: value for name, value in inputs.items() if name in _FORWARD}
        for name in ("pixel_values", "pixel_values_videos"):
            if name in inputs:
                inputs[name] = inputs[name].to(model.dtype)
        out = model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
        cache = {cache_name(model): out[cache_name(model)]}
        position = positions.amax(dim=(0, 2), keepdim=True).expand(3, 1, 1)
        while True:
            token = choose(out.logits[0, -1])
            yield token
            position = position + 1
            step = torch.tensor([[token]], device=device)
            out = model(input_ids=step, position_ids=position, use_cache=True, **cache)

    def _check_context(self, prompt: int, new: int) -> None:
        config: Any = self.module.config
        context = getattr(config, "text_config", config).max_position_embeddings
        if prompt + new > context:
            raise RequestError(
                f"the request takes {prompt:,} tokens and the answer up to {new:,}, the model holds "
                f"{context:,}; "
                "lower max_pixels, use fewer references, or shorten the prompt"
            )


def understood(generated: Generated, repair: bool = True) -> Reasoned:
    """The text with its trace. Raises TraceError, which says so where the text was cut off."""
    text, tokens, finished = generated.text, generated.tokens, generated.finished
    try:
        trace = parse(text, repair, finished)
    except TraceError as error:
        if finished:
            raise
        cut = f"the answer was cut off after {tokens} tokens; raise max_new_tokens"
        raise type(error)(error.part, error.offset, f"{error.reason} ({cut})") from None
    return Reasoned(text, tokens, generated.seconds, finished, generated.notes, trace=trace)


def prompt_positions(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """M-RoPE positions [3, B, L] (time, height, width) of a prompt, by the model's own rule, from any
    transformers version; nothing is left in the model."""
    find = model.model.get_rope_index
    known = inspect.signature(find).parameters
    positions, _ = find(**{name: value for name, value in inputs.items() if name in known})
    return positions


class _Chooser:
    """Logits [V] -> token id. Sampling happens on the CPU with a generator of its own: one seed draws
    the same numbers on every device and leaves the global state alone."""

    def __init__(self, sampling: Sampling, model: Any) -> None:
        self.sampling = sampling
        self.dtype = model.dtype
        self.generator = torch.Generator().manual_seed(sampling.seed)

    def __call__(self, logits: Tensor) -> int:
        best, token = logits.max(dim=-1)
        if not math.isfinite(best):
            raise ModelError(f"the model's logits are not finite in {self.dtype}; load it as bf16 or fp32")
        if self.sampling.temperature == 0:
            return int(token)
        scores = logits.float().cpu()
        odds = ((scores - scores.max()) / self.sampling.temperature).softmax(dim=-1)
        if self.sampling.top_p < 1:
            ordered, order = odds.sort(descending=True)
            ordered[ordered.cumsum(0) - ordered >= self.sampling.top_p] = 0.0
            odds = torch.zeros_like(odds).scatter_(0, order, ordered)
        return int(torch.multinomial(odds, 1, generator=self.generator))


class Words:
    """Tokens -> text, piece by piece. A character of several tokens comes out whole; the pieces join to
    what the tokenizer makes of all tokens together. every: seconds between two pieces, because a small model
    is not much slower than its tokenizer; the tokens between get ""."""

    def __init__(
        self, tokenizer: Any, silent: frozenset[int], on_token: OnToken | None, every: float = 0.02
    ) -> None:
        self.tokenizer, self.silent, self.on_token, self.every = tokenizer, silent, on_token, every
        self._next = 0.0
        self.ids: list[int] = []
        self.pieces: list[str] = []
        self.begin = self.read = 0  # ids[begin:read] is already said and gives the next piece its context

    def add(self, token: int) -> None:
        if token in self.silent:
            return
        self.ids.append(token)
        if self.on_token is None:
            return
        now = time.perf_counter()
        if now < self._next:
            self.on_token("")
            return
        self._next = now + self.every
        self._say(last=False)

    def finish(self) -> str:
        self._say(last=True)
        return "".join(self.pieces)

    def _say(self, last: bool) -> None:
        known, text = self._text(self.ids[self.begin : self.read]), self._text(self.ids[self.begin :])
        if len(text) <= len(known) or (text.endswith("\ufffd") and not last):
            if self.on_token is not None and not last:
                self.on_token("")
            return
        piece = text[len(known) :]
        self.begin, self.read = self.read, len(self.ids)
        self.pieces.append(piece)
        if self.on_token is not None:
            self.on_token(piece)

    def _text(self, ids: list[int]) -> str:
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        if fast is not None:  # the same text, without the wrapper's cost for every token
            return str(fast.decode(ids, skip_special_tokens=False))
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


_FORWARD = (
    "input_ids",
    "mm_token_type_ids",
    "pixel_values",
    "image_grid_thw",
    "pixel_values_videos",
    "video_grid_thw",
    "second_per_grid_ts",
)


def _stop_ids(backbone: Backbone) -> frozenset[int]:
    """Tokens that end an answer: those of the generation config, and the tokenizer's own."""
    model: Any = backbone.model
    ends = model.generation_config.eos_token_id
    tokens = set(ends if isinstance(ends, (list, tuple)) else [ends])
    tokens.add(backbone.processor.tokenizer.eos_token_id)
    return frozenset(int(token) for token in tokens if token is not None)


def _silent_ids(tokenizer: Any) -> frozenset[int]:
    """Chat and vision markers such as `<|im_start|>`, never part of a text. A model's own special
    tokens for the grammar (`<thinking>`) are text."""
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return frozenset(token for word, token in named if word.startswith("<|"))
