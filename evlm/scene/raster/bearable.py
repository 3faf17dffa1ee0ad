"""How many Gaussians are drawn where there is no accelerator."""

from __future__ import annotations

from ...errors import SceneError
from ..gaussians import Gaussians

MOST_ON_CPU = 500_000  # 2 s of one core for a picture of 512 x 512 of 200,000


def check_bearable(gaussians: Gaussians) -> None:
    """Raises SceneError: more than a CPU draws in bearable time."""
    if len(gaussians) > MOST_ON_CPU and gaussians.means.device.type == "cpu":
        raise SceneError(
            f"{len(gaussians):,} Gaussians on a CPU, where at most {MOST_ON_CPU:,} are drawn in bearable "
            "time: use a GPU, or thin the scene out first, for example with `npx "
            "@playcanvas/splat-transform in.ply --decimate 10% out.ply`"
        )
