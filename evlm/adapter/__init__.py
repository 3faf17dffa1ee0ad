"""LoRA adapters: where they go, single-file checkpoints, stacking."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    checkpoint="AdapterMeta Expected config_hash load_adapter save_adapter",
    lora="Lora attach_lora",
    stacking="check_stackable stack_adapters",
)
