"""The bridge: shut it is InstructPix2Pix to the bit, open a gate away from it; files; full-scale shapes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from evlm.edit import EditSettings, load_editor
from evlm.edit.bridge import (
    FLUX,
    PARTS,
    SD15,
    TINY,
    Bridge,
    BridgeMeta,
    Cues,
    Seen,
    Shape,
    load_bridge,
    save_bridge,
    with_parts,
)
from evlm.edit.bridge_attention import attach
from evlm.edit.bridge_editor import BridgedIP2P
from evlm.edit.ip2p import IP2P
from evlm.edit.parts import SD15 as SD15_CONFIGS
from evlm.edit.parts import load_parts
from evlm.errors import CheckpointError, ModelError
from evlm.models.zoo import editor_family, role_of

SHAPE = Shape(6, 5, 16, 7, 16, 16, 1, 1, 1, 1, 1, 3, 4, 2, 2)
SETTINGS = EditSettings(steps=2, scheduler="ddim", image_guidance=1.5)
ORDER = "make it red"


def some_cues(rows: int = 1, shape: Shape = SHAPE, seed: int = 0) -> Cues:
    rng = torch.Generator().manual_seed(seed)

    def seen(count: int, width: int) -> Seen:
        values = torch.randn(rows, count, width, generator=rng)
        known = torch.arange(count)[None] < torch.randint(1, count + 1, (rows, 1), generator=rng)
        return Seen(values, known)

    return Cues(seen(4, shape.patch), seen(5, shape.patch), seen(2, shape.region), seen(3, shape.word),
                seen(6, shape.state), seen(7, shape.word))  # fmt: skip


def opened(editor: BridgedIP2P, by: float) -> BridgedIP2P:
    with torch.no_grad():
        editor.bridge.raw_gate.fill_(by)
    return editor


@pytest.fixture
def bridged(folder: Path) -> BridgedIP2P:
    torch.manual_seed(1)
    return BridgedIP2P(load_parts(folder, torch.float32), Bridge(SHAPE).eval())


@pytest.fixture
def frames() -> Tensor:
    return torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(5))


def test_shut_or_without_cues_it_is_ip2p_to_the_bit(
    bridged: BridgedIP2P, editor: IP2P, frames: Tensor
) -> None:
    expected = editor.edit(frames, ORDER, settings=SETTINGS).frames
    told = bridged.with_cues(some_cues())
    assert torch.equal(told.edit(frames, ORDER, settings=SETTINGS).frames, expected)
    opened(bridged, 0.5)
    assert torch.equal(bridged.edit(frames, ORDER, settings=SETTINGS).frames, expected)
    assert not torch.equal(told.edit(frames, ORDER, settings=SETTINGS).frames, expected)
    assert torch.equal(opened(told, -0.5).edit(frames, ORDER, settings=SETTINGS).frames, expected)


def test_a_little_of_the_gate_is_a_little_of_a_change(bridged: BridgedIP2P, frames: Tensor) -> None:
    told = bridged.with_cues(some_cues())
    plain = told.edit(frames, ORDER, settings=SETTINGS).frames
    changes = [
        float((opened(told, by).edit(frames, ORDER, settings=SETTINGS).frames - plain).abs().max())
        for by in (1e-4, 1e-2, 1.0)
    ]
    assert 0 < changes[0] < changes[1] < changes[2] and changes[0] < 2e-3


def test_outside_the_mask_nothing_changes(bridged: BridgedIP2P, frames: Tensor) -> None:
    mask = torch.zeros(1, 32, 32)
    mask[:, 8:24, 8:24] = 1
    told = opened(bridged.with_cues(some_cues()), 1.0)
    edited = told.edit(frames, ORDER, mask, SETTINGS).frames
    assert torch.equal(edited[mask == 0], frames[mask == 0]) and not torch.equal(edited, frames)


def test_at_a_gate_of_one_tokens_count_as_clips_do(folder: Path) -> None:
    """Against diffusers' own attention over the longer text."""
    unet = load_parts(folder, torch.float32).unet
    latents, text = torch.randn(2, 8, 8, 8), torch.randn(2, 11, 16)
    expected = unet(latents, 500, encoder_hidden_states=text).sample
    attach(unet)
    gate = torch.ones(2, 4)
    found = unet(latents, 500, encoder_hidden_states=text, cross_attention_kwargs={"gate": gate}).sample
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    shut = unet(latents, 500, encoder_hidden_states=text, cross_attention_kwargs={"gate": 0 * gate}).sample
    short = unet(latents, 500, encoder_hidden_states=text[:, :7]).sample
    torch.testing.assert_close(shut, short, atol=2e-5, rtol=1e-4)


def test_tokens_that_outshine_all_words_break_nothing(folder: Path) -> None:
    unet = load_parts(folder, torch.float32).unet
    attach(unet)
    latents, text = torch.randn(1, 8, 8, 8), torch.randn(1, 11, 16)
    text[:, 7:] *= 1e4
    gate = torch.zeros(1, 4, requires_grad=True)
    out = unet(latents, 500, encoder_hidden_states=text, cross_attention_kwargs={"gate": gate}).sample
    out.square().mean().backward()
    assert gate.grad is not None and bool(out.isfinite().all() and gate.grad.isfinite().all())
    expected = unet(latents, 500, encoder_hidden_states=text[:, :7]).sample
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)


def test_a_gate_of_zero_learns(bridged: BridgedIP2P) -> None:
    """Its gradient is not zero, though the tokens' is; a gate below zero is pulled like one that is open."""
    text, latents = torch.randn(2, 7, 16), torch.randn(2, 8, 8, 8)

    def loss() -> Tensor:
        tokens = bridged.bridge(some_cues(2))
        gate = bridged.bridge.gate.expand(2, -1)
        out = bridged.unet(latents, 500, torch.cat([text, tokens], 1), cross_attention_kwargs={"gate": gate})
        return out.sample.square().mean()

    loss().backward()
    raw = bridged.bridge.raw_gate
    assert raw.grad is not None and bool((raw.grad != 0).all())
    shut = raw.grad.clone()
    opened(bridged, -1e-3).bridge.zero_grad()
    loss().backward()
    torch.testing.assert_close(raw.grad, shut)


def test_each_part_is_felt_and_what_is_not_known_is_not(bridged: BridgedIP2P) -> None:
    bridge, cues = bridged.bridge, some_cues(3)
    tokens = bridge(cues)
    assert tokens.shape == (3, SHAPE.tokens, SHAPE.out)
    for name in ("picture", "patches", "regions", "words", "states", "text"):
        seen = getattr(cues, name)
        noise = torch.where(seen.known[..., None], seen.values, torch.randn_like(seen.values))
        torch.testing.assert_close(bridge(replace(cues, **{name: Seen(noise, seen.known)})), tokens)
        gone = cues.without({name: torch.tensor([True, False, False])})
        assert not torch.equal(bridge(gone)[0], tokens[0])
        torch.testing.assert_close(bridge(gone)[1:], tokens[1:])
        torch.testing.assert_close(bridge(gone)[0], bridge(replace(cues, **{name: None}))[0])
    # a row alone is what it is in a batch
    alone = Cues(**{name: Seen(seen.values[:1], seen.known[:1]) for name, seen in vars(cues).items()})
    torch.testing.assert_close(bridge(alone)[0], tokens[0], atol=1e-5, rtol=1e-4)
    assert bridge.say(cues).shape == (3, SHAPE.out)


def test_a_study_leaves_parts_out() -> None:
    torch.manual_seed(0)
    cues = some_cues(1)
    blind = Bridge(with_parts(SHAPE, ()))
    assert torch.equal(blind(cues), blind(some_cues(1, seed=9)))
    for part, name in (("patch", "patches"), ("region", "regions"), ("id", "words"), ("states", "states")):
        torch.manual_seed(0)
        one = Bridge(with_parts(SHAPE, (part,)))
        changed = replace(cues, **{name: getattr(some_cues(1, seed=9), name)})
        assert not torch.equal(one(cues), one(changed)), part
    assert with_parts(SHAPE, PARTS[::-1]).parts == PARTS


def test_one_file_with_all_that_is_learned(
    bridged: BridgedIP2P, folder: Path, frames: Tensor, tmp_path: Path
) -> None:
    with torch.no_grad():
        for parameter in bridged.low.parameters():
            parameter.normal_(std=0.1)
    told = opened(bridged, 0.7).with_cues(some_cues())
    expected = told.edit(frames, ORDER, settings=SETTINGS).frames
    file = tmp_path / "bridge.safetensors"
    bridged.save(file, str(folder), {"steps": 7})
    _, meta = load_bridge(file)
    assert meta.shape == SHAPE and meta.base == str(folder) and meta.training == {"steps": 7}
    assert role_of(file) == "editor" and (family := editor_family(file)) and family.engine == "BridgedIP2P"
    with pytest.raises(ModelError, match="name it yourself"):  # a file opens no folder
        load_editor(file, device="cpu")
    again = BridgedIP2P.load(file, device="cpu", base=folder)
    assert len(again.modules) == 5 and all(each.requires_grad for each in again.bridge.parameters())
    edited = again.with_cues(some_cues()).edit(frames, ORDER, settings=SETTINGS).frames
    torch.testing.assert_close(edited, expected, atol=0.02, rtol=0)  # written in half of the bits
    plain = IP2P.load(folder, device="cpu").edit(frames, ORDER, settings=SETTINGS).frames
    assert torch.equal(again.edit(frames, ORDER, settings=SETTINGS).frames, plain)


def test_what_does_not_fit_is_refused(bridged: BridgedIP2P, folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "bridge.safetensors"
    opened(bridged, float("nan"))
    with pytest.raises(CheckpointError, match="NaN"):
        bridged.save(file)
    opened(bridged, 0.0).save(file, str(folder))
    with pytest.raises(ModelError, match="does not fit an editor"):
        BridgedIP2P(load_parts(folder, torch.float32), Bridge(TINY))
    data = file.read_bytes()
    for old, new in ((b'\\"heads\\": 2', b'\\"heads\\": 3'), (b'\\"rank\\": 2', b'\\"rank\\": 4'),
                     (b'\\"tokens\\": 4', b'\\"tokens\\": x')):  # fmt: skip
        assert old in data
        file.write_bytes(data.replace(old, new))
        with pytest.raises(CheckpointError):
            BridgedIP2P.load(file, device="cpu", base=folder)
    with pytest.raises(CheckpointError, match="written as"):
        bridged.save(tmp_path / "bridge.bin")
    for wrong in ({"heads": 3}, {"tokens": 5}, {"parts": ("eyes",)}, {"queries": 0}):
        with pytest.raises(ValueError):
            Bridge(replace(SHAPE, **wrong))


def test_a_file_is_held_against_the_shape_that_it_names_before_that_takes_memory(tmp_path: Path) -> None:
    file, tensors = tmp_path / "bridge.safetensors", dict(Bridge(SHAPE).state_dict())
    save_bridge(file, tensors, BridgeMeta(replace(SHAPE, width=16384, patch_blocks=64)))
    with pytest.raises(CheckpointError, match="does not fit the shape that it names"):
        load_bridge(file)
    save_bridge(file, tensors, BridgeMeta(replace(SHAPE, patch_blocks=16384)))
    with pytest.raises(CheckpointError, match="patch_blocks"):
        load_bridge(file)
    del tensors["to_out.bias"]
    save_bridge(file, tensors, BridgeMeta(SHAPE))
    with pytest.raises(CheckpointError, match=r"to_out\.bias is not there"):
        load_bridge(file)


def test_a_tiny_one_weighs_what_it_may(tmp_path: Path) -> None:
    bridged = BridgedIP2P.__new__(BridgedIP2P)
    bridged.bridge, bridged.low = Bridge(TINY), torch.nn.ModuleDict()
    bridged.save(tmp_path / "tiny.safetensors")
    assert (tmp_path / "tiny.safetensors").stat().st_size < 6.5e6


@pytest.mark.parametrize(("shape", "least", "most"), [(SD15, 120e6, 260e6), (FLUX, 300e6, 620e6)])
def test_full_scale_shapes(shape: Shape, least: float, most: float) -> None:
    with torch.device("meta"):
        bridge = Bridge(shape)
        cues = Cues(**{name: Seen(seen.values.to("meta"), seen.known.to("meta"))
                       for name, seen in vars(some_cues(2, shape)).items()})  # fmt: skip
    assert least < sum(each.numel() for each in bridge.parameters()) < most
    assert bridge(cues).shape == (2, shape.tokens, shape.out)
    assert asdict(shape)["parts"] == PARTS


@pytest.mark.slow  # its shapes are held above
def test_a_step_of_sd15_on_the_meta_device() -> None:
    """Instruct-pix2pix's own UNet with tokens after CLIP's 77: forward, backward, and an optimiser's step."""
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(SD15_CONFIGS / "unet")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).requires_grad_(False)
        bridge, low = Bridge(SD15), attach(unet, SD15.rank)
        cues = Cues(**{name: Seen(seen.values.to("meta"), seen.known.to("meta"))
                       for name, seen in vars(some_cues(1, SD15)).items()})  # fmt: skip
        text = torch.cat([torch.randn(1, 77, 768), bridge(cues)], 1)
        gate = {"gate": bridge.gate[None]}
        out = unet(torch.randn(1, 8, 64, 64), torch.tensor(500), text, cross_attention_kwargs=gate).sample
    assert out.shape == (1, 4, 64, 64)
    out.square().mean().backward()
    learned = [*bridge.parameters(), *low.parameters()]
    assert sum(each.grad is None for each in learned) == 2  # `say` is trained by itself
    torch.optim.AdamW(learned, 1e-4, foreach=False).step()
