"""SAM 2 through Meta's own `sam2` package, where it is installed.

Two of its habits are avoided. Its image predictor expects feature maps of a 1024-pixel model, and its
builder goes through Hydra's one global state, which other packs of a ComfyUI use as well: here the model
is built from its YAML directly and called part by part, as the predictor does.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import ModelError
from .sam2_meta import load_yaml, shape_of


def available() -> bool:
    """Whether the `sam2` package is installed (it is not imported here)."""
    return importlib.util.find_spec("sam2") is not None and importlib.util.find_spec("hydra") is not None


def build_native(
    state: Mapping[str, Tensor], config: str | os.PathLike[str] | None = None, video: bool = False
) -> Any:
    """A `SAM2Base` with a Meta checkpoint's weights, in fp32. Raises ModelError where they do not fit.

    config: a sam2 YAML; without one, the package's own for the size and version that the tensors show.
    video: a `SAM2VideoPredictor`, which is one that tracks.
    """
    if config is None:
        name = shape_of(state).name
        version = "sam2.1" if "no_obj_embed_spatial" in state else "sam2"
        import sam2

        config = Path(sam2.__path__[0]) / "configs" / version / f"{version}_{name}.yaml"
    parts = load_yaml(config)
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    extra = {  # as sam2's own builder does: when the single mask is unstable, the best of three
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    given = parts.get("sam_mask_decoder_extra_args") or {}
    parts = {**parts, "sam_mask_decoder_extra_args": {**extra, **given}}
    if video:  # as the package's builder does
        predictor = "sam2.sam2_video_predictor.SAM2VideoPredictor"
        parts = {**parts, "_target_": predictor, "binarize_mask_from_pts_for_mem_enc": True}
    try:
        model = instantiate(OmegaConf.create(parts), _recursive_=True)
        model.load_state_dict(dict(state))
    except Exception as error:  # hydra wraps whatever the package raises
        raise ModelError(f"the checkpoint does not fit {config}: {error}") from error
    return model.eval()


class NativeSam2:
    """A `SAM2Base` behind the two calls that the segmenter makes."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.image_size: int = model.image_size
        self.mask_size: tuple[int, int] = tuple(model.sam_prompt_encoder.mask_input_size)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def embed(self, pixels: Tensor) -> list[Tensor]:
        """Normalised pixels [1, 3, S, S] -> feature maps, from fine to coarse."""
        model = self.model
        out = model.forward_image(pixels)
        _, features, _, sizes = model._prepare_backbone_features(out)
        if model.directly_add_no_mem_embed:
            features[-1] = features[-1] + model.no_mem_embed
        return [f.permute(1, 2, 0).reshape(1, -1, *size) for f, size in zip(features, sizes, strict=True)]

    def predict(
        self,
        maps: list[Tensor],
        boxes: Tensor | None,
        points: tuple[Tensor, Tensor] | None,
        masks: Tensor | None,
        many: bool,
    ) -> tuple[Tensor, Tensor]:
        """Mask logits [N, M, h, w] and their scores [N, M]; prompts as in `segmenter.Backend`."""
        coordinates, labels = [], []
        if boxes is not None:  # SAM 2 reads a box as two points of kinds of their own
            coordinates.append(boxes.reshape(-1, 2, 2))
            labels.append(torch.tensor([[2, 3]], device=boxes.device).expand(len(boxes), 2))
        if points is not None:
            coordinates.append(points[0])
            labels.append(points[1])
        if masks is not None and not coordinates:
            coordinates.append(torch.zeros(len(masks), 1, 2, device=masks.device))
            labels.append(-torch.ones(len(masks), 1, dtype=torch.int64, device=masks.device))
        prompts = torch.cat(coordinates, 1), torch.cat(labels, 1).to(torch.int32)
        encoder, decoder = self.model.sam_prompt_encoder, self.model.sam_mask_decoder
        sparse, dense = encoder(points=prompts, boxes=None, masks=masks)
        logits, scores, _, _ = decoder(
            image_embeddings=maps[-1],
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=many,
            repeat_image=True,
            high_res_features=maps[:-1],
        )
        return logits, scores
