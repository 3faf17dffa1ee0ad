"""InstructPix2Pix files as users have them: folders, shards, variants, the original single file."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import tiny_ip2p
import torch
from safetensors.torch import load_file, save_file

from evlm.edit import EditSettings
from evlm.edit.clip_tokenizer import clip_vocabulary, load_tokenizer, read_merges
from evlm.edit.ip2p import IP2P
from evlm.edit.parts import SD15, original_names
from evlm.errors import EVLMError, ModelError

QUICK = EditSettings(steps=2, scheduler="ddim")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a loader opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> tuple[Path, Path]:
    """The model of `folder` as one original file, and the configs beside it."""
    place = tmp_path_factory.mktemp("single")
    file = tiny_ip2p.save_original(tiny_ip2p.build(), place / "model.safetensors")
    return file, tiny_ip2p.save_configs(folder, place / "configs")


def picture(editor: IP2P) -> torch.Tensor:
    return editor.edit(tiny_ip2p.frames(1, 32, 32), "make it red", settings=QUICK).frames


def test_the_original_file_gives_the_same_pictures_as_the_folder(
    editor: IP2P, single: tuple[Path, Path]
) -> None:
    loaded = IP2P.load(single[0], device="cpu", config=single[1])
    for part in ("unet", "vae", "text_encoder"):
        theirs = getattr(editor, part).state_dict()
        ours = getattr(loaded, part).state_dict()
        assert list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert torch.equal(picture(loaded), picture(editor))


def test_diffusers_reads_the_same_file_the_same_way(single: tuple[Path, Path], editor: IP2P) -> None:
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )

    unet = convert_ldm_unet_checkpoint(load_file(single[0]), editor.unet.config)
    vae = convert_ldm_vae_checkpoint(load_file(single[0]), editor.vae.config)
    text = convert_ldm_clip_checkpoint(load_file(single[0]))
    text = {k.removeprefix("text_model."): v for k, v in text.items() if not k.endswith("position_ids")}
    for theirs, model in ((unet, editor.unet), (vae, editor.vae), (text, editor.text_encoder)):
        ours = {k.removeprefix("text_model."): v for k, v in model.state_dict().items()}
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[k].reshape(ours[k].shape), ours[k]) for k in ours)


def test_every_key_of_the_real_sd15_instruct_pix2pix_has_a_place() -> None:
    """The real shapes, on the meta device.

    Our table gives the original file's key list from the shipped configs; diffusers' conversion, which was
    written against the real files, has to turn that list into exactly the models' own keys. The counts and
    names below are those of the published SD 1.5 files (686 UNet, 248 VAE, 197 text with the position ids).
    """
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    configs = {p: json.loads((SD15 / p / "config.json").read_text()) for p in ("unet", "vae", "text_encoder")}
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        vae = AutoencoderKL.from_config(configs["vae"])
        text = CLIPTextModel(CLIPTextConfig(**configs["text_encoder"]))
    names = original_names(unet, vae)
    models: dict[str, Any] = {"unet": unet, "vae": vae, "text_encoder": text}
    file = {names[part](k): v for part, model in models.items() for k, v in model.state_dict().items()}
    assert sum(k.startswith("model.diffusion_model.") for k in file) == 686
    assert sum(k.startswith("first_stage_model.") for k in file) == 248
    assert sum(k.startswith("cond_stage_model.") for k in file) == 196
    assert len(file) == 686 + 248 + 196
    for name, shape in {
        "model.diffusion_model.input_blocks.0.0.weight": (320, 8, 3, 3),
        "model.diffusion_model.input_blocks.3.0.op.bias": (320,),
        "model.diffusion_model.input_blocks.4.0.skip_connection.weight": (640, 320, 1, 1),
        "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight": (1280, 768),
        "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
        "model.diffusion_model.output_blocks.8.2.conv.weight": (640, 640, 3, 3),
        "model.diffusion_model.out.2.weight": (4, 320, 3, 3),
        "first_stage_model.decoder.up.3.upsample.conv.weight": (512, 512, 3, 3),
        "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
        "first_stage_model.encoder.mid.attn_1.proj_out.bias": (512,),
        "first_stage_model.quant_conv.weight": (8, 8, 1, 1),
        "cond_stage_model.transformer.text_model.encoder.layers.11.mlp.fc1.weight": (3072, 768),
        "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    }.items():
        assert tuple(file[name].shape) == shape, name
    clip = convert_ldm_clip_checkpoint(file)
    for theirs, model in (
        (convert_ldm_unet_checkpoint(dict(file), unet.config), unet),
        (convert_ldm_vae_checkpoint(dict(file), vae.config), vae),
        ({k.removeprefix("text_model."): v for k, v in clip.items()}, text),
    ):
        ours = {k.removeprefix("text_model."): v for k, v in model.state_dict().items()}
        assert theirs.keys() == ours.keys()
        assert all(theirs[k].numel() == ours[k].numel() for k in ours)
    assert sum(v.numel() for v in unet.state_dict().values()) == 859_532_484


def test_clip_reads_words_as_it_always_did() -> None:
    tokenizer = load_tokenizer(SD15 / "tokenizer")
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(tokenizer) == 49408


def test_clips_vocabulary_follows_from_its_merges() -> None:
    """The hash is that of OpenAI's vocab.json, its ids beside each other in their order."""
    words = clip_vocabulary(read_merges(SD15 / "tokenizer"))
    told = "\n".join(sorted(words, key=words.__getitem__))
    assert (
        hashlib.sha256(told.encode()).hexdigest()
        == "7cccc44d334555d1ff3c0ac5f0246b428fab2918383e77ee745cf30d41010b78"
    )
    assert list(words.values()) == list(range(49408))


def test_merges_may_be_plain_and_packed_ones_that_are_broken_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(SD15 / "tokenizer", folder)
    packed = folder / "merges.txt.gz"
    whole = packed.read_bytes()
    for broken in (
        whole[:1000],
        b"not packed",
        whole[:500] + b"xxxx" + whole[504:],
        gzip.compress(b"\xff" * 9),
    ):
        packed.write_bytes(broken)
        with pytest.raises(ModelError, match="tokenizer does not load"):
            load_tokenizer(folder)
    packed.unlink()
    (folder / "merges.txt").write_text(gzip.decompress(whole).decode(), "utf-8")
    assert load_tokenizer(folder)("a photo").input_ids == [49406, 320, 1125, 49407]


def test_folders_with_shards_and_with_the_fp16_variant_load(tmp_path: Path, editor: IP2P) -> None:
    pipe = tiny_ip2p.build()
    pipe.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert (tmp_path / "shards/unet/diffusion_pytorch_model.safetensors.index.json").is_file()
    shards = IP2P.load(tmp_path / "shards", device="cpu")
    assert torch.equal(shards.unet.conv_in.weight, editor.unet.conv_in.weight)
    pipe.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    half = IP2P.load(tmp_path / "half", device="cpu")
    assert half.unet.dtype == torch.float32
    assert (half.best_resolution, half.defaults) == (512, EditSettings())
    ours, theirs = half.unet.state_dict(), editor.unet.state_dict()
    assert all(torch.allclose(ours[k], theirs[k], atol=2e-3) for k in ours)


def test_evlm_json_gives_the_defaults(editor: IP2P) -> None:
    assert (editor.best_resolution, editor.full_frame_resolution, editor.multiple) == (32, 32, 8)
    assert (editor.defaults.steps, editor.defaults.scheduler) == (3, "ddim")


def test_files_that_do_not_fit_are_refused_with_the_reason(tmp_path: Path, single: tuple[Path, Path]) -> None:
    file, config = single
    good = load_file(file)

    def refused(
        reason: str, tensors: dict[str, torch.Tensor] | None = None, raw: bytes | None = None
    ) -> None:
        path = tmp_path / "bad.safetensors"
        path.write_bytes(raw) if raw is not None else save_file(tensors or {}, path)
        with pytest.raises(EVLMError, match=reason):
            IP2P.load(path, device="cpu", config=config)

    first = "model.diffusion_model.input_blocks.0.0.weight"
    refused("4 a plain", good | {first: good[first][:, :4].contiguous()})
    refused(f"missing, first\\s+{first}", {k: v for k, v in good.items() if k != first})
    refused("shape", good | {first: good[first].flatten()})
    refused("bad.safetensors", raw=file.read_bytes()[:-100])
    refused("bad.safetensors", raw=file.read_bytes()[:50])
    refused("bad.safetensors", raw=b"")
    refused("pickle", raw=b"\x80\x04\x95")
    with pytest.raises(ModelError, match="missing"):
        IP2P.load(file, device="cpu")  # not of SD 1.5's size


def test_folders_that_do_not_fit_are_refused_with_the_reason(tmp_path: Path, folder: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    with pytest.raises(ModelError, match="no such"):
        IP2P.load(tmp_path / "nothing", device="cpu")
    path = broken("ckpt") / "model.ckpt"
    path.write_bytes(b"x")
    with pytest.raises(ModelError, match="safetensors"):
        IP2P.load(path, device="cpu")
    path = broken("no-vae")
    shutil.rmtree(path / "vae")
    with pytest.raises(ModelError, match="vae"):
        IP2P.load(path, device="cpu")
    path = broken("no-weights")
    (path / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match="weights"):
        IP2P.load(path, device="cpu")
    path = broken("pickled")
    (path / "unet/diffusion_pytorch_model.safetensors").rename(path / "unet/diffusion_pytorch_model.bin")
    with pytest.raises(ModelError):
        IP2P.load(path, device="cpu")
    path = broken("truncated")
    for part in ("text_encoder/model", "unet/diffusion_pytorch_model"):
        weights = path / f"{part}.safetensors"
        weights.write_bytes(weights.read_bytes()[:-64])
        with pytest.raises(ModelError, match="do not load"):
            IP2P.load(path, device="cpu")
    path = broken("incomplete")
    for part in ("text_encoder/model", "unet/diffusion_pytorch_model"):
        weights = path / f"{part}.safetensors"
        tensors = load_file(weights)
        tensors.pop(next(iter(tensors)))
        save_file(tensors, weights, {"format": "pt"})
        with pytest.raises(ModelError, match="1 tensors are missing"):
            IP2P.load(path, device="cpu")
    path = broken("plain")
    built = json.loads((path / "unet/config.json").read_text())
    (path / "unet/config.json").write_text(json.dumps(built | {"in_channels": 4}))
    with pytest.raises(ModelError):
        IP2P.load(path, device="cpu")


def test_quantised_parts_and_fp8_with_scales_are_refused(
    tmp_path: Path, folder: Path, single: tuple[Path, Path]
) -> None:
    """ComfyUI's fp8 checkpoints have a scale beside each weight; bitsandbytes' folders need it (A12, A13)."""
    file, config = single
    good = load_file(file)
    name = "model.diffusion_model.input_blocks.0.0.weight"
    scaled = {**good, name: good[name].to(torch.float8_e4m3fn), name[:-6] + "scale_weight": torch.tensor(2.0)}
    save_file(scaled, tmp_path / "fp8.safetensors")
    path = Path(shutil.copytree(folder, tmp_path / "bnb"))
    built = json.loads((path / "unet/config.json").read_text())
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (path / "unet/config.json").write_text(json.dumps(built | {"quantization_config": settings}))

    def refusal(source: Path, **how: Any) -> str:
        try:
            IP2P.load(source, device="cpu", **how)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    error = refusal(tmp_path / "fp8.safetensors", config=config)
    assert error.startswith("ModelError") and "input_blocks.0.0.scale_weight" in error
    error = refusal(path)
    assert error.startswith("ModelError") and "quantised" in error


@pytest.mark.parametrize(
    "wrong", ["[]", "{", '{"steps": "many"}', '{"best_resolution": 0}', '{"guidance": -1}']
)
def test_a_broken_evlm_json_is_one_clear_error(tmp_path: Path, folder: Path, wrong: str) -> None:
    path = Path(shutil.copytree(folder, tmp_path / "copy"))
    (path / "evlm.json").write_text(wrong)
    with pytest.raises(ModelError, match=r"evlm\.json"):
        IP2P.load(path, device="cpu")
