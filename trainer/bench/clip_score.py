"""What frozen networks from the user's own folders say of pictures: CLIP, of picture and words, and DINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.errors import ConfigError

from ..collect.clip import Clip, shown


class ClipScore:
    """Cosines in CLIP's space, -1 to 1 (published tables give them times 100, or as here). Captions are cut
    at the model's length. Raises ConfigError where the folder holds no CLIP."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.clip = Clip(folder, "--clip", device)

    def __call__(self, picture: Path, caption: str) -> float:
        """Of a picture and what it should show. Raises PictureError."""
        return self.of(shown(picture), caption)

    def of(self, picture: Any, caption: str) -> float:
        """Likewise of one that is open."""
        return float(self.clip.seen(picture) @ self.clip.said(caption))

    def alike(self, one: Path, other: Path) -> float:
        """CLIP-I, of two pictures. Raises PictureError."""
        return float(self.clip.picture(one) @ self.clip.picture(other))

    def direction(self, before: Path, after: Path, was: str, now: str) -> float:
        """CLIP-dir: whether the pictures changed as their captions did; 0 where either did not. Raises
        PictureError."""
        moved = self.clip.picture(after) - self.clip.picture(before)
        return _cosine(moved[None], (self.clip.said(now) - self.clip.said(was))[None])


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


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(one, other)[0])
