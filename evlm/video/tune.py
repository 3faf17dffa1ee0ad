"""An editor tuned to one clip before it edits it, as Tune-A-Video does (Wu et al., arXiv 2212.11565).

The queries of every attention (`attn1.to_q`, `attn2.to_q`) learn to denoise frames of the clip that follow
each other, which look at each other as they will when they are painted. Tune-A-Video adds an attention over
time; here frames look at others in `attn1` (together.py), and nothing is added to the model. Its pictures
have captions; InstructPix2Pix reads instructions, so the text is empty, and in half of the steps the picture
is hidden, too: there the clip is learned, and not only to copy what is seen.

All that is drawn depends on the seed and the step's number alone: a tuning that was stopped goes on from what
is saved, and ends in the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..edit.schedulers import build_scheduler
from ..errors import EVLMError, ModelError
from ..files.pictures import write_atomically
from .clip import opens
from .settings import VideoSettings
from .together import Call, in_one, references, shared

TUNED = ("attn1.to_q.weight", "attn2.to_q.weight")
RATE = 3e-5  # AdamW's, as in the paper's configurations; weight decay .01
HIDDEN = 0.5  # of the steps, in which the picture is hidden
EVERY = 25  # steps between two saves

OnTuned = Callable[[int, int], None]
"""(steps done, steps in all); what it raises stops the tuning."""


def check_tunable(editor: Any) -> None:
    """Raises EVLMError for an editor that is not open in latents or in float16, whose gradients vanish."""
    if not opens(editor):
        raise EVLMError("this editor paints each frame by itself and cannot be tuned: leave --tune out")
    if editor.unet.dtype == torch.float16:
        raise ModelError("an editor in fp16 cannot be tuned: load it in bf16 or fp32")


def tune(
    editor: Any,
    clips: Sequence[Tensor],
    steps: int,
    video: VideoSettings,
    seed: int = 0,
    path: Path | None = None,
    on_step: OnTuned | None = None,
    rate: float | None = None,
) -> dict[str, Tensor]:
    """The tuned weights, float32 by name, of an editor that is open in latents; the editor stays as it is.

    clips: crops [F, h, w, 3] in 0..1 of frames in their order, one for each place; each step takes the next.
    video: how many frames a step sees (`window`), and at whom they look (`together`). path: a safetensors
    file for what is learned, every `EVERY` steps; where an earlier run left one, it is gone on from. Raises
    ModelError for an editor in float16, whose gradients vanish, for a file of another tuning, and where the
    frames of a step do not fit into memory.
    """
    check_tunable(editor)
    latents = [torch.cat([editor.encode(crop) for crop in clip.split(1)]) for clip in clips]
    rate = RATE if rate is None else rate
    learner = _Learner(editor.unet, rate)
    digest = _digest(clips, (video.together, video.window, seed, rate), learner.weights)
    done = learner.load(path, digest) if path is not None and path.is_file() else 0
    text = editor.read("", [])[1:]
    with learner.learning(), shared(editor.unet) as sharing:
        for at in range(done, steps):
            clip, draw = latents[at % len(latents)], torch.Generator().manual_seed(_number(seed, at))
            begin = int(torch.randint(max(len(clip) - video.window, 0) + 1, (1,), generator=draw))
            frames = clip[begin : begin + video.window]
            order = tuple(range(len(frames)))
            if video.together != "per-frame":
                sharing.call = Call(order, references(video.together, len(frames)), frozenset())

            def through(_: tuple[int, ...], frames: Tensor = frames, draw: Any = draw) -> int:
                learner.step(loss(editor, frames, text, draw))
                return len(frames)

            in_one(through, order)
            if path is not None and ((at + 1) % EVERY == 0 or at + 1 == steps):
                learner.save(path, digest, at + 1)
            if on_step is not None:
                on_step(at + 1, steps)
    return learner.weights


def loss(editor: Any, frames: Tensor, text: Tensor, draw: torch.Generator) -> Tensor:
    """Mean squared error of what the model takes for noise, a scalar.

    frames: latents [n, C, h, w] as `encode` gives them. text: [1, T, D], what it reads. draw: gives the time,
    the noise, which is one for all frames as in painting, and whether the picture is hidden.
    """
    unet = editor.unet
    noiser = build_scheduler("ddpm", editor.scheduler_config)
    time = torch.randint(noiser.config.num_train_timesteps, (1,), generator=draw).to(unet.device)
    noise = torch.randn(frames.shape[1:], generator=draw).to(frames).expand_as(frames)
    picture = torch.zeros_like(frames) if float(torch.rand(1, generator=draw)) < HIDDEN else frames
    clean, times = frames * editor.vae.config.scaling_factor, time.expand(len(frames))
    noisy = noiser.add_noise(clean, noise, times)
    velocity = noiser.config.prediction_type == "v_prediction"
    target = noiser.get_velocity(clean, noise, times) if velocity else noise

    seen = torch.cat([noisy, picture], 1).to(unet.dtype)
    words = text.to(unet.device, unet.dtype).expand(len(frames), -1, -1)
    prediction = unet(seen, time, encoder_hidden_states=words).sample
    return F.mse_loss(prediction.float(), target.float())


@contextmanager
def tuned(unet: Any, weights: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with other weights in place of its own, which it has again afterwards. Raises ModelError for
    weights that it does not have."""
    own = dict(unet.named_parameters())
    for name, weight in weights.items():
        if name not in own or own[name].shape != weight.shape:
            raise ModelError(f"{name} of {list(weight.shape)}: this model has no such weight")
    before = {name: own[name].detach().clone() for name in weights}
    try:
        with torch.no_grad():
            for name, weight in weights.items():
                own[name].copy_(weight)
        yield
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                own[name].copy_(weight)


class _Learner:
    """The queries of a model with AdamW. weights: float32, of which the model has its own dtype's copy."""

    def __init__(self, unet: Any, rate: float) -> None:
        self.unet = unet
        self.own = {name: each for name, each in unet.named_parameters() if name.endswith(TUNED)}
        if not self.own:
            raise ModelError("this model has no attention of diffusers' form (to_q): it cannot be tuned")
        self.weights = {name: each.detach().float().clone() for name, each in self.own.items()}
        self.optimiser = torch.optim.AdamW(self.weights.values(), lr=rate, weight_decay=1e-2, foreach=False)

    @contextmanager
    def learning(self) -> Iterator[None]:
        """The model asks for gradients of its queries alone; afterwards it is as it was."""
        asked = {each: each.requires_grad for each in self.unet.parameters()}
        try:
            for each in asked:
                each.requires_grad_(False)
            for each in self.own.values():
                each.requires_grad_(True)
            with tuned(self.unet, self.weights), torch.enable_grad():
                yield
        finally:
            for each, before in asked.items():
                each.requires_grad_(before)
                each.grad = None

    def step(self, loss: Tensor) -> None:
        """One step along the loss. Raises ModelError where it is no number."""
        if not bool(loss.isfinite()):
            raise ModelError("the tuning's loss is not finite; load the editor in fp32")
        loss.backward()
        for name, weight in self.weights.items():
            grad = self.own[name].grad
            weight.grad = None if grad is None else grad.float()
            self.own[name].grad = None
        torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        self.optimiser.step()
        with torch.no_grad():
            for name, weight in self.weights.items():
                self.own[name].copy_(weight)

    def save(self, path: Path, digest: str, done: int) -> None:
        from safetensors.torch import save

        tensors = {f"weight.{name}": each for name, each in self.weights.items()}
        for name, each in self.weights.items():
            for part in ("exp_avg", "exp_avg_sq"):
                tensors[f"{part}.{name}"] = self.optimiser.state[each][part]
        tensors = {name: each.detach().cpu().contiguous() for name, each in tensors.items()}
        data = save(tensors, {"of": digest, "steps": str(done)})
        write_atomically(path, lambda file: file.write(data))

    def load(self, path: Path, digest: str) -> int:
        """Steps that are done in a file of `save`. Raises ModelError for another's."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                said = file.metadata() or {}
                if said.get("of") != digest:
                    raise ModelError(f"{path}: of another clip, model or tuning; take it away")
                for name, weight in self.weights.items():
                    weight.copy_(file.get_tensor(f"weight.{name}"))
                    state = {
                        part: file.get_tensor(f"{part}.{name}").to(weight)
                        for part in ("exp_avg", "exp_avg_sq")
                    }
                    self.optimiser.state[weight] = {"step": torch.tensor(float(said["steps"])), **state}
                return int(said["steps"])
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: cannot be read ({error!s:.120}); take it away") from error


def _digest(clips: Sequence[Tensor], said: tuple[Any, ...], weights: Mapping[str, Tensor]) -> str:
    """Of all that a tuning depends on, but for how long it is. Of frames it is what is encoded: the latents
    of an accelerator may differ in a bit from one process to the next."""
    digest = hashlib.sha256(repr((said, TUNED, HIDDEN, [list(each.shape) for each in clips])).encode())
    for each in (*clips, *weights.values()):
        digest.update(each.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _number(seed: int, step: int) -> int:
    """A seed for a step, 63 bits."""
    return int.from_bytes(hashlib.sha256(f"{seed} {step}".encode()).digest()[:8], "big") >> 1
