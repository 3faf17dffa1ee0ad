"""How many tokens the model was fed: what runs of equal compute have in common.

Every forward of this package's own counts here, with a graph or without: a phase's policy and reference,
eta0's pairs, samples as they grow, embeddings. Padding is not counted, pictures are by the tokens that they
become.
"""

from __future__ import annotations

from torch import Tensor

_fed: int | Tensor = 0


def count_fed(tokens: int | Tensor) -> None:
    """Tokens of one forward; a whole number, or a tensor [] of one, which is not waited for."""
    global _fed
    _fed = _fed + tokens


def pop_count() -> int:
    """Tokens since the last call."""
    global _fed
    taken, _fed = int(_fed), 0
    return taken
