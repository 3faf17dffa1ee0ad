"""The four scenarios of hypothetical edits, and what public sets call them."""

from __future__ import annotations

from typing import Any

_NAMES = {
    "physical": "physical", "temporal": "temporal", "causal": "causal", "story": "story",
    "longterm": "temporal", "physicaltrans": "physical", "spatialtrans": "physical",
    "implicitlogic": "causal", "storytype": "story",
}  # fmt: skip
"""Reason50K's four, and five of EditWorld's seven; its real-to-virtual and exaggeration have no cause."""


def scenario_of(said: Any) -> dict[str, str]:
    """{"scenario": ...} of a category such as "Physical-Trans" or "story reasoning"; {} where it is another
    one, or none."""
    if not isinstance(said, str):
        return {}
    word = "".join(letter for letter in said.lower() if letter.isalpha())
    name = _NAMES.get(word.removesuffix("reasoning"))
    return {"scenario": name} if name else {}
