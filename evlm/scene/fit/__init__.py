"""Photographs with cameras -> Gaussians: a start from points, the losses, and an optimiser that resumes."""

from ...lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    initial="from_points",
    fitting="Fitting FitSettings",
    densify="Growth",
    in_time="FittingInTime TimeFit",
    guessed="guessed_points",
)
