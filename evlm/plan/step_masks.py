"""Where a plan says that its edits are, all of its steps together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import MaskTextError
from .form import Plan
from .mask_codec import decode_mask, mask_iou, mask_text_iou


def plan_mask(plan: Plan, height: int, width: int) -> Tensor | None:
    """float [height, width] of 0 and 1: the union of what the steps' mask texts mark; None where none of them
    has one. Raises MaskTextError for a malformed one."""
    masks = [decode_mask(step.mask_text, height, width) for step in plan.steps if step.mask_text is not None]
    return torch.stack(masks).amax(0) if masks else None


def plan_mask_iou(plan: Plan | None, truth: Tensor) -> float:
    """IoU of what a plan marks with the true mask, [H, W] or [1, H, W]; 0 where there is no plan, no mask
    text, or a malformed one."""
    if plan is None or not plan.several:
        return mask_text_iou(plan.mask_text if plan else None, truth)
    flat = truth[0] if truth.ndim == 3 and truth.shape[0] == 1 else truth
    try:
        mask = plan_mask(plan, *flat.shape[-2:])
    except MaskTextError:
        return 0.0
    return 0.0 if mask is None else mask_iou(mask, flat)
