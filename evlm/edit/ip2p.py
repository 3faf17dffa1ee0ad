"""InstructPix2Pix (Brooks et al. 2023, arXiv 2211.09800): edits by instruction, with two guidance scales.

diffusers' and transformers' models, and a denoising loop of our own, because a masked edit keeps the
latents outside the mask on the original's path at every step, and a video is edited in chunks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ModelError
from ..models.loading import pick_device, pick_dtype
from .chunks import in_chunks
from .guidance import Guidance, Predict, at_once
from .masked import Work, begin, latent_mask, put_all_back
from .parts import Parts, load_parts
from .preview import LatentPreview
from .protocol import Edited, EditSettings, OnStep, unchanged
from .schedulers import build_scheduler


class IP2P:
    """A loaded InstructPix2Pix. Its `vae`, `unet` and `text_encoder` may be moved; edit() works there."""

    steps = True  # it was trained on single edits

    def __init__(self, parts: Parts) -> None:
        self.vae, self.unet, self.text_encoder = parts.vae, parts.unet, parts.text_encoder
        self.tokenizer = parts.tokenizer
        self.scheduler_config = parts.scheduler_config
        self.defaults = parts.defaults
        self.best_resolution = parts.best_resolution
        self.full_frame_resolution = parts.full_frame_resolution
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        # A crop has to survive the VAE's and the UNet's halvings without a rest.
        self.multiple = self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)

    @classmethod
    def load(
        cls,
        source: str | Path,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        scheduler: str | None = None,
        config: str | Path | None = None,
    ) -> IP2P:
        """Loads a model; nothing is ever downloaded.

        Args:
            source: a diffusers folder, or one `.safetensors` file in the original (CompVis) key names.
            dtype: "auto" is fp32 on the CPU and fp16 elsewhere; or fp32, fp16, bf16, a torch dtype.
            device: None = CUDA, else Apple's, else the CPU.
            scheduler: becomes the default in place of the model's own.
            config: for a single file that is not of SD 1.5's size: a diffusers folder of configs and
                tokenizer.

        Raises:
            ModelError: nothing there, incomplete, or not an InstructPix2Pix.
            RequestError: an unknown scheduler.
        """
        where = pick_device(device)
        auto = torch.float32 if where.type == "cpu" else torch.float16
        editor = cls(load_parts(source, pick_dtype(dtype, auto), config))
        if scheduler is not None:
            build_scheduler(scheduler, editor.scheduler_config)
            editor.defaults = replace(editor.defaults, scheduler=scheduler)
        return editor.to(where)

    def to(self, device: str | torch.device) -> IP2P:
        """Moves the three models; returns self."""
        for model in self.modules:
            model.to(device)
        return self

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return self.unet, self.vae, self.text_encoder

    @torch.no_grad()
    def edit(
        self,
        frames: Tensor,
        instruction: str,
        mask: Tensor | None = None,
        settings: EditSettings | None = None,
        on_step: OnStep | None = None,
    ) -> Edited:
        """Edits frames by an instruction.

        Args:
            frames: [F, H, W, 3] in 0..1; one picture or the frames of a video, any size.
            instruction: what to do. CLIP reads its first 75 tokens; the rest is cut off, with a note.
            mask: [F, H, W], or [1, H, W] for all frames, in 0..1, on from 0.5, as `fit_mask` takes it; None =
                the whole frame.
            settings: None = the model's defaults.
            on_step: called after every denoising step; see protocol.OnStep.

        Returns:
            Edited. Outside the mask its frames equal the given ones bit for bit.

        Raises:
            PictureError: frames or mask of a wrong shape or with wrong values.
            RequestError: an unknown scheduler. ModelError: one frame does not fit into memory.
        """
        settings = settings or self.defaults
        build_scheduler(settings.scheduler, self.scheduler_config)  # an unknown name fails before any work
        notes: list[str] = []
        frames, works = begin(
            frames,
            mask,
            self.best_resolution,
            self.full_frame_resolution,
            self.multiple,
            settings.context,
            notes,
            self.factor,
        )
        if not works:
            return unchanged(frames, notes)
        text = self.read(instruction, notes)
        painted = self._paint_places(works, text, settings, on_step, notes)
        result, crops, box = put_all_back(frames, works, painted, settings.feather, settings.seamless)
        return Edited(result, crops, box, tuple(dict.fromkeys(notes)))

    def _paint_places(
        self,
        works: Sequence[Work],
        text: Tensor,
        settings: EditSettings,
        on_step: OnStep | None,
        notes: list[str],
    ) -> list[Tensor]:
        """The painted crops of each place. Those of one size go through the model together."""
        painted: dict[int, Tensor] = {}
        pictures, done = sum(len(work.which) for work in works), 0
        for alike in _of_one_size(works):
            crop, keep = torch.cat([works[at].crop for at in alike]), self._kept([works[at] for at in alike])

            def paint(chunk: slice, crop: Tensor = crop, keep: Any = keep, done: int = done) -> Tensor:
                part = slice(done + chunk.start, done + chunk.stop)
                progress = None if on_step is None else _Progress(on_step, part, pictures)
                seen, cells = self.encode(crop[chunk]), None if keep is None else keep[chunk]
                return self.decode(self.paint(seen, text, cells, settings, crop[chunk], progress))

            parts, halved = in_chunks(len(crop), settings.chunk, paint)
            notes += halved
            done += len(crop)
            painted.update(
                zip(alike, torch.cat(parts).split([len(works[at].which) for at in alike]), strict=True)
            )
        return [painted[at] for at in range(len(works))]

    def _kept(self, works: Sequence[Work]) -> Tensor | None:
        """The latent masks of places with crops of one size, [A, 1, h, w]; None for the whole frame."""
        known = [mask for mask in map(self.painted_cells, works) if mask is not None]
        return torch.cat(known) if known else None

    def painted_cells(self, work: Work) -> Tensor | None:
        """[A, 1, h, w] of 0 and 1, the latent cells that are painted; None: all of them."""
        return latent_mask(work, work.box.height // self.factor, work.box.width // self.factor)

    @torch.no_grad()
    def paint(
        self,
        picture: Tensor,
        text: Tensor,
        mask: Tensor | None,
        settings: EditSettings,
        crop: Tensor | None = None,
        progress: Callable[[int, int, Tensor], None] | None = None,
        start: Tensor | None = None,
        predict: Predict = at_once,
        held: Tensor | None = None,
        path: list[Tensor] | None = None,
    ) -> Tensor:
        """The denoising loop, in latents.

        Args:
            picture: [A, C, h, w], what the model looks at, as `encode` gives it.
            text: [2, T, D], as `read` gives it.
            mask: [A, 1, h, w], 1 = paint; elsewhere the latents go the way of `start`. None: paint all.
            settings: its strength and seed count here, too; its chunk does not.
            crop, progress: with both, progress(step, steps, preview [A, h, w, 3]) is called after each step;
                crop: [A, H, W, 3] in 0..1, the picture in colours.
            start: [A, C, h, w], what is kept where nothing is painted, and what a strength below 1 begins
                from; None: the picture.
            predict: how the frames go through the model.
            held: [S + 1, K, C, h, w], the latents that the first K pictures have before each of the S steps
                and after the last, as `path` of an earlier painting had them: these are not painted again.
            path: such latents of all pictures are added, [A, C, h, w] each.

        Returns:
            The latents [A, C, h, w], as `decode` takes them.
        """
        device, dtype = self.unet.device, self.unet.dtype
        count = len(picture)
        original = (picture if start is None else start) * self.vae.config.scaling_factor
        scheduler = build_scheduler(settings.scheduler, self.scheduler_config)
        scheduler.set_timesteps(settings.steps, device=device)
        kept_steps = max(round(len(scheduler.timesteps) * settings.strength), 1)
        skipped = len(scheduler.timesteps) - kept_steps
        times = scheduler.timesteps[skipped:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(skipped)

        seeded = generators(settings.seed, count)
        noise = torch.stack([torch.randn(original.shape[1:], generator=g, dtype=dtype) for g in seeded])
        noise = noise.to(device)
        if skipped:
            latents = scheduler.add_noise(original, noise, times[:1].repeat(count))
        else:
            latents = noise * scheduler.init_noise_sigma
        mask = None if mask is None else mask.to(device, dtype)

        # A painting that begins later holds the later part of a path.
        held = None if held is None else held[-len(times) - 1 :]

        def now(latents: Tensor, step: int) -> Tensor:
            """The latents before a step, with those that are held."""
            if held is not None:
                latents = torch.cat([held[step].to(latents), latents[len(held[step]) :]])
            if path is not None:
                path.append(latents)
            return latents

        extra = {"generator": seeded} if "generator" in inspect.signature(scheduler.step).parameters else {}
        guide = self.guide(text, picture, settings)
        look = None if progress is None or crop is None else LatentPreview(original, crop)

        latents = now(latents, 0)
        for step, time in enumerate(times):
            noisy = scheduler.scale_model_input(latents, time)
            prediction = predict(guide, self.unet, noisy, time)
            stepped = scheduler.step(prediction, time, latents, **extra)
            latents = stepped.prev_sample
            if mask is not None:  # outside the mask: the original, as noisy as the latents are now
                last = step + 1 == len(times)
                kept = (
                    original if last else scheduler.add_noise(original, noise, times[step + 1].repeat(count))
                )
                latents = torch.where(mask > 0, latents, kept)
            latents = now(latents, step + 1)
            if progress is not None and look is not None:
                clean = getattr(stepped, "pred_original_sample", None)
                seen = latents if clean is None else clean
                progress(step + 1, len(times), look(seen))
        return latents / self.vae.config.scaling_factor

    def guide(self, text: Tensor, picture: Tensor, settings: EditSettings) -> Guidance:
        """How text [2, T, D] and picture, as `paint` takes them, are weighed."""
        return Guidance(text, picture, settings.guidance, settings.image_guidance)

    @torch.no_grad()
    def encode(self, crop: Tensor) -> Tensor:
        """[A, h, w, 3] in 0..1 -> [A, C, h/f, w/f], unscaled: InstructPix2Pix looks at its picture so."""
        pixels = crop.movedim(-1, 1).to(self.vae.device, self.vae.dtype) * 2 - 1
        latents = self.vae.encode(pixels).latent_dist.mode()
        self._check_finite(latents)
        return latents

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """[A, C, h/f, w/f] -> [A, h, w, 3] in 0..1, float32 on the CPU."""
        pixels = self.vae.decode(latents).sample.float().cpu()
        self._check_finite(pixels)
        return (pixels / 2 + 0.5).clamp(0, 1).movedim(1, -1)

    def _check_finite(self, values: Tensor) -> None:
        if not bool(values.isfinite().all()):
            raise ModelError(
                f"the model gave numbers that are not finite in {self.vae.dtype}; load it as bf16 or fp32"
            )

    @torch.no_grad()
    def read(self, instruction: str, notes: list[str]) -> Tensor:
        """[2, T, D]: the instruction and the empty text. notes: that the instruction was cut is added."""
        length = self._text_length
        if len(self.tokenizer(instruction).input_ids) > length:
            notes.append(f"the instruction is longer than CLIP's {length} tokens: its end was cut off")
        tokens = self.tokenizer(
            [instruction, ""], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).input_ids
        text: Tensor = self.text_encoder(tokens.to(self.text_encoder.device))[0]
        return text

    @property
    def _text_length(self) -> int:
        return int(min(self.tokenizer.model_max_length, self.text_encoder.config.max_position_embeddings))


def generators(seed: int, count: int) -> list[torch.Generator]:
    """One a frame, all with the same seed and on the CPU: neither the chunk nor the device matters."""
    return [torch.Generator("cpu").manual_seed(seed) for _ in range(count)]


def _of_one_size(works: Sequence[Work]) -> list[list[int]]:
    """The numbers of the works, those with crops of one size together."""
    sizes: dict[tuple[int, int], list[int]] = {}
    for at, work in enumerate(works):
        sizes.setdefault((work.box.height, work.box.width), []).append(at)
    return list(sizes.values())


class _Progress:
    """Tells on_step about one chunk as a part of all frames."""

    def __init__(self, on_step: OnStep, chunk: slice, frames: int) -> None:
        self.on_step, self.chunk, self.frames = on_step, chunk, frames

    def __call__(self, step: int, steps: int, preview: Tensor) -> None:
        done = self.chunk.start * steps + (self.chunk.stop - self.chunk.start) * step
        self.on_step(done, self.frames * steps, preview)
