"""Which models there are, where they lie, how they are fetched and opened without trust."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    zoo="ROLES choose find list_models resolve",
    safetensors_file="Header read_header read_tensors",
    loading="pick_device pick_dtype read_json read_notes",
)
