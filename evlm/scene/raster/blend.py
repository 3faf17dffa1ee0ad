"""Front to back through the Gaussians of each tile: one matrix product for their alphas, and a backward pass
written by hand that keeps nothing but the picture.

A pixel's value is sum_k T_k alpha_k v_k, with T_k the product of (1 - alpha) over what lies before k and
alpha_k = min(.99, opacity * exp(-sigma)). Within a tile -sigma is a quadratic in the pixel's coordinates, so
ln alpha of a list of Gaussians at all 64 pixels is [k, 6] @ [6, 64]. S the sum, S_k that of the first k:

    d value / d ln alpha_k = T_k alpha_k v_k - (S - S_k) alpha_k / (1 - alpha_k).

Comparisons that give booleans cost more here than all the arithmetic (a threshold and a ceil do the same work
eight times as fast), hence the way in which small alphas and finished pixels are put to 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import threshold

from .project import ALPHA_MIN, OPACITY_MAX
from .tiles import TILE, Piece, Tiles

LIGHT_MIN = 1e-4  # a pixel is finished before the Gaussian that would let through less than this
ROUND = 64  # Gaussians of a tile at a time
BLOCK = 1 << 18  # pixels times Gaussians at a time: what bounds the memory
PIXELS = TILE * TILE


class Blend(torch.autograd.Function):
    """pixels [N, 2], conics [N, 3], opacities [N], values [N, C] -> [tiles, C, 64], each in its tile's order.

    Differentiable once, in all four.
    """

    @staticmethod
    def forward(
        ctx: Any, pixels: Tensor, conics: Tensor, opacities: Tensor, values: Tensor, tiles: Tiles
    ) -> Tensor:
        out = values.new_zeros(tiles.columns * tiles.rows, values.shape[1], PIXELS)
        basis = _basis(values)
        for piece in tiles.pieces():
            quadratics = _quadratics(pixels, conics, opacities, piece, tiles.columns)
            light = values.new_ones(len(piece.tiles), PIXELS)
            for part in _rounds(piece, light):
                weights, _ = _weights(part, quadratics, basis, light)
                listed = values.index_select(0, piece.rows[part.pairs]).reshape(*part.shape, -1)
                out.index_add_(0, piece.tiles[part.tiles], listed.transpose(1, 2) @ weights)
        ctx.save_for_backward(pixels, conics, opacities, values, out)
        ctx.tiles = tiles
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        pixels, conics, opacities, values, out = ctx.saved_tensors
        shape_counts = any(ctx.needs_input_grad[:3])
        count = values.shape[1]
        found = values.new_zeros(len(values), count + 6)
        basis = _basis(values)
        grad = grad.contiguous()
        for piece in ctx.tiles.pieces():
            quadratics = _quadratics(pixels, conics, opacities, piece, ctx.tiles.columns)
            light = values.new_ones(len(piece.tiles), PIXELS)
            behind = (grad[piece.tiles] * out[piece.tiles]).sum(1)
            paired = values.new_zeros(len(piece.rows), count + 6)
            for part in _rounds(piece, light):
                weights, ratio = _weights(part, quadratics, basis, light)
                pulled = grad[piece.tiles[part.tiles]]
                of_values = pulled @ weights.transpose(1, 2)
                if not shape_counts:
                    part.put(paired[:, :count], of_values)
                    continue
                listed = values.index_select(0, piece.rows[part.pairs]).reshape(*part.shape, -1)
                of_logs = (listed @ pulled).mul_(weights)
                passed = of_logs.cumsum(1)
                passed -= behind[part.tiles][:, None]
                behind[part.tiles] = -passed[:, -1]
                of_logs.addcmul_(passed, ratio)
                part.put(paired, torch.cat([of_values, basis @ of_logs.transpose(1, 2)], 1))
            if shape_counts:
                paired[:, count:] = _unravelled(pixels, conics, paired[:, count:], piece, ctx.tiles.columns)
            found.index_put_((piece.rows,), paired, accumulate=True)
        of_values, of_pixels, of_conics, of_log = found.split([count, 2, 3, 1], 1)
        of_opacities = of_log[:, 0] / opacities.clamp(min=ALPHA_MIN)  # what is thinner was never listed
        return of_pixels, of_conics, of_opacities, of_values, None


def _basis(like: Tensor) -> Tensor:
    """[6, 64]: 1, x, y, x^2, xy, y^2 at a tile's pixel centres, from the tile's middle."""
    line = torch.arange(TILE, dtype=like.dtype, device=like.device) + 0.5 - TILE / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y]).reshape(6, PIXELS)


def _offsets(pixels: Tensor, piece: Piece, columns: int) -> tuple[Tensor, Tensor]:
    """x and y [M] of the listed Gaussians' centres, from the middle of the tile."""
    tile = piece.tiles[piece.homes]
    centre = pixels.index_select(0, piece.rows)
    return centre[:, 0] - (tile % columns * TILE + TILE / 2), centre[:, 1] - (
        tile // columns * TILE + TILE / 2
    )


def _quadratics(pixels: Tensor, conics: Tensor, opacities: Tensor, piece: Piece, columns: int) -> Tensor:
    """[M, 6]: ln(opacity) - sigma, as coefficients of the basis."""
    x, y = _offsets(pixels, piece, columns)
    a, b, c = conics.index_select(0, piece.rows).unbind(-1)
    constant = opacities.index_select(0, piece.rows).log() - (0.5 * (a * x * x + c * y * y) + b * x * y)
    return torch.stack([constant, a * x + b * y, c * y + b * x, -0.5 * a, -b, -0.5 * c], -1)


def _unravelled(pixels: Tensor, conics: Tensor, grads: Tensor, piece: Piece, columns: int) -> Tensor:
    """Gradients [M, 6] of `_quadratics` -> [M, 6]: of x, y, of the conic's xx, xy, yy, of ln(opacity)."""
    x, y = _offsets(pixels, piece, columns)
    a, b, c = conics.index_select(0, piece.rows).unbind(-1)
    g0, g1, g2, g3, g4, g5 = grads.unbind(-1)
    return torch.stack(
        [
            a * g1 + b * g2 - (a * x + b * y) * g0,
            b * g1 + c * g2 - (c * y + b * x) * g0,
            x * g1 - 0.5 * (x * x * g0 + g3),
            y * g1 + x * g2 - x * y * g0 - g4,
            y * g2 - 0.5 * (y * y * g0 + g5),
            g0,
        ],
        -1,
    )


@dataclass(frozen=True, eq=False)
class _Part:
    """Some tiles' next Gaussians: tiles [t] places in the piece; pairs [t * k] places in its list, of which
    `real` [t, k] says which are any; the others fill up short lists."""

    tiles: Tensor
    pairs: Tensor
    real: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.real.shape[0], self.real.shape[1]

    def put(self, into: Tensor, grads: Tensor) -> None:
        """grads [t, c, k] into the rows of `into` [M, c]."""
        real = self.real.flatten()
        into[self.pairs[real]] = grads.transpose(1, 2).reshape(len(real), -1)[real]


def _rounds(piece: Piece, light: Tensor) -> Iterator[_Part]:
    """ROUND Gaussians at a time of each tile that light comes through, tiles of like length together."""
    start = piece.counts.cumsum(0) - piece.counts
    together = max(1, BLOCK // (PIXELS * ROUND))
    for first in range(0, int(piece.counts.max()) if len(piece.counts) else 0, ROUND):
        tiles = (piece.counts > first).nonzero().flatten()
        if first:
            tiles = tiles[light[tiles].amax(1) > 0]
        left, order = (piece.counts[tiles] - first).clamp(max=ROUND).sort()
        tiles = tiles[order]
        for begin in range(0, len(tiles), together):
            some, lengths = tiles[begin : begin + together], left[begin : begin + together]
            places = torch.arange(int(lengths[-1]), device=tiles.device)
            real = places < lengths[:, None]
            pairs = (start[some] + first)[:, None] + torch.where(real, places, 0)
            yield _Part(some, pairs.flatten(), real)


def _weights(part: _Part, quadratics: Tensor, basis: Tensor, light: Tensor) -> tuple[Tensor, Tensor]:
    """(T alpha, alpha / (1 - alpha)), both [t, k, 64] and 0 where nothing is drawn; `light` [tiles, 64], what
    comes through so far (0 where a pixel is finished), goes on behind these Gaussians."""
    listed = quadratics.index_select(0, part.pairs)
    listed[:, 0].masked_fill_(~part.real.flatten(), -math.inf)
    alpha = (listed @ basis).reshape(*part.shape, PIXELS)
    alpha = alpha.clamp_(max=math.log(OPACITY_MAX)).exp_()
    alpha = threshold(alpha, ALPHA_MIN, 0.0, inplace=True)
    clear = 1 - alpha
    ratio = alpha.div_(clear)
    clear[:, 0] *= light[part.tiles]
    after = threshold(clear.cumprod(1), LIGHT_MIN, 0.0, inplace=True)  # 0 from where a pixel is finished
    light[part.tiles] = after[:, -1]
    ratio *= after.ceil()
    return after.mul_(ratio), ratio
