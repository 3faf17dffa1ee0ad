"""Files of Gaussians: .ply, compressed .ply, .splat, .spz and .ksplat, read and written by numpy alone."""

from ...lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    front="LoadedGaussians load_gaussians save_gaussians",
    point_cloud="load_points",
    loaded="PlySource",
)
