"""core_nodes.json, from which the workflows are written, against the nodes of a real ComfyUI."""

from __future__ import annotations

import json
from typing import Any

import live
from graphs import TWINS


def _slots(info: dict[str, Any]) -> list[tuple[str, str]]:
    """(input, type) in the node's order, a list of choices as "COMBO"."""
    inputs = [each for part in ("required", "optional") for each in info["input"].get(part, {}).items()]
    lists = {"COMFY_DYNAMICCOMBO_V3": "COMBO"}  # it takes what the list took
    return [
        (name, "COMBO" if isinstance(spec[0], list) else lists.get(spec[0], spec[0])) for name, spec in inputs
    ]


def test_the_copied_nodes_of_core_are_as_they_are(comfy: live.Comfy) -> None:
    copied = json.loads((TWINS / "core_nodes.json").read_text(encoding="utf-8"))
    real = comfy.get("/object_info")
    for name, info in copied.items():
        # A later core may have more inputs and outputs at the end.
        assert _slots(real[name])[: len(_slots(info))] == _slots(info), name
        assert real[name]["output"][: len(info["output"])] == info["output"], name
        assert real[name]["output_name"][: len(info["output"])] == info["output_name"], name
