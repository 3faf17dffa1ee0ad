"""Hypothetical requests: edits that are asked for by their cause ("what if the star were dropped?")."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    ask="ask_what_if",
    question="WhatIf",
    reader="outcome_right",
    rules="RULES",
)
