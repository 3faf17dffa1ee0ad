"""subgraphs/: what newer ComfyUIs offer as nodes made of nodes, held against today's nodes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from standin import object_info

BLUEPRINTS = sorted((Path(__file__).resolve().parents[2] / "subgraphs").glob("*.json"))


def test_there_is_a_blueprint() -> None:
    assert [path.stem for path in BLUEPRINTS] == ["edit_by_a_vague_request"]


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_its_nodes_values_and_wires_are_those_of_today(path: Path) -> None:
    blueprint = json.loads(path.read_text(encoding="utf-8"))
    (inner,) = blueprint["definitions"]["subgraphs"]
    (outer,) = blueprint["nodes"]
    assert outer["type"] == inner["id"]
    for side in ("inputs", "outputs"):
        assert [(each["name"], each["type"]) for each in outer[side]] == [
            (each["name"], each["type"]) for each in inner[side]
        ]
    known = json.loads(json.dumps(object_info()))
    for node in inner["nodes"]:
        spec = {
            **known[node["type"]]["input"]["required"],
            **known[node["type"]]["input"].get("optional", {}),
        }
        assert {each["name"] for each in node["inputs"]} <= set(spec)
        assert len(node["widgets_values"]) == sum(map(_values, spec.values())), node["type"]
        for value, (name, choices) in zip(_plain(node, spec), _combos(spec), strict=False):
            assert choices is None or value in choices, (node["type"], name, value)


def _values(spec: list[Any]) -> int:
    """How many saved values an input has: none for a socket, two for a seed and what happens to it."""
    options = spec[1] if len(spec) > 1 else {}
    kind = "COMBO" if isinstance(spec[0], list) else spec[0]
    widget = kind in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO") and not options.get("forceInput")
    return int(widget) + int(widget and bool(options.get("control_after_generate")))


def _plain(node: dict[str, Any], spec: dict[str, Any]) -> list[Any]:
    """The values without what follows a seed."""
    values = iter(node["widgets_values"])
    plain = []
    for each in spec.values():
        count = _values(each)
        plain += [next(values) for _ in range(count)][:1]
    return plain


def _combos(spec: dict[str, Any]) -> list[tuple[str, list[Any] | None]]:
    """(name, choices) of every widget; None for what is no list of choices."""
    found = []
    for name, each in spec.items():
        if _values(each):
            options = each[1] if len(each) > 1 else {}
            found.append((name, each[0] if isinstance(each[0], list) else options.get("options")))
    return found
