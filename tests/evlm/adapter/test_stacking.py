"""Two adapters as one: the same logits as one merged and the other on top."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch
from safetensors.torch import load_file, save_file
from tiny_adapters import lora_of, meta_of, random_adapter, weights_of

from evlm.adapter.checkpoint import Expected, load_adapter, save_adapter
from evlm.adapter.lora import attach_lora
from evlm.adapter.stacking import check_stackable, stack_adapters
from evlm.errors import CheckpointError
from evlm.reason.messages import SHORT, build_messages, encode
from evlm.request import Request


def write(path: Path, old_names: bool = False, **options: Any) -> Path:
    wrapped = random_adapter(tiny_qwen.make_model(), **options)
    weights = weights_of(wrapped)
    if old_names:
        weights = {n.replace("model.language_model.layers", "model.layers"): t for n, t in weights.items()}
    save_adapter(path, weights, meta_of(wrapped.get_base_model(), lora_of(wrapped)))
    return path


def on(model: Any, path: Path) -> Any:
    tensors, meta = load_adapter(path, Expected.of(model))
    return attach_lora(model, tensors, meta.lora).merge_and_unload().eval()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True, "r": 3},
        {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
        {"old_names": True},
    ],
)
def test_one_file_does_what_both_do(options: dict[str, Any], tmp_path: Path) -> None:
    request = Request(torch.linspace(0, 1, 32 * 32 * 3).reshape(1, 32, 32, 3), "like this")
    inputs = encode(tiny_qwen.make_processor(), [build_messages(request, style=SHORT)])
    first = write(tmp_path / "first.safetensors", **options)
    second = write(tmp_path / "second.safetensors", r=2, lora_alpha=6, target_modules=["q_proj", "o_proj"])
    stack_adapters(first, second, tmp_path / "both.safetensors")
    with torch.no_grad():
        expected = on(on(tiny_qwen.make_model(), first), second)(**inputs).logits
        alone = on(tiny_qwen.make_model(), second)(**inputs).logits
        found = on(tiny_qwen.make_model(), tmp_path / "both.safetensors")(**inputs).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - alone).abs().max() > 0.01
    assert load_adapter(tmp_path / "both.safetensors")[1].training["started_from"] == "first.safetensors"


def test_a_third_goes_on_top_of_two(tmp_path: Path) -> None:
    first, second = write(tmp_path / "1.safetensors"), write(tmp_path / "2.safetensors", r=2)
    stack_adapters(first, second, tmp_path / "12.safetensors")
    stack_adapters(tmp_path / "12.safetensors", second, tmp_path / "122.safetensors")
    _, meta = load_adapter(tmp_path / "122.safetensors", Expected.of(tiny_qwen.make_model()))
    assert meta.lora.rank == 8


def test_what_cannot_be_stacked_is_refused(tmp_path: Path) -> None:
    dora = write(tmp_path / "dora.safetensors", use_dora=True)
    with pytest.raises(CheckpointError, match="DoRA"):
        check_stackable(dora)
    good = write(tmp_path / "good.safetensors")
    tensors, meta = load_adapter(good)
    half = {name: each for name, each in tensors.items() if "v_proj.lora_B" not in name}
    save_adapter(tmp_path / "half.safetensors", half, meta)
    with pytest.raises(CheckpointError, match="lacks a half"):
        check_stackable(tmp_path / "half.safetensors")
    wide = {n: torch.cat([t, t], 1) if "q_proj.lora_A" in n else t for n, t in tensors.items()}
    save_adapter(tmp_path / "wide.safetensors", wide, meta)
    with pytest.raises(CheckpointError, match="different models"):
        stack_adapters(tmp_path / "wide.safetensors", good, tmp_path / "out.safetensors")
    save_file(load_file(good), tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="no EVLM metadata"):
        check_stackable(tmp_path / "foreign.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
