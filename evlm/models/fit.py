"""What fits a card: the catalogue's needs against its memory. Estimates, as those needs are."""

from __future__ import annotations

from collections.abc import Iterable

from .sets import SETS
from .zoo import CATALOGUE, Model

FREE = 0.9
"""The share of a card that models may have; the rest is the screen's and torch's own."""

IN_4_BITS = 0.37  # of what a reasoner needs in 16
ELSEWHERE = "its GGUF behind llama.cpp or Ollama, about a third of that (docs/models.md)"


def set_remarks(card: float) -> list[str]:
    """A line for each set: whether it fits a card of so many GB in ComfyUI, which keeps one model on it at a
    time, and in `python -m evlm edit`, which keeps all of them."""
    lines = []
    for each in SETS:
        models = _known(each.models)
        largest, together = max(models, key=lambda model: model.vram), sum(model.vram for model in models)
        if fits(largest.vram, card):
            both = " and in `python -m evlm edit`" if fits(together, card) else ""
            said = f"fits in ComfyUI{both}: {largest.vram:g} GB at a time, {together:g} GB together"
        else:
            said = _too_large(largest, card)
        lines.append(f"{each.name:16} {said}")
    return lines


def remarks(names: Iterable[str], card: float) -> list[str]:
    """Of models by their names, those that are too large for a card of so many GB, each with a remedy.
    Models that are not in the catalogue are not spoken of."""
    return [_too_large(model, card) for model in _known(names) if not fits(model.vram, card)]


def fits(need: float, card: float) -> bool:
    """Both in GB."""
    return need <= FREE * card


def _known(names: Iterable[str]) -> list[Model]:
    wanted = set(names)
    return [model for model in CATALOGUE if model.name in wanted]


def _too_large(model: Model, card: float) -> str:
    smaller = [each for each in CATALOGUE if each.role == model.role and fits(each.vram, card)]
    remedies = [max(smaller, key=lambda each: each.vram).name] if smaller else []
    if model.role == "reasoner":
        if fits(model.vram * IN_4_BITS, card):
            remedies.append("4 bits (on CUDA)")
        remedies.append(ELSEWHERE)
    remedy = f"; instead: {', or '.join(remedies)}" if remedies else ""
    return f"{model.name} wants about {model.vram:g} GB, and this card has {card:.1f}{remedy}"
