"""What frozen networks from the user's own folders say of pictures: CLIP, of picture and words, and DINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.errors import ConfigError
from evlm.files.pictures import load_picture, to_pil


class ClipScore:
    """Cosines in CLIP's space, -1 to 1 (published tables give them times 100, or as here). Captions are cut
    at the model's length. Raises ConfigError where the folder holds no CLIP."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import CLIPModel, CLIPProcessor

        try:
            self.model: Any = CLIPModel.from_pretrained(folder, local_files_only=True)
            self.processor: Any = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--clip {folder}: no CLIP with its processor ({error!s:.120}); expected a folder as of "
                "openai/clip-vit-large-patch14"
            ) from None
        self.model.eval().to(device)

    def __call__(self, picture: Path, caption: str) -> float:
        """Of a picture and what it should show. Raises PictureError."""
        return self.of(shown(picture), caption)

    def of(self, picture: Any, caption: str) -> float:
        """Likewise of one that is open."""
        return _cosine(self._seen(picture), self._said(caption))

    def alike(self, one: Path, other: Path) -> float:
        """CLIP-I, of two pictures. Raises PictureError."""
        return _cosine(self._seen(shown(one)), self._seen(shown(other)))

    def direction(self, before: Path, after: Path, was: str, now: str) -> float:
        """CLIP-dir: whether the pictures changed as their captions did; 0 where either did not. Raises
        PictureError."""
        moved = self._seen(shown(after)) - self._seen(shown(before))
        return _cosine(moved, self._said(now) - self._said(was))

    @torch.no_grad()
    def _seen(self, picture: Any) -> Tensor:
        given = self.processor.image_processor(images=[picture], return_tensors="pt").to(self.model.device)
        pooled = self.model.vision_model(**given).pooler_output
        return _unit(self.model.visual_projection(pooled))

    @torch.no_grad()
    def _said(self, caption: str) -> Tensor:
        length = self.model.config.text_config.max_position_embeddings
        given = self.processor.tokenizer(
            [caption], return_tensors="pt", truncation=True, max_length=length
        ).to(self.model.device)
        return _unit(self.model.text_projection(self.model.text_model(**given).pooler_output))


class DinoScore:
    """The cosine of two pictures' class tokens. Raises ConfigError where the folder holds no such network."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        from transformers import AutoImageProcessor, AutoModel

        try:
            self.model: Any = AutoModel.from_pretrained(folder, local_files_only=True)
            self.processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--dino {folder}: no vision transformer with its processor ({error!s:.120}); expected a "
                "folder as of facebook/dino-vits16 or facebook/dinov2-base"
            ) from None
        self.model.eval().to(device)

    def alike(self, one: Path, other: Path) -> float:
        """Raises PictureError."""
        return _cosine(*(self._seen(shown(each)) for each in (one, other)))

    @torch.no_grad()
    def _seen(self, picture: Any) -> Tensor:
        given = self.processor(images=[picture], return_tensors="pt").to(self.model.device)
        seen: Tensor = self.model(**given).last_hidden_state[:, 0]
        return seen


def shown(picture: Path) -> Any:
    """A picture's first frame, as Pillow has it. Raises PictureError."""
    return to_pil(load_picture(picture)[0, ..., :3])


def _unit(values: Tensor) -> Tensor:
    return torch.nn.functional.normalize(values, dim=-1)


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other)[0])
