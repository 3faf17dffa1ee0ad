"""Model, data and state: what learns, and what goes on after a kill."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    learner="Learner load_learner",
    rows="Example Rows open_rows",
    state="Progress States",
)
