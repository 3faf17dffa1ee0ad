"""Labels become boxes."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    grounder="Grounder plan_boxes",
)
