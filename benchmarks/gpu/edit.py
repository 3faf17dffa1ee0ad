"""InstructPix2Pix at Stable Diffusion 1.5's size, beside diffusers' own pipeline around the same modules."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.edit.clip_tokenizer import load_tokenizer
from evlm.edit.ip2p import IP2P
from evlm.edit.parts import SD15, Parts
from evlm.edit.protocol import EditSettings

from ..diffusers_ip2p import pipeline_of
from .steps import Bar, Setting, Step
from .turns import Timed, figures, in_turns

INSTRUCTION = "make the small thing in the corner blue"


def steps(setting: Setting) -> list[Step]:
    needs, level = ("diffusers",), (Bar("ours x", 0.95),)
    return [
        Step(
            "edit: IP2P, a thing of 128 px in 1024 px, 20 steps",
            2.0,
            lambda: masked(setting),
            (Bar("share of the time", 0.5, True), Bar("outside", 0.0, True)),
            needs,
        ),
        Step("edit: IP2P, the whole of 512 px, 20 steps", 1.0, lambda: whole(setting), level, needs),
        Step("edit: IP2P, 8 frames of 512 px, 20 steps", 2.0, lambda: frames(setting), level, needs),
    ]


def masked(setting: Setting) -> dict[str, float]:
    """A small object in a large picture: ours inside its mask, theirs over the full frame."""
    editor, run = editor_of(setting), settings_of(setting)
    side = 64 if setting.toy else 1024
    picture, mask = noise(1, side), torch.zeros(1, side, side)
    corner = side // 8
    mask[:, corner : 2 * corner, corner : 2 * corner] = 1
    kept = editor.edit(picture, INSTRUCTION, mask, run).frames
    outside = float((kept - picture)[mask == 0].abs().max())
    timed = both(editor, run, picture, mask, setting)
    share = timed["ours"].seconds / timed["diffusers"].seconds
    return {**figures(timed, "diffusers"), "share of the time": share, "outside": outside}


def whole(setting: Setting) -> dict[str, float]:
    editor, run = editor_of(setting), settings_of(setting)
    picture = noise(1, editor.full_frame_resolution)
    return figures(both(editor, run, picture, None, setting), "diffusers")


def frames(setting: Setting) -> dict[str, float]:
    """Frames together: ours in one chunk, theirs as a batch of pictures."""
    editor, run = editor_of(setting), settings_of(setting)
    pictures = noise(2 if setting.toy else 8, editor.full_frame_resolution)
    return figures(both(editor, run, pictures, None, setting), "diffusers")


def both(
    editor: IP2P, run: EditSettings, pictures: Tensor, mask: Tensor | None, setting: Setting
) -> dict[str, Timed]:
    """Our edit and diffusers' pipeline in turns."""
    pipe = pipeline_of(editor, run)

    def theirs() -> Any:
        return pipe(
            [INSTRUCTION] * len(pictures),
            image=pictures.movedim(-1, 1),
            num_inference_steps=run.steps,
            guidance_scale=run.guidance,
            image_guidance_scale=run.image_guidance,
            output_type="pt",
            generator=[torch.Generator(setting.device).manual_seed(run.seed) for _ in pictures],
        ).images.cpu()

    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: editor.edit(pictures, INSTRUCTION, mask, run),
        "diffusers": theirs,
    }
    return in_turns(ways, setting.device, setting.rounds, setting.warm)


def editor_of(setting: Setting) -> IP2P:
    """Stable Diffusion 1.5's InstructPix2Pix of random weights, in fp16 on a card; as a toy the bundled
    editor."""
    if setting.toy:
        return IP2P.load(Path(__file__).parents[2] / "evlm" / "bundled" / "editor", device=setting.device)
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device(setting.device):
        unet = UNet2DConditionModel.from_config(config("unet"))
        vae = AutoencoderKL.from_config(config("vae"))
        text = CLIPTextModel(CLIPTextConfig(**config("text_encoder")))
    for model in (unet, vae, text):
        model.to(torch.float16).eval().requires_grad_(False)
    tokenizer = load_tokenizer(SD15 / "tokenizer")
    schedule = json.loads((SD15 / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    return IP2P(Parts(vae, unet, text, tokenizer, schedule, EditSettings(), 512, 512))


def config(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SD15 / part / "config.json").read_text("utf-8"))
    return found


def settings_of(setting: Setting) -> EditSettings:
    return replace(EditSettings(), steps=2 if setting.toy else 20)


def noise(count: int, side: int) -> Tensor:
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(1))
