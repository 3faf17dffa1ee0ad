"""How far each rater is to be trusted, from votes alone (Dawid and Skene 1979, for yes and no)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Votes = Sequence[bool | None]
"""Of one row, rater by rater; None where a rater did not vote."""


@dataclass(frozen=True)
class Trust:
    """desired: each row's chance to be a desired one. yes, no: each rater's chance to say yes of a desired
    row, and no of an undesired one. share: of desired rows."""

    desired: list[float]
    yes: list[float]
    no: list[float]
    share: float


def dawid_skene(rows: Sequence[Votes], turns: int = 200, settled: float = 1e-9) -> Trust:
    """Expectation-maximisation from the majority's shares, until nothing moves.

    Each rate is drawn towards .8 by two votes that nobody gave (Beta(2.6, 1.4)'s mode): a rater of few votes
    is neither perfect nor useless, and "yes" keeps its meaning. Rows without a vote have the share itself.
    """
    raters = max((len(votes) for votes in rows), default=0)
    desired = [_share(votes) for votes in rows]
    yes, no, share = [0.8] * raters, [0.8] * raters, 0.5
    for _ in range(turns):
        share = (sum(desired) + 1) / (len(rows) + 2)
        for rater in range(raters):
            said = [
                (votes[rater], p)
                for votes, p in zip(rows, desired, strict=True)
                if rater < len(votes) and votes[rater] is not None
            ]
            of_yes, of_no = sum(p for _, p in said), sum(1 - p for _, p in said)
            yes[rater] = (sum(p for vote, p in said if vote) + 1.6) / (of_yes + 2)
            no[rater] = (sum(1 - p for vote, p in said if not vote) + 1.6) / (of_no + 2)
        before, desired = desired, [_posterior(votes, yes, no, share) for votes in rows]
        if max((abs(a - b) for a, b in zip(before, desired, strict=True)), default=0.0) < settled:
            break
    return Trust(desired, yes, no, share)


def confidence(desired: float, label: bool) -> float:
    """How far a row's label is to be trusted, where it is a desired one with that chance: 1 where it is sure,
    0 where it is a coin, and where the raters, rightly weighed, say otherwise. A loss that is odd in the
    label has 2p - 1 of what the right label would give it, in the mean."""
    return max(0.0, 2 * desired - 1 if label else 1 - 2 * desired)


def _share(votes: Votes) -> float:
    given = [vote for vote in votes if vote is not None]
    return (sum(given) + 0.5) / (len(given) + 1)


def _posterior(votes: Votes, yes: Sequence[float], no: Sequence[float], share: float) -> float:
    for_it, against = share, 1 - share
    for rater, vote in enumerate(votes):
        if vote is not None:
            for_it *= yes[rater] if vote else 1 - yes[rater]
            against *= 1 - no[rater] if vote else no[rater]
    return for_it / (for_it + against)
