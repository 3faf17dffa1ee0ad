"""A fit nears its photographs, moves what it may, and is the same fit however often it is stopped."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from plain_raster import some
from skimage.metrics import structural_similarity

from evlm.errors import Cancelled, SceneError
from evlm.scene import Camera, Gaussians
from evlm.scene.fit import FitSettings, Fitting, Growth, from_points
from evlm.scene.fit import fitting as fit_module
from evlm.scene.fit.adam import Adam
from evlm.scene.fit.densify import grown
from evlm.scene.fit.fitting import FitStep
from evlm.scene.fit.losses import psnr, ssim
from evlm.scene.fit.rates import extent, rates
from evlm.scene.points import Points
from evlm.scene.raster import rasterize
from trainer.world.raytrace import SKY_RGB, surface, view
from trainer.world.solid import SolidScene, random_solids
from trainer.world.solid_cameras import around, ring


def small(count: int = 120) -> tuple[Gaussians, tuple[Camera, ...], list[Callable[[], torch.Tensor]]]:
    """(Gaussians that were moved and repainted, four cameras, what they saw before)."""
    truth, cameras = some(count, 1), ring(4, 20)
    pictures = [rasterize(truth, camera).image.clamp(0, 1) for camera in cameras]
    draw = torch.Generator().manual_seed(2)
    start = replace(
        truth,
        means=truth.means + torch.randn(count, 3, generator=draw) * 0.05,
        sh=truth.sh + torch.randn(truth.sh.shape, generator=draw) * 0.5,
    )
    return start, cameras, [lambda p=picture: p for picture in pictures]


def equal(a: Gaussians, b: Gaussians) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.tensors().values(), b.tensors().values(), strict=True))


def test_a_fit_nears_its_photographs_and_tells_of_each_step() -> None:
    start, cameras, photographs = small()
    told: list[FitStep] = []
    fitted = Fitting(start, cameras, photographs, FitSettings(60)).run(told.append)
    before, after = (
        sum(psnr(rasterize(g, c).image.clamp(0, 1), p()) for c, p in zip(cameras, photographs, strict=True))
        / 4
        for g in (start, fitted)
    )
    assert after > before + 6
    assert [step.done for step in told] == list(range(1, 61)) and {step.total for step in told} == {60}
    assert tuple(told[0].picture.shape) == (20, 20, 3) and told[0].count == 120
    assert sum(s.loss for s in told[-8:]) < 0.7 * sum(s.loss for s in told[:8])
    assert float(fitted.opacities.max()) <= 0.99


@pytest.mark.parametrize("growth", [None, Growth(every=6, share=0.2)])
def test_stopped_anywhere_and_resumed_it_ends_in_the_same_bytes(
    tmp_path: Path, growth: Growth | None
) -> None:
    start, cameras, photographs = small(60)
    settings = FitSettings(24, growth=growth)

    def fit() -> Fitting:
        return Fitting(start, cameras, photographs, settings, rows=torch.arange(60) % 3 > 0)

    whole = fit().run()
    for stop in (3, 5, 12, 17, 24):
        state = tmp_path / f"{stop}.safetensors"

        def halt(step: FitStep, at: int = stop) -> None:
            if step.done == at:
                raise Cancelled

        with pytest.raises(Cancelled):
            fit().run(halt, state, every=5)
        told: list[int] = []
        assert equal(fit().run(lambda step, t=told: t.append(step.done), state, every=5), whole)
        assert told == list(range(24 if stop == 24 else stop // 5 * 5, 24 + 1))[1:]


def test_a_state_of_another_fit_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    start, cameras, photographs = small(20)
    state = tmp_path / "state.safetensors"
    Fitting(start, cameras, photographs, FitSettings(4)).run(state=state, every=2)
    for other in (
        Fitting(start, cameras, photographs, FitSettings(4, seed=1)),
        Fitting(start, cameras[:3], photographs[:3], FitSettings(4)),
        Fitting(start, cameras, photographs, FitSettings(4), rows=torch.arange(20) < 5),
    ):
        with pytest.raises(SceneError, match=r"the state of another fit .* delete it to begin anew"):
            other.run(state=state)
    good = state.read_bytes()
    for bad in (b"", good[:-8], b"PK\x03\x04" + good, good.replace(b"evlm-fit-1", b"evlm-fit-2")):
        state.write_bytes(bad)
        with pytest.raises(SceneError, match="delete it to begin anew"):
            Fitting(start, cameras, photographs, FitSettings(4)).run(state=state)


@pytest.mark.parametrize("growth", [None, Growth(every=4, share=0.5, faint=0.3)])
def test_rows_that_may_not_move_keep_their_bits_and_all_keep_their_order(growth: Growth | None) -> None:
    start, cameras, photographs = small(60)
    rows = torch.arange(60) % 4 == 1
    fitting = Fitting(start, cameras, photographs, FitSettings(12, growth=growth), rows)
    fitted = fitting.run()
    old = fitting.home[fitting.home >= 0]
    lasting = torch.cat([(~rows).nonzero().flatten(), old]).sort().values
    frozen = ~rows[lasting]
    assert equal(fitted.rows(torch.arange(len(lasting))[frozen]), start.rows(~rows))
    assert not torch.equal(fitted.means[: len(lasting)][~frozen], start.means[old])
    if growth is None:
        assert len(fitted) == 60 and torch.equal(lasting, torch.arange(60))
    else:
        assert len(old) < 15 and len(fitted) > len(lasting)
        assert len(fitted) - int(frozen.sum()) <= int(2.5 * 15)


def test_growth_ends_at_what_a_cpu_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    start, cameras, photographs = small(60)
    monkeypatch.setattr(fit_module, "MOST_ON_CPU", 70)
    growth = Growth(every=2, share=0.5, faint=0.0, limit=4.0)
    fitting = Fitting(start, cameras, photographs, FitSettings(8, growth=growth), torch.arange(60) < 40)
    assert len(fitting.run()) == 70
    assert fitting.notes == ["growth ends at 70 Gaussians, the most that a CPU fits in bearable time"]


def test_growth_copies_what_is_pulled_most_and_drops_what_is_faint() -> None:
    g = some(10, 4)
    g.logits[:], g.logits[3] = 1.0, -9.0
    pull = torch.arange(10.0)
    stays, new = grown(g, pull, Growth(share=0.3), 100, seed=1)
    assert stays.tolist() == [n != 3 for n in range(10)] and len(new) == 3
    origins = g.rows(torch.tensor([7, 8, 9]))
    assert torch.equal(new.sh, origins.sh) and torch.allclose(new.log_scales, origins.log_scales - 0.5)
    assert ((new.means - origins.means).norm(dim=1) < 4 * origins.scales.amax(1)).all()
    assert len(grown(g, pull, Growth(share=0.3), 10, seed=1)[1]) == 1
    assert len(grown(g, torch.zeros(10), Growth(share=0.3), 100, seed=1)[1]) == 0


def test_adam_is_the_papers_and_rows_come_without_a_past() -> None:
    """Kingma & Ba 2015, algorithm 1, in float64."""
    g = some(7, 5).tensors()
    ours = {name: tensor.clone() for name, tensor in g.items()}
    plain = {name: tensor.double() for name, tensor in g.items()}
    first = {name: torch.zeros_like(tensor) for name, tensor in plain.items()}
    second = {name: torch.zeros_like(tensor) for name, tensor in plain.items()}
    pace: dict[str, torch.Tensor | float] = {name: 0.01 * (n + 1) for n, name in enumerate(g)}
    adam, draw = Adam(ours), torch.Generator().manual_seed(6)
    for count in range(1, 6):
        grads = {name: torch.randn(tensor.shape, generator=draw) for name, tensor in g.items()}
        adam.step(ours, grads, pace, count)
        for name, grad in grads.items():
            first[name] = 0.9 * first[name] + 0.1 * grad.double()
            second[name] = 0.99 * second[name] + 0.01 * grad.double() ** 2
            mean, spread = first[name] / (1 - 0.9**count), second[name] / (1 - 0.99**count)
            plain[name] = plain[name] - pace[name] * mean / (spread.sqrt() + 1e-15)
    assert all(torch.allclose(ours[name].double(), plain[name], rtol=1e-5, atol=1e-6) for name in g)
    adam.keep(torch.arange(7) != 2, 3)
    assert len(adam.first["means"]) == 9 and not adam.second["sh"][6:].any()
    assert torch.allclose(adam.first["means"][2].double(), first["means"][3], atol=1e-6)


def test_similarity_is_scikit_images() -> None:
    draw = torch.Generator().manual_seed(7)
    a = torch.rand(20, 31, 3, generator=draw)
    b = (a + 0.2 * torch.randn(a.shape, generator=draw)).clamp(0, 1)
    theirs = structural_similarity(
        a.numpy(), b.numpy(), win_size=7, channel_axis=-1, data_range=1.0, use_sample_covariance=False
    )
    assert abs(float(ssim(a, b)) - theirs) < 1e-4 and float(ssim(a, a)) > 1 - 1e-5
    assert float(ssim(a[:3, :4], a[:3, :4])) > 1 - 1e-5


def test_rates_fall_as_the_run_asks() -> None:
    sh = torch.zeros(5, 4, 3)
    first, last = rates(0, 400, 4.0, sh), rates(400, 400, 4.0, sh)
    assert first["means"] == pytest.approx(1e-3) and last["means"] == pytest.approx(1e-4)
    assert first["sh"].flatten().tolist() == pytest.approx([2e-2, 1e-3, 1e-3, 1e-3])  # type: ignore[union-attr]
    long = rates(30_000, 30_000, 4.0, sh)
    assert long["means"] == pytest.approx(1.6e-6 * 4) and long["logits"] == 5e-2
    cameras = (around(0.0, 0.5, 8), around(math.pi, 0.5, 8))
    assert extent(cameras, sh[:, 0]) == pytest.approx(1.1 * float(cameras[0].centre[:2].norm()))
    assert extent(cameras[:1], torch.zeros(3, 3)) == pytest.approx(float(cameras[0].centre.norm()))


def test_a_start_from_points_fills_the_room_between_them() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(4.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    g = from_points(Points(grid, torch.rand(64, 3)), degree=2)
    assert torch.allclose(g.scales, torch.full((64, 3), 0.8)) and torch.allclose(
        g.opacities, torch.tensor(0.8)
    )
    assert g.degree == 2 and not g.sh[:, 1:].any()
    same = from_points(Points(torch.zeros(5, 3), torch.zeros(5, 3)))
    alone = from_points(Points(torch.ones(1, 3), torch.ones(1, 3)))
    assert torch.isfinite(same.log_scales).all() and torch.isfinite(alone.log_scales).all()
    assert torch.allclose(alone.colours, torch.ones(1, 3))
    with pytest.raises(SceneError, match="no points to begin with"):
        from_points(Points(torch.zeros(0, 3), torch.zeros(0, 3)))
    with pytest.raises(SceneError, match="opacity 1: expected more than 0 and less than 1"):
        from_points(Points(grid, grid / 4), opacity=1.0)


def test_what_cannot_be_fitted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    start, cameras, photographs = small(10)
    with pytest.raises(SceneError, match="3 photographs for 4 cameras"):
        Fitting(start, cameras, photographs[:3])
    with pytest.raises(SceneError, match="0 photographs for 0 cameras"):
        Fitting(start, (), ())
    with pytest.raises(SceneError, match="no Gaussian that may move"):
        Fitting(start, cameras, photographs, rows=torch.zeros(10, dtype=torch.bool))
    with pytest.raises(SceneError, match=r"is \[8, 9, 3\], the camera's picture \[20, 20, 3\]"):
        Fitting(start, cameras, [lambda: torch.zeros(8, 9, 3)] * 4).step()
    monkeypatch.setattr(fit_module, "MOST_ON_CPU", 9)
    with pytest.raises(SceneError, match="10 Gaussians on a CPU, where at most 9"):
        Fitting(start, cameras, photographs)


def test_photographs_beyond_the_memory_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    start, cameras, photographs = small(10)
    whole = Fitting(start, cameras, photographs, FitSettings(12)).run()
    read: list[int] = []

    def counted(number: int) -> Callable[[], torch.Tensor]:
        def give() -> torch.Tensor:
            read.append(number)
            return photographs[number]()

        return give

    monkeypatch.setattr(fit_module, "HELD", 2 * 20 * 20 * 3 * 4)
    lazy = Fitting(start, cameras, [counted(n) for n in range(4)], FitSettings(12)).run()
    assert equal(lazy, whole) and len(read) == 2 + 2 * 3


def traced(scene: SolidScene, cameras: tuple[Camera, ...]) -> list[torch.Tensor]:
    return [torch.from_numpy(view(scene, camera).picture).float() / 255 for camera in cameras]


@pytest.mark.slow
def test_a_scene_of_solids_is_seen_anew_at_30_db_within_a_minute_of_one_core() -> None:
    torch.set_num_threads(1)
    scene = random_solids(random.Random(3), 3)
    cameras, held_out = ring(16, 64), ring(8, 64, held_out=True)
    met = surface(scene, cameras, 3000, noise=0.01)
    start = from_points(Points(torch.from_numpy(met.points).float(), torch.from_numpy(met.colours).float()))
    sky = SKY_RGB[scene.sky]
    photographs = [lambda p=picture: p for picture in traced(scene, cameras)]
    began = time.process_time()
    fitted = Fitting(start, cameras, photographs, FitSettings(250, background=sky)).run()
    took = time.process_time() - began
    drawn = [rasterize(fitted, camera, torch.tensor(sky)).image.clamp(0, 1) for camera in held_out]
    scores = [psnr(a, b) for a, b in zip(drawn, traced(scene, held_out), strict=True)]
    assert sum(scores) / len(scores) >= 30 and took <= 60
