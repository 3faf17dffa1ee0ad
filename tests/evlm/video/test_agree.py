"""Keyframes that were painted differently are brought to one look."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from moving_square import moving
from torch import Tensor

from evlm.video.agree import agree
from evlm.video.propagate import Key, thing_flow

TINTS = (0.06, -0.03, 0.0, 0.09)


def painted(step: float = 2) -> dict[int, Key]:
    """Four keyframes of a square that moves: inverted, each with a tint of its own."""
    frames, inside = moving(10, step)
    return {
        frame: Key(frames[frame], 1 - frames[frame] + tint, inside[frame].float(), torch.ones(1) * frame)
        for frame, tint in zip((0, 3, 6, 9), TINTS, strict=True)
    }


def tints(keys: dict[int, Key]) -> Tensor:
    """Mean colour above the truth of what is painted."""
    return torch.stack([(key.painted - 1 + key.source)[key.inside > 0].mean() for key in keys.values()])


def test_where_nothing_moves_each_is_their_mean() -> None:
    keys = painted(0)
    found = agree(keys, list(keys))
    inside = keys[0].inside > 0
    mean = torch.stack([key.painted for key in keys.values()]).mean(0)
    for frame, key in found.items():
        assert torch.allclose(key.painted[inside], mean[inside], atol=1e-5)
        assert torch.equal(key.painted[~inside], keys[frame].painted[~inside])
        assert key.source is keys[frame].source and key.path is keys[frame].path


def test_a_thing_that_moves_has_one_look_and_keeps_its_texture() -> None:
    keys = painted()
    found = agree(keys, list(keys))
    assert float(tints(keys).std()) > 0.05 and float(tints(found).std()) < 0.008
    for frame, key in found.items():
        apart = (key.painted - 1 + key.source - sum(TINTS) / 4).abs().mean(-1)[key.inside > 0]
        assert float(apart.mean()) < 0.02, frame
        assert torch.equal(key.painted[key.inside == 0], keys[frame].painted[key.inside == 0])


def test_two_by_two_is_as_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle: each flow by itself."""
    keys = painted()
    at_once = agree(keys, list(keys))
    monkeypatch.setattr("evlm.video.agree._AT_ONCE", 1)
    asked: list[int] = []

    def alone(*parts: Tensor) -> Tensor:
        asked.append(len(parts[0]))
        return thing_flow(*parts)

    one_by_one = agree(keys, list(keys), alone)
    assert asked == [1] * 12  # six pairs, there and back
    for frame in keys:
        assert torch.allclose(at_once[frame].painted, one_by_one[frame].painted, atol=1e-5)


def test_what_is_finished_leads_and_stays() -> None:
    """It counts as all keyframes of the window together: here four times."""
    keys = painted(0)
    found = agree(keys, [3, 6, 9])
    assert list(found) == [3, 6, 9]
    inside = keys[0].inside > 0
    wanted = (4 * keys[0].painted + keys[3].painted + keys[6].painted + keys[9].painted) / 7
    assert torch.allclose(found[6].painted[inside], wanted[inside], atol=1e-5)


def test_other_light_and_other_things_keep_their_own_paint() -> None:
    keys = painted(0)
    dark = replace(keys[3], source=keys[3].source * 0.6)
    inside = keys[0].inside > 0
    for other in (dark, replace(keys[3], source=keys[3].source.flip(1).roll(5, 0))):
        found = agree({0: keys[0], 3: other}, [0, 3])
        for frame in found:
            moved = (found[frame].painted - keys[frame].painted).abs().amax(-1)[inside] > 1e-6
            assert float(moved.float().mean()) < 0.05, frame


def test_one_keyframe_is_as_it_was_painted() -> None:
    keys = painted()
    assert torch.equal(agree({0: keys[0]}, [0])[0].painted, keys[0].painted)
    assert agree(keys, []) == {}
