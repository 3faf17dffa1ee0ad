"""What a loss takes as given: eta0 and the rewards."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    eta0="Eta0Config",
    rewards="RewardConfig",
)
