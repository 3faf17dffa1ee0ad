"""Core's nodes that EVLM Native Editor asks for, half of them in the older form, over models that learned
nothing: what is painted has a colour of the words, and a little of the noise. `standin` puts this module
where core has its `nodes`.

A conditioning is a dict here; SAMPLED holds what was asked of each sampling, for tests.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn import functional as F

SAMPLED: list[dict[str, Any]] = []
FACTOR = 8  # pixels of a latent's side


class Clip:
    def tokenize(self, text: str, **more: Any) -> str:
        return text


class Vae:
    """The picture itself, smaller, is the latent. frames: with a place for them, as Qwen's VAE has it."""

    def __init__(self, frames: bool = False) -> None:
        self.frames = frames

    def encode(self, pixels: Tensor) -> Tensor:
        latent = F.avg_pool2d(pixels.movedim(-1, 1), FACTOR) * 2 - 1
        return latent.unsqueeze(2) if self.frames else latent

    def decode(self, samples: Tensor) -> Tensor:
        flat = samples[:, :, 0] if samples.ndim == 5 else samples
        return F.interpolate(flat / 2 + 0.5, scale_factor=FACTOR).movedim(1, -1)


class Patcher:
    """A MODEL of core's class `kind`."""

    def __init__(self, kind: str) -> None:
        self.model = type(kind, (), {"process_latent_out": staticmethod(lambda latent: latent)})()
        self.model_options: dict[str, Any] = {}
        self.load_device = torch.device("cpu")


class Guider:
    def __init__(self, model: Patcher, **asked: Any) -> None:
        self.model_patcher, self.asked = model, asked

    def sample(
        self, noise: Tensor, latent: Tensor, sampler: str, sigmas: Tensor, denoise_mask: Any, **how: Any
    ) -> Tensor:
        SAMPLED.append({**self.asked, "latent": latent, "mask": denoise_mask, "sampler": sampler,
                        "sigmas": sigmas, "seed": how["seed"]})  # fmt: skip
        digest = hashlib.blake2b(self.asked["positive"]["text"].encode(), digest_size=3).digest()
        colour = torch.tensor(list(digest)).float().reshape(1, 3, *[1] * (latent.ndim - 2)) / 127.5 - 1
        painted = 0.8 * colour + 0.1 * noise
        for step in range(len(sigmas) - 1):
            how["callback"](step, painted, noise, len(sigmas) - 1)
        if denoise_mask is None:
            return painted
        assert denoise_mask.shape[-2:] == latent.shape[-2:], "core would blur it"
        keep = denoise_mask.reshape(1, 1, *[1] * (latent.ndim - 4), *latent.shape[-2:])
        return torch.where(keep > 0, painted, latent)


class CLIPTextEncode:
    FUNCTION = "encode"

    def encode(self, clip: Clip, text: str) -> tuple[dict[str, Any]]:
        return ({"text": clip.tokenize(text)},)


class ConditioningZeroOut:
    FUNCTION = "zero_out"

    def zero_out(self, conditioning: dict[str, Any]) -> tuple[dict[str, Any]]:
        return ({"text": "", "zero": True},)


class VAEEncode:
    FUNCTION = "encode"

    def encode(self, vae: Vae, pixels: Tensor) -> tuple[dict[str, Any]]:
        return ({"samples": vae.encode(pixels)},)


class VAEDecode:
    FUNCTION = "decode"

    def decode(self, vae: Vae, samples: dict[str, Any]) -> tuple[Tensor]:
        return (vae.decode(samples["samples"]),)


def _newer(execute: Any) -> Any:
    """A node in the newer form."""
    return SimpleNamespace(define_schema=None, execute=lambda **given: io.NodeOutput(*execute(**given)))


def _cfg(model: Patcher, positive: Any, negative: Any, cfg: float) -> tuple[Guider]:
    return (Guider(model, positive=positive, negative=negative, cfg=cfg),)


def _dual(model: Patcher, cond1: Any, cond2: Any, negative: Any, **how: Any) -> tuple[Guider]:
    return (Guider(model, positive=cond1, middle=cond2, negative=negative, **how),)


def _ip2p(positive: Any, negative: Any, vae: Vae, pixels: Tensor) -> tuple[Any, Any, Any]:
    picture = vae.encode(pixels)
    both = [{**each, "picture": picture} for each in (positive, negative)]
    return both[0], both[1], {"samples": torch.zeros_like(picture)}


NODE_CLASS_MAPPINGS: dict[str, Any] = {
    each.__name__: each for each in (CLIPTextEncode, ConditioningZeroOut, VAEEncode, VAEDecode)
} | {
    "CFGGuider": _newer(_cfg),
    "DualCFGGuider": _newer(_dual),
    "InstructPixToPixConditioning": _newer(_ip2p),
    "FluxGuidance": _newer(lambda conditioning, guidance: ({**conditioning, "guidance": guidance},)),
    "ReferenceLatent": _newer(lambda conditioning, latent: ({**conditioning, "picture": latent["samples"]},)),
    "TextEncodeQwenImageEdit": _newer(
        lambda clip, prompt, vae, image: ({"text": prompt, "picture": image, "plus": False},)
    ),
    "TextEncodeQwenImageEditPlus": _newer(
        lambda clip, prompt, vae, image1: ({"text": prompt, "picture": image1, "plus": True},)
    ),
}
