"""Adapters: round trips through the public path, and hundreds of damaged files, each refused with a
reason."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evlm.checkpoint import AdapterMeta, Expected, config_hash, load_adapter, save_adapter
from evlm.errors import CheckpointError, EVLMError
from evlm.lora import Lora, attach_lora, lora_from_peft
from evlm.messages import SHORT, build_messages, encode
from evlm.reasoner import Reasoner
from evlm.request import Request
from evlm.tensorfile import read_header

TARGETS = ["q_proj", "v_proj", "down_proj", "qkv"]


def random_adapter(model: Any, **options: Any) -> Any:
    """The model as a PeftModel whose LoRA is random, B too (PEFT starts it at zero, which changes "
    "nothing)."""
    from peft import LoraConfig, get_peft_model

    options = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, **options}
    wrapped = get_peft_model(model, LoraConfig(**options))
    random = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn(parameter.shape, generator=random) * 0.1)
    return wrapped.eval()


def meta_of(model: Any, lora: Lora, **changes: Any) -> AdapterMeta:
    fields: dict[str, Any] = {
        "lora": lora,
        "base_model": "tiny",
        "base_config_hash": config_hash(model.config),
        "prompt": "short",
        "mask_codec": "box-spans-8",
        "training": {"steps": 10, "loss": 0.5},
    }
    return AdapterMeta(**{**fields, **changes})


def lora_of(wrapped: Any) -> Lora:
    return lora_from_peft("peft", wrapped.peft_config["default"].to_dict())


def weights_of(wrapped: Any) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(wrapped)


def sample_inputs(processor: Any) -> Any:
    request = Request(torch.linspace(0, 1, 32 * 32 * 3).reshape(1, 32, 32, 3), "like this")
    return encode(processor, [build_messages(request, style=SHORT)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.save_folder(tmp_path_factory.mktemp("base") / "qwen2_vl")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Expected]:
    """A sound single file, and the model it fits."""
    wrapped = random_adapter(tiny_qwen.make_model())
    base = wrapped.get_base_model()
    path = tmp_path_factory.mktemp("adapter") / "good.safetensors"
    save_adapter(path, weights_of(wrapped), meta_of(base, lora_of(wrapped)))
    return path, Expected.of(tiny_qwen.make_model())


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
    "model_type": "qwen2_vl", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "hidden_act": "silu",
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "image_token_id": 151655,
    "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
    "vision_config": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3,
                      "hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2,
                      "temporal_patch_size": 2, "model_type": "qwen2_vl"},
}  # fmt: skip


def test_every_key_of_a_7b_lora_has_its_place() -> None:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    from evlm.lora import check_places

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


# --- damaged and hostile files ---


def split(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def refuse(path: Path, content: bytes, expect: Expected | None = None) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_adapter(path, expect)
    return str(caught.value)


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": {**ENTRY, "shape": [2, 3]}}, 16, "needs 24 bytes, has 16"),
        ({"a": {**ENTRY, "shape": [1 << 40, 1 << 40]}}, 16, "needs"),
        ({"a": {**ENTRY, "shape": [1 << 64]}}, 16, "impossible shape"),
        ({"a": {**ENTRY, "shape": [-2, -2]}}, 16, "impossible shape"),
        ({"a": {**ENTRY, "shape": [True, 4]}}, 16, "impossible shape"),
        ({"a": {**ENTRY, "shape": "22"}}, 16, "impossible shape"),
        ({"a": {**ENTRY, "shape": [2.0, 2]}}, 16, "impossible shape"),
        ({"a": {**ENTRY, "dtype": "F16"}}, 16, "needs 8 bytes"),
        ({"a": {**ENTRY, "dtype": "O"}}, 16, "unknown dtype"),
        ({"a": {**ENTRY, "dtype": ["F32"]}}, 16, "unknown dtype"),
        ({"a": {**ENTRY, "data_offsets": [16, 0]}}, 16, "impossible byte range"),
        ({"a": {**ENTRY, "data_offsets": [0]}}, 16, "impossible byte range"),
        ({"a": {**ENTRY, "data_offsets": [-16, 0]}}, 16, "impossible byte range"),
        ({"a": {**ENTRY, "data_offsets": [8, 24]}}, 24, "gap"),
        ({"a": ENTRY, "b": ENTRY}, 16, "overlaps"),
        ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 24]}}, 24, "overlaps"),
        ({"a": ENTRY}, 12, "take 16 bytes, the file holds 12"),
        ({"a": ENTRY}, 20, "take 16 bytes, the file holds 20"),
        ({"a": {**ENTRY, "extra": 1}}, 16, "entry of"),
        ({"a": 7}, 16, "entry of"),
        ([], 0, "not a JSON object"),
        ({"__metadata__": {"a": 1}}, 0, "map of texts"),
        ({"__metadata__": []}, 0, "map of texts"),
        (b'{"a": 1, "a": 2}', 0, "twice"),
        (b'{"a": NaN}', 0, "not JSON"),
        (b"[" * 100_000, 0, "not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", 0, "file"),
        (b"\xff\xff", 0, "not JSON"),
        (b"", 0, "not JSON"),
    ],
)
def test_headers_that_lie(header: Any, data: int, message: str, tmp_path: Path) -> None:
    assert message in refuse(tmp_path / "x.safetensors", join(header, bytes(data)))


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": torch.zeros(2)}, tmp_path / "zip.pt")
    for content in ((tmp_path / "zip.pt").read_bytes(), *(pickle.dumps(Trap(), p) for p in range(2, 6))):
        assert "pickle" in refuse(tmp_path / "x.safetensors", content)
    refuse(tmp_path / "x.safetensors", pickle.dumps(Trap(), 0))
    assert not (tmp_path / "ran").exists()


def test_a_header_longer_than_the_file_is_not_allocated(tmp_path: Path) -> None:
    for length in (2, 100, 1 << 31, 1 << 62, (1 << 64) - 1):
        assert "announces" in refuse(tmp_path / "x.safetensors", struct.pack("<Q", length) + b"{")


@pytest.mark.parametrize("dtype", ["I64", "U8", "BOOL", "F64", "F8_E4M3"])
def test_other_dtypes_are_no_adapter(dtype: str, good: tuple[Path, Expected], tmp_path: Path) -> None:
    header, _ = split(good[0])
    sizes = {"I64": 8, "F64": 8}
    first = next(name for name in header if name != "__metadata__")
    entry = {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * sizes.get(dtype, 1)]}
    content = join({"__metadata__": header["__metadata__"], first: entry}, bytes(4 * sizes.get(dtype, 1)))
    assert dtype in refuse(tmp_path / "x.safetensors", content)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(value: float, good: tuple[Path, Expected], tmp_path: Path) -> None:
    header, data = split(good[0])
    spoiled = bytearray(data)
    spoiled[400:404] = struct.pack("<f", value)
    assert "NaN or infinity" in refuse(tmp_path / "x.safetensors", join(header, bytes(spoiled)), good[1])


def test_truncated_anywhere(good: tuple[Path, Expected], tmp_path: Path) -> None:
    raw = good[0].read_bytes()
    for length in {*range(64), *range(64, len(raw), len(raw) // 150), len(raw) - 1}:
        refuse(tmp_path / "x.safetensors", raw[:length])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutations_load_the_same_or_are_refused(
    data: st.DataObject, good: tuple[Path, Expected], tmp_path: Path
) -> None:
    """Flipped, inserted and removed bytes in the header: the adapter as it was, or one clear error."""
    raw = bytearray(good[0].read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 7 + length))
        kind = data.draw(st.sampled_from(["set", "insert", "remove"]))
        if kind == "set":
            raw[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            raw.insert(at, data.draw(st.integers(32, 126)))
        else:
            del raw[at]
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    try:
        tensors, _ = load_adapter(path, good[1])
    except EVLMError as error:
        assert isinstance(error, CheckpointError)
        assert str(error)
    else:
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), framed=st.booleans())
def test_any_bytes_are_refused(content: bytes, framed: bool, tmp_path: Path) -> None:
    refuse(tmp_path / "x.safetensors", join(content, b"") if framed else content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 65) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3),
)
DTYPES = st.sampled_from(["F32", "F16", "I8", "Q"]) | JSON
ENTRIES = st.fixed_dictionaries({"dtype": DTYPES, "shape": JSON, "data_offsets": JSON}) | JSON


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.dictionaries(st.text(max_size=6), ENTRIES, max_size=3))
def test_any_header_is_read_or_refused(header: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(join(header, bytes(16)))
    with pytest.raises(CheckpointError):
        read_header(path)
