"""Clips of any length through the pipeline, window by window; a run that was stopped goes on."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(__name__, job="ClipJob")
