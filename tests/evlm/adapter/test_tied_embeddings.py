"""LoRA on the output layer of a model whose embedding has the same weights, held against PEFT."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch
from tiny_adapters import random_adapter

from evlm.errors import CheckpointError
from evlm.reason.messages import SHORT, build_messages, encode
from evlm.reason.reasoner import Reasoner
from evlm.request import Request


def tied_model(family: str) -> Any:
    model = tiny_qwen.make_model(family)
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    tied = type(model)(config).eval()
    state = model.state_dict()
    state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    tied.load_state_dict(state)
    assert tied.lm_head.weight is tied.model.language_model.embed_tokens.weight
    return tied


def tied_folder(folder: Path, family: str) -> Path:
    tied_model(family).save_pretrained(folder)
    tiny_qwen.make_processor(family).save_pretrained(folder)
    return folder


def inputs_of(family: str) -> Any:
    request = Request(torch.linspace(0, 1, 32 * 32 * 3).reshape(1, 32, 32, 3), "like this")
    return encode(tiny_qwen.make_processor(family), [build_messages(request, style=SHORT)])


@pytest.mark.parametrize("options", [{}, {"use_dora": True}])
@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_lora_on_a_tied_output_layer_leaves_the_embedding_alone(
    family: str, options: dict[str, Any], tmp_path: Path
) -> None:
    """The logits of PEFT, which keeps the two apart (A10)."""
    base = tied_folder(tmp_path / "base", family)
    wrapped = random_adapter(tied_model(family), target_modules=["q_proj", "lm_head"], **options)
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    inputs = inputs_of(family)
    with torch.no_grad():
        expected = wrapped(**inputs).logits
        reasoner = Reasoner.load(base, tmp_path / "adapter", device="cpu")
        torch.testing.assert_close(reasoner.module(**inputs).logits, expected, atol=1e-4, rtol=1e-4)
    embedding = reasoner.module.get_input_embeddings().weight
    assert torch.equal(embedding, tied_model(family).get_input_embeddings().weight)
    reasoner.module.save_pretrained(tmp_path / "merged")  # and it is no longer said to be tied
    again = type(reasoner.module).from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs).logits, expected, atol=1e-4, rtol=1e-4)


def test_without_the_output_layer_a_tied_model_stays_tied(tmp_path: Path) -> None:
    base = tied_folder(tmp_path / "base", "qwen2_vl")
    random_adapter(tied_model("qwen2_vl")).save_pretrained(tmp_path / "adapter")
    module = Reasoner.load(base, tmp_path / "adapter", device="cpu").module
    assert module.get_output_embeddings().weight is module.get_input_embeddings().weight
    assert module.config.tie_word_embeddings is True


def test_saved_embeddings_are_refused_with_their_reason(tmp_path: Path) -> None:
    """PEFT saves them along with an adapter of the output layer, unless it is told not to (A10)."""
    base = tied_folder(tmp_path / "base", "qwen2_vl")
    wrapped = random_adapter(tied_model("qwen2_vl"), target_modules=["q_proj", "lm_head"])
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    with pytest.raises(CheckpointError, match="save_embedding_layers=False"):
        Reasoner.load(base, tmp_path / "adapter", device="cpu")


def test_a_lora_on_the_embedding_is_refused_with_its_reason(tmp_path: Path) -> None:
    """(A10)"""
    base = tied_folder(tmp_path / "base", "qwen2_vl")
    wrapped = random_adapter(tied_model("qwen2_vl"), target_modules=["q_proj", "embed_tokens"])
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    with pytest.raises(CheckpointError, match="a LoRA on the embedding"):
        Reasoner.load(base, tmp_path / "adapter", device="cpu")


# --- starts that change the base (A16) ---


@pytest.mark.parametrize("start", ["lora_ga", "pissa_niter_4", "OLoRA", "corda", "loftq", "of-tomorrow"])
def test_an_adapter_whose_start_changed_the_base_is_refused(start: str, tmp_path: Path) -> None:
    """(A16)"""
    refused = load_with(tmp_path, {"init_lora_weights": start})
    assert start in refused and "path_initial_model_for_weight_conversion" in refused


@pytest.mark.parametrize("start", [True, False, "gaussian", "eva", "orthogonal", "mica"])
def test_a_start_that_leaves_the_base_alone_is_taken(start: Any, tmp_path: Path) -> None:
    assert load_with(tmp_path, {"init_lora_weights": start}) == ""


@pytest.mark.parametrize(
    "setting",
    [{"use_bdlora": {"nblocks": 2}}, {"kasa_config": {"beta": 1.0}}, {"monteclora_config": {"a": 1}}],
)
def test_kinds_that_compute_something_else_are_refused(setting: dict[str, Any], tmp_path: Path) -> None:
    """(A16)"""
    refused = load_with(tmp_path, setting)
    assert next(iter(setting)) in refused and "not supported" in refused


def load_with(folder: Path, changes: dict[str, Any]) -> str:
    """Why a PEFT folder with these settings is refused; "" where it is not."""
    from evlm.adapter.checkpoint import load_adapter

    random_adapter(tiny_qwen.make_model()).save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    try:
        load_adapter(folder)
    except CheckpointError as error:
        return str(error)
    return ""
