"""The token loop's parts: a model with its cache, the choice of a token, and tokens as text.

The loop is our own rather than `generate()`: it hands M-RoPE positions to every forward, so the
`rope_deltas` that the model keeps as module state are never read and cannot be stale; it draws from its own
generator, so the global random state stays as it was; an exception from the callback simply leaves it.
"""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import ModelError
from .confidence import Written
from .prefix_cache import PrefixCache, split
from .transformers_compat import cache_name, new_cache, positions_in_cache

if TYPE_CHECKING:
    from .backbone import Backbone
    from .compiled import CompiledStep
    from .reasoner import Sampling

OnToken = Callable[[str], None]


class Decoder:
    """One text under way: the model, the cache of all that it has read, the position of the last token.

    prefixes: what earlier prompts have left, and where this one leaves what it begins with. compiled: the
    forward of one token, where it is compiled.
    """

    def __init__(
        self, model: Any, prefixes: PrefixCache | None = None, compiled: CompiledStep | None = None
    ) -> None:
        self.model, self._compiled = model, compiled
        self._prefixes = PrefixCache(0) if prefixes is None else prefixes
        self._cache: Any = None
        self._cache_name = cache_name(model)
        self.length = 0  # tokens read
        self._position = torch.zeros(3, 1, 1, dtype=torch.int64)

    @property
    def device(self) -> torch.device:
        return next(iter(self.model.parameters())).device

    def prefill(self, inputs: Any) -> Tensor:
        """inputs: as `messages.encode` makes them. Logits [V] of the first token."""
        model, device = self.model, self.device
        inputs = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        positions = prompt_positions(model, inputs)
        pieces = split(model.config, inputs, positions)
        known = self._prefixes.find(model, pieces)
        self._cache = new_cache(model.config, known)
        for piece in pieces[len(known) :]:
            given = {name: value.to(device) for name, value in piece.inputs.items()}
            for name in ("pixel_values", "pixel_values_videos"):
                if name in given:
                    given[name] = given[name].to(model.dtype)
            # One sequence has no padding: without a mask the attention takes its fast causal path.
            out = model(
                **given,
                position_ids=piece.positions.to(device),
                use_cache=True,
                logits_to_keep=1,
                **{self._cache_name: self._cache},
            )
        self._prefixes.keep(model, pieces, self._cache)
        self._position = positions.amax(dim=(0, 2), keepdim=True).to(device)
        self.length = positions.shape[-1]
        if self._compiled is not None:
            self._cache = self._compiled.begin(self._cache, self.length)
        return out.logits[0, -1]

    def feed(self, tokens: Sequence[int]) -> Tensor:
        """The next tokens, in one forward. Logits [V] of the one behind them."""
        count, before, device = len(tokens), self.length, self.device
        steps = torch.arange(1, count + 1, device=self._position.device)
        positions = (self._position + steps).expand(3, 1, -1)
        self._position, self.length = self._position + count, before + count
        ids = torch.tensor([list(tokens)], device=device)
        where: dict[str, Tensor] = {}
        if self._compiled is not None:
            self._cache = self._compiled.with_room(self._cache, before, count)
            if count == 1:
                return self._compiled(ids, positions, before, self._cache)
            where = positions_in_cache(self.model, before, count, device)
        out = self.model(
            input_ids=ids,
            position_ids=positions,
            use_cache=True,
            logits_to_keep=1,
            **where,
            **{self._cache_name: self._cache},
        )
        return out.logits[0, -1]


def prompt_positions(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """M-RoPE positions [3, B, L] (time, height, width) of a prompt, by the model's own rule, from any
    transformers version; nothing is left in the model."""
    find = model.model.get_rope_index
    known = inspect.signature(find).parameters
    positions, _ = find(**{name: value for name, value in inputs.items() if name in known})
    return positions


class Chooser:
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

    def among(self, logits: Tensor, fits: Callable[[int], bool], mask: Callable[[], Tensor]) -> int:
        """As it chooses, if only tokens that fit were there.

        fits: of one token. mask: of all, [V] bool, which costs more and is rarely asked for: a token that was
        drawn and fits has the odds that it has among those that fit.
        """
        token = self(logits)
        if fits(token):
            return token
        if self.sampling.temperature == 0:
            for each in logits.topk(min(_LOOKED_AT, len(logits))).indices.tolist():
                if fits(each):
                    return int(each)
        allowed = mask()
        if not bool(allowed.any()):
            raise ModelError(
                "the model's tokenizer has no token for what the form wants next; use guided: never"
            )
        return self(logits.masked_fill(~allowed.to(logits.device), -math.inf))


def log_probability(logits: Tensor, token: int) -> Tensor:
    """Of a token as the model has it, whatever the sampling: 0-dimensional, on the logits' device, for which
    nobody waits."""
    scores = logits.float()
    return scores[token] - scores.logsumexp(-1)


_LOOKED_AT = 16  # of the likeliest tokens, one by one, before all are


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
        self._logs: list[Tensor | None] = []
        self.pieces: list[str] = []
        self.begin = self.read = 0  # ids[begin:read] is already said and gives the next piece its context

    def add(self, token: int, log: Tensor | None = None) -> None:
        """log: of the model's probability for it, 0-dimensional; None: the form's."""
        if token in self.silent:
            return
        self.ids.append(token)
        self._logs.append(log)
        if self.on_token is None:
            return
        now = time.perf_counter()
        if now < self._next:
            self.on_token("")
            return
        self._next = now + self.every
        self._say(last=False)

    def all_text(self) -> str:
        """Of all tokens so far, said or not."""
        return self._text(self.ids)

    def written(self) -> tuple[Written, ...]:
        """Each token with its probability."""
        known = [log for log in self._logs if log is not None]
        values = iter(torch.stack(known).tolist() if known else ())
        logs = (None if log is None else next(values) for log in self._logs)
        return tuple(Written(self._text([token]), log) for token, log in zip(self.ids, logs, strict=True))

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


def stop_ids(backbone: Backbone) -> frozenset[int]:
    """Tokens that end an answer: those of the generation config, and the tokenizer's own."""
    model: Any = backbone.model
    ends = model.generation_config.eos_token_id
    tokens = set(ends if isinstance(ends, (list, tuple)) else [ends])
    tokens.add(backbone.processor.tokenizer.eos_token_id)
    return frozenset(int(token) for token in tokens if token is not None)


def silent_ids(tokenizer: Any) -> frozenset[int]:
    """Chat and vision markers such as `<|im_start|>`, never part of a text. A model's own special
    tokens for the grammar (`<thinking>`) are text."""
    named = zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True)
    return frozenset(token for word, token in named if word.startswith("<|"))
