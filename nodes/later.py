"""What only later ComfyUIs know: asked for where it is there, so that one file runs on all of them."""

from __future__ import annotations

import inspect
from typing import Any

from comfy_api.latest import io

_SCHEMA = frozenset(inspect.signature(io.Schema).parameters)


def known(**options: Any) -> dict[str, Any]:
    """Of these options of `io.Schema` those that this ComfyUI has."""
    return {name: value for name, value in options.items() if name in _SCHEMA}


# The node's pictures and texts are said again with a cached run, as an output node's are.
SHOWN = known(has_intermediate_output=True)
