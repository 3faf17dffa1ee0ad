"""Instruction and mask become frames: one protocol, several editors."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    protocol="EditSettings Edited Editor OnStep",
    load="load_editor",
)
