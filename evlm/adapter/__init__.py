"""LoRA adapters: where they go, single-file checkpoints, stacking."""
