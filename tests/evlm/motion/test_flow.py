"""Optical flow against an obvious reference in loops, and against motions that are known."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evlm.errors import ModelError, PictureError
from evlm.motion.affine import affine_flow, fit_affine, object_flow
from evlm.motion.estimator import find_raft, load_estimator
from evlm.motion.flow import centres, consistent, lk, warp

SIDE = 48


def texture(at: Tensor, seed: int = 0) -> Tensor:
    """A smooth picture of the plane at any points [..., 2]: [..., 3] in 0..1."""
    draw = torch.Generator().manual_seed(seed)
    waves = torch.randn(3, 5, 2, generator=draw) * 0.35
    phase = torch.rand(3, 5, generator=draw) * 2 * math.pi
    return torch.sin(torch.einsum("cki,...i->...ck", waves, at) + phase).mean(-1) / 2 + 0.5


def moved(flow: Tensor, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(first, second, flow [1, S, S, 2]) where the second is the first displaced by a small, smooth flow."""
    at = centres(SIDE, SIDE, torch.zeros(1))
    back = at.clone()
    for _ in range(30):  # the point that comes to rest here: x - flow(x), solved by iteration
        back = at - flow(back)
    return texture(at, seed)[None], texture(back, seed)[None], flow(at)[None]


def inner(error: Tensor, rim: int = 8) -> float:
    return float(error.norm(dim=-1)[:, rim:-rim, rim:-rim].mean())


def reference_lk(a: np.ndarray, b: np.ndarray, levels: int, steps: int, sigma: float, smooth: float):
    """Lucas-Kanade as it is told in words: every pixel by itself, its window in two loops, in float64."""

    def pool(picture, n):
        h, w, c = picture.shape
        return picture.reshape(h // n, n, w // n, n, c).mean((1, 3))

    def clamp(value, most):
        return min(max(value, 0), most - 1)

    def look(picture, x, y):  # bilinear, the edge repeated
        h, w = picture.shape[:2]
        x, y = min(max(x, 0.0), w - 1.0), min(max(y, 0.0), h - 1.0)
        x0, y0 = int(x), int(y)
        x1, y1 = clamp(x0 + 1, w), clamp(y0 + 1, h)
        fx, fy = x - x0, y - y0
        top = picture[y0, x0] * (1 - fx) + picture[y0, x1] * fx
        return top * (1 - fy) + (picture[y1, x0] * (1 - fx) + picture[y1, x1] * fx) * fy

    def gaussian(field, s):
        h, w = field.shape[:2]
        r = int(3 * s + 0.5)
        k = [math.exp(-0.5 * (i / s) ** 2) for i in range(-r, r + 1)]
        out = np.zeros_like(field)
        for y, x in product(range(h), range(w)):
            for i, j in product(range(-r, r + 1), repeat=2):
                share = k[i + r] * k[j + r] / sum(k) ** 2
                out[y, x] += field[clamp(y + i, h), clamp(x + j, w)] * share
        return out

    flow = None
    for level in reversed(range(levels)):
        one, two = pool(a, 2**level), pool(b, 2**level)
        h, w = one.shape[:2]
        if flow is None:
            flow = np.zeros((h, w, 2))
        else:
            flow = 2 * np.array(
                [[look(flow, (x + 0.5) / 2 - 0.5, (y + 0.5) / 2 - 0.5) for x in range(w)] for y in range(h)]
            )
        for _ in range(steps):
            seen = np.array(
                [[look(two, x + flow[y, x, 0], y + flow[y, x, 1]) for x in range(w)] for y in range(h)]
            )
            sums = np.zeros((h, w, 5))
            for y, x in product(range(h), range(w)):
                gx = (seen[y, clamp(x + 1, w)] - seen[y, clamp(x - 1, w)]) / 2
                gy = (seen[clamp(y + 1, h), x] - seen[clamp(y - 1, h), x]) / 2
                e = one[y, x] - seen[y, x]
                sums[y, x] = (gx @ gx, gx @ gy, gy @ gy, gx @ e, gy @ e)
            sums = gaussian(sums, sigma)
            for y, x in product(range(h), range(w)):
                xx, xy, yy, xe, ye = sums[y, x]
                matrix = np.array([[xx + 1e-3, xy], [xy, yy + 1e-3]])
                flow[y, x] += np.clip(np.linalg.solve(matrix, [xe, ye]), -1, 1)
            flow = gaussian(flow, smooth)
    return flow


def test_lucas_kanade_is_what_the_loops_compute() -> None:
    at = centres(16, 16, torch.zeros(1))
    a, b = texture(at)[None], texture(at - torch.tensor([0.8, -0.4]))[None]
    wanted = reference_lk(a[0].double().numpy(), b[0].double().numpy(), 2, 2, 1.0, 0.7)
    got = lk(a, b, levels=2, steps=2, window=1.0, smooth=0.7)[0]
    assert float((got.double() - torch.from_numpy(wanted)).abs().max()) < 1e-4


def test_still_frames_do_not_move_at_all() -> None:
    frames = torch.rand(2, 33, 41, 3)
    assert float(lk(frames, frames).abs().max()) < 1e-5
    assert consistent(lk(frames, frames), lk(frames, frames)).all()


@settings(max_examples=8, deadline=None)
@given(x=st.floats(-4, 4), y=st.floats(-4, 4), seed=st.integers(0, 99))
def test_a_translation_is_found(x: float, y: float, seed: int) -> None:
    shift = torch.tensor([x, y])
    first, second, true = moved(lambda at: shift.expand_as(at), seed)
    assert inner(lk(first, second) - true, 10) < 0.25


@settings(max_examples=8, deadline=None)
@given(turn=st.floats(-0.12, 0.12), grow=st.floats(-0.08, 0.08), x=st.floats(-2, 2), seed=st.integers(0, 99))
def test_a_turn_with_growth_is_found_by_lk_and_by_six_numbers(
    turn: float, grow: float, x: float, seed: int
) -> None:
    matrix = torch.tensor([[grow, -turn], [turn, grow]])
    first, second, true = moved(lambda at: (at - SIDE / 2) @ matrix.T + torch.tensor([x, 0.0]), seed)
    assert inner(lk(first, second) - true, 10) < 0.3
    mask = ((centres(SIDE, SIDE, torch.zeros(1)) - SIDE / 2).norm(dim=-1) < 12)[None]
    assert float((affine_flow(first, second, mask) - true)[mask].norm(dim=-1).mean()) < 0.15


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 99))
def test_mirrored_frames_have_the_mirrored_flow(seed: int) -> None:
    first, second, _ = moved(lambda at: torch.tensor([1.3, -0.7]).expand_as(at), seed)
    flow, mirrored = lk(first, second), lk(first.flip(2), second.flip(2)).flip(2)
    assert torch.allclose(flow * torch.tensor([1, 1]), mirrored * torch.tensor([-1, 1]), atol=1e-3)
    turned = lk(first.transpose(1, 2), second.transpose(1, 2)).transpose(1, 2).flip(-1)
    assert torch.allclose(flow, turned, atol=1e-3)


def test_pairs_of_a_batch_do_not_know_each_other() -> None:
    pairs = [moved(lambda at, s=s: torch.tensor([s, 0.5]).expand_as(at), int(s))[:2] for s in (1.0, 2.0)]
    both = lk(torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs]))
    alone = torch.cat([lk(a, b) for a, b in pairs])
    assert torch.allclose(both, alone, atol=1e-5)


def test_warping_along_the_flow_gives_back_the_first_frame() -> None:
    first, second, true = moved(lambda at: torch.tensor([2.0, -1.0]).expand_as(at))
    assert inner(warp(second, true) - first) < 1e-6
    picture = torch.rand(1, 9, 7, 2)
    assert torch.allclose(warp(picture, torch.zeros(1, 9, 7, 2)), picture, atol=1e-6)


def disc(x: float, y: float, radius: float = 8, colour: tuple[float, ...] = (0.9, 0.2, 0.1)) -> Tensor:
    """A plain disc on plain ground, its rim one pixel soft: [1, S, S, 4], the last channel its coverage."""
    apart = (centres(SIDE, SIDE, torch.zeros(1)) - torch.tensor([x, y])).norm(dim=-1)
    alpha = (radius + 0.5 - apart).clamp(0, 1)[..., None]
    return torch.cat([alpha * torch.tensor(colour) + (1 - alpha) * 0.5, alpha], -1)[None]


def test_a_plain_disc_moves_as_one_where_lucas_kanade_sees_its_rim_alone() -> None:
    first, second = disc(20, 22), disc(23.5, 20.7)
    mask = first[..., 3] >= 0.5
    true = torch.tensor([3.5, -1.3])
    flow = object_flow(first[..., :3], second[..., :3], mask)
    assert float((flow - true)[mask].norm(dim=-1).mean()) < 0.15
    assert float((flow - true)[mask].norm(dim=-1).max()) < 0.6
    plain = lk(first[..., :3], second[..., :3])
    assert torch.equal(flow[~mask], plain[~mask])


def test_the_later_mask_says_where_to_begin_when_the_thing_jumps() -> None:
    first, second = disc(12, 12), disc(34, 30)
    masks = [each[..., 3] >= 0.5 for each in (first, second)]
    found = fit_affine(first[..., :3], second[..., :3], masks[0], masks[1])
    flow = found.flow(SIDE, SIDE)
    assert float((flow - torch.tensor([22.0, 18.0]))[masks[0]].norm(dim=-1).mean()) < 0.2


def test_an_empty_mask_does_not_move_and_its_neighbours_in_the_batch_do() -> None:
    first, second = disc(20, 22), disc(22, 22)
    masks = torch.cat([first[..., 3] >= 0.5, torch.zeros(1, SIDE, SIDE, dtype=torch.bool)])
    found = fit_affine(first[..., :3].expand(2, -1, -1, -1), second[..., :3].expand(2, -1, -1, -1), masks)
    assert not found.matrix[1].any()
    assert abs(float(found.matrix[0, 0, 0]) - 2) < 0.1


def test_what_is_hidden_or_leaves_is_not_consistent() -> None:
    """A disc moves by 6: what it covers next is hidden, what it uncovers was not there, the rest is."""
    a, b = disc(20, 24)[..., 3] >= 0.5, disc(26, 24)[..., 3] >= 0.5
    right = torch.tensor([6.0, 0.0])
    there, back = a[..., None] * right, b[..., None] * -right
    good = consistent(there, back)
    assert not good[b & ~a].any()  # the ground that the disc covers in the second frame
    assert good[~a & ~b].all()
    deep = disc(20, 24, radius=6)[..., 3] >= 0.5
    assert good[deep].all()
    out = torch.full((1, SIDE, SIDE, 2), 5.0)
    assert not consistent(out, -out)[:, :, -4:].any() and consistent(out, -out)[:, :-6, :-6].all()


def test_frames_that_are_no_pair_are_refused_with_their_sizes() -> None:
    with pytest.raises(PictureError, match=r"\[1, 8, 8, 3\] and \[1, 8, 9, 3\]"):
        lk(torch.zeros(1, 8, 8, 3), torch.zeros(1, 8, 9, 3))
    with pytest.raises(PictureError, match="one for each frame"):
        fit_affine(torch.zeros(2, 8, 8, 3), torch.zeros(2, 8, 8, 3), torch.zeros(1, 8, 8))


def test_raft_is_used_where_its_weights_lie_and_never_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert find_raft([tmp_path]) is None and load_estimator("auto", folders=[tmp_path]) is lk
    with pytest.raises(ModelError, match=r"not on this machine.*use lk"):
        load_estimator("raft")
    with pytest.raises(ModelError, match="'dis': expected one of auto, lk, raft"):
        load_estimator("dis")
    file = tmp_path / "raft_small_mine.pth"
    file.write_bytes(b"no weights")
    with pytest.raises(ModelError, match=r"raft_small_mine\.pth: not the weights"):
        load_estimator("auto", folders=[tmp_path])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_raft_reads_the_weights_and_gives_a_flow_of_the_frames_size(tmp_path: Path) -> None:
    """Random weights: sizes and the file's reading, not what it finds."""
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    model = raft_small(weights=None)
    file = tmp_path / "raft_small_test.pth"
    torch.save(model.state_dict(), file)
    first, second, _ = moved(lambda at: torch.tensor([1.0, 0.0]).expand_as(at))
    flow = load_estimator("auto", folders=[tmp_path])(first[:, :45], second[:, :45])
    assert flow.shape == (1, 45, SIDE, 2) and torch.isfinite(flow).all()
    assert torch.equal(flow, load_estimator("raft", file)(first[:, :45], second[:, :45]))
