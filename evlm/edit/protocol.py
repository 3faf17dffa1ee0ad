"""What every editor is: an instruction and frames in, edited frames of the same shape out.

`ip2p.py` is the first editor; `masked.py` (crop, blend, composite) is what all of them share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from typing_extensions import Self

    from .crop import CropBox

# (work done, all work, preview [F, h, w, 3] in 0..1 of the frames at work or None), in frame-steps: a
# picture counts `steps`, a video steps * F. An exception that it raises (errors.Cancelled) stops the edit
# and reaches the caller.
OnStep = Callable[[int, int, "Tensor | None"], None]


@dataclass(frozen=True)
class EditSettings:
    """How to edit. An editor's `defaults` are the ones that suit its model; an editor that has other
    settings has a subclass.

    steps: denoising steps; diffusers' `num_inference_steps`.
    guidance: weight of the instruction (the paper's s_T); 1 = no guidance. diffusers' `guidance_scale`.
    image_guidance: weight of the original (the paper's s_I); higher stays closer to it, 1 = no guidance.
        diffusers' `image_guidance_scale`.
    strength: 0..1; below 1 the edit starts from the noised original and runs only that share of the steps.
    seed: of the noise; every frame gets the same noise, whatever chunk it is in, so a video flickers less.
    scheduler: a name of schedulers.SCHEDULERS, or "model" for the one that the model was saved with.
    context: how much larger than the mask's bounding box the crop is, per side.
    feather: pixels over which the edit fades in, inward from the mask's edge; None = 2 % of the mask's
        shorter side.
    chunk: frames edited at once; halved as often as memory runs out.
    seamless: whether the paint takes on the shade of its surroundings (seamless.py).
    """

    steps: int = 20
    guidance: float = 7.5
    image_guidance: float = 1.5
    strength: float = 1.0
    seed: int = 0
    scheduler: str = "model"
    context: float = 1.2
    feather: int | None = None
    chunk: int = 8
    seamless: bool = True

    def __post_init__(self) -> None:
        """Raises RequestError for a value outside its range."""
        ranges = {
            "steps": (1, 1000),
            "guidance": (0, 100),
            "image_guidance": (0, 100),
            "strength": (1e-3, 1),
            "seed": (0, 2**63 - 1),
            "context": (1, 16),
            "chunk": (1, 4096),
        }
        if self.feather is not None:
            ranges["feather"] = (0, 4096)
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:  # false for NaN too
                raise RequestError(f"{name} {value}: expected {low} to {high}")

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> Self:
        """Settings from names of fields or diffusers' names for them. Raises RequestError for any other."""
        return cls().with_kwargs(**kwargs)

    def with_kwargs(self, **kwargs: Any) -> Self:
        """The same settings but for these, named as in `from_kwargs`. Raises RequestError."""
        known = {field.name for field in fields(self)}
        changes: dict[str, Any] = {}
        for name, value in kwargs.items():
            field = _DIFFUSERS.get(name, name)
            if field not in known:
                raise RequestError(
                    f"no setting {name!r:.40}: expected one of {', '.join(sorted(known))}, or diffusers' "
                    f"{', '.join(_DIFFUSERS)}"
                )
            if field in changes:
                raise RequestError(f"{name} and {field} are the same setting; give one of them")
            changes[field] = value
        return replace(self, **changes)


_DIFFUSERS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "image_guidance_scale": "image_guidance",
}


@dataclass(frozen=True)
class Edited:
    """What an edit gave.

    frames: [F, H, W, 3] in 0..1, float32 on the CPU; outside the mask bit for bit the original.
    crops: [F, h, w, 3] in 0..1: what the model painted, at its own resolution, before the composite; F =
        0 when nothing was edited. Frames with an empty mask have no crop.
    box: where in its frame the first of the crops lies, the others have its size; None when nothing was
        edited.
    notes: what a user should know (chunks halved, instruction cut, empty mask).
    """

    frames: Tensor
    crops: Tensor
    box: CropBox | None = None
    notes: tuple[str, ...] = ()


def unchanged(frames: Tensor, notes: Sequence[str]) -> Edited:
    """What an editor gives that had nothing to do."""
    return Edited(frames.clone(), frames.new_zeros(0, 0, 0, 3), None, tuple(notes))


class Editor(Protocol):
    """Anything that edits frames by an instruction.

    defaults: the settings that suit the model, of the editor's own class; change them by `with_kwargs`.
    steps: whether several edits are painted one after the other; False: all by one sentence. An editor that
        does not say takes them one after the other.
    """

    defaults: EditSettings
    steps: bool

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The weights, for whoever manages memory; they may be moved, edit() works where they are."""
        ...

    def edit(
        self,
        frames: Tensor,
        instruction: str,
        mask: Tensor | None = None,
        settings: EditSettings | None = None,
        on_step: OnStep | None = None,
    ) -> Edited:
        """Edits frames [F, H, W, 3] inside mask ([F, H, W] or [1, H, W]; None = everywhere), all in 0..1."""
        ...
