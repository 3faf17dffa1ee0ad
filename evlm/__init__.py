"""ComfyUI-EVLM's engine: a vague request and references in, a plan, a mask and an edited picture out.

Importing this package imports nothing heavy; each name below is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

from .lazy import hand_on

__version__ = "0.2.0"

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    errors="EVLMError RequestError PictureError TraceError MaskTextError RecordError CheckpointError "
    "ModelError EndpointError Cancelled",
    request="Reference Request",
    plan="TRACE_VERSION Plan Trace TraceStream StreamEvent render parse plan_to_json plan_from_json "
    "MASK_CODEC_VERSION BoxSpans decode_mask get_codec is_rectangle mask_iou mask_text_iou",
    files="load_picture load_frames save_picture load_mask save_mask load_still load_depth save_edited Still",
    records="Row RowWriter read_rows",
    reason="Reasoner Sampling Reasoned RemoteReasoner",
    boxes="Box",
    ground="Grounder",
    segment="Segmenter Segmentation",
    edit="EditSettings Edited Editor load_editor",
    pipeline="Pipeline Result",
    **{"edit.ip2p": "IP2P"},
)
__all__ += ["__version__"]
