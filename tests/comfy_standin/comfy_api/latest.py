"""A stand-in for what this pack uses of `comfy_api.latest` as ComfyUI 0.3.64 has it: nodes then run without
ComfyUI. What came later raises TypeError. tests/comfyui compares the two."""

from __future__ import annotations

from . import io, ui

__all__ = ["ComfyExtension", "io", "ui"]


class ComfyExtension:
    """What `comfy_entrypoint` returns."""

    async def on_load(self) -> None:
        """Called once by ComfyUI from 0.3.65 on."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        raise NotImplementedError
