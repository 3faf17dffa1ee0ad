"""The pack in a real ComfyUI: loaded, registered, and described as the stand-in describes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import live
import pytest
import standin

IMPORT, STARTS = 0.3, 5  # seconds; starts at most
NOT_OURS = {"python_module"}  # where a node was found


def test_every_node_is_registered_and_described_as_the_stand_in_says(comfy: live.Comfy) -> None:
    """This holds the stand-in against the real API as much as the pack. A later ComfyUI is told more."""
    real = comfy.get("/object_info")
    expected: dict[str, Any] = json.loads(json.dumps(standin.object_info()))
    assert {name for name in real if name.startswith("EVLM_")} == set(expected)
    discover = standin.part("nodes.discover")
    for name, node in expected.items():
        folded = set()
        for at, (kind, options) in _inputs(real[name]).items():
            if options.pop("advanced", False):
                folded.add(at)
            said = _inputs(node)[at]
            said[0] = _boxes(kind, said[0])
            if name == "EVLM_NativeEditor" and at in ("sampler", "scheduler"):
                said[1]["options"] = ["model", *_choices(real["KSampler"], f"{at}_name", at)]
        node["output"] = list(map(_boxes, real[name]["output"], node["output"]))
        assert folded in (set(), set(discover.ADVANCED.get(name, ())))
        assert {key: value for key, value in real[name].items() if key in node} == node
        later = {key: real[name][key] for key in set(real[name]) - set(node) - NOT_OURS if real[name][key]}
        known = {
            "search_aliases": list(discover.ALIASES.get(name, ())),
            "essentials_category": discover.ESSENTIALS.get(name),
            "has_intermediate_output": name in discover.SHOWN,
        }
        assert later.items() <= known.items()  # all else that it could tell is off


def _inputs(node: dict[str, Any]) -> dict[str, list[Any]]:
    """Input -> [type, options]."""
    return {at: spec for part in ("required", "optional") for at, spec in node["input"].get(part, {}).items()}


def _boxes(kind: Any, said: Any) -> Any:
    """A later ComfyUI has types of its own for boxes; ours are of all of them there."""
    return kind if said == "BBOX" and "BBOX" in kind.split(",") else said


def _choices(node: dict[str, Any], *names: str) -> list[str]:
    """What the first of these inputs offers, in either form."""
    spec = next(spec for at, spec in _inputs(node).items() if at in names)
    return spec[0] if isinstance(spec[0], list) else spec[1]["options"]


@pytest.mark.timeout(1200)
def test_the_pack_loads_in_no_time_and_again_after_a_restart(
    tmp_path: Path, figures: Callable[[str, str], None]
) -> None:
    server = live.from_environment(tmp_path)
    debug = ("--logging-level", "DEBUG") if server.fork else ()  # the fork tells import times only then
    try:
        took = []
        while len(took) < 2 or (min(took) > IMPORT and len(took) < STARTS):
            server.start(*debug)
            took.append(server.import_seconds())
            assert "EVLM_Reason" in server.get("/object_info/EVLM_Reason")
            server.stop()
        figures("import of the pack, by the server's own log", f"{min(took)} s, least of {len(took)} starts")
        assert min(took) <= IMPORT  # what others on the machine do can only make it longer
    finally:
        server.stop()


def test_the_script_and_the_help_of_every_node_are_served(comfy: live.Comfy) -> None:
    import urllib.request

    extensions = comfy.get("/extensions")
    ours = [each for each in extensions if f"/{live.LINK}/" in each]
    assert ours, "none of our scripts is served"
    for name in standin.object_info():
        page = f"{comfy.url}/extensions/{live.LINK}/docs/{name}.md"
        with urllib.request.urlopen(page, timeout=30) as answer:
            assert len(answer.read()) > 100, name
