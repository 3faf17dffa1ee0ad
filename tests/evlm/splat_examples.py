"""Small Gaussians for tests of files."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from evlm.scene import Gaussians


def some_gaussians(n: int = 12, degree: int = 1, seed: int = 0) -> Gaussians:
    """Numbers of the size that a fitted scene has."""
    draw = torch.Generator().manual_seed(seed)
    sizes = torch.full(((degree + 1) ** 2, 1), 0.2)
    sizes[0] = 0.5
    return Gaussians(
        means=torch.randn(n, 3, generator=draw) * 2,
        log_scales=torch.randn(n, 3, generator=draw) - 3,
        quats=torch.randn(n, 4, generator=draw),
        logits=torch.randn(n, generator=draw) * 2,
        sh=torch.randn(n, (degree + 1) ** 2, 3, generator=draw) * sizes,
    )


def same_bits(a: Gaussians, b: Gaussians) -> bool:
    pairs = zip(a.tensors().values(), b.tensors().values(), strict=True)
    return all(x.shape == y.shape and torch.equal(x.view(torch.int32), y.view(torch.int32)) for x, y in pairs)


def turned_apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of a component of two lists of rotations [N, 4], of which q and -q are one."""
    a, b = (torch.nn.functional.normalize(each.double(), dim=1) for each in (a, b))
    sign = torch.where((a * b).sum(1, keepdim=True) < 0, -1.0, 1.0)
    return float((a - sign * b).abs().max())


def apart(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max())


def ply_bytes(
    columns: dict[str, tuple[str, np.ndarray]],
    form: str = "binary_little_endian",
    newline: str = "\n",
    more: str = "",
    tail: bytes = b"",
) -> bytes:
    """A .ply by hand: property -> (type as written, its numbers)."""
    count = len(next(iter(columns.values()))[1])
    lines = ["ply", f"format {form} 1.0", "comment by hand", f"element vertex {count}"]
    lines += [f"property {kind} {name}" for name, (kind, _) in columns.items()]
    header = newline.join([*lines, *filter(None, [more]), "end_header", ""]).encode()
    if form == "ascii":
        rows = zip(*(values.tolist() for _, values in columns.values()), strict=True)
        return header + b"".join((" ".join(map(repr, row)) + newline).encode() for row in rows) + tail
    order = {"binary_little_endian": "<", "binary_big_endian": ">"}[form]
    kinds = {"float": "f4", "double": "f8", "uchar": "u1", "int": "i4", "float32": "f4"}
    table = np.zeros(count, [(name, order + kinds[kind]) for name, (kind, _) in columns.items()])
    for name, (_, values) in columns.items():
        table[name] = values
    return header + table.tobytes() + tail


def columns_of(g: Gaussians, kind: str = "float") -> dict[str, tuple[str, np.ndarray]]:
    values = {name: g.means[:, at] for at, name in enumerate("xyz")}
    values |= {f"f_dc_{at}": g.sh[:, 0, at] for at in range(3)}
    above = g.sh.shape[1] - 1
    values |= {f"f_rest_{c * above + k}": g.sh[:, 1 + k, c] for c in range(3) for k in range(above)}
    values["opacity"] = g.logits
    values |= {f"scale_{at}": g.log_scales[:, at] for at in range(3)}
    values |= {f"rot_{at}": g.quats[:, at] for at in range(4)}
    return {name: (kind, each.numpy()) for name, each in values.items()}
