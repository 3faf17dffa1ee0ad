"""CLIP score: how near an edited picture is to the caption of what it should show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from evlm.errors import ConfigError
from evlm.files.pictures import load_picture, to_pil


class ClipScore:
    """Cosines of picture and caption, -1 to 1 (published tables give them times 100, or 1 as here). Captions
    are cut at the model's length. Raises ConfigError where the folder holds no CLIP."""

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

    @torch.no_grad()
    def __call__(self, picture: Path, caption: str) -> float:
        """Raises PictureError."""
        shown = to_pil(load_picture(picture)[0, ..., :3])
        length = self.model.config.text_config.max_position_embeddings
        given = self.processor(
            text=[caption], images=[shown], return_tensors="pt", truncation=True, max_length=length
        ).to(self.model.device)
        out = self.model(**given)
        return float(torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)[0])
