"""Core's own models as the editor: what core is asked for each kind, and what holds whatever it paints."""

from __future__ import annotations

from typing import Any

import core_nodes as core
import pytest
import torch
from standin import call, part

CLASSES = {
    "qwen-image-edit-plus": "QwenImage",
    "qwen-image-edit": "QwenImage",
    "flux-kontext": "Flux",
    "instruct-pix2pix": "SD15_instructpix2pix",
}
ORDER = "make the cross green"


def native(kind: str = "flux-kontext", **settings: Any) -> Any:
    model = core.Patcher(CLASSES[kind])
    vae = core.Vae(frames=kind.startswith("qwen"))
    settings = {"kind": kind, "steps": 3, "resolution": 128, **settings}
    return call("EVLM_NativeEditor", model=model, clip=core.Clip(), vae=vae, **settings).args[0]


def edit(editor: Any, image: torch.Tensor, **inputs: Any) -> Any:
    return call("EVLM_Edit", editor=editor, image=image, **{"instruction": ORDER, **inputs})


@pytest.fixture(autouse=True)
def sampled() -> list[dict[str, Any]]:
    """What core's sampling is asked from now on."""
    core.SAMPLED.clear()
    return core.SAMPLED


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", texts.append)
    return texts


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(1, 96, 160, 3, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    mask = torch.zeros(1, 96, 160)
    mask[:, 21:50, 33:90] = 1
    return mask


@pytest.mark.parametrize("kind", CLASSES)
def test_inside_the_mask_it_paints_and_outside_nothing_changes(
    kind: str, image: torch.Tensor, mask: torch.Tensor, sampled: list[dict[str, Any]]
) -> None:
    editor = native(kind)
    edited = edit(editor, image, mask=mask, seed=3).args[0]
    off = mask < 0.5
    assert torch.equal(edited[off], image[off]), "bit for bit"
    assert (edited - image)[~off].abs().mean() > 0.05
    assert torch.equal(edit(editor, image, mask=mask, seed=3).args[0], edited)
    assert not torch.equal(edit(editor, image, mask=mask, seed=4).args[0], edited), "the seed decides"
    asked = sampled[0]
    assert asked["seed"] == 3 and len(asked["sigmas"]) == 4
    assert asked["mask"].shape == (1, 1, *asked["latent"].shape[-2:]), "one number for each latent cell"
    assert set(asked["mask"].unique().tolist()) == {0.0, 1.0}


def test_what_is_asked_of_core_for_each_kind(
    image: torch.Tensor, mask: torch.Tensor, sampled: list[dict[str, Any]]
) -> None:
    for kind in CLASSES:
        edit(native(kind, negative="blur"), image, mask=mask)
    plus, first, kontext, ip2p = sampled
    for asked, is_plus in ((plus, True), (first, False)):
        assert asked["positive"]["text"] == ORDER and asked["negative"]["text"] == "blur"
        assert asked["positive"]["plus"] is is_plus and asked["cfg"] == 2.5
        assert asked["positive"]["picture"].shape[-1] == 3, "the text encoder sees the crop"
    assert kontext["positive"] | {"picture": None} == {"text": ORDER, "guidance": 2.5, "picture": None}
    assert torch.equal(kontext["positive"]["picture"], kontext["latent"])
    assert kontext["cfg"] == 1 and kontext["negative"]["zero"], "one prediction a step"
    assert [ip2p[each]["text"] for each in ("positive", "middle", "negative")] == [ORDER, "blur", "blur"]
    assert "picture" in ip2p["positive"] and "picture" in ip2p["middle"] and "picture" not in ip2p["negative"]
    assert (ip2p["cfg_conds"], ip2p["cfg_cond2_negative"]) == (7.5, 1.5)


def test_the_whole_frame_is_painted_from_noise_alone(
    image: torch.Tensor, sampled: list[dict[str, Any]]
) -> None:
    edit(native(), image)
    assert sampled[0]["mask"] is None and not sampled[0]["latent"].any()
    edit(native(denoise=0.5), image, strength=0.5)
    assert sampled[1]["latent"].any() and float(sampled[1]["sigmas"][0]) == 0.25


def test_zero_is_the_nodes_own_value_and_the_pages_are_told_it(
    image: torch.Tensor, mask: torch.Tensor, sampled: list[dict[str, Any]]
) -> None:
    editor = native("instruct-pix2pix", steps=5, guidance=6.0, sampler="euler_ancestral")
    own = {"steps": 5, "guidance": 6.0, "image_guidance": 1.5}
    assert edit(editor, image, mask=mask).ui["evlm_own_values"] == [own]
    edit(editor, image, mask=mask, steps=2, guidance=3.0, image_guidance=1.1)
    (first, second) = sampled
    assert first["sampler"] == "euler_ancestral" and len(first["sigmas"]) == 6
    assert first["cfg_conds"] == 6 and len(second["sigmas"]) == 3
    assert (second["cfg_conds"], second["cfg_cond2_negative"]) == (3.0, 1.1)
    node = call("EVLM_NativeEditor", model=core.Patcher("Flux"), clip=core.Clip(), vae=core.Vae(), steps=4)
    assert node.ui["evlm_own_values"] == [{"steps": 20, "guidance": 2.5, "image_guidance": 1.0}]
    assert node.args[0].defaults.steps == 4 and node.args[0].resolution == 1024


def test_what_counts_for_nothing_is_said(image: torch.Tensor, mask: torch.Tensor, shown: list[str]) -> None:
    editor = native(negative="blur", image_guidance=1.3)
    assert "negative is not used" in shown[-1] and "image_guidance is not used" in shown[-1]
    edit(editor, image, mask=mask, image_guidance=1.7, scheduler="ddim")
    assert (
        "image_guidance is not used: flux-kontext" in shown[-1] and "scheduler ddim is not used" in shown[-1]
    )
    shown.clear()
    edit(editor, image, mask=mask)
    edit(native("instruct-pix2pix"), image, mask=mask, image_guidance=1.7)
    assert not shown


def test_the_models_kind_is_seen_and_a_wrong_one_refused(shown: list[str]) -> None:
    refused = part("evlm.errors").RequestError
    models: dict[str, Any] = {"clip": core.Clip(), "vae": core.Vae()}

    def made(name: str, **inputs: Any) -> Any:
        return call("EVLM_NativeEditor", model=core.Patcher(name), **models, **inputs).args[0]

    assert made("SDXL_instructpix2pix").kind.name == "instruct-pix2pix"
    assert made("SDXL_instructpix2pix").resolution == 1024 and not shown
    assert made("QwenImage").kind.name == "qwen-image-edit-plus" and "set `kind` to" in shown[-1]
    assert made("Flux").kind.name == "flux-kontext" and "does not edit" in shown[-1]
    with pytest.raises(refused, match="kind auto: core's class BaseModel is not known here"):
        made("BaseModel")
    other = core.Patcher("Flux")
    of_core = type(other.model)
    of_core.__module__ = "comfy.model_base"
    other.model = type("FasterFlux", (of_core,), {})()
    faster = call("EVLM_NativeEditor", model=other, **models).args[0]
    assert faster.kind.name == "flux-kontext", "another pack's class of core's"
    assert made("Chroma", kind="flux-kontext").kind.name == "flux-kontext"
    with pytest.raises(
        refused, match="kind flux-kontext: the model is of core's class QwenImage; expected Flux"
    ):
        made("QwenImage", kind="flux-kontext")


def test_an_older_comfyui_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(core.NODE_CLASS_MAPPINGS, "ReferenceLatent")
    with pytest.raises(part("evlm.errors").RequestError, match=r"no node ReferenceLatent.*0\.3\.64 or later"):
        native("flux-kontext")


def test_frames_share_their_noise_and_empty_ones_stay(
    image: torch.Tensor, mask: torch.Tensor, sampled: list[dict[str, Any]]
) -> None:
    frames = torch.cat([image, image.flip(1), image])
    masks = torch.cat([mask, torch.zeros_like(mask), mask])
    seen: list[tuple[int, int, Any]] = []
    editor = native()
    result = editor.edit(frames, ORDER, masks, on_step=lambda *step: seen.append(step))
    assert torch.equal(result.frames[1], frames[1]) and torch.equal(result.frames[0], result.frames[2])
    assert len(result.crops) == 2 and [each["seed"] for each in sampled] == [0, 0]
    assert "1 of 3 frames have an empty mask" in result.notes[0]
    assert [(done, total) for done, total, _ in seen] == [(step, 6) for step in range(1, 7)]
    high, wide = (side // core.FACTOR for side in result.crops.shape[1:3])
    assert {tuple(look.shape) for *_, look in seen} == {(1, high, wide, 3)}
    assert all(look.min() >= 0 and look.max() <= 1 for *_, look in seen)
    nothing = editor.edit(frames, ORDER, torch.zeros_like(mask))
    assert torch.equal(nothing.frames, frames) and "the mask is empty" in nothing.notes[-1]


def test_a_cancel_stops_between_two_steps(
    image: torch.Tensor, mask: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from comfy import model_management as mm

    steps: list[int] = []

    def cancel(done: int, total: int, look: Any) -> None:
        steps.append(done)
        mm.interrupt_current_processing()

    with pytest.raises(mm.InterruptProcessingException):
        native(steps=9).edit(image, ORDER, mask, on_step=cancel)
    assert steps == [1]


def test_numbers_that_are_none_are_an_error(
    image: torch.Tensor, mask: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.Vae, "decode", lambda self, samples: torch.full((1, 128, 128, 3), float("nan")))
    with pytest.raises(part("evlm.errors").ModelError, match="not finite; start ComfyUI with --bf16-vae"):
        edit(native(), image, mask=mask)


def test_it_is_the_editor_of_load_all(sampled: list[dict[str, Any]]) -> None:
    picture, references, prompt, _ = call("EVLM_Example", which="1-reference").args
    pipe = call("EVLM_LoadAll", custom_editor=native("qwen-image-edit")).args[0]
    quick: dict[str, Any] = {"pipe": pipe, "image": picture, "references": references, "prompt": prompt}
    made = call("EVLM_QuickEdit", **quick, seed=7)
    edited, mask, plans, *_ = made.args
    assert torch.equal(edited[mask == 0], picture[mask == 0]) and not torch.equal(edited, picture)
    assert sampled[0]["positive"]["text"] == plans[0].plan.instruction and sampled[0]["seed"] == 7
    assert made.ui["evlm_own_values"] == [{"steps": 3, "guidance": 2.5, "image_guidance": 1.0}]


def test_what_is_no_editor_is_named() -> None:
    refused = part("evlm.errors").RequestError
    ask = "custom_editor: expected a link to Load IP2P, or to EVLM Native Editor for a MODEL .*, got "
    with pytest.raises(refused, match=ask + "Patcher"):
        call("EVLM_LoadAll", custom_editor=core.Patcher("Flux"))
    detector = call("EVLM_LoadDetector").args[0]
    with pytest.raises(refused, match=ask + "Managed"):
        call("EVLM_LoadAll", custom_editor=detector)
    with pytest.raises(refused, match="custom_detector: expected a link to Load EVLM Detector, got Patcher"):
        call("EVLM_LoadAll", custom_detector=core.Patcher("Flux"))
    with pytest.raises(refused, match="clip: expected a link to a CLIP of a loader of ComfyUI, got Vae"):
        call("EVLM_NativeEditor", model=core.Patcher("Flux"), clip=core.Vae(), vae=core.Vae())


def test_all_models_that_are_absent_are_named_at_once() -> None:
    with pytest.raises(part("evlm.errors").ModelError) as error:
        call("EVLM_LoadAll", models="photo-8gb", custom_editor=native())
    lines = str(error.value).splitlines()
    assert [line.split()[0] for line in lines] == ["qwen2-vl-2b", "grounding-dino-tiny", "sam2.1-small"]
