"""Places that lie apart get crops of their own, few and no two of them over each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evlm.edit.crop import CropBox, crop_box
from evlm.edit.masked import work_on
from evlm.edit.regions import MOST_CROPS, places


def mask_of(size: int, *corners: tuple[int, int, int, int]) -> Tensor:
    on = torch.zeros(1, size, size, dtype=torch.bool)
    for x0, y0, x1, y1 in corners:
        on[:, y0:y1, x0:x1] = True
    return on


CORNERS = ((0, 0, 64, 64), (960, 960, 1024, 1024))


def test_two_small_things_in_opposite_corners_get_a_crop_each() -> None:
    on = mask_of(1024, *CORNERS)
    found = places(on, 1.2, 512, 64)
    assert [(place.boxes[0].x1 - place.boxes[0].x0, place.boxes[0].height) for place in found] == [
        (77, 512)
    ] * 2
    assert [int(place.inside.sum()) for place in found] == [64 * 64] * 2


def test_one_crop_is_enough_where_it_shows_all_well() -> None:
    on = mask_of(1024, (100, 100, 164, 164), (400, 400, 464, 464))
    assert len(places(on, 1.2, 512, 64)) == 1


def test_things_near_each_other_share_a_crop() -> None:
    on = mask_of(1024, (0, 0, 64, 64), (70, 0, 134, 64), (960, 960, 1024, 1024))
    assert [int(place.inside.sum()) for place in places(on, 1.2, 256, 64)] == [2 * 64 * 64, 64 * 64]


def test_many_things_share_a_few_crops() -> None:
    spots = [(x, y, x + 8, y + 8) for x in range(0, 1024, 200) for y in range(0, 1024, 200)]
    assert len(places(mask_of(1024, *spots), 1.2, 128, 64)) <= MOST_CROPS


def test_a_texture_is_one_place() -> None:
    on = (torch.arange(512)[:, None] // 4 + torch.arange(512) // 4) % 3 == 0
    assert len(places(on[None], 1.2, 128, 64)) == 1


def test_no_mask_no_place() -> None:
    assert places(torch.zeros(2, 9, 9, dtype=torch.bool), 1.2, 64, 8) == []


@st.composite
def masks(draw: st.DrawFn) -> Tensor:
    height, width = draw(st.integers(16, 300)), draw(st.integers(16, 300))
    on = torch.zeros(draw(st.integers(1, 4)), height, width, dtype=torch.bool)
    for _ in range(draw(st.integers(0, 6))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        first = draw(st.integers(0, len(on) - 1))
        on[
            first : first + draw(st.integers(1, 4)),
            y0 : y0 + draw(st.integers(1, 40)),
            x0 : x0 + draw(st.integers(1, 40)),
        ] = True
    return on


@settings(max_examples=30, deadline=None)
@given(masks(), st.sampled_from([32, 64, 128]), st.floats(1.0, 3.0))
def test_all_of_the_mask_is_in_one_place_and_in_its_crop(on: Tensor, best: int, context: float) -> None:
    found = places(on, context, best, 8, 2)
    count = sum((place.inside.int() for place in found), torch.zeros(on.shape, dtype=torch.int32))
    assert torch.equal(count, on.int())
    assert len(found) <= MOST_CROPS
    crops: dict[int, list[CropBox]] = {}
    for place in found:
        frames = place.inside.flatten(1).any(1).nonzero().flatten().tolist()
        assert len({(box.x1 - box.x0, box.y1 - box.y0, box.height, box.width) for box in place.boxes}) == 1
        for frame, box in zip(frames, place.boxes, strict=True):
            assert min(box.x0, box.y0) >= 0 and box.x1 <= on.shape[2] and box.y1 <= on.shape[1]
            inside = place.inside[frame]
            assert inside[box.y0 : box.y1, box.x0 : box.x1].sum() == inside.sum()
            crops.setdefault(frame, []).append(box)
    for boxes in crops.values():
        for at, a in enumerate(boxes):
            for b in boxes[:at]:
                assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0


@settings(max_examples=30, deadline=None)
@given(masks(), st.sampled_from([32, 64, 128]), st.floats(1.0, 3.0))
def test_where_nothing_moves_the_crops_are_those_of_a_single_picture(
    on: Tensor, best: int, context: float
) -> None:
    still = on.any(0, keepdim=True)
    alone, clip = places(still, context, best, 8), places(still.expand(5, -1, -1), context, best, 8, 4)
    assert [place.boxes * 5 for place in alone] == [place.boxes for place in clip]
    if len(alone) == 1:
        assert alone[0].boxes[0] == crop_box(still, context, best, 8)


def test_the_frames_of_a_video_share_their_places() -> None:
    on = torch.cat([mask_of(1024, CORNERS[0]), mask_of(1024, *CORNERS), mask_of(1024)])
    works = work_on(torch.zeros(3, 1024, 1024, 3), on.float(), 128, 128, 8)
    assert [work.which.tolist() for work in works] == [[0, 1], [1]]
    assert [work.crop.shape[0] for work in works] == [2, 1]


@pytest.fixture(scope="module")
def painter():  # type: ignore[no-untyped-def]
    from evlm.edit.load import load_editor
    from evlm.models import zoo

    return load_editor(zoo.choose(["bundled"])["editor"])


def test_two_places_are_painted_as_each_alone_would_be(painter) -> None:  # type: ignore[no-untyped-def]
    """The oracle: one edit a place."""
    frames = torch.rand(1, 256, 256, 3, generator=torch.Generator().manual_seed(0))
    corners = ((8, 8, 40, 40), (200, 210, 240, 250))
    how = painter.defaults.with_kwargs(steps=2)
    both = painter.edit(frames, "make it red", mask_of(256, *corners).float(), how)
    alone = frames
    for each in corners:
        alone = painter.edit(alone, "make it red", mask_of(256, each).float(), how).frames
    assert torch.allclose(both.frames, alone, atol=1e-5)
    outside = ~mask_of(256, *corners)
    assert torch.equal(both.frames[outside], frames[outside])
    assert "2 places lie apart: each is painted in a crop of its own" in both.notes


def test_progress_counts_every_crop_once(painter) -> None:  # type: ignore[no-untyped-def]
    seen: list[tuple[int, int]] = []
    on = mask_of(256, (8, 8, 40, 40), (200, 100, 250, 250)).float()  # crops of two sizes
    how = painter.defaults.with_kwargs(steps=2)
    painter.edit(torch.rand(1, 256, 256, 3), "x", on, how, lambda done, total, _: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
