"""What of a tracker's mask is the thing that is followed."""

from __future__ import annotations

import torch
from torch import Tensor

from evlm.segment.pieces import of_one_thing, seen_last
from evlm.segment.tracks import Tracks

SIZE = 40


def boxes(*corners: tuple[int, int, int, int]) -> Tensor:
    on = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    for x0, y0, x1, y1 in corners:
        on[y0:y1, x0:x1] = True
    return on


THING, BEFORE = (10, 10, 20, 20), boxes((11, 10, 21, 20))


def test_specks_and_pieces_far_away_are_none_of_it() -> None:
    for other in ((30, 30, 33, 33), (30, 30, 36, 36), (24, 0, 27, 4)):
        assert torch.equal(of_one_thing(boxes(THING, other), BEFORE), boxes(THING)), other
    assert torch.equal(of_one_thing(boxes(THING, (30, 30, 33, 33)), None), boxes(THING))


def test_what_may_be_the_thing_stays() -> None:
    beside = boxes(THING, (21, 12, 23, 18))  # behind a thin bar
    halves = boxes((10, 10, 20, 14), (28, 10, 36, 14))  # something hides its middle
    for mask in (beside, halves, boxes(THING), boxes(), boxes(THING, (20, 20, 22, 22))):
        assert torch.equal(of_one_thing(mask, BEFORE), mask)
    several = boxes(THING, (32, 32, 34, 34))  # shown so
    assert torch.equal(of_one_thing(several, several), several)
    assert torch.equal(of_one_thing(several, several.roll(1, 0)), several)
    far = boxes(THING, (30, 30, 36, 36))
    assert torch.equal(of_one_thing(far, None), far), "nothing says where it was"
    assert torch.equal(of_one_thing(boxes((30, 30, 33, 33)), BEFORE), boxes((30, 30, 33, 33)))


def test_the_frame_before_is_the_nearest_in_which_it_was_seen() -> None:
    tracks = Tracks(8, SIZE, SIZE)
    number = tracks.add("it")
    for frame, mask in ((1, boxes((1, 1, 5, 5))), (3, BEFORE), (4, boxes())):
        tracks.put(number, frame, mask, 1.0)
    for frame, since, wanted in ((5, 0, BEFORE), (3, 0, boxes((1, 1, 5, 5))), (2, 6, BEFORE)):
        found = seen_last(tracks, number, frame, since)
        assert found is not None and torch.equal(found, wanted)
    assert seen_last(tracks, number, 6, 4) is None and seen_last(tracks, number, 4, 4) is None
