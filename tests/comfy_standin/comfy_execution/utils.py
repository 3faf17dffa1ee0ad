"""Which node is running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


class ExecutionContext(NamedTuple):
    prompt_id: str
    node_id: str
    list_index: int | None


_running: ContextVar[ExecutionContext | None] = ContextVar("running", default=None)


def get_executing_context() -> ExecutionContext | None:
    return _running.get()


@contextmanager
def CurrentNodeContext(prompt_id: str, node_id: str, list_index: int | None = None) -> Iterator[None]:
    token = _running.set(ExecutionContext(prompt_id, node_id, list_index))
    try:
        yield
    finally:
        _running.reset(token)
