"""diffusers' own InstructPix2Pix pipeline around the modules of one of our editors: the peer of several
benchmarks."""

from __future__ import annotations

from typing import Any

from evlm.edit.ip2p import IP2P
from evlm.edit.protocol import EditSettings
from evlm.edit.schedulers import build_scheduler


def pipeline_of(editor: IP2P, settings: EditSettings) -> Any:
    """StableDiffusionInstructPix2PixPipeline, without a progress bar."""
    from diffusers import StableDiffusionInstructPix2PixPipeline

    pipe = StableDiffusionInstructPix2PixPipeline(
        vae=editor.vae,
        text_encoder=editor.text_encoder,
        tokenizer=editor.tokenizer,
        unet=editor.unet,
        scheduler=build_scheduler(settings.scheduler, editor.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe
