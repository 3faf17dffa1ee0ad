"""The mask text: what it loses is bounded, at any aspect ratio; any text decodes or is one MaskTextError."""

from __future__ import annotations

import contextlib
import re

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evlm.errors import MaskTextError
from evlm.plan.mask_codec import BoxSpans, decode_mask, get_codec, is_rectangle, mask_iou, mask_text_iou

SIZES = st.integers(1, 70)


def blob(seed: int, size: int = 64) -> Tensor:
    """One smooth random shape [size, size], as objects are: the union of a few ellipses around one place."""
    generator = torch.Generator().manual_seed(seed)
    ys, xs = torch.meshgrid(torch.arange(size) / size, torch.arange(size) / size, indexing="ij")
    mask = torch.zeros(size, size)
    middle = 0.3 + 0.4 * torch.rand(2, generator=generator)
    for _ in range(3):
        cy, cx = middle + 0.12 * torch.randn(2, generator=generator)
        ry, rx = 0.06 + 0.16 * torch.rand(2, generator=generator)
        turn = torch.rand(1, generator=generator) * torch.pi
        dy, dx = ys - cy, xs - cx
        u, v = dx * turn.cos() + dy * turn.sin(), dy * turn.cos() - dx * turn.sin()
        mask = torch.maximum(mask, ((u / rx) ** 2 + (v / ry) ** 2 <= 1).float())
    return mask


@st.composite
def masks(draw):
    height, width = draw(SIZES), draw(SIZES)
    kind = draw(st.sampled_from(["rectangle", "noise", "diagonal", "empty", "ellipse"]))
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    if kind == "noise":
        generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
        return (torch.rand(height, width, generator=generator) < draw(st.floats(0, 1))).float()
    if kind == "diagonal":
        return (ys * width // height == xs).float()
    if kind == "empty":
        return torch.zeros(height, width)
    y0, x0 = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    y1, x1 = draw(st.integers(y0 + 1, height)), draw(st.integers(x0 + 1, width))
    if kind == "rectangle":
        return ((ys >= y0) & (ys < y1) & (xs >= x0) & (xs < x1)).float()
    inside = ((2 * ys + 1 - y0 - y1) / (y1 - y0)) ** 2 + ((2 * xs + 1 - x0 - x1) / (x1 - x0)) ** 2
    return (inside <= 1).float()


@pytest.mark.parametrize(("grid", "least"), [(8, 0.86), (16, 0.91)])
def test_the_ceiling_on_300_blobs(grid, least):
    codec = BoxSpans(grid)
    scores = [mask_iou(codec.decode(codec.encode(mask), *mask.shape), mask) for mask in map(blob, range(300))]
    mean = sum(scores) / len(scores)
    assert mean >= least
    assert min(scores) >= 0.7


@settings(max_examples=40, deadline=None)
@given(masks(), st.sampled_from([8, 16]))
def test_encode_and_decode_at_any_aspect_ratio(mask, grid):
    codec = BoxSpans(grid)
    text = codec.encode(mask)
    decoded = codec.decode(text, *mask.shape)
    assert decoded.shape == mask.shape and decoded.dtype == torch.float32
    assert set(decoded.unique().tolist()) <= {0.0, 1.0}
    assert bool(decoded.any()) == bool(mask.any())
    assert torch.equal(decode_mask(text, *mask.shape), decoded)
    assert mask_text_iou(text, mask) == mask_text_iou(text, mask[None]) == mask_iou(decoded, mask)
    if not mask.any():
        assert text == "none" and codec.box(text) is None
        return
    x0, y0, x1, y1 = codec.box(text)
    assert 0 <= x0 < x1 <= 1000 and 0 <= y0 < y1 <= 1000
    ys, xs = decoded.nonzero().T
    true_ys, true_xs = mask.nonzero().T
    assert ys.min() >= true_ys.min() and ys.max() <= true_ys.max()
    assert xs.min() >= true_xs.min() and xs.max() <= true_xs.max()
    box = mask[true_ys.min() : true_ys.max() + 1, true_xs.min() : true_xs.max() + 1]
    assert is_rectangle(text) == bool(box.all())
    if box.shape[0] <= grid and box.shape[1] <= grid and box.shape[0] * box.shape[1] > 1:
        assert mask_iou(decoded, mask) == 1.0  # cells are finer than pixels: nothing is lost


@pytest.mark.parametrize(("height", "width"), [(48, 200), (200, 48), (33, 47), (1, 500), (4000, 3), (97, 97)])
def test_an_exact_rectangle_is_exact(height, width):
    mask = torch.zeros(height, width)
    mask[height // 3 : height // 3 + max(1, height // 4), width // 5 : width // 5 + max(1, width // 2)] = 1
    text = BoxSpans().encode(mask)
    assert text.endswith("full")
    assert mask_iou(decode_mask(text, height, width), mask) >= (1.0 if max(height, width) <= 1000 else 0.99)


def test_the_text_has_the_form_of_the_contract():
    mask = torch.zeros(100, 100)
    mask[20:60, 10:90] = 1
    assert BoxSpans().encode(mask) == "box 100 200 900 600 full"
    mask[20:60, 30:70] = 0
    assert BoxSpans().encode(mask) == "box 100 200 900 600 rows " + " ".join(["0-1+6-7"] * 8)
    mask[25:55] = 0
    assert BoxSpans().encode(mask) == "box 100 200 900 600 rows 0-1+6-7 . . . . . . 0-1+6-7"
    for grid in (8, 16):
        form = r"box( [0-9]{1,4}){4} rows( (\.|[0-9]+-[0-9]+(\+[0-9]+-[0-9]+)*))" + f"{{{grid}}}"
        assert all(re.fullmatch(form, BoxSpans(grid).encode(blob(seed))) for seed in range(20))


def test_a_text_decodes_at_another_size():
    mask = blob(3)
    text = BoxSpans(16).encode(mask)
    large = decode_mask(text, 192, 128)
    assert large.shape == (192, 128)
    small = torch.nn.functional.interpolate(large[None, None], (64, 64), mode="nearest")[0, 0]
    assert mask_iou(small, mask) > 0.85


def test_tiny_things_in_large_pictures_are_kept():
    mask = torch.zeros(3000, 4000)
    mask[1499, 3999] = 1
    decoded = decode_mask(BoxSpans().encode(mask), 3000, 4000)
    assert decoded[1497:1503, 3995:].any() and decoded.sum() <= 16


def test_soft_and_boolean_masks_count_from_a_half():
    soft = torch.tensor([[0.0, 0.5, 0.49, 1.0]])
    assert BoxSpans().encode(soft) == BoxSpans().encode(soft >= 0.5)
    assert BoxSpans().encode(torch.full((4, 4), float("nan"))) == "none"


@pytest.mark.parametrize("shape", [(3,), (2, 4, 4), (0, 4), (4, 0)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(MaskTextError, match=r"expected \[H, W\]"):
        BoxSpans().encode(torch.ones(shape))


# --- bad text ---

ROWS = " ".join(["0-7"] * 8)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected 'none'"),
        ("None", "expected 'none'"),
        ("box", "expected 'none'"),
        ("box 1 2 3 4", "expected 'none'"),
        ("box 1 2 3 4 all", "expected 'none'"),
        ("box 1 2 1001 4 full", "'1001' is not an integer"),
        ("box 1 -2 3 4 full", "'-2' is not an integer"),
        ("box 1 2.0 3 4 full", "'2.0' is not an integer"),
        ("box \u0661 2 3 4 full", "is not an integer"),
        ("box 5 2 5 4 full", "empty or inside out"),
        ("box 1 9 5 4 full", "empty or inside out"),
        ("box 1 2 3 4 full stop", "after 'full'"),
        ("box 1 2 3 4 rows", "0 rows"),
        ("box 1 2 3 4 rows " + ROWS + " .", "9 rows"),
        ("box 1 2 3 4 rows 0-8" + ROWS[3:], "row 0: '0-8'"),
        ("box 1 2 3 4 rows 5-4" + ROWS[3:], "row 0: '5-4'"),
        ("box 1 2 3 4 rows 0-1+" + ROWS[3:], "row 0: ''"),
        ("box 1 2 3 4 rows 3" + ROWS[3:], "row 0: '3'"),
        ("box 1 2 3 4 rows " + "9" * 5000 + ROWS[3:], "is not a span"),
    ],
)
def test_malformed_text_is_one_error_that_says_why_and_counts_as_nothing(text, reason):
    with pytest.raises(MaskTextError, match=re.escape(reason)):
        decode_mask(text, 20, 30)
    assert mask_text_iou(text, torch.ones(20, 30)) == 0.0
    assert mask_text_iou(None, torch.ones(20, 30)) == 0.0


WORDS = [
    "none",
    "box",
    "rows",
    "full",
    "0",
    "1000",
    "7",
    "300",
    "-1",
    "1001",
    ".",
    "0-7",
    "3-3",
    "0-1+5-7",
    "9-2",
    "x",
    "15-15",
]


@settings(max_examples=40, deadline=None)
@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(WORDS), max_size=26).map(" ".join)
    | st.lists(st.sampled_from(WORDS), max_size=20).map(
        lambda words: " ".join(["box 0 0 1000 500 rows", *words])
    ),
    SIZES,
    SIZES,
)
@example("box 0 0 1 1 full", 1, 1)
@example("box 999 999 1000 1000 full", 1, 1)
def test_decode_is_total(text, height, width):
    try:
        mask = decode_mask(text, height, width)
    except MaskTextError as error:
        assert len(str(error)) < 300
    else:
        assert mask.shape == (height, width)
        assert BoxSpans(8).encode(mask)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 50),
    st.sampled_from([8, 16]),
    st.integers(0, 10**6),
    st.sampled_from([*"0 -+.9x\n", "", " . "]),
)
def test_decode_is_total_on_mutated_masks(seed, grid, position, piece):
    text = BoxSpans(grid).encode(blob(seed))
    position %= len(text)
    with contextlib.suppress(MaskTextError):
        assert decode_mask(text[:position] + piece + text[position + 1 :], 64, 64).shape == (64, 64)


def test_the_grid_of_the_codec_must_fit_the_text():
    text = BoxSpans(16).encode(blob(0))
    with pytest.raises(MaskTextError, match="16 rows: expected 8"):
        BoxSpans(8).decode(text, 64, 64)
    with pytest.raises(MaskTextError, match="16 rows: expected 8"):
        BoxSpans(8).box(text)
    with pytest.raises(MaskTextError, match="at least 1"):
        decode_mask("none", 0, 5)


def test_codecs_by_name():
    assert [get_codec(name).grid for name in ("box-spans-8", "box-spans-16")] == [8, 16]
    with pytest.raises(MaskTextError, match="expected one of"):
        get_codec("polygon")
    with pytest.raises(MaskTextError, match="expected one of"):
        BoxSpans(9)


def test_mask_iou():
    a, b = torch.zeros(4, 4), torch.zeros(4, 4)
    assert mask_iou(a, b) == 1.0
    a[:2] = 1
    assert mask_iou(a, b) == 0.0
    b[1:3] = 1
    assert mask_iou(a, b) == pytest.approx(1 / 3)
    assert mask_iou(a[None], b[None].bool()) == pytest.approx(1 / 3)
    with pytest.raises(MaskTextError, match="equal shapes"):
        mask_iou(a, b[:2])
