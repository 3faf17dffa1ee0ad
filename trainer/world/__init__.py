"""The drawn world: scenes, edits, questions and traces whose truth is known exactly."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    scene="Scene Split Thing random_scene",
    questions="Question CATEGORIES ask",
    traces="write_trace",
    rows="to_request",
)
