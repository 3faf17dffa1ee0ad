"""Rated scenes: the row keeps views of both from the same places."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from standin import call, part

SIDE = 24


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Any:
    before = folder_paths.base_path
    folder_paths.use(tmp_path / "comfy")
    yield
    folder_paths.use(Path(before))


@pytest.fixture(scope="module")
def scenes() -> tuple[Any, Any]:
    """150 of the bundled scene's Gaussians with ten cameras, as they are and in grey; one is selected, which
    no picture may show."""
    whole = call("EVLM_LoadScene", cameras="orbit:2").args[0]
    some = whole.gaussians.rows(torch.arange(0, 3000, 20))
    cameras = part("evlm.scene.poses").orbit(some, 10, (10.0, 40.0), size=SIDE)
    scene = part("evlm.scene").SplatScene(some, cameras)
    grey = replace(scene, gaussians=replace(some, sh=torch.zeros_like(some.sh)))
    return scene, grey.with_selection(torch.arange(150) == 0)


def rate(**inputs: Any) -> tuple[Any, Path]:
    plan = call("EVLM_PlanFromText", text="make it grey", targets="cross").args[0]
    folder = call("EVLM_RateEdit", plan=plan, prompt="grey", verdict="bad", **inputs).args[0]
    return list(part("evlm.records").read_rows(folder))[-1], Path(folder)


def test_eight_views_of_both_are_kept_from_the_same_cameras(scenes: tuple[Any, Any]) -> None:
    row, folder = rate(original=scenes[0], edited=scenes[1])
    draw = part("nodes.scene_views").drawn
    for paths, scene in ((row.original, scenes[0]), (row.edited, scenes[1])):
        assert len(paths) == 8
        cameras = [scenes[0].cameras[at] for at in part("evlm.files.selection").spread(10, 8)]
        plain = replace(scene, selection=None)
        for path, (shown, _) in zip(paths, draw(plain, scene.gaussians, cameras), strict=True):
            kept = part("evlm.files.pictures").load_picture(folder / path)[0]
            assert torch.allclose(kept, shown, atol=0.5 / 255 + 1e-6)
    assert row.label is False


def test_a_scene_without_cameras_is_seen_from_around(scenes: tuple[Any, Any]) -> None:
    row, _ = rate(original=replace(scenes[0], cameras=()), edited=scenes[1])
    assert len(row.original) == len(row.edited) == 8


def test_a_scene_and_a_picture_are_no_pair(scenes: tuple[Any, Any]) -> None:
    with pytest.raises(part("evlm.errors").RequestError, match="the scene before and the scene after"):
        rate(original=scenes[0], edited=torch.zeros(1, SIDE, SIDE, 3))
