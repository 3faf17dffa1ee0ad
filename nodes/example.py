"""Bundled requests, so that a workflow runs straight after installation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from . import host, sockets
from .checks import checked


class Example(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_Example",
            display_name="EVLM Example",
            category=sockets.CATEGORY,
            description="A request from the drawn world that the bundled models know.",
            inputs=[
                io.Combo.Input("which", options=list(_examples()), tooltip="Which of the bundled requests.")
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="What is to be edited."),
                sockets.References.Output(
                    "references", display_name="references", tooltip="What the request shows beside it."
                ),
                io.String.Output("prompt", display_name="prompt", tooltip="What is asked, in words."),
                io.Image.Output(
                    "reference",
                    display_name="reference",
                    tooltip="The reference picture; the original where there is none.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, which: Any) -> str:
        return str(which)

    @classmethod
    @checked
    def execute(cls, which: str) -> io.NodeOutput:
        from ..evlm.request import load_example

        known = _examples()
        _, request = load_example(known[sockets.choice("which", which, list(known))])
        pictures = [each.frames for each in request.references if each.frames is not None]
        reference = pictures[0][:1] if pictures else request.original
        return io.NodeOutput(
            request.original,
            request.references,
            request.prompt,
            reference,
            ui=host.preview(request.original, cls),
        )


def _examples() -> dict[str, Path]:
    """name -> file: "1-reference", "2-words", ..."""
    folder = Path(__file__).resolve().parent.parent / "evlm" / "bundled" / "examples"
    return {path.stem: path for path in sorted(folder.glob("*.json"))}
