"""What a node says of itself and of what went wrong: found by other words, said once, without paths."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from standin import call, nodes, part


@dataclass
class NewerSchema:
    """What ComfyUI 0.33's `io.Schema` has beside the stand-in's."""

    search_aliases: list[str] = field(default_factory=list)
    essentials_category: str | None = None


@pytest.fixture()
def newer(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The schemas of all nodes on a host that has the newer fields."""
    from comfy_api.latest import io

    mixed = dataclass(type("Schema", (NewerSchema, io.Schema), {"__annotations__": {}}))
    monkeypatch.setattr(io, "Schema", mixed)
    for each in vars(io).values():
        if inspect.isclass(getattr(each, "Input", None)):
            monkeypatch.setattr(each.Input, "advanced", None, raising=False)
    return {name: node.GET_SCHEMA() for name, node in nodes().items()}


def test_nodes_are_found_by_what_people_type(newer: dict[str, Any]) -> None:
    """(N11)"""
    for word in ("llm", "qwen", "inpaint", "edit by words", "vlm"):
        hits = [name for name, schema in newer.items() if word in schema.search_aliases]
        assert hits, word
    assert all(schema.search_aliases for schema in newer.values())
    assert newer["EVLM_QuickEdit"].essentials_category


def test_few_inputs_are_folded_away_and_no_main_one(newer: dict[str, Any]) -> None:
    """(N11)"""
    folded = {
        (name, each.id)
        for name, schema in newer.items()
        for each in schema.inputs or ()
        if getattr(each, "advanced", None)
    }
    assert {("EVLM_Edit", "chunk"), ("EVLM_LoadModel", "attention"), ("EVLM_Reason", "top_p")} <= folded
    assert not {each for _, each in folded} & {
        "image",
        "prompt",
        "instruction",
        "seed",
        "model",
        "plan",
        "mask",
    }


def test_an_older_host_is_not_asked_for_what_it_lacks() -> None:
    """0.3.64's `io.Schema` would raise (N11)."""
    for node in nodes().values():
        schema = node.GET_SCHEMA()
        assert not hasattr(schema, "search_aliases")
        assert not any(hasattr(each, "advanced") for each in schema.inputs or ())


def test_every_input_and_output_says_what_it_is() -> None:
    """(N11)"""
    silent = [
        f"{name}.{each.id}"
        for name, node in nodes().items()
        for each in (*(node.GET_SCHEMA().inputs or ()), *(node.GET_SCHEMA().outputs or ()))
        if not each.tooltip
    ]
    assert not silent


def test_an_error_is_said_once() -> None:
    """ComfyUI repeats it at each input that `validate_inputs` names (N12)."""
    for name, node in nodes().items():
        if "validate_inputs" in vars(node):
            named = inspect.getfullargspec(node.validate_inputs)
            assert len(named.args) == 2 and named.varkw is None, name


def test_an_errors_type_is_no_path() -> None:
    """ComfyUI shows the module of its class, which is the pack's folder (N12)."""
    errors = part("evlm.errors")
    for each in vars(errors).values():
        if isinstance(each, type) and issubclass(each, Exception):
            assert each.__module__ == "evlm.errors"


def test_messages_hold_no_path_of_this_disk(tmp_path: Path) -> None:
    """What is shown on a node is shared when people ask for help (N12)."""
    before = folder_paths.base_path
    folder_paths.use(tmp_path)
    part("nodes.folders").register()
    try:
        folder = tmp_path / "models" / "evlm" / "half"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "sam2"}')
        for node, inputs in (
            ("EVLM_LoadSegmenter", {"model": "evlm/half"}),
            ("EVLM_LoadModel", {"model": "qwen2-vl-2b"}),
            ("EVLM_Train", {"dataset": "none"}),
        ):
            with pytest.raises(part("evlm.errors").EVLMError) as caught:
                call(node, **inputs)
            assert str(tmp_path) not in str(caught.value), node
            assert any(word in str(caught.value) for word in ("models/evlm", "output/"))
        said = nodes()["EVLM_LoadSegmenter"].validate_inputs(model="evlm/other")
        assert "choose one of" in said and str(tmp_path) not in said
    finally:
        folder_paths.use(Path(before))
        part("nodes.folders").register()
