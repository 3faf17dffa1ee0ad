"""REFLECTIVE-EDIT made: from pictures, clips and public sets on one's own disk to rows that a run learns
from."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    recipe="Recipe load_recipe",
    plan="Planned make_plan",
)
