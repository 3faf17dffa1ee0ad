"""What moves in a clip and how: optical flow between frames, and how steady an edit is along it."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    flow="lk warp consistent",
    affine="fit_affine affine_flow object_flow",
    estimator="load_estimator Estimator",
    steady="Steadiness steadiness",
)
