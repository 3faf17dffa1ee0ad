"""Pictures and text that a node shows of itself. Nothing is written: `values` name what would be."""

from __future__ import annotations

from typing import Any

from torch import Tensor


class PreviewImage:
    """image: [F, H, W, 3 or 4] in 0..1."""

    def __init__(self, image: Tensor, animated: bool = False, cls: Any = None) -> None:
        if image.ndim != 4 or image.shape[-1] not in (3, 4):
            raise TypeError(f"a preview of shape {tuple(image.shape)}: expected [F, H, W, 3]")
        self.image, self.animated = image, animated
        self.values = [
            {"filename": f"preview_{n:05}_.png", "subfolder": "", "type": "temp"} for n in range(len(image))
        ]

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": (self.animated,)}


class PreviewMask(PreviewImage):
    """mask: [F, H, W] in 0..1."""

    def __init__(self, mask: Tensor, animated: bool = False, cls: Any = None) -> None:
        super().__init__(mask.reshape(-1, *mask.shape[-2:], 1).expand(-1, -1, -1, 3), animated, cls)


class PreviewText:
    def __init__(self, value: str) -> None:
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": (self.value,)}
