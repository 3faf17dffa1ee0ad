"""Masks vote for the Gaussians of a thing, and for nothing beside it."""

from __future__ import annotations

import pytest
import torch
from plain_raster import dense, front, some

from evlm.errors import Cancelled, SceneError
from evlm.scene import Camera, Gaussians
from evlm.scene.gaussians import joined
from evlm.scene.raster import rasterize
from evlm.scene.select import select_rows, vote
from trainer.world.solid_cameras import ring


def cloud(count: int, centre: tuple[float, float, float], radius: float, seed: int) -> Gaussians:
    """A ball of small opaque Gaussians."""
    draw = torch.Generator().manual_seed(seed)
    way = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=1)
    far = radius * torch.rand(count, 1, generator=draw) ** (1 / 3)
    g = some(count, seed)
    return Gaussians(
        means=torch.tensor(centre) + way * far,
        log_scales=torch.full((count, 3), 0.12 * radius).log(),
        quats=g.quats,
        logits=torch.full((count,), 2.0),
        sh=g.sh,
    )


def two_things(size: int = 40) -> tuple[Gaussians, torch.Tensor, tuple[Camera, ...], list[torch.Tensor]]:
    """(two balls, which rows are the first one's, eight cameras around, the first one's exact masks)."""
    g = joined([cloud(250, (-0.6, 0.3, 0.3), 0.8, 1), cloud(250, (0.9, -0.5, 0.3), 0.6, 2)])
    first = torch.arange(500) < 250
    cameras = ring(8, size)
    drawn = [rasterize(g, camera, channels=first[:, None].float()) for camera in cameras]
    return g, first, cameras, [(r.image[..., 0] > (0.5 * r.alpha).clamp(min=0.1)).float() for r in drawn]


def test_exact_masks_select_the_thing_and_nothing_else() -> None:
    g, first, cameras, masks = two_things()
    votes = vote(g, cameras, masks)
    chosen = select_rows(g, votes)
    truth = first & (votes.seen > 0.05)
    hit = float((chosen.rows & truth).sum())
    assert truth.sum() > 150
    assert hit / float(chosen.rows.sum()) >= 0.99 and hit / float(truth.sum()) >= 0.98
    assert not (chosen.rim & chosen.rows).any()
    assert not votes.abstained and not chosen.notes


def test_votes_are_sums_of_what_each_gaussian_fills() -> None:
    g, camera = some(40, 3).to(torch.float64), front()
    mask = (torch.rand(24, 32, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    votes = vote(g, [camera, camera], [mask, 1 - mask])
    channels = torch.eye(40, dtype=torch.float64)
    filled = dense(g, camera, channels)[0].sum((0, 1))
    assert torch.allclose(votes.inside, filled, atol=1e-9) and torch.allclose(
        votes.seen, 2 * filled, atol=1e-9
    )
    assert votes.share.max() <= 0.5 + 1e-9


def test_views_that_lost_the_thing_abstain_and_change_nothing() -> None:
    g, _, cameras, masks = two_things()
    known = vote(g, cameras[:5], masks[:5])
    tiny = torch.zeros(40, 40)
    tiny[:3, :5] = 1
    lost = [*masks[:5], torch.zeros(40, 40), None, tiny]
    votes = vote(g, cameras, lost)
    assert torch.equal(votes.inside, known.inside) and torch.equal(votes.seen, known.seen)
    assert dict(votes.abstained) == {5: "empty mask", 6: "no mask", 7: "mask below 16 pixels"}
    assert "view 6 abstained: no mask" in select_rows(g, votes).notes
    unsure = vote(g, cameras, masks, scores=[0.9] * 5 + [0.2, float("nan"), 0.49])
    assert torch.equal(unsure.inside, known.inside) and len(unsure.abstained) == 3


def test_crumbs_apart_from_the_thing_are_left_out() -> None:
    g, _, cameras, masks = two_things()
    votes = vote(g, cameras, masks)
    rows = select_rows(g, votes).rows
    crumbs = rows.nonzero().flatten()[:2]
    g.means[crumbs] += torch.tensor([6.0, 6.0, 0.0])
    chosen = select_rows(g, votes)
    assert not chosen.rows[crumbs].any() and int(chosen.rows.sum()) >= int(rows.sum()) - 4
    assert any("apart from the thing are left out" in note for note in chosen.notes)


def test_between_the_thing_and_the_rest_lies_a_rim_that_stays_frozen() -> None:
    g, camera = some(1), front(32, 32)
    g.means[:], g.log_scales[:], g.logits[:] = 0.0, 0.0, 2.0
    left = torch.zeros(32, 32)
    left[:, :15] = 1  # the axis goes through column 16.7
    votes = vote(g, [camera], [left])
    chosen = select_rows(g, votes)
    assert 0.2 < float(votes.share) < 0.5
    assert chosen.rim.all() and not chosen.rows.any()
    assert select_rows(g, votes, share=0.2).rows.all()


def test_what_does_not_fit_is_refused_and_a_listener_can_stop() -> None:
    g, camera = some(3), front()
    with pytest.raises(SceneError, match="1 masks for 2 cameras: expected one for each"):
        vote(g, [camera, camera], [None])
    with pytest.raises(SceneError, match=r"its mask is \[2, 2\], its picture \[24, 32\]"):
        vote(g, [camera], [torch.ones(2, 2)])
    with pytest.raises(SceneError, match=r"no view says where the thing is \(empty mask; no mask\)"):
        vote(g, [camera, camera], [None, torch.zeros(24, 32)])

    def stop(done: int, total: int) -> None:
        raise Cancelled(f"{done} of {total}")

    with pytest.raises(Cancelled, match="1 of 2"):
        vote(g, [camera, camera], [torch.ones(24, 32)] * 2, on_view=stop)
