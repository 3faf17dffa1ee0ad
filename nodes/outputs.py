"""Outputs that are made only where somebody takes them."""

from __future__ import annotations

from typing import Any

from . import host


def is_linked(prompt: Any, slot: int) -> bool:
    """Whether another node of the graph that runs, as V3's hidden `prompt` has it, takes this output of the
    running node."""
    mine = host.node_id()
    nodes = prompt.values() if isinstance(prompt, dict) else ()
    inputs = (value for node in nodes for value in node.get("inputs", {}).values())
    return any(isinstance(value, list) and value[:2] == [mine, slot] for value in inputs)
