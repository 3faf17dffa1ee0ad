"""The page: a template, a viewer of ours in WebGL 2, and the Gaussians as the rows of a .splat in base64."""

from __future__ import annotations

import base64
import html
import io
import json
import os
import re
from pathlib import Path
from typing import Any

import torch

from ...errors import SceneError
from ...files.pictures import write_atomically
from ..camera import Camera
from ..files.splat import write_splat
from ..gaussians import Gaussians
from ..motion import Motion

MOST = 2_000_000  # Gaussians: 85 MB of page, and what a browser's texture holds
TIMES, WAYS, SECONDS = 48, 32 << 20, 4.0  # of a moving scene: at most, their bytes, and how long it plays
_HERE = Path(__file__).parent
_HELP = "drag to turn, wheel to come near, right button or Shift to move, double click to begin again"


def scene_page(
    gaussians: Gaussians,
    camera: Camera | None = None,
    title: str = "scene",
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    help_line: bool = True,
    motion: Motion | None = None,
) -> str:
    """HTML that shows the Gaussians and asks nothing of the network.

    camera: where the view begins, its focal length in shares of the height; None: before the scene, as a .ply
    stands (y down, z forward). background: 0..1. help_line: say how it is turned. motion: with one the
    page plays. Colours are those that a .splat has: the same from every side.

    Raises SceneError: more Gaussians than a page can hold.
    """
    if len(gaussians) > MOST:
        raise SceneError(
            f"{len(gaussians)} Gaussians, a page holds at most {MOST}: thin the scene out, or open its "
            ".ply in a viewer"
        )
    plain = gaussians.detached().to("cpu").to(torch.float32)
    rows = io.BytesIO()
    write_splat(rows, plain)
    data: dict[str, Any] = {
        "camera": _begin(plain, camera),
        "background": list(background),
        "rows": base64.b64encode(rows.getvalue()).decode("ascii"),
    }
    if motion is not None and bool(motion.moving.any()):
        data["motion"] = _ways(plain, motion)
    parts = {
        "title": html.escape(title),
        "said": html.escape(_HELP) if help_line else "",
        "scene": json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        "viewer": _HERE.joinpath("viewer.js").read_text(encoding="utf-8"),
    }
    page = _HERE.joinpath("page.html").read_text(encoding="utf-8")
    return re.sub(r"\{(title|said|scene|viewer)\}", lambda found: parts[found[1]], page)


def _ways(gaussians: Gaussians, motion: Motion) -> dict[str, Any]:
    """The rows that move, and at even times where they are: [T, M, 7] of places and turns."""
    moving = motion.moving.cpu()
    count = max(2, min(TIMES, WAYS // (28 * int(moving.sum()))))
    ways = []
    for at in range(count):
        then = motion.at(gaussians, at / (count - 1)).rows(moving)
        ways.append(torch.cat([then.means, torch.nn.functional.normalize(then.quats, dim=1)], 1))
    which = moving.nonzero().flatten().to(torch.int32)
    return {
        "seconds": SECONDS,
        "times": count,
        "which": base64.b64encode(which.numpy().tobytes()).decode("ascii"),
        "ways": base64.b64encode(torch.stack(ways).float().contiguous().numpy().tobytes()).decode("ascii"),
    }


def write_page(path: str | os.PathLike[str], page: str) -> None:
    """Writes it whole or not at all. Raises SceneError: it cannot be written."""
    try:
        write_atomically(Path(path), lambda file: file.write(page.encode("utf-8", "replace")))
    except OSError as error:
        raise SceneError(f"{path}: cannot be written ({error.strerror or error})") from error


def _begin(gaussians: Gaussians, camera: Camera | None) -> dict[str, Any]:
    """Eye, target and up, [3] each, and the focal length in shares of the height."""
    seen = gaussians.means[gaussians.opacities > 0.3].double()
    means = seen if len(seen) else gaussians.means.double()
    middle = means.median(0).values
    if camera is None:
        radius = max(float((means - middle).norm(dim=1).quantile(0.9)), 1e-3)
        eye = middle - torch.tensor([0.0, 0.0, 2.5 * radius], dtype=torch.float64)
        return {"eye": eye.tolist(), "target": middle.tolist(), "up": [0.0, -1.0, 0.0], "focal": 1.0}
    ahead = float((middle - camera.centre) @ camera.direction)
    target = camera.centre + camera.direction * max(ahead, 1e-3)
    return {
        "eye": camera.centre.tolist(),
        "target": target.tolist(),
        "up": (-camera.rotation[1]).tolist(),
        "focal": camera.fy / camera.height,
    }
