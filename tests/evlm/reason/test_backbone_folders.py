"""Reasoners' folders as they are in the world: quantised, with scales, without a template file, tied, of an
older or newer transformers."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch
from safetensors.torch import load_file, save_file

from evlm.reason.reasoner import Reasoner, Sampling
from evlm.request import Request


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_qwen.save_folder(tmp_path_factory.mktemp("plain") / "folder", shard="1GB")


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "folder"))


def refusal(work: Callable[[], Any]) -> str:
    """ "ModelError: why" of what is raised; "" where nothing is."""
    try:
        work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def picture_request() -> Request:
    return Request(torch.linspace(0, 1, 32 * 32 * 3).reshape(1, 32, 32, 3), "like this")


# --- quantised weights (A12, A13) ---

QUANTISED: dict[str, tuple[dict[str, Any], str]] = {
    "awq": ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}, "gptqmodel"),
    "gptq": ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "optimum"),
    "compressed-tensors": (
        {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}},
        "compressed-tensors",
    ),
    "auto-round": ({"quant_method": "auto-round", "bits": 4, "group_size": 128}, "auto-round"),
    "torchao": ({"quant_method": "torchao", "quant_type": {"default": {}}}, "torchao"),
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
    "bitsandbytes without a name": ({"load_in_8bit": True}, "bitsandbytes"),
    "quanto": ({"quant_method": "quanto", "weights": "int8"}, "optimum-quanto"),
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", QUANTISED)
def test_quantised_weights_without_their_package_name_it(
    name: str, device: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every device, before anything else is looked at (A12)."""
    settings, package = QUANTISED[name]
    find = importlib.util.find_spec
    hidden = ("gptqmodel", "awq", "optimum", "compressed_tensors", "auto_round", "torchao", "bitsandbytes")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda m, *a: None if m.split(".")[0] in hidden else find(m, *a)
    )
    change_config(folder, quantization_config=settings)
    error = refusal(lambda: Reasoner.load(folder, device=device))
    assert error.startswith("ModelError") and f"package {package}" in error and "pip install" in error


def test_a_quantisation_that_nobody_knows_is_refused_and_not_ignored(folder: Path) -> None:
    """(A12)"""
    for settings in ({"quant_method": "sq-7"}, {"quant_method": 4}, {"bits": 4}, "awq"):
        change_config(folder, quantization_config=settings)
        error = refusal(lambda: Reasoner.load(folder, device="cpu"))
        assert error.startswith("ModelError") and "quantised in a way" in error, settings


def test_what_a_quantiser_raises_is_a_model_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is there in a version that the method cannot use (A12)."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda m, *a: find("json") if m == "torchao" else find(m, *a)
    )
    change_config(folder, quantization_config=QUANTISED["torchao"][0])
    error = refusal(lambda: Reasoner.load(folder, device="cpu"))
    assert error.startswith("ModelError") and "cannot be loaded" in error


def test_fp8_weights_with_scales_are_refused(folder: Path) -> None:
    """ComfyUI's form: each weight in fp8, its scale beside it (A13)."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for name in [n for n in tensors if n.endswith("mlp.up_proj.weight")]:
        scale = tensors[name].abs().max() / 448
        tensors[name] = (tensors[name] / scale).to(torch.float8_e4m3fn)
        tensors[name.removesuffix("weight") + "scale_weight"] = scale
    save_file(tensors, file, metadata={"format": "pt"})
    error = refusal(lambda: Reasoner.load(folder, device="cpu"))
    assert error.startswith("ModelError") and "up_proj.scale_weight" in error and "16 bits" in error


def test_tensors_that_have_no_place_are_never_ignored(folder: Path) -> None:
    """(A13)"""
    file = folder / "model.safetensors"
    save_file({**load_file(file), "model.extra.bias": torch.ones(3)}, file, metadata={"format": "pt"})
    error = refusal(lambda: Reasoner.load(folder, device="cpu"))
    assert error.startswith("ModelError") and "model.extra.bias" in error


def test_buffers_that_every_model_computes_may_lie_in_the_files(folder: Path) -> None:
    file = folder / "model.safetensors"
    extra = {"model.visual.rotary_pos_emb.inv_freq": torch.ones(4)}
    save_file({**load_file(file), **extra}, file, metadata={"format": "pt"})
    assert refusal(lambda: Reasoner.load(folder, device="cpu")) == ""


def test_plain_fp8_weights_are_only_a_shorter_form(folder: Path) -> None:
    file = folder / "model.safetensors"
    tensors = {n: t.to(torch.float8_e4m3fn).float() for n, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    expected = Reasoner.load(folder, device="cpu").generate(picture_request(), Sampling(12)).text
    save_file({n: t.to(torch.float8_e4m3fn) for n, t in tensors.items()}, file, metadata={"format": "pt"})
    reasoner = Reasoner.load(folder, device="cpu")
    assert {p.dtype for p in reasoner.module.parameters()} == {torch.float32}
    assert reasoner.generate(picture_request(), Sampling(12)).text == expected


# --- the chat template (A11) ---


def move_template(folder: Path, template: Any) -> None:
    (folder / "chat_template.jinja").unlink()
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))


@pytest.mark.parametrize("several", [False, True])
def test_a_chat_template_only_in_the_tokenizers_config_is_read(folder: Path, several: bool) -> None:
    """(A11)"""
    expected = Reasoner.load(folder, device="cpu").generate(picture_request(), Sampling(12)).text
    named = [{"name": "default", "template": tiny_qwen.TEMPLATE}, {"name": "tool_use", "template": "{{ 1 }}"}]
    move_template(folder, named if several else tiny_qwen.TEMPLATE)
    loaded: list[Reasoner] = []
    assert refusal(lambda: loaded.append(Reasoner.load(folder, device="cpu"))) == ""
    assert loaded[0].generate(picture_request(), Sampling(12)).text == expected


def test_a_template_that_drops_pictures_or_fails_is_refused(folder: Path) -> None:
    """(A11)"""
    words = "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
    move_template(folder, words)
    assert "leaves pictures out" in refusal(lambda: Reasoner.load(folder, device="cpu"))
    file = folder / "tokenizer_config.json"
    for template, reason in (
        ("{{ raise_exception('no') }}", "fails"),
        ("{% for %}", "fails"),
        ("", "no chat"),
    ):
        file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": template}))
        error = refusal(lambda: Reasoner.load(folder, device="cpu"))
        assert error.startswith("ModelError") and reason in error


# --- 16 bits on older cards (A14) ---


def card(monkeypatch: pytest.MonkeyPatch, major: int, minor: int) -> None:
    """A CUDA card of this compute capability, as far as torch can be asked about it."""

    class Properties:
        pass

    Properties.major, Properties.minor = major, minor  # type: ignore[attr-defined]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: Properties)
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda _: True)  # all cards imitate it


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_a_card_that_only_imitates_bfloat16_gets_float16(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(A14)"""
    from evlm.reason.backbone import auto_dtype

    card(monkeypatch, *capability)
    assert auto_dtype(torch.device("cuda"), 16 << 30) == expected
    assert auto_dtype(torch.device("cuda", 1), 16 << 30) == expected


# --- folders of transformers 5 in version 4 (A15) ---


@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_the_way_into_transformers_4_keeps_the_special_tokens(family: str, tmp_path: Path) -> None:
    """Markers such as <|image_pad|> are never text; version 4 knows as special only what it is told (A15)."""
    from evlm.reason.transformers_compat import load_processor

    tiny_qwen.make_processor(family).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    saved = json.loads(file.read_text())
    saved.pop("additional_special_tokens", None)
    named = (saved["eos_token"], saved["pad_token"])
    extra = [word for word in tiny_qwen.SPECIAL if word not in named]  # as transformers 5 writes them
    file.write_text(json.dumps({**saved, "extra_special_tokens": extra}))
    tokenizer = load_processor(tmp_path, family).tokenizer
    assert set(tokenizer.all_special_tokens) == set(tiny_qwen.SPECIAL)
    ids = [tokenizer.convert_tokens_to_ids(word) for word in ("<|image_pad|>", "<|vision_start|>")]
    assert tokenizer.decode([*ids, tokenizer.convert_tokens_to_ids("a")], skip_special_tokens=True) == "a"


@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_a_tied_model_writes_the_text_of_generate(family: str, tmp_path: Path) -> None:
    """Whatever token a tied model prefers, a vision marker included, none of them is text (A15)."""
    model = tiny_qwen.make_model(family)
    config = copy.deepcopy(model.config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    tied = type(model)(config).eval()
    state = model.state_dict()
    state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    tied.load_state_dict(state)
    tied.save_pretrained(tmp_path)
    tiny_qwen.make_processor(family).save_pretrained(tmp_path)
    reasoner = Reasoner.load(tmp_path, device="cpu")
    head, words = reasoner.module.get_output_embeddings(), reasoner.module.get_input_embeddings()
    assert head.weight is words.weight
    assert "<|" not in reasoner.generate(picture_request(), Sampling(24)).text


# --- in whose words boxes are written ---


def test_a_folder_may_say_in_which_form_its_model_writes_boxes(folder: Path) -> None:
    def form() -> str:
        return Reasoner.load(folder, device="cpu").style.boxes.name

    assert form() == "qwen2-vl"
    (folder / "evlm.json").write_text(json.dumps({"boxes": "own"}))
    assert form() == "own"
    (folder / "evlm.json").write_text(json.dumps({"boxes": "qwen3-vl", "prompt": "full"}))
    assert form() == "own", "a tuned model writes our masks"
    (folder / "evlm.json").write_text(json.dumps({"boxes": 7}))
    assert "expected one of own, qwen2-vl" in refusal(form)


# --- whose masks are trusted ---


def test_places_are_trusted_where_a_file_says_that_they_were_learned(folder: Path, tmp_path: Path) -> None:
    """Never because a LoRA is there."""
    from tiny_adapters import lora_of, meta_of, random_adapter, weights_of

    from evlm.adapter.checkpoint import save_adapter

    def trust(adapter: Path | None = None) -> str:
        return Reasoner.load(folder, adapter, device="cpu").backbone.trust

    model = random_adapter(tiny_qwen.make_model())
    model.save_pretrained(tmp_path / "peft")
    ours = tmp_path / "ours.safetensors"
    save_adapter(ours, weights_of(model), meta_of(tiny_qwen.make_model(), lora_of(model)))
    assert (trust(), trust(tmp_path / "peft"), trust(ours)) == ("base", "base", "tuned")
    (folder / "evlm.json").write_text(json.dumps({"prompt": "full"}))
    assert trust() == "base"
    (folder / "evlm.json").write_text(json.dumps({"prompt": "full", "mask_codec": "box-spans-8"}))
    assert trust() == trust(tmp_path / "peft") == "tuned"
    text = Reasoner.load(folder, device="cpu").reason(picture_request(), Sampling(guided="always"))
    assert text.trace.plan.trust == "tuned"
