"""What a run says: events, progress, curves, samples, one page."""

from evlm.lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    progress="reporting",
    samples="keep_samples",
    curves="Point",
)
