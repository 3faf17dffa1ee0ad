"""Scripted editors of views: exact without error, and with it they err as they say."""

from __future__ import annotations

import torch
from torch import Tensor

from evlm.scene.edit import EditView
from trainer.world.solid import Solid, SolidScene
from trainer.world.solid_cameras import ring
from trainer.world.solid_edits import recolour
from trainer.world.solid_painters import LeaningPainter, NoisyPainter, exact

BALL = Solid("ball", "red", "plain", "large", 0.0, 0.0)
EDIT = recolour(SolidScene((BALL,)), BALL, "green")


def views(count: int = 4) -> list[EditView]:
    found = []
    for camera in ring(count, 24):
        source = torch.from_numpy(EDIT.views(camera)[0].picture).float() / 255
        mask = torch.from_numpy(EDIT.region(camera))
        found.append(EditView(camera, source, mask, (0, 0, 24, 24)))
    return found


def off(
    painter: NoisyPainter | LeaningPainter, of: list[EditView], strength: float = 1.0, draw: int = 1
) -> Tensor:
    """[V, H, W, 3]: how far from the exact edit; what is shown is the source."""
    painted = painter.paint(of, [view.source for view in of], strength, draw)
    return torch.stack([picture - exact(EDIT, view) for picture, view in zip(painted, of, strict=True)])


def test_without_error_the_edit_is_exact() -> None:
    assert off(NoisyPainter(EDIT, 0.0), views()).abs().max() < 1e-6
    assert off(LeaningPainter(EDIT, 0.0), views()).abs().max() < 1e-6
    view = views(2)[0]
    assert (exact(EDIT, view) - view.source)[view.mask].abs().max() > 0.3
    assert torch.equal(exact(EDIT, view)[~view.mask], view.source[~view.mask])


def test_noise_is_new_in_every_view_and_draw_and_of_its_size() -> None:
    painter, seen = NoisyPainter(EDIT, 0.05, seed=1), views(8)
    first, second = off(painter, seen), off(painter, seen, draw=2)
    assert torch.equal(first, off(NoisyPainter(EDIT, 0.05, seed=1), seen))
    assert torch.equal(first[3:5], off(painter, seen[3:5], strength=0.3))  # alone or beside others
    several = torch.cat([off(painter, seen, draw=draw) for draw in range(1, 9)])
    assert 0.04 < several.std() < 0.09
    means = torch.stack([first.mean((1, 2)), second.mean((1, 2))])
    assert (means[0] - means[1]).abs().mean() > 0.02 and means[0].std(0).mean() > 0.02


def test_the_leaning_one_errs_by_view_and_less_where_views_are_painted_together() -> None:
    painter, seen = LeaningPainter(EDIT, 0.1), views()
    alone = torch.cat([off(painter, [view]) for view in seen])
    assert torch.equal(alone, torch.cat([off(painter, [view], draw=5) for view in seen]))
    assert (alone[0].mean((0, 1)) - alone[2].mean((0, 1))).norm() > 0.08  # from opposite sides
    together = off(painter, seen)
    spread = [errors.mean((1, 2)).std(0).mean() for errors in (alone, together)]
    assert spread[1] < 0.7 * spread[0]
    kept = off(LeaningPainter(EDIT, 0.0), seen, strength=0.4)
    expected = torch.stack([0.3 * (view.source - exact(EDIT, view)) for view in seen])
    assert torch.allclose(kept, expected, atol=1e-6)
