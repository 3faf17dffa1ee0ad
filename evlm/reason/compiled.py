"""The forward of one token, compiled: CUDA graphs on a card, C++ on a CPU.

What has been read lies in tensors of a fixed length, so that each token is the same program. Several tokens
at once (a prompt, what a form forces) go through the model as it is, over the same tensors.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import ModelError
from .transformers_compat import cache_name, fill, positions_in_cache, static_cache

LEAST_ROOM = 512
"""Tokens of the shortest cache; a longer one is twice as long, and compiled for itself. All of it is
looked at for each token: with 2048 a CPU was slower than without (31 for 25 ms, 12 layers of width 256)."""

SPARE = 256  # tokens behind a prompt for which there is room at least

_COMPILERS = ("c++", "g++", "clang++", "cl")


class CompiledStep:
    """One model's compiled forward and the room it works in. Compiled at the first token, which takes a
    minute or more; raises ModelError then where it cannot be.

    backend: torch.compile's.
    """

    def __init__(self, model: Any, backend: str = "inductor") -> None:
        self.model, self.backend = model, backend
        self._run: Callable[..., Tensor] | None = None
        self._cache: Any = None
        self._room = 0

    @property
    def nbytes(self) -> int:
        """Of the cache, which stays from one text to the next."""
        layers = [] if self._cache is None else self._cache.layers
        return sum(each.keys.nbytes + each.values.nbytes for each in layers)

    def clear(self) -> None:
        self._run, self._cache, self._room = None, None, 0

    def begin(self, cache: Any, length: int) -> Any:
        """cache: as it grew with a prompt of `length` tokens. Gives one of fixed length with the same."""
        if any(getattr(each, "is_sliding", False) for each in cache.layers):
            raise ModelError(
                "this model's attention slides over its text, which compile does not know; turn it off"
            )
        return self._filled(((each.keys, each.values) for each in cache.layers), length, SPARE)

    def with_room(self, cache: Any, length: int, count: int) -> Any:
        """The cache of `length` tokens, or a longer one where `count` more have no room in it."""
        if length + count <= self._room:
            return cache
        held = ((each.keys[:, :, :length], each.values[:, :, :length]) for each in cache.layers)
        return self._filled(held, length, count)

    def __call__(self, ids: Tensor, positions: Tensor, length: int, cache: Any) -> Tensor:
        """ids: [1, 1]. positions: [3, 1, 1]. length: read before. Logits [V] of the next token."""
        run = self._compiled(ids.device)
        where = positions_in_cache(self.model, length, 1, ids.device)
        if ids.is_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        try:
            return run(ids, positions, cache, where)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler makes torch raise nearly anything
            raise ModelError(f"torch.compile failed ({_first_line(error)}); turn compile off") from error

    def _filled(self, layers: Iterable[tuple[Tensor, Tensor]], length: int, spare: int) -> Any:
        room = LEAST_ROOM
        while room < length + spare:
            room *= 2
        if self._cache is None or room != self._room:
            self._cache, self._room = static_cache(self.model.config, room), room
        else:
            self._cache.reset()
        fill(self._cache, layers)
        return self._cache

    def _compiled(self, device: torch.device) -> Callable[..., Tensor]:
        if self._run is None:
            if self.backend == "inductor":
                check_compiler(device)
            graphs = self.backend == "inductor" and device.type == "cuda"
            self._run = torch.compile(
                _of_its_own(self._forward()),
                backend=self.backend,
                fullgraph=True,
                dynamic=False,
                mode="reduce-overhead" if graphs else None,
            )
        return self._run

    def _forward(self) -> Callable[..., Tensor]:
        model, name = self.model, cache_name(self.model)

        def forward(ids: Tensor, positions: Tensor, cache: Any, where: dict[str, Tensor]) -> Tensor:
            given = {name: cache, **where}
            out = model(input_ids=ids, position_ids=positions, use_cache=True, logits_to_keep=1, **given)
            logits: Tensor = out.logits[0, -1]
            return logits

        return forward


def check_compiler(device: torch.device) -> None:
    """Raises ModelError where torch.compile has no compiler for a device."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise ModelError(
                "compile needs the package triton on a CUDA card (on Windows triton-windows); install it, or "
                "turn compile off"
            )
    elif device.type != "cpu":
        raise ModelError(f"compile works on CUDA and on a CPU, not on {device}; turn it off")
    named = os.environ.get("CXX")
    tried = (named,) if named else _COMPILERS
    if not any(shutil.which(each) for each in tried):
        where = {"win32": "Visual Studio's build tools", "darwin": "Xcode's command line tools"}
        remedy = where.get(sys.platform, "the package g++")
        raise ModelError(
            f"compile needs a C++ compiler, and there is none ({', '.join(tried)} were looked for); install "
            f"{remedy}, or turn compile off"
        )


def _of_its_own(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function with a code object of its own, for by that torch counts how often it has compiled: models
    that were loaded before would use up what this one may."""
    made = cast(FunctionType, function)
    return FunctionType(made.__code__.replace(), made.__globals__, made.__name__, None, made.__closure__)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
