"""ComfyUI-EVLM: reflective visual editing. A vague request and a reference become a plan, a mask, a picture.

The engine is the package `evlm` in this folder (`python -m evlm --help`). This file is where ComfyUI comes in
when the folder lies in `custom_nodes`; nothing is imported before it asks for the nodes.
"""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]


async def comfy_entrypoint() -> Any:
    """The pack's extension, as ComfyUI's V3 loader expects it."""
    from comfy_api.latest import ComfyExtension

    class EVLM(ComfyExtension):
        async def on_load(self) -> None:
            from .nodes import clip_frame, folders, story

            folders.register()
            folders.put_sample()
            story.register()
            clip_frame.register()

        async def get_node_list(self) -> list[Any]:
            from .nodes import NODES

            await self.on_load()  # 0.3.64 does not call it
            return list(NODES)

    return EVLM()
