"""Boxes become masks."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    segmenter="Segmenter Segmentation",
    region="PlanRegion Region plan_region",
)
