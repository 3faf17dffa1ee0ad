"""What a reasoner says: the trace's form, its repair, masks as text, and the plan that comes of it."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    trace="TRACE_VERSION Plan Trace TraceStream StreamEvent render parse plan_to_json plan_from_json",
    mask_codec="MASK_CODEC_VERSION BoxSpans decode_mask get_codec is_rectangle mask_iou mask_text_iou",
    step_masks="plan_mask plan_mask_iou",
)
