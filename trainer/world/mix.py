"""Shares of the kinds of questions that were added to the world: each has an asker and a draw of its own, so
that a recipe without them asks what it always asked."""

from __future__ import annotations

import random
from dataclasses import dataclass

from evlm.errors import ConfigError

from .conflicts import ask_conflict
from .doubles import ask_double
from .question import Question
from .questions import ask
from .scene import Split
from .whatif.ask import ask_what_if


@dataclass(frozen=True)
class Mix:
    """doubles, conflicts, whatif: shares of double questions, of those whose words and picture disagree, and
    of hypothetical ones; the rest is `ask`'s. Raises ConfigError where a share is not in 0..1, or they are
    more than all together."""

    doubles: float = 0.0
    conflicts: float = 0.0
    whatif: float = 0.0

    def __post_init__(self) -> None:
        for name, share in vars(self).items():
            if not 0 <= share <= 1:  # NaN is not
                raise ConfigError(f"{name} {share!r:.40}: expected a share from 0 to 1")
        if sum(vars(self).values()) > 1 + 1e-9:
            shares = ", ".join(f"{name} {share:g}" for name, share in vars(self).items())
            raise ConfigError(f"{shares}: more than 1 together; lower one of them")

    @property
    def name(self) -> str | None:
        """Its part of a recipe's name; None where it is empty."""
        return "-".join(f"{name}-{share:g}" for name, share in vars(self).items() if share) or None

    def __bool__(self) -> bool:
        return any(vars(self).values())


def ask_mixed(
    kind: random.Random,
    rng: random.Random,
    split: Split,
    mix: Mix,
    category: str | None = None,
    op: str | None = None,
    rule: str | None = None,
) -> Question:
    """A question of the mix. kind: draws which sort it is; rng: draws the question. category: of all but the
    hypothetical, which have their own; op: of the ordinary sort; rule: of the hypothetical one. Raises
    ValueError for conflicts of the category "text"."""
    drawn = kind.random()
    if drawn < mix.doubles:
        return ask_double(rng, split, category)
    if drawn < mix.doubles + mix.conflicts:
        return ask_conflict(rng, split, category)
    if drawn < mix.doubles + mix.conflicts + mix.whatif:
        return ask_what_if(rng, split, rule)
    return ask(rng, split, op, category)
