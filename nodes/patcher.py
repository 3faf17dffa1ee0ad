"""What ComfyUI is given for a model of ours: it moves the weights whole and tells the owner when they go."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import nn


class EVLMModel(nn.Module):
    """What the patcher moves, named for ComfyUI's console. `device` is ComfyUI's to set, which a
    transformers model would refuse."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        self.device = device


class Owner(Protocol):
    """Whose weights they are."""

    def kept_bytes(self) -> int:
        """What lies on the device beside the weights and can be done without."""

    def forget(self) -> int:
        """Drops that; so many bytes are free then."""

    def drop(self) -> None:
        """The model has left the device."""


def make_patcher(shell: nn.Module, load: torch.device, offload: torch.device, size: int, owner: Owner) -> Any:
    """size: bytes of the weights."""
    patcher = _whole_patcher()(shell, load, offload, size=size)
    patcher.owner = weakref.ref(owner)  # no cycle: a dropped output frees its weights at once
    return patcher


@lru_cache(1)
def _whole_patcher() -> Any:
    """A ModelPatcher that loads and unloads whole: these models do not know `comfy_cast_weights`, so a part
    of one left on another device would break its forward."""
    from comfy.model_patcher import ModelPatcher

    class WholePatcher(ModelPatcher):
        owner: Callable[[], Owner | None] = staticmethod(lambda: None)

        def model_size(self) -> int:
            return int(super().model_size()) + self._kept()

        def loaded_size(self) -> int:
            return int(super().loaded_size()) + self._kept()  # it is there only beside loaded weights

        def load(self, *args: Any, **kwargs: Any) -> Any:
            return super().load(*args, **{**kwargs, "full_load": True})

        def partially_unload(self, *args: Any, **kwargs: Any) -> int:
            owner = self.owner()
            return 0 if owner is None else owner.forget()

        def detach(self, unpatch_all: bool = True) -> Any:
            result = super().detach(unpatch_all)
            owner = self.owner() if unpatch_all else None
            if owner is not None:
                owner.drop()
            return result

        def _kept(self) -> int:
            owner = self.owner()
            return 0 if owner is None else owner.kept_bytes()

    return WholePatcher


def make_room(size: int) -> None:
    """Models make room for so many bytes on the device on which ComfyUI computes."""
    import comfy.model_management as mm

    mm.free_memory(size, mm.get_torch_device())
