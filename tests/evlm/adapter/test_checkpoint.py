"""Adapters: round trips through the public path, and hundreds of damaged files, each refused with a
reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch
from tiny_adapters import join, lora_of, meta_of, random_adapter, save_good, split, weights_of

from evlm.adapter.checkpoint import AdapterMeta, Expected, config_hash, load_adapter, save_adapter
from evlm.adapter.lora import Lora, attach_lora
from evlm.errors import CheckpointError
from evlm.reason.messages import SHORT, build_messages, encode
from evlm.reason.reasoner import Reasoner
from evlm.request import Request


def sample_inputs(processor: Any) -> Any:
    request = Request(torch.linspace(0, 1, 32 * 32 * 3).reshape(1, 32, 32, 3), "like this")
    return encode(processor, [build_messages(request, style=SHORT)])


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Expected]:
    return save_good(tmp_path_factory.mktemp("adapter"))


# --- what users have ---


@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
@pytest.mark.parametrize("layout", ["peft", "single"])
def test_an_adapter_gives_the_logits_of_peft(family: str, layout: str, tmp_path: Path) -> None:
    base = tiny_qwen.save_folder(tmp_path / "base", family)
    wrapped = random_adapter(tiny_qwen.make_model(family))
    inputs = sample_inputs(tiny_qwen.make_processor(family))
    with torch.no_grad():
        expected = wrapped(**inputs).logits
        plain = tiny_qwen.make_model(family)(**inputs).logits
    if layout == "peft":
        adapter = tmp_path / "adapter"
        wrapped.save_pretrained(adapter)
    else:
        adapter = tmp_path / "adapter.safetensors"
        save_adapter(adapter, weights_of(wrapped), meta_of(wrapped.get_base_model(), lora_of(wrapped)))
    state = torch.get_rng_state()
    reasoner = Reasoner.load(base, adapter, device="cpu")
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        found = reasoner.module(**inputs).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (found - plain).abs().max() > 0.01
    assert not any("lora" in name for name, _ in reasoner.module.named_parameters())
    assert reasoner.style.name == ("short" if layout == "single" else "full")


@pytest.mark.parametrize(
    "options",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {"v_proj": 32}},
        {"target_modules": r".*language_model.*\.(q_proj|up_proj)"},
    ],
)
def test_kinds_of_lora(options: dict[str, Any], tmp_path: Path) -> None:
    wrapped = random_adapter(tiny_qwen.make_model(), **options)
    inputs = sample_inputs(tiny_qwen.make_processor())
    with torch.no_grad():
        expected = wrapped(**inputs).logits
    wrapped.save_pretrained(tmp_path)
    model = tiny_qwen.make_model()
    tensors, meta = load_adapter(tmp_path, Expected.of(model))
    with torch.no_grad():
        apart = attach_lora(model, tensors, meta.lora)
        torch.testing.assert_close(apart(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


def test_names_of_older_transformers_find_their_place(tmp_path: Path) -> None:
    wrapped = random_adapter(tiny_qwen.make_model())
    model = tiny_qwen.make_model()
    old = {
        name.replace("model.language_model.layers", "model.layers").replace(
            "model.model.visual", "model.visual"
        ): t
        for name, t in weights_of(wrapped).items()
    }
    assert set(old) != set(weights_of(wrapped))
    save_adapter(tmp_path / "old.safetensors", old, meta_of(model, lora_of(wrapped)))
    new, _ = load_adapter(tmp_path / "old.safetensors", Expected.of(model))
    assert {f"base_model.model.{name}" for name in new} == set(weights_of(wrapped))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_round_trip_keeps_every_bit_and_word(dtype: torch.dtype, tmp_path: Path) -> None:
    wrapped = random_adapter(tiny_qwen.make_model())
    tensors = {name: tensor.to(dtype) for name, tensor in weights_of(wrapped).items()}
    meta = meta_of(wrapped.get_base_model(), lora_of(wrapped))
    path = tmp_path / "a.safetensors"
    save_adapter(path, tensors, meta)
    back, said = load_adapter(path)
    assert said == meta
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_single_file_beside_its_config_is_a_peft_folder(
    good: tuple[Path, Expected], tmp_path: Path
) -> None:
    from peft import PeftModel

    path, expect = good
    (tmp_path / "adapter_model.safetensors").write_bytes(path.read_bytes())
    (tmp_path / "adapter_config.json").write_text(json.dumps(load_adapter(path)[1].lora.to_peft()))
    theirs = PeftModel.from_pretrained(tiny_qwen.make_model(), tmp_path).eval()
    tensors, meta = load_adapter(path, expect)
    ours = attach_lora(tiny_qwen.make_model(), tensors, meta.lora)
    inputs = sample_inputs(tiny_qwen.make_processor())
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits)


# --- the true 7B shape ---

QWEN2_VL_7B = {  # config.json of Qwen/Qwen2-VL-7B-Instruct, in its own flat form
    "model_type": "qwen2_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "mlp_ratio": 4,
        "num_heads": 16,
        "in_chans": 3,
        "hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "model_type": "qwen2_vl",
    },
}


def test_every_key_of_a_7b_lora_has_its_place() -> None:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    from evlm.adapter.lora import check_places

    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_dict(dict(QWEN2_VL_7B)))
    assert 8.2e9 < sum(p.numel() for p in model.parameters()) < 8.4e9
    expect = Expected.of(model)
    language = {"q_proj": (3584, 3584), "k_proj": (512, 3584), "v_proj": (512, 3584), "o_proj": (3584, 3584),
                "gate_proj": (18944, 3584), "up_proj": (18944, 3584), "down_proj": (3584, 18944)}  # fmt: skip
    vision = {"attn.qkv": (3840, 1280), "attn.proj": (1280, 1280), "mlp.fc1": (5120, 1280),
              "mlp.fc2": (1280, 5120)}  # fmt: skip
    for text, tower in (("model.language_model", "model.visual"), ("model", "visual")):
        stored: dict[str, tuple[int, ...]] = {}
        for i in range(28):
            for name, (out, into) in language.items():
                part = "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn"
                stored[f"{text}.layers.{i}.{part}.{name}.lora_A.weight"] = (16, into)
                stored[f"{text}.layers.{i}.{part}.{name}.lora_B.weight"] = (out, 16)
        for i in range(32):
            for name, (out, into) in vision.items():
                stored[f"{tower}.blocks.{i}.{name}.lora_A.weight"] = (16, into)
                stored[f"{tower}.blocks.{i}.{name}.lora_B.weight"] = (out, 16)
        places = check_places("7B", stored, Lora(16, 32), expect.shapes)
        assert len(set(places.values())) == len(stored) == 2 * (28 * 7 + 32 * 4)


def test_the_hash_tells_architectures_apart_and_forgets_the_rest() -> None:
    from transformers import Qwen2VLConfig

    def changed(**fields: Any) -> str:
        return config_hash(Qwen2VLConfig.from_dict({**QWEN2_VL_7B, **fields}))

    assert changed() == changed(max_position_embeddings=9)
    assert len({changed(), changed(num_hidden_layers=27), changed(vocab_size=7)}) == 3
    hashes = {config_hash(tiny_qwen.make_model(family).config) for family in tiny_qwen.FAMILIES}
    assert len(hashes) == 3
    # Written down because adapters carry it: no version of transformers may move it.
    assert changed() == "db8a8f1220374c96"


# --- what does not fit ---


def test_another_base_is_refused(good: tuple[Path, Expected]) -> None:
    other = tiny_qwen.make_model("qwen2_5_vl")
    with pytest.raises(CheckpointError, match="Load the base model"):
        load_adapter(good[0], Expected.of(other))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name, t: (name, t[:2] if "lora_A" in name else t), "rank 4 needs"),
        (lambda name, t: (name.replace("self_attn", "cross_attn"), t), "have no place"),
        (lambda name, t: (name.replace("lora_A", "lora_C"), t), "have no place"),
        (lambda name, t: (name, None if "layers.0.self_attn.q_proj.lora_B" in name else t), "expected"),
        (lambda name, t: (name, t.T.contiguous()), "needs"),
    ],
)
def test_tensors_without_a_place(
    change: Any, message: str, good: tuple[Path, Expected], tmp_path: Path
) -> None:
    tensors, meta = load_adapter(good[0])
    changed = dict(change(name, tensor) for name, tensor in tensors.items())
    path = tmp_path / "changed.safetensors"
    save_adapter(path, {name: tensor for name, tensor in changed.items() if tensor is not None}, meta)
    with pytest.raises(CheckpointError, match=message):
        load_adapter(path, good[1])


def lora_json(**changes: Any) -> str:
    return json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, **changes})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("evlm.format_version", "2", "update ComfyUI-EVLM"),
        ("evlm.trace_version", "7", "trace grammar"),
        ("evlm.mask_codec_version", "0", "mask codec"),
        ("evlm.mask_codec", "polygons", "polygons"),
        ("evlm.prompt", "poem", "poem"),
        ("evlm.base_config_hash", "0" * 16, "Load the base model"),
        ("evlm.lora", "{", "broken JSON"),
        ("evlm.lora", "[]", "expected a JSON object"),
        ("evlm.lora", '{"peft_type": "IA3"}', "IA3"),
        ("evlm.lora", lora_json(r=-4), "no rank"),
        ("evlm.lora", lora_json(r=True), "no rank"),
        ("evlm.lora", lora_json(lora_alpha=float("nan")), "no rank"),
        ("evlm.lora", lora_json(bias="all"), "bias"),
        ("evlm.lora", lora_json(init_lora_weights="pissa"), "pissa"),
        ("evlm.lora", lora_json(rank_pattern={"(a+)+$": 2}), "pattern"),
        ("evlm.lora", lora_json(target_modules=[1]), "list of names"),
        ("evlm.lora", lora_json(r=8), "rank 8 needs"),
        ("evlm.training", "[" * 100_000, "broken JSON"),
        ("evlm.lora", None, "lacks evlm.lora"),
        ("evlm.format_version", None, "no EVLM metadata"),
    ],
)
def test_metadata_that_does_not_fit(
    key: str, value: str | None, message: str, good: tuple[Path, Expected], tmp_path: Path
) -> None:
    path = tmp_path / "meta.safetensors"
    header, data = split(good[0])
    if value is None:
        del header["__metadata__"][key]
    else:
        header["__metadata__"][key] = value
    path.write_bytes(join(header, data))
    with pytest.raises(CheckpointError, match=message):
        load_adapter(path, good[1])


def test_what_save_refuses(good: tuple[Path, Expected], tmp_path: Path) -> None:
    tensors, meta = load_adapter(good[0])
    name = next(iter(tensors))
    path = tmp_path / "x.safetensors"
    for bad, message in (
        ({name: tensors[name] * float("nan")}, "NaN"),
        ({name: tensors[name].double()}, "float64"),
        ({}, "no tensors"),
    ):
        with pytest.raises(CheckpointError, match=message):
            save_adapter(path, bad, meta)
    with pytest.raises(CheckpointError, match="written as"):
        save_adapter(tmp_path / "x.pt", tensors, meta)
    with pytest.raises(CheckpointError, match="JSON"):
        save_adapter(path, tensors, AdapterMeta(**{**vars(meta), "training": {"a": {1, 2}}}))
    with pytest.raises(CheckpointError, match="None"):
        save_adapter(path, tensors, AdapterMeta(meta.lora))
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(
    good: tuple[Path, Expected], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(good[0].read_bytes())
    tensors, meta = load_adapter(path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="space"):
        save_adapter(path, {name: tensor + 1 for name, tensor in tensors.items()}, meta)
    assert path.read_bytes() == good[0].read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


def test_peft_folders_that_are_none(good: tuple[Path, Expected], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no adapter_config\.json"):
        load_adapter(tmp_path)
    config = tmp_path / "adapter_config.json"
    config.write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="pickle"):
        load_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(good[0].read_bytes())
    with pytest.raises(CheckpointError, match="type None"):
        load_adapter(tmp_path)
    config.write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_adapter(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_adapter(tmp_path / "absent.safetensors")
