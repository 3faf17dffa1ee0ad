"""Real spherical harmonics of degree 0 to 3, in the order and with the signs of 3D Gaussian Splatting."""

from __future__ import annotations

import torch
from torch import Tensor

_C0 = 0.28209479177387814
_C1 = 0.4886025119029199
_C2 = (1.0925484305920792, 0.31539156525252005, 0.5462742152960396)
_C3 = (0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277)


def basis(directions: Tensor, degree: int) -> Tensor:
    """directions [N, 3] of unit length -> [N, (degree + 1) ** 2], the harmonics' values there."""
    x, y, z = directions.unbind(-1)
    out = [torch.full_like(x, _C0)]
    if degree > 0:
        out += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree > 1:
        xx, yy, zz = x * x, y * y, z * z
        out += [
            _C2[0] * x * y,
            -_C2[0] * y * z,
            _C2[1] * (2 * zz - xx - yy),
            -_C2[0] * x * z,
            _C2[2] * (xx - yy),
        ]
    if degree > 2:
        out += [
            -_C3[0] * y * (3 * xx - yy),
            _C3[1] * x * y * z,
            -_C3[2] * y * (4 * zz - xx - yy),
            _C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            -_C3[2] * x * (4 * zz - xx - yy),
            _C3[4] * z * (xx - yy),
            -_C3[0] * x * (xx - 3 * yy),
        ]
    return torch.stack(out, -1)


def colours(sh: Tensor, means: Tensor, centre: Tensor, degree: int) -> Tensor:
    """sh [N, K, 3], K >= (degree + 1) ** 2, seen from `centre` [3] -> [N, 3], at least 0."""
    if degree == 0:
        return (0.5 + _C0 * sh[:, 0]).clamp(min=0)
    values = basis(torch.nn.functional.normalize(means - centre, dim=-1), degree)
    return (0.5 + (values[..., None] * sh[:, : values.shape[1]]).sum(1)).clamp(min=0)
