"""How core edits: for each kind of model the nodes that tell it what to paint, as core's own workflows wire
them, and the settings that they have there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from . import core

if TYPE_CHECKING:
    from ..evlm.edit.protocol import EditSettings


@dataclass(frozen=True)
class Models:
    """What core's loaders give."""

    model: core.CoreModel
    clip: core.CoreClip
    vae: core.CoreVae


@dataclass(frozen=True)
class Wanted:
    """What is to be painted over one crop [1, h, w, 3] in 0..1, which the VAE gives as `latent`."""

    crop: Tensor
    latent: Tensor
    instruction: str
    negative: str


Guide = Callable[[Models, Wanted, "EditSettings"], Any]


@dataclass(frozen=True)
class Kind:
    """Models that core edits with in one way.

    classes: core's classes for them. guide: gives core's guider. nodes: those of core that it asks for.
    image_guidance: None where there is no such weight. has_negative: whether a negative prompt counts.
    resolution: side in pixels of the square that the models paint best.
    multiple: in pixels; the sides of a crop are multiples of it.
    together: whether several edits are best asked for by one sentence.
    """

    name: str
    classes: tuple[str, ...]
    guide: Guide
    nodes: tuple[str, ...]
    steps: int
    guidance: float
    image_guidance: float | None
    has_negative: bool
    sampler: str
    scheduler: str
    resolution: int
    multiple: int
    together: bool = True


def _text(models: Models, text: str) -> Any:
    return core.call("CLIPTextEncode", clip=models.clip, text=text)[0]


def _cfg(models: Models, positive: Any, negative: Any, cfg: float) -> Any:
    given = {"model": models.model, "positive": positive, "negative": negative, "cfg": cfg}
    return core.call("CFGGuider", **given)[0]


def _qwen(node: str, picture: str) -> Guide:
    """Its text encoder sees the picture beside the words, those of the negative prompt too."""

    def guide(models: Models, wanted: Wanted, settings: EditSettings) -> Any:
        seen = {"clip": models.clip, "vae": models.vae, picture: wanted.crop}
        positive = core.call(node, prompt=wanted.instruction, **seen)[0]
        negative = core.call(node, prompt=wanted.negative, **seen)[0]
        return _cfg(models, positive, negative, settings.guidance)

    return guide


def _kontext(models: Models, wanted: Wanted, settings: EditSettings) -> Any:
    """Guidance is a number that the model reads, and one prediction a step is enough (cfg 1)."""
    text = _text(models, wanted.instruction)
    seen = core.call("ReferenceLatent", conditioning=text, latent={"samples": wanted.latent})[0]
    guided = core.call("FluxGuidance", conditioning=seen, guidance=settings.guidance)[0]
    return _cfg(models, guided, core.call("ConditioningZeroOut", conditioning=text)[0], 1.0)


def _ip2p(models: Models, wanted: Wanted, settings: EditSettings) -> Any:
    """Three predictions: words and picture, picture alone, neither (InstructPix2Pix, equation 3)."""
    words, nothing = _text(models, wanted.instruction), _text(models, wanted.negative)
    both, picture, _ = core.call(
        "InstructPixToPixConditioning", positive=words, negative=nothing, vae=models.vae, pixels=wanted.crop
    )
    return core.call(
        "DualCFGGuider",
        model=models.model,
        cond1=both,
        cond2=picture,
        negative=nothing,
        cfg_conds=settings.guidance,
        cfg_cond2_negative=settings.image_guidance,
        style="regular",
    )[0]


_QWEN = Kind(
    "qwen-image-edit",
    ("QwenImage",),
    _qwen("TextEncodeQwenImageEdit", "image"),
    ("TextEncodeQwenImageEdit", "CFGGuider"),
    steps=20,
    guidance=2.5,
    image_guidance=None,
    has_negative=True,
    sampler="euler",
    scheduler="simple",
    resolution=1024,
    multiple=16,
)
# Where several kinds have one class, "auto" takes the first.
KINDS = (
    replace(
        _QWEN,
        name="qwen-image-edit-plus",
        guide=_qwen("TextEncodeQwenImageEditPlus", "image1"),
        nodes=("TextEncodeQwenImageEditPlus", "CFGGuider"),
    ),
    _QWEN,
    Kind(
        "flux-kontext",
        ("Flux",),
        _kontext,
        ("ReferenceLatent", "FluxGuidance", "CFGGuider"),
        steps=20,
        guidance=2.5,
        image_guidance=None,
        has_negative=False,
        sampler="euler",
        scheduler="simple",
        resolution=1024,
        multiple=16,
    ),
    Kind(
        "instruct-pix2pix",
        ("SD15_instructpix2pix", "SDXL_instructpix2pix"),
        _ip2p,
        ("InstructPixToPixConditioning", "DualCFGGuider"),
        steps=20,
        guidance=7.5,
        image_guidance=1.5,
        has_negative=True,
        sampler="euler",
        scheduler="normal",
        resolution=512,
        multiple=64,
        together=False,
    ),
)
RESOLUTIONS = {"SDXL_instructpix2pix": 1024}  # where a class paints best at another size than its kind
_LOOK_ALIKES = {
    "qwen-image-edit-plus": "that is Qwen-Image-Edit 2509 and later; for the first one set `kind` to "
    "qwen-image-edit. Plain Qwen-Image looks the same to a loader, and does not edit",
    "flux-kontext": "plain Flux looks the same to a loader, and does not edit",
}
AUTO = "auto"
NAMES = (AUTO, *(each.name for each in KINDS))


def kind_of(name: str, model: core.CoreModel, notes: list[str]) -> Kind:
    """The kind of this name, or by "auto" that of the model.

    notes: what could not be told from the model is appended.
    Raises RequestError for a model that is of another kind or of none, and where core's nodes are lacking.
    """
    from ..evlm.errors import RequestError

    made = core.class_of(model)
    fitting = [each for each in KINDS if made in each.classes]
    if name == AUTO and not fitting:
        raise RequestError(
            f"kind {AUTO}: core's class {made} is not known here as one that edits pictures; expected "
            "Qwen-Image-Edit, Flux Kontext or InstructPix2Pix. If the model is one of them after all, choose "
            f"its `kind`: {', '.join(NAMES[1:])}"
        )
    kind = fitting[0] if name == AUTO else next(each for each in KINDS if each.name == name)
    if fitting and kind not in fitting:
        raise RequestError(
            f"kind {name}: the model is of core's class {made}; expected {' or '.join(kind.classes)}. Set "
            f"`kind` to {AUTO} or {fitting[0].name}, or connect another model"
        )
    if not fitting:
        notes.append(f"a model of core's class {made} is used as {kind.name}, as `kind` says")
    elif name == AUTO and kind.name in _LOOK_ALIKES:
        notes.append(f"used as {kind.name}: {_LOOK_ALIKES[kind.name]}")
    lacking = [node for node in kind.nodes if not core.has(node)]
    if lacking:
        raise RequestError(
            f"kind {kind.name}: this ComfyUI has no node {' and no '.join(lacking)}. It comes with "
            "ComfyUI 0.3.64 or later: update, or see in the console why it was not loaded"
        )
    return kind
