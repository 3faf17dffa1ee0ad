"""The API twins of the workflows, and which of them need nothing but the bundled models."""

from __future__ import annotations

import copy
import json
from typing import Any

from live import PACK, Graph

TWINS = PACK / "tests" / "workflows_api"
PLAIN = {"PreviewImage", "PreviewAny", "SaveImage", "MaskToImage", "RepeatImageBatch", "PreviewMask",
         "LoadVideo", "SaveVideo"}  # fmt: skip


def load(name: str) -> Graph:
    graph: Graph = json.loads((TWINS / f"{name}.json").read_text(encoding="utf-8"))
    return graph


def bundled() -> list[str]:
    """Names of the twins that run on a machine without any model."""
    names = []
    for path in sorted(TWINS.glob("*.json")):
        graph = json.loads(path.read_text(encoding="utf-8"))
        if all(isinstance(each, dict) and "class_type" in each for each in graph.values()) and all(
            map(_is_bundled, graph.values())
        ):
            names.append(path.stem)
    return names


def _is_bundled(node: dict[str, Any]) -> bool:
    kind = node["class_type"]
    if not kind.startswith("EVLM_"):
        return kind in PLAIN
    return kind != "EVLM_RemoteModel" and (
        not kind.startswith("EVLM_Load")
        or "bundled" in (node["inputs"].get("model"), node["inputs"].get("models"))
    )


def node_of(graph: Graph, kind: str) -> str:
    """The id of the first node of a kind."""
    return next(name for name, node in graph.items() if node["class_type"] == kind)


def changed(graph: Graph, kind: str, **inputs: Any) -> Graph:
    """The graph with other inputs at its first node of a kind."""
    made = copy.deepcopy(graph)
    made[node_of(made, kind)]["inputs"].update(inputs)
    return made


def seeded(graph: Graph, seed: int) -> Graph:
    """The graph with another seed wherever there is one: nothing of it is cached."""
    made = copy.deepcopy(graph)
    for node in made.values():
        if "seed" in node["inputs"]:
            node["inputs"]["seed"] = seed
    return made
