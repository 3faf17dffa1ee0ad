"""What reading a file gives: Gaussians, notes, and what of a .ply must go back to the disk as it was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ...errors import SceneError
from ..gaussians import MAX_GAUSSIANS, SH_C0, Gaussians
from .ply_header import PlyHeader

SMALLEST_SCALE = -20.0  # log; what has no extent in a file (-inf) gets this: 2e-9 world units
_NEAREST = 1e-6  # an opacity of 0 or 1 is taken as this far from it, where a logit is finite


@dataclass(frozen=True, eq=False)
class PlySource:
    """The .ply that Gaussians came from, without what the Gaussians themselves hold exactly.

    header: as it stood. before, after: the bytes of the elements around the vertices. rows: [M] structured,
    the properties that Gaussians do not hold (normals, unknown ones) or not exactly (double, infinite), for
    each Gaussian that was read. degree: of the harmonics in the file. lines: of an ascii file, each row's.
    """

    header: PlyHeader
    before: bytes
    after: bytes
    rows: np.ndarray
    degree: int
    lines: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class LoadedGaussians:
    """Gaussians from a file.

    gaussians: float32 on the CPU. kind: "ply", "compressed.ply", "splat", "spz" or "ksplat". source: for a
    .ply, what `save_gaussians` needs to write untouched rows as they were. notes: what was dropped or
    guessed, in words.
    """

    gaussians: Gaussians
    kind: str
    source: PlySource | None = None
    notes: tuple[str, ...] = ()


def checked_count(name: str, count: int) -> int:
    """The count of Gaussians that a file gives. Raises SceneError: none, or too many."""
    if count < 1:
        raise SceneError(f"{name}: holds no Gaussians")
    if count > MAX_GAUSSIANS:
        raise SceneError(
            f"{name}: {count} Gaussians, at most {MAX_GAUSSIANS} are read; thin it out first, for example "
            "with `npx @playcanvas/splat-transform in.ply --decimate 10% out.ply`"
        )
    return count


def logits_of(opacities: np.ndarray) -> np.ndarray:
    """Opacities in 0..1 -> float32 logits; 0 and 1 become the nearest that is finite."""
    near = np.clip(opacities.astype(np.float64), _NEAREST, 1 - _NEAREST)
    return np.log(near / (1 - near)).astype(np.float32)


def finite_logits(logits: np.ndarray) -> np.ndarray:
    """Logits of which those of +-infinity (opaque, unseen) are finite; NaN stays."""
    most = logits_of(np.ones(1))[0]
    return np.where(np.isposinf(logits), most, np.where(np.isneginf(logits), -most, logits))


def finite_scales(log_scales: np.ndarray) -> np.ndarray:
    """Log scales of which those of -infinity (no extent) are `SMALLEST_SCALE`; NaN and +infinity stay."""
    return np.where(np.isneginf(log_scales), np.float32(SMALLEST_SCALE), log_scales)


def logs_of(scales: np.ndarray) -> np.ndarray:
    """Scales in world units -> float32 logarithms; NaN for what is negative."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return finite_scales(np.log(scales.astype(np.float64)).astype(np.float32))


def harmonics_of(colours: np.ndarray) -> np.ndarray:
    """Colours in 0..1 [N, 3] -> the constant harmonic, float32."""
    return ((colours.astype(np.float64) - 0.5) / SH_C0).astype(np.float32)


def gathered(
    name: str,
    means: np.ndarray,
    log_scales: np.ndarray,
    quats: np.ndarray,
    logits: np.ndarray,
    sh: np.ndarray,
) -> tuple[Gaussians, np.ndarray | None, tuple[str, ...]]:
    """(the rows whose numbers are finite, bool [N] which those are or None for all, notes).

    All float32: means, log_scales [N, 3], quats [N, 4], logits [N], sh [N, K, 3]. name: of the file, for
    errors. Raises SceneError: no row is usable.
    """
    arrays = [np.require(each, np.float32, ["C", "W"]) for each in (means, log_scales, quats, logits, sh)]
    whole = Gaussians(*(torch.from_numpy(each) for each in arrays))
    good = whole.finite()
    bad = len(whole) - int(good.sum())
    if not bad:
        return whole, None, ()
    if bad == len(whole):
        raise SceneError(
            f"{name}: none of its {bad} Gaussians has finite numbers; the training that wrote it failed, or "
            "the file is damaged"
        )
    note = f"{bad} of {len(whole)} Gaussians have numbers that are not finite, or a rotation of 0; left out"
    return whole.rows(good), good.numpy(), (note,)
