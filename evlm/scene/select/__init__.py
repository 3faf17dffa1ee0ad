"""Which Gaussians a thing is made of: masks of many views vote, and what lies apart is dropped."""

from ...lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    votes="Votes vote",
    hull="select_rows Selected",
    moving="which_move",
)
