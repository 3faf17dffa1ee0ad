"""Masks by SAM 2: boxes, points or a mask as the prompt, several objects at once.

`Segmenter.load` takes a folder in transformers' layout, or one file in Meta's format; the latter runs
through the `sam2` package where that is installed and through transformers where it is not, with the same
result. Frames are segmented one by one today; tracking through a video can come behind the same call.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.amp import autocast

from ..boxes import Box
from ..errors import ModelError, RequestError
from ..files.pictures import check_frames
from ..masks import check_mask
from ..models.families import SAM2
from ..models.load_report import load_folder
from ..models.loading import half_dtype, pick_device, pick_dtype, read_json
from ..models.quantized import check_unquantised
from .sam2_meta import build_transformers, read_meta, shape_of

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # every SAM 2 was trained with ImageNet's
MASK_LOGIT = 10.0  # a mask prompt of 0..1 becomes logits of -10..10
AT_ONCE = 16  # objects a decoder call
KEPT = 8  # pictures whose feature maps are kept: about 16 MB each at 1,024 pixels


@dataclass(frozen=True)
class Segmentation:
    """masks: float32 [N, F, H, W] of 0 and 1, one per object, in the order of the prompts. scores: float32
    [N], SAM 2's own guess of the IoU, 0..1, the mean over the frames that were prompted. labels: N names (""
    where the prompt had none)."""

    masks: Tensor
    scores: Tensor
    labels: tuple[str, ...] = ()


class Backend(Protocol):
    """The two calls a SAM 2 answers. Prompts are in the model's own pixels (0..image_size)."""

    model: Any
    image_size: int
    mask_size: tuple[int, int]

    @property
    def device(self) -> torch.device: ...

    def embed(self, pixels: Tensor) -> list[Tensor]:
        """Normalised pixels [1, 3, S, S] -> feature maps."""

    def predict(
        self,
        maps: list[Tensor],
        boxes: Tensor | None,
        points: tuple[Tensor, Tensor] | None,
        masks: Tensor | None,
        many: bool,
    ) -> tuple[Tensor, Tensor]:
        """boxes [N, 4]; points ([N, P, 2], labels [N, P]: 1 in, 0 out, -10 padding); masks logits [N, 1, h,
        w]; many: three masks for an ambiguous prompt instead of one. Returns logits [N, M, h, w] and scores
        [N, M]."""


class Segmenter:
    """SAM 2. `Segmenter.load(source)`, then `segment(frames, ...)`; `model` is a plain torch module."""

    def __init__(self, backend: Backend, dtype: torch.dtype = torch.float32) -> None:
        self.backend = backend
        self.model = backend.model
        self.dtype = dtype
        self._kept: list[tuple[Tensor, list[Tensor]]] | None = None

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str],
        dtype: str | torch.dtype = "auto",
        device: str | torch.device | None = None,
        config: str | os.PathLike[str] | None = None,
        backend: Literal["auto", "sam2", "transformers"] = "auto",
    ) -> Segmenter:
        """A SAM 2 from a folder in transformers' layout or from one `.pt` / `.safetensors` file with Meta's
        names.

        dtype: weights stay fp32; fp16 or bf16 computes in it by autocast. "auto" is bf16 on CUDA (fp16 on
            cards that do not compute in it), else fp32.
        config: for a file that is none of Meta's four sizes, its sam2 YAML.
        backend: for a file, which library runs it; "auto" is `sam2` where installed.
        Raises ModelError when the source is missing or does not fit, CheckpointError when a file is damaged.
        """
        if backend not in ("auto", "sam2", "transformers"):
            raise ModelError(f"backend {backend!r}: expected auto, sam2 or transformers")
        where = pick_device(device)
        compute_dtype = pick_dtype(dtype, half_dtype(where) if where.type == "cuda" else torch.float32)
        path = Path(source)
        if path.is_dir():
            return cls(HfSam2(_load_folder(path).to(where)), compute_dtype)
        if not path.is_file():
            raise ModelError(
                f"{path} does not exist; expected a SAM 2 folder or file (`python -m evlm models` lists them)"
            )
        state = read_meta(path)
        from .sam2_native import NativeSam2, available, build_native

        if backend == "sam2" and not available():
            raise ModelError("the `sam2` package is not installed; install it, or use backend='transformers'")
        if backend == "transformers" or not available():
            return cls(HfSam2(build_transformers(state, shape_of(state, config)).to(where)), compute_dtype)
        return cls(NativeSam2(build_native(state, config).to(where)), compute_dtype)

    @property
    def device(self) -> torch.device:
        return self.backend.device

    def segment(
        self,
        frames: Tensor,
        boxes: Sequence[Box] | Tensor | None = None,
        points: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> Segmentation:
        """Segment objects in frames [F, H, W, 3] in 0..1. At least one kind of prompt; kinds are combined per
        object.

        boxes: `Box`es as the grounder gives them: those of one label in different frames are one object
            (the n-th of the label in its frame); or a tensor [N, 4] (x0 y0 x1 y1 in pixels), the same in
            every frame.
        points: (xy [N, P, 2] in pixels, labels [N, P]: 1 on the object, 0 off it), the same in every frame.
        mask: a rough mask [F, H, W] for one object or [N, F, H, W] for several, in 0..1.
        An object without a prompt in a frame has no mask there; no objects at all give [0, F, H, W].
        Raises PictureError for bad frames or masks, RequestError for prompts that do not fit together.
        """
        frames = check_frames(frames)
        prompts = gather_prompts(frames, boxes, points, mask)
        height, width = frames.shape[1:3]
        masks = torch.zeros(prompts.count, len(frames), height, width)
        scores = torch.zeros(prompts.count)
        seen = torch.zeros(prompts.count)
        for f in range(len(frames)):
            objects = prompts.in_frame(f)
            if not objects:
                continue
            with torch.inference_mode(), self._autocast():
                maps = self._embed(self._pixels(frames[f]))
                for start in range(0, len(objects), AT_ONCE):
                    chosen = objects[start : start + AT_ONCE]
                    logits, score = self._predict(maps, prompts, chosen, f, (height, width))
                    masks[chosen, f] = (logits > 0).float()
                    scores[chosen] += score
                    seen[chosen] += 1
        return Segmentation(masks, scores / seen.clamp(min=1), prompts.labels)

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Within it the first KEPT pictures keep their feature maps, on the model's device: one that is asked
        about again, as by each step of a plan, is encoded once. For one thread at a time."""
        self._kept = []
        try:
            yield
        finally:
            self._kept = None

    def _embed(self, pixels: Tensor) -> list[Tensor]:
        for known, maps in self._kept or ():
            if torch.equal(known, pixels):
                return maps
        maps = self.backend.embed(pixels)
        if self._kept is not None and len(self._kept) < KEPT:
            self._kept.append((pixels, maps))
        return maps

    def _predict(
        self, maps: list[Tensor], prompts: Prompts, chosen: list[int], frame: int, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Logits [n, H, W] and scores [n] of some objects in one frame, on the CPU."""
        height, width = size
        scale = torch.tensor([self.backend.image_size / width, self.backend.image_size / height])
        boxes = points = rough = None
        if prompts.boxes is not None:
            boxes = (prompts.boxes[chosen, frame] * scale.repeat(2)).to(self.device)
        if prompts.points is not None:
            xy, kinds = prompts.points
            points = (xy[chosen] * scale).to(self.device), kinds[chosen].to(self.device)
        if prompts.masks is not None:
            signed = (prompts.masks[chosen, frame][:, None] * 2 - 1) * MASK_LOGIT
            rough = torch.nn.functional.interpolate(
                signed, self.backend.mask_size, mode="bilinear", antialias=True
            ).to(self.device)
        ambiguous = boxes is None and rough is None and points is not None and points[0].shape[1] == 1
        logits, scores = self.backend.predict(maps, boxes, points, rough, ambiguous)
        best = scores.argmax(1)
        rows = torch.arange(len(best), device=best.device)
        picked = torch.nn.functional.interpolate(logits[rows, best][:, None].float(), size, mode="bilinear")
        return picked[:, 0].cpu(), scores[rows, best].float().cpu()

    @torch.no_grad()
    def pooled(self, frame: Tensor, masks: Tensor) -> Tensor:
        """[N, C]: the mean of a picture's [H, W, 3] last feature map over each mask [N, H, W] in 0..1, zeros
        for an empty one."""
        features = self.backend.embed(self._pixels(frame))[-1][0].float()
        weights = torch.nn.functional.interpolate(
            masks[None].float(), features.shape[-2:], mode="bilinear", antialias=True
        )[0].to(features)
        summed = torch.einsum("chw,nhw->nc", features, weights)
        return summed / weights.sum((1, 2)).clamp(min=1e-6)[:, None]

    def _pixels(self, frame: Tensor) -> Tensor:
        """[H, W, 3] in 0..1 -> the model's input [1, 3, S, S]."""
        return model_input(frame, self.backend.image_size).to(self.device)

    def _autocast(self) -> Any:
        return autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


def model_input(frame: Tensor, size: int) -> Tensor:
    """[H, W, 3] in 0..1 -> normalised [1, 3, size, size], where the frame lies: a resize that is antialiased
    is unknown to MPS."""
    picture = frame.permute(2, 0, 1)[None].float()
    picture = torch.nn.functional.interpolate(picture, (size, size), mode="bilinear", antialias=True)
    mean, std = (picture.new_tensor(v)[:, None, None] for v in (MEAN, STD))
    return (picture - mean) / std


@dataclass(frozen=True)
class Prompts:
    """Prompts of N objects in F frames, in the frames' pixels. boxes [N, F, 4] with NaN where there is none;
    points as given; masks [N, F, H, W]."""

    count: int
    labels: tuple[str, ...]
    boxes: Tensor | None = None
    points: tuple[Tensor, Tensor] | None = None
    masks: Tensor | None = None

    def in_frame(self, frame: int) -> list[int]:
        """The objects that are prompted in a frame. With boxes, those that have one there."""
        if self.boxes is None:
            return list(range(self.count))
        return self.boxes[:, frame].isfinite().all(-1).nonzero().flatten().tolist()


def gather_prompts(
    frames: Tensor,
    boxes: Sequence[Box] | Tensor | None,
    points: tuple[Tensor, Tensor] | None,
    mask: Tensor | None,
) -> Prompts:
    """Check prompts of any kind against the frames and one another. Raises RequestError or PictureError."""
    if boxes is None and points is None and mask is None:
        raise RequestError("nothing to segment: give boxes, points or a mask")
    count: dict[str, int] = {}
    labels: tuple[str, ...] = ()
    placed = rough = None
    if boxes is not None:
        placed, labels = _place_boxes(boxes, frames)
        count["boxes"] = len(placed)
    if points is not None:
        points = _check_points(points)
        count["points"] = len(points[0])
    if mask is not None:
        rough = _check_masks(mask, frames)
        count["masks"] = len(rough)
    if len(set(count.values())) > 1:
        raise RequestError(
            f"prompts for different numbers of objects: {count}; give one of each kind per object"
        )
    total = next(iter(count.values()))
    return Prompts(total, labels or ("",) * total, placed, points, rough)


def _place_boxes(boxes: Sequence[Box] | Tensor, frames: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Boxes [N, F, 4] and labels [N]."""
    count = len(frames)
    if isinstance(boxes, Tensor):
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not bool(boxes.isfinite().all()):
            raise RequestError(
                f"boxes of shape {tuple(boxes.shape)}: expected finite [N, 4], x0 y0 x1 y1 in pixels"
            )
        return boxes.detach().float().cpu()[:, None].expand(-1, count, -1), ("",) * len(boxes)
    objects: dict[tuple[str, int], dict[int, Box]] = {}
    seen: dict[tuple[str, int], int] = {}
    for box in boxes:
        if not 0 <= box.frame < count:
            raise RequestError(f"a box of {box.label!r} lies in frame {box.frame}; there are {count} frames")
        nth = seen.get((box.label, box.frame), 0)
        seen[box.label, box.frame] = nth + 1
        objects.setdefault((box.label, nth), {})[box.frame] = box
    placed = torch.full((len(objects), count, 4), float("nan"))
    for i, by_frame in enumerate(objects.values()):
        for f, box in by_frame.items():
            placed[i, f] = torch.tensor(box.corners)
    return placed, tuple(label for label, _ in objects)


def _check_points(points: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    xy, kinds = points
    if xy.ndim != 3 or xy.shape[-1] != 2 or kinds.shape != xy.shape[:2] or xy.shape[1] == 0:
        raise RequestError(
            f"points of shapes {tuple(xy.shape)} and {tuple(kinds.shape)}: "
            "expected [N, P, 2] in pixels and labels [N, P]"
        )
    if not bool(xy.isfinite().all()) or not bool(((kinds == 0) | (kinds == 1)).all()):
        raise RequestError("points must be finite, and their labels 1 (on the object) or 0 (off it)")
    return xy.detach().float().cpu(), kinds.detach().long().cpu()


def _check_masks(mask: Tensor, frames: Tensor) -> Tensor:
    several = mask if isinstance(mask, Tensor) and mask.ndim == 4 else [mask]
    checked = [check_mask(each, "mask prompt") for each in several]
    for each in checked:
        if each.shape != frames.shape[:3]:
            raise RequestError(
                f"mask prompt of shape {tuple(each.shape)} for frames {tuple(frames.shape[:3])}"
            )
    return torch.stack(checked) if checked else torch.zeros(0, *frames.shape[:3])


class HfSam2:
    """transformers' `Sam2Model` as a backend."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.image_size: int = model.config.prompt_encoder_config.image_size
        self.mask_size: tuple[int, int] = tuple(model.prompt_encoder.mask_input_size)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def embed(self, pixels: Tensor) -> list[Tensor]:
        return list(self.model.get_image_embeddings(pixels))

    def predict(
        self,
        maps: list[Tensor],
        boxes: Tensor | None,
        points: tuple[Tensor, Tensor] | None,
        masks: Tensor | None,
        many: bool,
    ) -> tuple[Tensor, Tensor]:
        # One batch entry for each object: the library adds a mask prompt to the image, not to an object
        # of it.
        count = len(next(p for p in (boxes, masks, points and points[0]) if p is not None))
        out = self.model(
            image_embeddings=[m.expand(count, -1, -1, -1) for m in maps],
            input_boxes=None if boxes is None else boxes[:, None],
            input_points=None if points is None else points[0][:, None],
            input_labels=None if points is None else points[1][:, None].int(),
            input_masks=masks,
            multimask_output=many,
        )
        return out.pred_masks[:, 0], out.iou_scores[:, 0]


def _load_folder(folder: Path) -> Any:
    """`Sam2Model` from a folder; the image part of a `Sam2VideoModel` folder, as Meta's own repositories are,
    fits too."""
    config = read_json(folder / "config.json", "a SAM 2 folder in transformers' layout")
    kind = config.get("model_type")
    if kind not in SAM2:
        raise ModelError(f"{folder} holds a {kind!r} model; a segmenter is {' or '.join(SAM2)}")
    check_unquantised(folder, config, "a segmenter")
    from transformers import Sam2Model
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()  # it warns that sam2 reads a sam2_video folder, which is what is meant
    try:
        return load_folder(Sam2Model, folder, "the segmenter")
    finally:
        logging.set_verbosity(level)
