"""Pictures of Gaussians, with gradients: by torch alone on any device, or by gsplat on CUDA."""

from ...lazy import hand_on

__all__, __getattr__, __dir__ = hand_on(
    __name__,
    rendering="rasterize Rendering",
    bearable="check_bearable",
)
