"""The lists that the loaders offer, of folders with thousands of files and with files from anybody."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from standin import call, nodes, part

ROOT = Path(__file__).resolve().parents[2]
BUNDLED = ROOT / "evlm" / "bundled"
NODES = nodes()
ALL = set(NODES)


@pytest.fixture()
def base(tmp_path: Path) -> Iterator[Path]:
    for kind in ("loras", "checkpoints", "evlm", "LLM", "sam2", "diffusers", "grounding-dino"):
        (tmp_path / "models" / kind).mkdir(parents=True)
    folder_paths.use(tmp_path)
    part("nodes.folders").register()
    yield tmp_path
    folder_paths.use(tmp_path / "gone")
    part("nodes.folders").register()


def safetensors(path: Path, header: bytes, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def lora(path: Path, prefix: str = "lora_unet_down_blocks_0", **metadata: str) -> Path:
    """A LoRA of another model: its metadata, then two tensors."""
    entry = {"dtype": "F32", "shape": [1, 1]}
    header = {
        "__metadata__": {"format": "pt", **metadata},
        f"{prefix}.lora_A.weight": {**entry, "data_offsets": [0, 4]},
        f"{prefix}.lora_B.weight": {**entry, "data_offsets": [4, 8]},
    }
    return safetensors(path, json.dumps(header).encode(), bytes(8))


def evlm_adapter(path: Path) -> Path:
    import torch

    from evlm.adapter.checkpoint import AdapterMeta, save_adapter
    from evlm.adapter.lora import Lora

    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_{}.weight"
    tensors = {name.format("A"): torch.ones(2, 4), name.format("B"): torch.ones(4, 2)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_adapter(path, tensors, AdapterMeta(Lora(2, 4.0), "bundled", "0" * 16, "short", "box-spans-8"))
    return path


def offered(node: str, name: str) -> list[str]:
    """The options of a node's list, as the page gets them."""
    info = NODES[node].GET_NODE_INFO_V1()["input"]["required"][name]
    options: list[str] = info[1].get("options", info[0])
    return options


def peft_folder(path: Path, module: str, **config: Any) -> Path:
    lora(path / "adapter_model.safetensors", f"base_model.model.{module}")
    about = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"], **config}
    (path / "adapter_config.json").write_text(json.dumps(about))
    return path


def test_only_adapters_that_fit_a_reasoner_are_offered(base: Path) -> None:
    """A LoRA for pictures, a whole model and a UNet's PEFT folder are none of them (N1)."""
    loras = base / "models" / "loras"
    lora(loras / "style.safetensors", ss_network_module="networks.lora", ss_tag_frequency="x" * 200_000)
    lora(loras / "sdxl" / "mark.safetensors", ss_training_comment='"evlm.format_version"')
    safetensors(loras / "empty.safetensors", b"{}")
    shutil.copytree(BUNDLED / "segmenter", loras / "whole")
    evlm_adapter(loras / "mine" / "taste.safetensors")
    peft_folder(loras / "unet", "unet.down_blocks.0.attentions.0.to_q")
    peft_folder(loras / "clip", "text_model.encoder.layers.0.self_attn.q_proj")
    peft_folder(loras / "vera", "model.language_model.layers.0.self_attn.q_proj", peft_type="VERA")
    peft_folder(loras / "peft", "model.language_model.layers.0.self_attn.q_proj")
    peft_folder(base / "models" / "evlm" / "old", "model.layers.0.self_attn.q_proj")
    wanted = ["evlm/old", "loras/mine/taste.safetensors", "loras/peft"]
    for node in ("EVLM_LoadModel", "EVLM_Train"):
        assert [name for name in offered(node, "adapter") if name != "none"] == wanted


def test_a_list_is_made_once_for_each_change_of_its_folder(base: Path) -> None:
    """However often a workflow is queued and checked (N1)."""
    folder = base / "models" / "loras"
    for number in range(30):
        lora(folder / f"{number}.safetensors")
    evlm_adapter(folder / "taste.safetensors")
    os.utime(folder, (1e9, 1e9))  # not changed this moment
    listed: list[str] = []
    watching = [True]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if watching[0] and event in ("os.listdir", "os.scandir") and str(args[0]) == str(folder):
            listed.append(event)

    sys.addaudithook(hook)  # it cannot be taken off: `watching` ends it
    node = NODES["EVLM_LoadModel"]
    try:
        for _ in range(10):
            assert node.validate_inputs(model="bundled", **_if_asked(node, adapter="loras/taste.safetensors"))
            node.GET_SCHEMA()
        assert len(listed) <= 1
        listed.clear()
        lora(folder / "another.safetensors")
        os.utime(folder, (1.1e9, 1.1e9))
        for _ in range(10):
            node.GET_SCHEMA()
        assert len(listed) == 1
    finally:
        watching[0] = False


def _if_asked(node: Any, **values: Any) -> dict[str, Any]:
    """Those of the values that the node's check takes."""
    import inspect

    asked = inspect.signature(node.validate_inputs).parameters
    return {name: value for name, value in values.items() if name in asked}


def test_what_comes_goes_and_changes_is_seen(base: Path) -> None:
    folder = base / "models" / "loras"
    taste = evlm_adapter(folder / "taste.safetensors")
    assert "loras/taste.safetensors" in offered("EVLM_LoadModel", "adapter")
    taste.rename(folder / "renamed.safetensors")
    assert offered("EVLM_LoadModel", "adapter") == ["none", "loras/renamed.safetensors"]
    lora(folder / "renamed.safetensors", note="the same name, another file")
    assert offered("EVLM_LoadModel", "adapter") == ["none"]
    evlm_adapter(folder / "deeper" / "renamed.safetensors")
    assert offered("EVLM_LoadModel", "adapter") == ["none", "loras/deeper/renamed.safetensors"]
    shutil.rmtree(folder / "deeper")
    assert offered("EVLM_LoadModel", "adapter") == ["none"]


def test_nobody_waits_for_a_slow_disk(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that takes seconds is made beside the server; a name is checked by its own file (N1)."""
    zoo, folder = part("evlm.models.zoo"), base / "models" / "evlm"
    real = zoo.role_of

    here, released = threading.get_ident(), threading.Event()

    def slow(path: Path) -> str | None:
        if threading.get_ident() == here:
            time.sleep(0.2)
        elif not released.wait(30):  # as slow as this test likes; whoever waits for it has failed by then
            released.set()
        return real(path)

    shutil.copytree(BUNDLED / "segmenter", folder / "zz")
    for number in range(30):
        lora(folder / f"{number}.safetensors")
    monkeypatch.setattr(zoo, "role_of", slow)
    listing = getattr(part("nodes.folders"), "LISTING", None)
    if listing is not None:
        monkeypatch.setattr(listing, "patience", 0.03)
    node = NODES["EVLM_LoadSegmenter"]
    begun = time.monotonic()
    node.GET_SCHEMA()
    assert node.validate_inputs(model="evlm/zz") is True
    assert "choose one of" in node.validate_inputs(model="evlm/yy")
    assert time.monotonic() - begun < 3.0  # 30 files at 0.2 s are 6 s
    assert "evlm/zz" not in offered("EVLM_LoadSegmenter", "model")
    released.set()
    until = time.monotonic() + 60
    while "evlm/zz" not in offered("EVLM_LoadSegmenter", "model"):
        assert time.monotonic() < until
        time.sleep(0.05)


DEEP = b"[" * 400_000


def test_no_files_content_takes_a_node_away(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Deep JSON, a header that lies about its length, lists for objects, pipes, loops of links (N4)."""
    for folder in (base / "models").iterdir():
        safetensors(folder / "deep.safetensors", DEEP)
        safetensors(folder / "deeper.safetensors", b'{"__metadata__":{"evlm.format_version":' + DEEP)
        safetensors(folder / "a" / "list.safetensors", b"[]")
        (folder / "lies.safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")
        (folder / "short.safetensors").write_bytes(b"abc")
        (folder / "line\nbreak.safetensors").write_bytes(b"")
        for number, (name, text) in enumerate(
            [
                ("config.json", DEEP), ("model_index.json", DEEP), ("adapter_config.json", DEEP),
                ("config.json", b'{"model_type": ["owlv2"]}'), ("config.json", b'{"model_type": {}}'),
                ("config.json", b"\xff\xfe{}"), ("adapter_config.json", b"[]"), ("config.json", b"null"),
            ]
        ):  # fmt: skip
            (folder / f"folder{number}").mkdir()
            (folder / f"folder{number}" / name).write_bytes(text)
        if os.name == "posix":
            os.mkfifo(folder / "pipe.pt")
            (folder / "zero.safetensors").symlink_to("/dev/zero")
            (folder / "loop.safetensors").symlink_to(folder / "loop.safetensors")
            (folder / "round").symlink_to(folder)
            (folder / os.fsdecode(b"\xff\xfe.safetensors")).write_bytes(b"")
    with caplog.at_level(logging.WARNING, logger="evlm"):
        assert _alive() == ALL
    assert "deep.safetensors" in caplog.text and "lies.safetensors" in caplog.text
    catalogued = base / "models" / "evlm" / "qwen2-vl-2b"
    catalogued.mkdir(parents=True, exist_ok=True)
    (catalogued / "config.json").write_text('{"model_type": "qwen2_vl"}')
    for text in ('{"weight_map": []}', '{"weight_map": {"a": {}, "b": [1]}}', DEEP.decode()):
        (catalogued / "model.safetensors.index.json").write_text(text)
        assert _alive() == ALL
        with pytest.raises(part("evlm.errors").ModelError, match="download"):
            call("EVLM_LoadModel", model="qwen2-vl-2b")


def _alive() -> set[str]:
    """The nodes whose description can be asked for, as /object_info does."""
    alive = set()
    for name in ALL:
        try:
            NODES[name].GET_NODE_INFO_V1()
        except Exception as error:
            print(name, type(error))
        else:
            alive.add(name)
    return alive


def test_an_error_names_no_path_of_this_machine(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fork that installs by pip has paths where ComfyUI has words."""
    file = base / "models" / "loras" / "taste.safetensors"
    for kind in (str, Path):
        for name in ("models_dir", "base_path"):
            monkeypatch.setattr(folder_paths, name, kind(getattr(folder_paths, name)))
        assert (
            part("nodes.folders").shortened(f"{file} is damaged")
            == "models/loras/taste.safetensors is damaged"
        )


def test_of_checkpoints_only_those_that_edit_are_offered(base: Path) -> None:
    """By the channels of the UNet's first convolution, each file's header read once."""
    first = part("evlm.models.families").EDITORS[0].file_tensor
    for name, channels in (("ip2p", 8), ("sd15", 4), ("inpainting", 9)):
        about = {"dtype": "F16", "shape": [0, channels, 3, 3], "data_offsets": [0, 0]}
        header = {"__metadata__": {"format": "pt"}, first: about}
        safetensors(base / "models" / "checkpoints" / f"{name}.safetensors", json.dumps(header).encode())
    part("nodes.folders").register()
    for node, name in (("EVLM_LoadEditor", "model"), ("EVLM_LoadAll", "editor")):
        assert [each for each in offered(node, name) if "/" in each] == ["checkpoints/ip2p.safetensors"]
    assert "choose one of" in NODES["EVLM_LoadEditor"].validate_inputs(model="checkpoints/sd15.safetensors")


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_a_link_hands_in_no_other_file(base: Path, tmp_path: Path) -> None:
    """A linked model is one, as in every ComfyUI; a link to any other file is not even opened."""
    store = tmp_path / "store"
    evlm_adapter(store / "taste.safetensors")
    evlm_adapter(store / "secret.safetensors").rename(store / "secret.txt")
    shutil.copytree(BUNDLED / "segmenter", store / "tiny")
    folder = base / "models" / "evlm"
    (folder / "taste.safetensors").symlink_to(store / "taste.safetensors")
    (folder / "secret.safetensors").symlink_to(store / "secret.txt")
    (folder / "linked").symlink_to(store / "tiny")
    (folder / "crafted").mkdir()
    shutil.copy(store / "tiny" / "config.json", store / "config.txt")
    (folder / "crafted" / "config.json").symlink_to(store / "config.txt")
    assert offered("EVLM_LoadModel", "adapter") == ["none", "evlm/taste.safetensors"]
    assert [n for n in offered("EVLM_LoadSegmenter", "model") if "evlm/" in n] == ["evlm/linked"]
    with pytest.raises(part("evlm.errors").EVLMError, match="choose one of"):
        call("EVLM_LoadModel", adapter="evlm/secret.safetensors")


@pytest.mark.parametrize(
    "name",
    ["evlm/../loras/taste.safetensors", "evlm//taste.safetensors", "evlm/.hidden.safetensors", "evlm/",
     "evlm/tiny/model.safetensors", "evlm/a/b/c.safetensors", "evlm/x\x00", "evlm", "/etc/passwd",
     "checkpoints/x"],
)  # fmt: skip
def test_a_name_that_no_list_has_is_refused(base: Path, name: str) -> None:
    shutil.copytree(BUNDLED / "segmenter", base / "models" / "evlm" / "tiny")
    evlm_adapter(base / "models" / "evlm" / ".hidden.safetensors")
    evlm_adapter(base / "models" / "evlm" / "a" / "b" / "c.safetensors")
    evlm_adapter(base / "models" / "loras" / "taste.safetensors")
    assert "choose one of" in NODES["EVLM_LoadSegmenter"].validate_inputs(model=name)
    with pytest.raises(part("evlm.errors").EVLMError, match="choose one of"):
        call("EVLM_LoadModel", adapter=name)
