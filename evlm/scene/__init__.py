"""Gaussian scenes with cameras: files, a rasterizer, fitting, selection and edits."""

from ..lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    gaussians="Gaussians",
    camera="Camera",
    splat_scene="SplatScene",
    points="Points",
)
