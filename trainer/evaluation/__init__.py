"""How right a reasoner is: accuracy with intervals, judges, results on disk."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    accuracy="Outcome evaluate summary",
    questions="world_questions",
    results="cells read_csv",
)
