"""The shipped workflows: whole, tidy, the same as their description, and the same in UI and in API form."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import evlm

TESTS = Path(__file__).resolve().parent
WORKFLOWS = TESTS.parent / "workflows"
TWINS = TESTS / "workflows_api"
sys.path.insert(0, str(TWINS))

import build_workflows  # noqa: E402
from described import BUNDLED  # noqa: E402
from model_files import HUB  # noqa: E402
from ui_graph import NOTE, TITLE, to_api, widget_values  # noqa: E402

NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
FOLDERS = {"checkpoints", "diffusion_models", "text_encoders", "vae", "sam2", "evlm"}
THUMBNAIL = 60_000  # bytes


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return build_workflows.definitions()


def ui(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def api(name: str) -> dict[str, Any]:
    return json.loads((TWINS / f"{name}.json").read_text(encoding="utf-8"))


def nodes(name: str) -> Iterator[dict[str, Any]]:
    return (node for node in ui(name)["nodes"] if node["type"] != NOTE)


def test_the_files_are_what_their_description_makes(known: dict[str, Any]) -> None:
    """After a change: python tests/workflows_api/build_workflows.py"""
    made = dict(build_workflows.files(known))
    assert {path.name for path in made} == {f"{name}.json" for name in NAMES}
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is not what its description makes"


def test_the_workflows_lie_one_level_deep_and_each_has_a_small_thumbnail() -> None:
    from PIL import Image

    files = {path.name for path in WORKFLOWS.iterdir()}
    assert files == {f"{name}.{kind}" for name in NAMES for kind in ("json", "jpg")}
    for name in NAMES:
        picture = WORKFLOWS / f"{name}.jpg"
        assert picture.stat().st_size <= THUMBNAIL
        with Image.open(picture) as image:
            assert image.format == "JPEG" and min(image.size) >= 200


@pytest.mark.parametrize("name", NAMES)
def test_the_twin_is_what_the_frontend_would_queue(name: str, known: dict[str, Any]) -> None:
    assert to_api(ui(name), known) == api(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_link_joins_an_output_to_an_input_of_its_type(name: str, known: dict[str, Any]) -> None:
    graph = ui(name)
    by_id = {node["id"]: node for node in graph["nodes"]}
    assert len(by_id) == len(graph["nodes"]) and graph["last_node_id"] == max(by_id)
    seen = set()
    for number, source, output, target, slot, kind in graph["links"]:
        assert number not in seen
        seen.add(number)
        leaving, entering = by_id[source]["outputs"][output], by_id[target]["inputs"][slot]
        assert number in leaving["links"] and entering["link"] == number
        assert leaving["type"] == kind and {kind, "*"} & set(entering["type"].split(","))
    assert graph["last_link_id"] == max(seen)
    used = {i["link"] for n in graph["nodes"] for i in n["inputs"]} - {None}
    left = {link for n in graph["nodes"] for o in n["outputs"] for link in o["links"] or ()}
    assert used == left == seen


@pytest.mark.parametrize("name", NAMES)
def test_every_node_is_known_and_has_what_it_needs(name: str, known: dict[str, Any]) -> None:
    for node in nodes(name):
        info = known[node["type"]]
        dict(widget_values(node, info))  # as many values as widgets
        links = {entry["name"]: entry["link"] for entry in node["inputs"]}
        for needed, spec in info["input"].get("required", {}).items():
            widget = any(entry["name"] == needed and "widget" in entry for entry in node["inputs"])
            assert widget or links[needed] is not None, f"{node['type']}.{needed} is not connected: {spec}"
        assert [o["type"] for o in node["outputs"]] == info["output"]


@pytest.mark.parametrize("name", NAMES)
def test_every_choice_is_one_that_the_node_offers(name: str, known: dict[str, Any]) -> None:
    for node in api(name).values():
        specs = {**known[node["class_type"]]["input"].get("required", {})}
        for name_, value in node["inputs"].items():
            spec = specs.get(name_, [""])
            choices = spec[0] if isinstance(spec[0], list) else (spec[1] if spec[1:] else {}).get("options")
            assert isinstance(value, list) or not choices or value in choices, (
                node["class_type"],
                name_,
                value,
            )


@pytest.mark.parametrize("name", NAMES)
def test_every_node_says_which_pack_it_is_of(name: str) -> None:
    for node in nodes(name):
        about = node["properties"]
        pack = (
            ("evlm-edit", evlm.__version__) if node["type"].startswith("EVLM_") else ("comfy-core", "0.3.64")
        )
        assert (about["cnr_id"], about["ver"]) == pack
        assert about["Node name for S&R"] == node["type"]


@pytest.mark.parametrize("name", NAMES)
def test_the_models_are_safetensors_with_an_address_and_a_folder(name: str) -> None:
    files = [file for node in nodes(name) for file in node["properties"].get("models", ())]
    assert bool(files) == (name not in (*BUNDLED, "remote_reasoner"))
    for file in files:
        assert set(file) == {"name", "url", "directory"} and file["directory"] in FOLDERS
        assert file["url"].startswith(f"{HUB}/") and "/resolve/" in file["url"]
        assert file["name"].endswith(".safetensors") and file["url"].endswith(file["name"].split("/")[-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_note_says_what_it_does_and_which_files_it_needs(name: str) -> None:
    notes = [node for node in ui(name)["nodes"] if node["type"] == NOTE]
    assert len(notes) == 1 and notes[0]["pos"] == [0, 0]
    (text,) = notes[0]["widgets_values"]
    assert text.startswith("## ") and "**Files:**" in text
    for node in nodes(name):
        for file in node["properties"].get("models", ()):
            assert file["name"] in text or file["url"].split("/resolve/")[0].removeprefix(f"{HUB}/") in text


@pytest.mark.parametrize("name", NAMES)
def test_no_two_nodes_overlap_and_links_run_to_the_right(name: str) -> None:
    graph = ui(name)
    areas = {n["id"]: (*n["pos"], *n["size"]) for n in graph["nodes"]}
    for a, (x, y, wide, high) in areas.items():
        for b, (x2, y2, wide2, high2) in areas.items():
            apart = x + wide <= x2 or x2 + wide2 <= x or y + high + TITLE <= y2 or y2 + high2 + TITLE <= y
            assert a == b or apart, f"nodes {a} and {b} overlap"
    for _, source, _, target, _, _ in graph["links"]:
        assert areas[source][0] <= areas[target][0]


def test_bundled_workflows_name_no_other_model() -> None:
    for name in NAMES:
        loaders = [n for n in api(name).values() if n["class_type"].startswith("EVLM_Load")]
        own = all("bundled" in (n["inputs"].get("model"), n["inputs"].get("models")) for n in loaders)
        remote = any(n["class_type"] == "EVLM_RemoteModel" for n in api(name).values())
        assert (own and not remote) == (name in BUNDLED)
