"""An editor of pictures as the painter of a scene's views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import tiny_ip2p
import torch
from torch import Tensor

from evlm.edit.ip2p import IP2P
from evlm.edit.protocol import Edited, EditSettings
from evlm.errors import Cancelled
from evlm.scene import Camera
from evlm.scene.camera import looking_at, pinhole
from evlm.scene.edit.painters import EditorPainter
from evlm.scene.edit.views import EditView

QUICK = EditSettings(steps=2, scheduler="ddim", seed=5)


def view(number: int, width: int = 32, height: int = 32) -> EditView:
    axis = torch.eye(3)
    camera = Camera(
        looking_at(3 * axis[0], torch.zeros(3), axis[2]), pinhole(30, width, height), width, height
    )
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[8:24, 4 + number : 20 + number] = True
    source = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(number))
    return EditView(camera, source, mask, (0, 0, width, height))


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> IP2P:
    folder = tiny_ip2p.save_folder(tiny_ip2p.build(), tmp_path_factory.mktemp("ip2p") / "folder")
    return tiny_ip2p.load(folder)


def test_from_noise_it_is_the_editors_own_edit_of_the_sources(editor: IP2P) -> None:
    views = [view(0), view(3)]
    painted = EditorPainter(editor, "make it snow", QUICK).paint(
        views, [each.source * 0 for each in views], 1.0, 1
    )
    stacked = torch.stack([each.source for each in views]), torch.stack([each.mask for each in views]).float()
    wanted = editor.edit(stacked[0], "make it snow", stacked[1], QUICK).frames
    assert torch.equal(torch.stack(painted), wanted)
    again = EditorPainter(editor, "make it snow", QUICK).paint(views, [each.source for each in views], 1.0, 2)
    other = editor.edit(stacked[0], "make it snow", stacked[1], replace(QUICK, seed=6)).frames
    assert torch.equal(torch.stack(again), other) and not torch.equal(other, wanted)


def test_below_one_it_looks_at_the_source_and_begins_from_what_is_shown(editor: IP2P) -> None:
    views, half = [view(0), view(3)], replace(QUICK, strength=0.5)
    painter = EditorPainter(editor, "make it snow", QUICK)
    own = torch.stack(painter.paint(views, [each.source for each in views], 0.5, 1))
    stacked = torch.stack([each.source for each in views]), torch.stack([each.mask for each in views]).float()
    assert torch.equal(own, editor.edit(stacked[0], "make it snow", stacked[1], half).frames)
    shown = [1 - each.source for each in views]
    moved = painter.paint(views, shown, 0.5, 1)
    told: list[tuple[int, int]] = []
    painter.on_step = lambda done, total, _: told.append((done, total))
    painter.paint(views, shown, 0.5, 1)
    assert told and told[-1][0] == told[-1][1] and [done for done, _ in told] == sorted(d for d, _ in told)

    def stop(*_: Any) -> None:
        raise Cancelled

    painter.on_step = stop
    with pytest.raises(Cancelled):
        painter.paint(views, shown, 0.5, 1)
    for each, picture, before in zip(views, moved, own, strict=True):
        assert torch.equal(picture[~each.mask], each.source[~each.mask])
        assert not torch.equal(picture, before)


class Closed:
    """Gives back what it is shown, but for the mask; it is not open in latents."""

    defaults = QUICK

    def __init__(self) -> None:
        self.given: list[tuple[Tensor, float]] = []

    def edit(self, frames: Tensor, instruction: str, mask: Tensor, settings: EditSettings, _: Any) -> Edited:
        self.given.append((frames, settings.strength))
        return Edited(torch.where(mask[..., None] > 0, 1.0, frames), frames[:0], None, ("it was told",))


def test_a_closed_editor_is_shown_the_scene_and_views_of_other_sizes_apart() -> None:
    views: Sequence[EditView] = [view(0), view(1, 40, 24), view(2)]
    editor = Closed()
    painter = EditorPainter(editor, "make it snow")
    shown = [each.source * 0.5 for each in views]
    pictures = painter.paint(views, shown, 0.5, 1)
    assert [tuple(frames.shape) for frames, _ in editor.given] == [(2, 32, 32, 3), (1, 24, 40, 3)]
    assert {strength for _, strength in editor.given} == {0.5} and painter.notes == ["it was told"]
    assert torch.equal(editor.given[1][0][0], shown[1])
    for each, picture in zip(views, pictures, strict=True):
        assert picture.shape == each.source.shape and bool((picture[each.mask] == 1).all())
    painter.paint(views, shown, 1.0, 1)
    assert torch.equal(editor.given[2][0][1], views[2].source)


def test_out_of_memory_halves_the_views_at_once(editor: IP2P, monkeypatch: pytest.MonkeyPatch) -> None:
    views = [view(at) for at in range(4)]
    painter = EditorPainter(editor, "make it snow", QUICK)
    wanted = painter.paint(views, [1 - each.source for each in views], 0.5, 1)
    real = editor.paint

    def small(picture: Tensor, *rest: Any, **more: Any) -> Tensor:
        if len(picture) > 2:
            raise RuntimeError("CUDA out of memory")
        return real(picture, *rest, **more)

    monkeypatch.setattr(editor, "paint", small)
    again = painter.paint(views, [1 - each.source for each in views], 0.5, 1)
    assert torch.allclose(torch.stack(again), torch.stack(wanted), atol=1e-4)
    assert painter.notes == ["out of memory with 4 frames at once: went on with 2"]
