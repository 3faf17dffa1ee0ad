"""What a merged export computes: of each kind of LoRA, and of an adapter on the output layer, where its
folder says that it is tied."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evlm.adapter.checkpoint import Expected, linear_shapes, load_adapter
from evlm.errors import CheckpointError


def test_the_merged_folder_computes_what_peft_does(tmp_path: Path) -> None:
    """Such a folder may hold both tensors; after the merge they differ, and its config says so (A10)."""
    import tiny_qwen
    from tiny_adapters import random_adapter

    from trainer.export.merge import merge

    model = tiny_qwen.make_model()
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    tied = type(model)(config).eval()
    state = model.state_dict()
    state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    tied.load_state_dict(state)
    base, out = tmp_path / "base", tmp_path / "merged"
    tied.save_pretrained(base)
    file = base / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors[next(n for n in tensors if n.endswith("embed_tokens.weight"))].clone()
    save_file(tensors, file, metadata={"format": "pt"})
    wrapped = random_adapter(tied, target_modules=["q_proj", "lm_head"])
    ids = {"input_ids": torch.arange(12)[None] + 40}
    with torch.no_grad():
        expected = wrapped(**ids).logits
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    layer = load_adapter(tmp_path / "adapter", Expected.of(model))
    out.mkdir()
    merge(base, [layer], linear_shapes(model), out)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    merged = type(model).from_pretrained(out).eval()
    with torch.no_grad():
        torch.testing.assert_close(merged(**ids).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "how", [{}, {"use_rslora": True}, {"use_dora": True}, {"use_rslora": True, "use_dora": True}]
)
def test_merged_weights_give_the_logits_of_the_adapter(how: dict[str, bool], tmp_path: Path) -> None:
    """Against peft, with a rank and an alpha of its own for one kind of module; at another scale they would
    not agree."""
    import tiny_qwen
    from tiny_adapters import random_adapter

    from trainer.export.merge import merge

    base = tmp_path / "base"
    model = tiny_qwen.make_model()
    model.save_pretrained(base)
    ids = {"input_ids": torch.arange(12)[None] + 40}
    wrapped = random_adapter(model, r=3, rank_pattern={"q_proj": 5}, alpha_pattern={"q_proj": 7}, **how)
    wrapped.save_pretrained(tmp_path / "adapter")
    plain = type(model).from_pretrained(base).eval()
    tensors, meta = load_adapter(tmp_path / "adapter", Expected.of(plain))
    other = replace(meta, lora=replace(meta.lora, rslora=not meta.lora.rslora))
    with torch.no_grad():
        expected = wrapped(**ids).logits
        for said, agrees in ((meta, True), (other, False)):
            out = tmp_path / str(agrees)
            out.mkdir()
            merge(base, [(tensors, said)], linear_shapes(plain), out)
            apart = (type(model).from_pretrained(out).eval()(**ids).logits - expected).abs().max()
            assert (apart < 1e-4) if agrees else (apart > 0.01)
        assert (plain(**ids).logits - expected).abs().max() > 0.01


def test_an_adapter_is_not_merged_into_weights_of_8_bits(tmp_path: Path) -> None:
    """Their scales lie elsewhere, and a sum rounded to fp8 is not the model's (A13)."""
    import tiny_qwen
    from tiny_adapters import random_adapter

    from trainer.export.merge import merge

    model = tiny_qwen.make_model()
    model.save_pretrained(tmp_path / "base")
    file = tmp_path / "base" / "model.safetensors"
    save_file(
        {name: tensor.to(torch.float8_e4m3fn) for name, tensor in load_file(file).items()},
        file,
        metadata={"format": "pt"},
    )
    random_adapter(tiny_qwen.make_model()).save_pretrained(tmp_path / "adapter")
    layer = load_adapter(tmp_path / "adapter", Expected.of(model))
    (tmp_path / "out").mkdir()
    with pytest.raises(
        CheckpointError, match=r"float8_e4m3fn; an adapter is merged into weights of 16 or 32"
    ):
        merge(tmp_path / "base", [layer], linear_shapes(model), tmp_path / "out")
