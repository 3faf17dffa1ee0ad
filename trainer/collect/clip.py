"""A CLIP model of this machine: what is alike, of pictures and of words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.errors import ConfigError
from evlm.files.pictures import load_picture, to_pil
from evlm.models.loading import pick_device


class Clip:
    """Unit vectors of pictures and words: their products are cosines. Words are cut at the model's length.
    called: its place in what the user wrote. Raises ConfigError where the folder holds no CLIP."""

    def __init__(self, folder: Path, called: str, device: str | None = None) -> None:
        from transformers import CLIPModel, CLIPProcessor

        try:
            self.model: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
            self.processor: Any = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise _none(called, folder, str(error)) from None
        self.model.eval().to(pick_device(device))

    def picture(self, path: Path) -> Tensor:
        """[D]. Raises PictureError."""
        return self.seen(shown(path))

    @torch.no_grad()
    def seen(self, picture: Any) -> Tensor:
        """[D], of one that is open."""
        given = self.processor.image_processor(images=[picture], return_tensors="pt").to(self.model.device)
        return _unit(self.model.visual_projection(self.model.vision_model(**given).pooler_output))

    @torch.no_grad()
    def said(self, text: str) -> Tensor:
        """[D], of words."""
        length = self.model.config.text_config.max_position_embeddings
        given = self.processor.tokenizer([text], return_tensors="pt", truncation=True, max_length=length)
        told = self.model.text_model(**given.to(self.model.device)).pooler_output
        return _unit(self.model.text_projection(told))


def shown(picture: Path) -> Any:
    """A picture's first frame, as Pillow has it. Raises PictureError."""
    return to_pil(load_picture(picture)[0, ..., :3])


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors[0].float().cpu(), dim=0)


def check_clip(folder: Path, called: str) -> None:
    """Whether a folder says that it holds a CLIP, before anything is loaded. Raises ConfigError."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise _none(called, folder, str(error)) from None
    if kind != "clip":
        raise _none(called, folder, f"its config.json says {kind!r:.40}")


def _none(called: str, folder: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{called} {folder}: no CLIP with its processor ({why:.120}); expected a folder as of "
        "openai/clip-vit-large-patch14"
    )
