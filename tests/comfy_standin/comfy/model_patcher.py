"""What holds a model for ComfyUI's memory management."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ModelPatcher:
    """model: moved between the two devices. size: bytes; 0 asks for those of its weights."""

    def __init__(
        self,
        model: nn.Module,
        load_device: torch.device,
        offload_device: torch.device,
        size: int = 0,
        weight_inplace_update: bool = False,
    ) -> None:
        self.model, self.size = model, size
        self.load_device, self.offload_device = load_device, offload_device
        self.loads = 0  # how often, for tests

    def model_size(self) -> int:
        if not self.size:
            self.size = sum(each.nbytes for each in self.model.state_dict().values())
        return self.size

    def load(
        self,
        device_to: Any = None,
        lowvram_model_memory: int = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
    ) -> None:
        self.loads += 1
        self.model.to(device_to or self.load_device)

    def detach(self, unpatch_all: bool = True) -> nn.Module:
        self.model.to(self.offload_device)
        return self.model

    def partially_unload(self, device_to: Any, memory_to_free: int = 0, **_: Any) -> int:
        raise AssertionError("a model that cannot run in parts must not be unloaded in parts")
