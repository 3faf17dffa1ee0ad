"""Contact sheets: a run as one picture."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    sheet="SheetRow draw_sheet overlay",
    strip="draw_strip shown_pairs",
)
