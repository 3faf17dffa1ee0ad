"""Harmonics are an orthonormal basis in the usual order; gsplat is asked rightly or refused with a reason."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from plain_raster import front, some

from evlm.errors import SceneError
from evlm.scene.raster import gsplat_backend, rasterize, torch_backend
from evlm.scene.raster.harmonics import basis


def test_harmonics_are_orthonormal_over_the_sphere() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(8)
    phi = torch.arange(16, dtype=torch.float64) * 2 * math.pi / 16
    z = torch.tensor(nodes)[:, None].expand(8, 16)
    ring = (1 - z * z).sqrt()
    points = torch.stack([ring * phi.cos(), ring * phi.sin(), z], -1).reshape(-1, 3)
    area = (torch.tensor(weights)[:, None].expand(8, 16) * 2 * math.pi / 16).reshape(-1)
    values = basis(points, 3)
    gram = (values * area[:, None]).T @ values
    assert (gram - torch.eye(16, dtype=torch.float64)).abs().max() < 1e-12


def test_the_first_harmonics_point_along_minus_y_z_minus_x() -> None:
    """The order and the signs in which 3DGS stores f_rest."""
    assert torch.equal(
        basis(torch.eye(3), 1)[:, 1:].sign(), torch.tensor([[0, 0, -1], [-1, 0, 0], [0, 1, 0]]).float()
    )


@pytest.fixture
def asked_anew() -> Iterator[None]:
    gsplat_backend.why_not.cache_clear()
    yield
    gsplat_backend.why_not.cache_clear()


class StandIn(types.ModuleType):
    """What gsplat.rasterization promises, drawn by the torch backend; keeps what it was asked."""

    def __init__(self, wrong: float = 0.0, radii: int = 2) -> None:
        super().__init__("gsplat")
        self.asked: dict[str, object] = {}
        self.wrong, self.radii = wrong, radii

    def rasterization(self, means, quats, scales, opacities, colors, viewmats, Ks, width, height, **more):  # type: ignore[no-untyped-def]
        from dataclasses import replace

        self.asked = {"opacities": opacities, "viewmats": viewmats, "Ks": Ks, "colors": colors, **more}
        camera = replace(
            front(), view=viewmats[0].double(), intrinsics=Ks[0].double(), width=width, height=height
        )
        d = torch_backend.draw(
            means, quats, scales, opacities, colors, camera, more["rasterize_mode"] != "classic"
        )
        picture = torch.cat([d.values + self.wrong, d.depth[..., None]], -1)
        reach = d.reach if self.radii == 2 else d.reach[:, 0]
        return (
            picture[None],
            d.alpha[None, ..., None],
            {"radii": reach[None].int(), "means2d": d.pixels[None]},
        )


def stand_in(monkeypatch: pytest.MonkeyPatch, module: StandIn | None, cuda: bool) -> None:
    monkeypatch.setitem(sys.modules, "gsplat", module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)


@pytest.mark.usefixtures("asked_anew")
def test_gsplat_is_refused_where_it_is_missing_or_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, None, cuda=True)
    with pytest.raises(SceneError, match="gsplat is not installed; backend='torch' draws on every device"):
        rasterize(some(3), front(), backend="gsplat")
    gsplat_backend.why_not.cache_clear()
    stand_in(monkeypatch, StandIn(), cuda=False)
    assert "torch sees no CUDA device" in str(gsplat_backend.why_not())
    assert rasterize(some(3), front()).meta.backend == "torch"


@pytest.mark.usefixtures("asked_anew")
def test_gsplat_is_refused_where_it_does_not_answer_or_draws_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = StandIn()
    stand_in(monkeypatch, module, cuda=True)
    real = gsplat_backend._disagreement
    monkeypatch.setattr(gsplat_backend, "_disagreement", lambda device: real("cpu"))
    assert gsplat_backend.why_not() is None
    gsplat_backend.why_not.cache_clear()
    module.wrong = 0.1
    assert "gsplat draws one Gaussian 0.1 off" in str(gsplat_backend.why_not())
    gsplat_backend.why_not.cache_clear()

    def broken(device: str) -> float:
        raise AttributeError("'NoneType' object has no attribute 'CameraModelType'")

    monkeypatch.setattr(gsplat_backend, "_disagreement", broken)
    assert "gsplat's CUDA extension does not answer: 'NoneType'" in str(gsplat_backend.why_not())
    gsplat_backend.why_not.cache_clear()
    monkeypatch.setattr(gsplat_backend, "_disagreement", lambda device: 0.0)
    with pytest.raises(SceneError, match="gsplat draws Gaussians on CUDA, these lie on cpu"):
        rasterize(some(3), front(), backend="gsplat")


@pytest.mark.parametrize(
    "part", [(0, 0, 6, 6), (14, 9, 14, 8), (26, 15, 6, 9), (2, 3, 30, 21), (-4, -3, 20, 20), (20, 8, 20, 8)]
)
def test_gsplat_draws_a_part_as_it_is_in_its_picture(
    monkeypatch: pytest.MonkeyPatch, part: tuple[int, int, int, int]
) -> None:
    """The stand-in bounds what lies aside by the picture that it is asked for, as gsplat does."""
    stand_in(monkeypatch, StandIn(), cuda=True)
    g = some(60, 8)
    g.means[:20, 0] *= 3  # far aside
    given = (g.means, g.quats, g.scales * 2, g.opacities, torch.rand(60, 5))
    for camera in (front().cropped(*part), front().cropped(0, 0, 32, 24).cropped(*part)):
        theirs, ours = gsplat_backend.draw(*given, camera, False), torch_backend.draw(*given, camera, False)
        for name in ("values", "alpha", "depth"):
            assert torch.allclose(getattr(theirs, name), getattr(ours, name), atol=1e-4), name
        both = theirs.drawn & ours.drawn
        assert torch.allclose(theirs.pixels[both], ours.pixels[both], atol=1e-3)


@pytest.mark.parametrize("radii", [1, 2])
@pytest.mark.parametrize("antialias", [False, True])
def test_gsplat_is_given_what_the_torch_backend_is_given(
    monkeypatch: pytest.MonkeyPatch, antialias: bool, radii: int
) -> None:
    module = StandIn(radii=radii)
    stand_in(monkeypatch, module, cuda=True)
    g, camera = some(40, 8), front()
    g.logits[:5] = 12.0
    given = (g.means, g.quats, g.scales, g.opacities, torch.rand(40, 5), camera, antialias)
    theirs, ours = gsplat_backend.draw(*given), torch_backend.draw(*given)
    for name in ("values", "alpha", "depth"):
        assert torch.allclose(getattr(theirs, name), getattr(ours, name), atol=1e-6), name
    assert tuple(theirs.reach.shape) == (40, 2) and tuple(theirs.pixels.shape) == (40, 2)
    assert torch.equal(module.asked["viewmats"], camera.view.float()[None])  # type: ignore[arg-type]
    assert torch.equal(module.asked["Ks"], camera.intrinsics.float()[None])  # type: ignore[arg-type]
    assert float(module.asked["opacities"].max()) <= 0.990001  # type: ignore[attr-defined]
    assert module.asked["near_plane"] == 0.01 and module.asked["render_mode"] == "RGB+ED"
    assert module.asked["rasterize_mode"] == ("antialiased" if antialias else "classic")
