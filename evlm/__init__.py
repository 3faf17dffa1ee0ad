"""ComfyUI-EVLM's engine: a vague request and references in, a plan, a mask and an edited picture out.

Importing this package imports nothing heavy; each name below is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_EXPORTS: dict[str, tuple[str, ...]] = {
    "errors": (
        "EVLMError",
        "RequestError",
        "PictureError",
        "TraceError",
        "MaskTextError",
        "RecordError",
        "CheckpointError",
        "ModelError",
        "EndpointError",
        "Cancelled",
    ),
    "request": ("Reference", "Request"),
    "plan.trace": (
        "TRACE_VERSION",
        "Plan",
        "Trace",
        "TraceStream",
        "StreamEvent",
        "render",
        "parse",
        "plan_to_json",
        "plan_from_json",
    ),
    "plan.mask_codec": (
        "MASK_CODEC_VERSION",
        "BoxSpans",
        "decode_mask",
        "get_codec",
        "is_rectangle",
        "mask_iou",
        "mask_text_iou",
    ),
    "files.pictures": ("load_picture", "save_picture", "load_mask", "save_mask"),
    "files.clips": ("load_frames",),
    "records": ("Row", "RowWriter", "read_rows"),
    "reason.reasoner": ("Reasoner", "Sampling", "Reasoned"),
    "reason.remote": ("RemoteReasoner",),
    "boxes": ("Box",),
    "ground.grounder": ("Grounder",),
    "segment.segmenter": ("Segmenter", "Segmentation"),
    "edit": ("EditSettings", "Edited", "Editor"),
    "edit.ip2p": ("IP2P",),
    "pipeline": ("Pipeline", "Result"),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
