"""Frames that belong together: attention shared by frames, windows without seams, propagation."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    settings="VideoSettings",
    clip="edit_clip edit_windows",
)
