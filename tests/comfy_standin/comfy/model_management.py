"""Which models are loaded, and whether the user has cancelled."""

from __future__ import annotations

import weakref
from typing import Any

import torch


class InterruptProcessingException(Exception):
    """The user has cancelled."""


class LoadedModel:
    """A patcher on the list; the list alone keeps no model alive."""

    def __init__(self, patcher: Any) -> None:
        self._patcher = weakref.ref(patcher)

    @property
    def model(self) -> Any:
        return self._patcher()

    def model_unload(self, memory_to_free: int | None = None, unpatch_weights: bool = True) -> bool:
        patcher = self.model
        if patcher is not None:
            patcher.detach(unpatch_weights)
        return True


current_loaded_models: list[LoadedModel] = []
_interrupted = False


def get_torch_device() -> torch.device:
    return torch.device("cpu")


def unet_offload_device() -> torch.device:
    return torch.device("cpu")


def intermediate_device() -> torch.device:
    return torch.device("cpu")


def should_use_bf16(device: Any = None, *_: Any, **__: Any) -> bool:
    return False


def should_use_fp16(device: Any = None, *_: Any, **__: Any) -> bool:
    return False


def load_models_gpu(models: list[Any], memory_required: int = 0, **_: Any) -> None:
    """The last one asked for stands first, as in ComfyUI."""
    for patcher in models:
        known = [each for each in current_loaded_models if each.model is patcher]
        if not known:
            patcher.load(patcher.load_device, full_load=False)
            known = [LoadedModel(patcher)]
        current_loaded_models[:] = known + [
            each for each in current_loaded_models if each not in known and each.model is not None
        ]


def unload_all_models() -> None:
    """The button "Unload Models"."""
    while current_loaded_models:
        current_loaded_models.pop().model_unload()


def soft_empty_cache(force: bool = False) -> None:
    """Nothing is cached on a CPU."""


def interrupt_current_processing(value: bool = True) -> None:
    """The button "Cancel"."""
    global _interrupted
    _interrupted = value


def throw_exception_if_processing_interrupted() -> None:
    """Raises InterruptProcessingException once for each cancel."""
    if _interrupted:
        interrupt_current_processing(False)
        raise InterruptProcessingException
