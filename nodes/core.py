"""Core's models, called as a graph would call them: its nodes by their names, and its sampling. Beside
host.py the only file that imports `comfy.*`, when it is first needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

from torch import Tensor

from . import host

# (step, steps, the picture [1, C, (1,) h, w] as it would be now, as the VAE has it)
OnLatent = Callable[[int, int, Tensor], None]


class CoreModel(Protocol):
    """What core's MODEL socket carries."""

    model: Any
    model_options: dict[str, Any]
    load_device: Any


class CoreClip(Protocol):
    """What core's CLIP socket carries."""

    def tokenize(self, text: str, **more: Any) -> Any: ...


class CoreVae(Protocol):
    """What core's VAE socket carries."""

    def encode(self, pixels: Tensor) -> Tensor: ...

    def decode(self, samples: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Walk:
    """How core samples. steps: as many are done, whatever `denoise` is. denoise: 0..1; below 1 it starts from
    the noised latent."""

    steps: int
    sampler: str
    scheduler: str
    denoise: float = 1.0


def samplers() -> list[str]:
    from comfy.samplers import KSampler

    return list(KSampler.SAMPLERS)


def schedulers() -> list[str]:
    from comfy.samplers import KSampler

    return list(KSampler.SCHEDULERS)


def class_of(model: CoreModel) -> str:
    """The name of core's class for the model, "Flux" say, below what another pack has made of it."""
    classes = type(model.model).__mro__
    return next((each for each in classes if each.__module__ == "comfy.model_base"), classes[0]).__name__


def has(name: str) -> bool:
    return name in _nodes()


def call(name: str, **inputs: Any) -> tuple[Any, ...]:
    """The outputs of a node of core's, of its older or its newer form. Raises KeyError for an unknown one."""
    node = _nodes()[name]
    made = node.execute(**inputs) if hasattr(node, "define_schema") else _old(node)(**inputs)
    return tuple(getattr(made, "result", made))


def sample(
    guider: Any, latent: Tensor, mask: Tensor | None, seed: int, walk: Walk, on_step: OnLatent
) -> Tensor:
    """What core's SamplerCustomAdvanced does, with KSampler's noise levels.

    guider: of core. latent: [1, C, (1,) h, w] as the VAE gave it. mask: [1, 1, h, w], 1 = paint; None =
    everywhere. Returns the latent of the painted picture. Raises what `on_step` raises, and ComfyUI's
    exception for a cancel.
    """
    import comfy.sample
    import comfy.samplers
    from comfy.model_management import intermediate_device

    model = guider.model_patcher
    latent = comfy.sample.fix_empty_latent_channels(model, latent)
    levels = comfy.samplers.KSampler(
        model,
        steps=walk.steps,
        device=model.load_device,
        sampler=walk.sampler,
        scheduler=walk.scheduler,
        denoise=walk.denoise,
        model_options=model.model_options,
    ).sigmas

    def stepped(step: int, clean: Tensor, noisy: Tensor, steps: int) -> None:
        host.check_cancelled()
        on_step(step + 1, steps, model.model.process_latent_out(clean))

    painted: Tensor = guider.sample(
        comfy.sample.prepare_noise(latent, seed),
        latent,
        comfy.samplers.sampler_object(walk.sampler),
        levels,
        denoise_mask=mask,
        callback=stepped,
        disable_pbar=True,  # the node's own bar tells
        seed=seed,
    )
    return painted.to(intermediate_device())


def _nodes() -> Any:
    """Name -> class of every node of this ComfyUI. The fork that installs by pip has no module `nodes`."""
    try:
        from comfy.nodes_context import get_nodes
    except ImportError:
        return import_module("nodes").NODE_CLASS_MAPPINGS
    return get_nodes().NODE_CLASS_MAPPINGS


def _old(node: Any) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(node(), node.FUNCTION)
    return method
