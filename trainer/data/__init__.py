"""Datasets: formats, files, what is in them, and the stream that a run learns from."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    stream="Stream",
)
