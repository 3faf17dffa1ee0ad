"""A model under ComfyUI's memory, for a step of the engine that knows nothing of that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from . import host


class Borrowed:
    """A model under ComfyUI's memory with the one method that its step calls."""

    def __init__(self, model: Any, method: str) -> None:
        self._model = model
        setattr(self, method, self._call(method))

    @property
    def at_once(self) -> int:
        """How many requests an endpoint gets together; a model on this machine gets one."""
        return int(getattr(self._model, "at_once", 1))

    def use(self) -> Any:
        return self._model.use() if hasattr(self._model, "use") else nullcontext(self._model)

    @contextmanager
    def lent(self, *requests: Any) -> Iterator[Any]:
        """The engine, for what else is asked of it. requests: of a reasoner, as in `room_beside`."""
        host.check_cancelled()
        with self.use() as engine:
            room = room_beside(self._model, engine, requests) if requests else nullcontext()
            with room, cancelling(engine):
                yield engine

    def with_cues(self, cues: Any) -> Borrowed:
        """Of an editor with a bridge: its edits are told these."""
        return Borrowed(_WithCues(self._model, cues), "edit")

    def _call(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            host.check_cancelled()
            if kwargs.get("find") is not None:
                kwargs["find"] = self._back_from(kwargs["find"])
            with self.use() as engine, self._room(method, engine, args), cancelling(engine):
                return getattr(engine, method)(*args, **kwargs)

        return call

    def _back_from(self, find: Callable[..., Any]) -> Callable[..., Any]:
        """What another model finds while this one is at work: on a small card that takes its place there, so
        this one's weights come back."""

        def found(*args: Any) -> Any:
            boxes = find(*args)
            with self.use():
                return boxes

        return found

    def _room(self, method: str, engine: Any, args: Any) -> Any:
        return room_beside(self._model, engine, args[:1]) if method == "reason" else nullcontext()

    @property
    def defaults(self) -> Any:
        with self.use() as engine:
            return engine.defaults

    @property
    def steps(self) -> bool:
        """Of an editor: whether it paints the steps of a plan one after the other."""
        with self.use() as engine:
            return bool(getattr(engine, "steps", True))

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Of a segmenter: within it a picture is encoded once."""
        with self.use() as engine, getattr(engine, "remembering", nullcontext)():
            yield


class _WithCues:
    """An editor that comes back each time with its cues: the weights may have gone in between."""

    def __init__(self, model: Any, cues: Any) -> None:
        self._model, self._cues = model, cues

    @contextmanager
    def use(self) -> Iterator[Any]:
        with Borrowed(self._model, "edit").use() as engine:
            yield engine.with_cues(self._cues)


@contextmanager
def room_beside(
    model: Any, reasoner: Any, requests: Sequence[Any], most: int | None = None
) -> Iterator[None]:
    """Beside the weights of a reasoner in use, room for what it computes with the largest of the requests;
    most: tokens of an answer, None for the usual number."""
    estimate = getattr(reasoner, "working_bytes", None)
    if estimate is None or not isinstance(model, host.Managed):
        yield
        return
    need = max((estimate(request, most) for request in requests), default=0)
    with model.use(max(host.WORKING, need)):
        yield


@contextmanager
def cancelling(engine: Any) -> Iterator[None]:
    """A cancel ends the work of an engine before its model's next part is called."""
    model = getattr(engine, "model", None)
    parts = [model, *model.children()] if isinstance(model, torch.nn.Module) else []
    hooks = [part.register_forward_pre_hook(lambda *_: host.check_cancelled()) for part in parts]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
