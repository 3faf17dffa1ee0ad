"""antimatter15's .splat: 32 bytes a Gaussian, and nothing else.

float32 position and scale, then bytes: red, green, blue and opacity of 255, w x y z of the rotation, each as
128 + 128 q.
"""

from __future__ import annotations

from typing import IO

import numpy as np

from ...errors import SceneError
from ..gaussians import Gaussians
from .loaded import LoadedGaussians, checked_count, gathered, harmonics_of, logits_of, logs_of

ROW = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("colour", "u1", 4), ("quat", "u1", 4)])


def read_splat(file: IO[bytes], size: int, name: str) -> LoadedGaussians:
    """Raises SceneError: a size that is no multiple of 32 bytes, nothing usable in it."""
    if size % ROW.itemsize:
        raise SceneError(
            f"{name}: {size} bytes, expected a multiple of {ROW.itemsize}: it is no .splat, or was cut off"
        )
    count = checked_count(name, size // ROW.itemsize)
    rows = np.frombuffer(file.read(count * ROW.itemsize), ROW)
    colours = rows["colour"] / 255
    quats = (rows["quat"].astype(np.float32) - 128) / 128
    quats[(quats == 0).all(1)] = (1, 0, 0, 0)
    gaussians, _, notes = gathered(
        name,
        rows["mean"],
        logs_of(rows["scale"]),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        logits_of(colours[:, 3]),
        harmonics_of(colours[:, :3])[:, None],
    )
    return LoadedGaussians(gaussians, "splat", None, notes)


def write_splat(file: IO[bytes], gaussians: Gaussians) -> tuple[str, ...]:
    """Writes them, rows in their order. Returns what was lost, in words."""
    rows = np.empty(len(gaussians), ROW)
    rows["mean"] = gaussians.means.numpy()
    most = float(np.finfo(np.float32).max)
    rows["scale"] = np.minimum(np.exp(gaussians.log_scales.double().numpy().clip(max=88.8)), most)
    colours = np.concatenate(
        [gaussians.colours.double().numpy(), gaussians.logits.double().sigmoid().numpy()[:, None]], 1
    )
    rows["colour"] = np.clip(np.round(colours * 255), 0, 255).astype(np.uint8)
    quats = gaussians.quats.double().numpy()
    quats = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    rows["quat"] = np.clip(np.round(quats * 128 + 128), 0, 255).astype(np.uint8)
    file.write(rows.tobytes())
    notes = ["a .splat rounds colours, opacities and rotations to 8 bits"]
    if gaussians.degree:
        notes.append("a .splat has no harmonics: colours no longer change with the direction")
    return tuple(notes)
