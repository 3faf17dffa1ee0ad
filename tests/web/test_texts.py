"""Help pages and translations say what the nodes have: every node, input and output, in both languages."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import standin

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("en", "de", "fr")
COMPILED = "{}@|"  # frontend 1.27 reads these in a text as its message language
CONTROL = "control_after_generate"  # the frontend's own widget, after a seed
SMALL = 60 * 1024  # bytes of a picture
ROW = re.compile(r"^\| `(\w+)` \| (.+) \|$", re.MULTILINE)


@lru_cache(1)
def nodes() -> dict[str, Any]:
    return standin.object_info()


def specs(node: str) -> dict[str, dict[str, Any]]:
    """Input name -> its options, in the order of the schema."""
    parts = nodes()[node]["input"]
    found = {**parts.get("required", {}), **parts.get("optional", {})}
    return {name: spec[1] if len(spec) > 1 else {} for name, spec in found.items()}


def words(language: str, name: str = "nodeDefs") -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


def page(node: str) -> str:
    return (ROOT / "web" / "docs" / f"{node}.md").read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def leaves(value: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    if not isinstance(value, dict):
        return {path: value}
    return {key: leaf for name, each in value.items() for key, leaf in leaves(each, (*path, name)).items()}


# --- help pages ---


def test_there_is_a_page_for_every_node_and_for_nothing_else() -> None:
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(nodes())


@pytest.mark.parametrize("node", sorted(nodes()))
def test_a_page_names_every_input_and_output_in_order(node: str) -> None:
    text = page(node)
    assert text.startswith(f"# {nodes()[node]['display_name']}\n")
    assert [name for name, _ in ROW.findall(section(text, "Inputs"))] == list(specs(node))
    assert [name for name, _ in ROW.findall(section(text, "Outputs"))] == nodes()[node]["output_name"]
    assert section(text, "Example").strip()


@pytest.mark.parametrize("node", sorted(nodes()))
def test_a_page_speaks_of_nodes_that_exist(node: str) -> None:
    titles = {each["display_name"] for each in nodes().values()}
    for name in re.findall(r"\*\*([^*]+)\*\*", page(node)):
        if name.startswith(("EVLM", "Load ", "Remote ")):
            assert name in titles, name


@pytest.mark.parametrize("node", sorted(nodes()))
def test_a_page_shows_the_node_in_a_small_picture(node: str) -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page(node))
    assert pictures
    for name in pictures:
        picture = ROOT / "web" / "docs" / name  # the frontend puts /extensions/<pack>/docs/ before it
        assert re.fullmatch(r"img/[\w-]+\.(jpg|png|webp)", name)
        assert 2000 < picture.stat().st_size <= SMALL


@pytest.mark.parametrize("node", sorted(nodes()))
def test_a_page_links_nowhere_relative(node: str) -> None:
    """Frontend 1.27 would leave ComfyUI for an address that does not exist."""
    assert not re.findall(r"(?<!!)\[[^\]]*\]\((?!https://)", page(node))


# --- translations ---


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_names_every_node_input_and_output(language: str) -> None:
    texts = words(language)
    assert set(texts) == set(nodes())
    for node, text in texts.items():
        inputs = [name for name in text["inputs"] if name != CONTROL]
        assert inputs == list(specs(node)), node
        assert (CONTROL in text["inputs"]) == any(o.get(CONTROL) for o in specs(node).values()), node
        assert list(text["outputs"]) == [str(at) for at in range(len(nodes()[node]["output"]))], node
        assert set(text) == {"display_name", "description", "inputs", "outputs"}
        assert all(set(each) == {"name", "tooltip"} for each in text["inputs"].values())


@pytest.mark.parametrize("name", ["nodeDefs", "main"])
def test_the_languages_have_the_same_keys_and_no_empty_text(name: str) -> None:
    texts = [leaves(words(language, name)) for language in LANGUAGES]
    assert all(list(each) == list(texts[0]) for each in texts)
    assert all(isinstance(text, str) and text.strip() for each in texts for text in each.values())


def test_there_are_no_languages_besides() -> None:
    assert {path.name for path in (ROOT / "locales").iterdir()} == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_is_taken_for_the_frontends_message_language(language: str) -> None:
    for key, text in {**leaves(words(language)), **leaves(words(language, "main"))}.items():
        assert not set(text) & set(COMPILED), (key, text)


def test_english_says_what_the_nodes_say() -> None:
    """The frontend prefers this file to the schema: one that is behind would hide a change."""
    for node, text in words("en").items():
        info = nodes()[node]
        assert text["display_name"] == info["display_name"]
        assert text["description"] == info["description"]
        for name, options in specs(node).items():
            said = options.get("tooltip")
            assert text["inputs"][name]["name"] == (options.get("display_name") or name)
            assert said is None or set(said) & set(COMPILED) or text["inputs"][name]["tooltip"] == said
        for at, (title, tip) in enumerate(zip(info["output_name"], tooltips(info), strict=True)):
            assert text["outputs"][str(at)] == ({"name": title, "tooltip": tip} if tip else {"name": title})


def tooltips(info: dict[str, Any]) -> list[str | None]:
    return info.get("output_tooltips") or [None] * len(info["output"])


def test_every_socket_of_ours_has_a_name() -> None:
    ours = {each for info in nodes().values() for each in info["output"] if each.startswith("EVLM_")}
    for language in LANGUAGES:
        assert set(words(language, "main")["dataTypes"]) == ours


# --- the extension ---


def test_the_extension_never_makes_markup_or_code_of_text_and_knows_no_folder_name() -> None:
    for path in (ROOT / "web").glob("*.js"):
        code = path.read_text(encoding="utf-8")
        assert not re.search(r"(inner|outer)HTML|insertAdjacentHTML|document\.write|eval\(|Function\(", code)
        for wanted in re.findall(r'^import .* from "([^"]+)"', code, re.MULTILINE):
            inside = wanted.startswith("./") and (path.parent / wanted).is_file()
            assert inside or wanted in ("../../scripts/app.js", "../../scripts/api.js"), wanted
        assert "/extensions/" not in code and "custom_nodes" not in code


def test_the_extension_knows_only_nodes_that_exist() -> None:
    code = (ROOT / "web" / "evlm.js").read_text(encoding="utf-8")
    assert set(re.findall(r"\bEVLM_[A-Z]\w+", code)) <= set(nodes())
