"""Core's own models as an editor: MODEL, CLIP and VAE in, what Load IP2P gives out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import core, host, native_kinds, sockets
from .checks import checked
from .edit import own_values
from .native_kinds import Models, Wanted

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..evlm.edit.protocol import Edited, EditSettings, OnStep
    from .core import CoreClip, CoreModel, CoreVae, Walk
    from .native_kinds import Kind

OWN = "model"  # the kind's own sampler or scheduler


class NativeEditor:
    """An `evlm.edit.Editor` that paints by core's conditioning and sampling, with core's memory management.

    walk: sampler, scheduler and share of denoising; its steps are the settings'.
    defaults: the settings that a 0 in an editing node stands for.
    resolution: side in pixels of the square whose area a crop gets.
    """

    def __init__(
        self,
        models: Models,
        kind: Kind,
        walk: Walk,
        defaults: EditSettings,
        negative: str = "",
        resolution: int = 0,
    ) -> None:
        self.models, self.kind, self.walk, self.defaults = models, kind, walk, defaults
        self.negative, self.resolution = negative, resolution or kind.resolution

    @property
    def steps(self) -> bool:
        """As every editor's."""
        return not self.kind.together

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """None of ours: core loads and unloads them itself."""
        return ()

    @contextmanager
    def use(self) -> Iterator[NativeEditor]:
        """As `host.Managed` has it: core brings each model to its device when its turn comes."""
        yield self

    def edit(
        self,
        frames: Tensor,
        instruction: str,
        mask: Tensor | None = None,
        settings: EditSettings | None = None,
        on_step: OnStep | None = None,
    ) -> Edited:
        """As every editor's: frames [F, H, W, 3] in 0..1, one after the other and with the same noise;
        outside the mask they equal the given ones bit for bit.

        Raises PictureError for frames or a mask of wrong shape or values, ModelError where the model gives
        numbers that are none.
        """
        from ..evlm.edit.masked import begin, latent_mask, put_all_back
        from ..evlm.edit.protocol import Edited, unchanged

        settings = settings or self.defaults
        notes = self._not_used(settings)
        side = self.resolution
        cell = self.kind.multiple
        frames, works = begin(frames, mask, side, side, cell, settings.context, notes, cell)
        if not works:
            return unchanged(frames, notes)
        walk = replace(self.walk, steps=settings.steps, denoise=self.walk.denoise * settings.strength)
        # Text encoder, model, VAE: each once for all crops, for core moves them on and off the card.
        crops = [crop for work in works for crop in work.crop.split(1)]
        latents, guiders = zip(*(self._begin(crop, instruction, settings) for crop in crops), strict=True)
        keeps: list[Tensor | None] = []
        for work in works:
            keep = latent_mask(work, *latents[len(keeps)].shape[-2:])
            keeps += [None] * len(work.which) if keep is None else keep.split(1)
        painted = [
            core.sample(
                guider,
                torch.zeros_like(latent) if keep is None and walk.denoise == 1 else latent,
                keep,
                settings.seed,
                walk,
                _Progress(on_step, frame, len(crops), latent, crop),
            )
            for frame, (guider, latent, crop, keep) in enumerate(
                zip(guiders, latents, crops, keeps, strict=True)
            )
        ]
        pictures = [self._decode(each) for each in painted]
        of_works = [torch.cat([pictures.pop(0) for _ in work.which]) for work in works]
        result, shown, box = put_all_back(frames, works, of_works, settings.feather, settings.seamless)
        return Edited(result, shown, box, tuple(notes))

    def _begin(self, crop: Tensor, instruction: str, settings: EditSettings) -> tuple[Tensor, Any]:
        """The latent of a crop [1, h, w, 3], and core's guider for it."""
        host.check_cancelled()
        latent = core.call("VAEEncode", vae=self.models.vae, pixels=crop)[0]["samples"]
        wanted = Wanted(crop, latent, instruction, self.negative)
        return latent, self.kind.guide(self.models, wanted, settings)

    def _decode(self, latent: Tensor) -> Tensor:
        """[1, h, w, 3] in 0..1, float32 on the CPU. Raises ModelError."""
        from ..evlm.errors import ModelError

        host.check_cancelled()
        picture: Tensor = core.call("VAEDecode", vae=self.models.vae, samples={"samples": latent})[0]
        picture = picture[..., :3].float().cpu()
        if not bool(picture.isfinite().all()):
            raise ModelError(
                "the model gave numbers that are not finite; start ComfyUI with --bf16-vae or --fp32-vae, or "
                "load the model with another weight_dtype"
            )
        return picture.clamp(0, 1)

    def _not_used(self, settings: EditSettings) -> list[str]:
        """Which settings of an editing node count for nothing here."""
        notes = []
        if self.kind.image_guidance is None and settings.image_guidance != self.defaults.image_guidance:
            notes.append(f"image_guidance is not used: {self.kind.name} has no such weight")
        if settings.scheduler != "model":
            notes.append(f"scheduler {settings.scheduler} is not used: choose one on EVLM Native Editor")
        return notes


class _Progress:
    """Tells on_step about one frame as a part of all."""

    def __init__(self, on_step: OnStep | None, frame: int, frames: int, latent: Tensor, crop: Tensor) -> None:
        from ..evlm.edit.preview import LatentPreview

        self._on_step, self._frame, self._frames = on_step, frame, frames
        self._look = LatentPreview(_flat(latent), crop)

    def __call__(self, step: int, steps: int, clean: Tensor) -> None:
        if self._on_step is not None:
            self._on_step(self._frame * steps + step, self._frames * steps, self._look(_flat(clean)))


def _flat(latent: Tensor) -> Tensor:
    """[1, C, h, w] of a latent that may have a place for frames, [1, C, 1, h, w]."""
    return latent[:, :, 0] if latent.ndim == 5 else latent


class Native(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_NativeEditor",
            display_name="EVLM Native Editor",
            category=sockets.CATEGORY,
            description="Qwen-Image-Edit, Flux Kontext or InstructPix2Pix from ComfyUI's own loaders, as the "
            "editor of EVLM Load All and EVLM Edit (IP2P). ComfyUI's own sampling paints, inside the mask "
            "and nowhere else; LoRAs and patches on the model count.",
            inputs=[
                io.Model.Input("model", tooltip="From Load Diffusion Model or Load Checkpoint."),
                io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
                io.Vae.Input("vae", tooltip="The VAE that belongs to the model."),
                io.Combo.Input(
                    "kind",
                    options=list(native_kinds.NAMES),
                    default=native_kinds.AUTO,
                    tooltip="How the model is told what to paint; auto sees it from the model. "
                    "qwen-image-edit is the first Qwen-Image-Edit, plus is 2509 and later.",
                ),
                io.Int.Input("steps", default=0, min=0, max=1000, tooltip="0 is what suits the kind."),
                io.Float.Input(
                    "guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="Weight of the instruction: cfg, or Kontext's own guidance; 0 is what suits the "
                    "kind, 1 what suits a Lightning LoRA.",
                ),
                io.Float.Input(
                    "image_guidance",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    tooltip="Weight of the original, for InstructPix2Pix alone; 0 is 1.5.",
                ),
                io.Combo.Input(
                    "sampler",
                    options=[OWN, *core.samplers()],
                    default=OWN,
                    tooltip="Of ComfyUI; 'model' is what suits the kind.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=[OWN, *core.schedulers()],
                    default=OWN,
                    tooltip="Of ComfyUI; 'model' is what suits the kind.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 the edit starts from the noised original. Times EVLM Edit's strength.",
                ),
                io.String.Input(
                    "negative",
                    default="",
                    multiline=True,
                    tooltip="What is not wanted. Kontext has no negative prompt.",
                ),
                io.Int.Input(
                    "resolution",
                    default=0,
                    min=0,
                    max=4096,
                    step=64,
                    tooltip="Side in pixels of the square whose area a crop is painted at; 0 is what suits "
                    "the model.",
                ),
            ],
            outputs=[
                sockets.Editor.Output(
                    "evlm_editor", display_name="editor", tooltip="The editor, for a node that paints."
                )
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: CoreModel,
        clip: CoreClip,
        vae: CoreVae,
        kind: str,
        steps: int,
        guidance: float,
        image_guidance: float,
        sampler: str,
        scheduler: str,
        denoise: float,
        negative: str,
        resolution: int,
    ) -> io.NodeOutput:
        from ..evlm.edit.protocol import EditSettings

        notes: list[str] = []
        sockets.choice("kind", kind, native_kinds.NAMES)
        sockets.choice("sampler", sampler, [OWN, *core.samplers()])
        sockets.choice("scheduler", scheduler, [OWN, *core.schedulers()])
        sockets.within("steps", steps, 0, 1000)
        sockets.within("denoise", denoise, 0.01, 1)
        sockets.within("resolution", resolution, 0, 4096)
        its_kind = native_kinds.kind_of(kind, model, notes)
        if negative.strip() and not its_kind.has_negative:
            notes.append(f"negative is not used: {its_kind.name} has no negative prompt")
        if image_guidance and its_kind.image_guidance is None:
            notes.append(f"image_guidance is not used: {its_kind.name} has no such weight")
            image_guidance = 0.0
        own = EditSettings(
            steps=its_kind.steps,
            guidance=its_kind.guidance,
            image_guidance=its_kind.image_guidance or 1.0,
        )
        defaults = replace(
            own,
            steps=steps or own.steps,
            guidance=guidance or own.guidance,
            image_guidance=image_guidance or own.image_guidance,
        )
        walk = core.Walk(
            defaults.steps,
            its_kind.sampler if sampler == OWN else sampler,
            its_kind.scheduler if scheduler == OWN else scheduler,
            denoise,
        )
        host.tell(notes)
        side = resolution or native_kinds.RESOLUTIONS.get(core.class_of(model), 0)
        editor = NativeEditor(Models(model, clip, vae), its_kind, walk, defaults, negative, side)
        return io.NodeOutput(editor, ui={"evlm_own_values": [own_values(own)]})
