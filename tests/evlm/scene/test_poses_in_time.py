"""One moving scene in the layouts of five projects gives equal cameras, times and pictures; what does not fit
is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_layouts import clip_with_cameras, dnerf, dynerf, eight_bits, hypernerf, nerfstudio
from moving_pictures import ROLLING, pictures, points
from torch import Tensor

from evlm.errors import SceneError
from evlm.scene import Camera
from evlm.scene.fit import guessed_points
from evlm.scene.poses import LoadedCameras, decoded, load_cameras
from evlm.scene.poses import clip_frames as clips
from evlm.scene.poses.in_time import in_time
from trainer.world.raytrace import SKY_RGB

VIEWS, TIMES, SIZE = 3, 4, 24


@pytest.fixture(scope="module")
def truth() -> tuple[list[Camera], list[Callable[[], Tensor]]]:
    cameras, shown, _ = pictures(ROLLING, VIEWS, TIMES, SIZE)
    return cameras, shown


LAYOUTS = {
    "nerfstudio": lambda folder, cameras, shown: nerfstudio(folder, cameras, shown),
    "dnerf": lambda folder, cameras, shown: dnerf(folder, cameras, shown),
    "dynerf": lambda folder, cameras, shown: dynerf(folder, cameras, shown, TIMES),
    "hypernerf": lambda folder, cameras, shown: hypernerf(folder, cameras, shown, TIMES),
}


def same(found: LoadedCameras, cameras: list[Camera], shown: list[Callable[[], Tensor]]) -> None:
    assert found.photographs is not None and len(found.cameras) == len(cameras)
    for one, other in zip(found.cameras, cameras, strict=True):
        assert torch.allclose(one.view, other.view, atol=1e-9)
        assert torch.allclose(one.intrinsics, other.intrinsics, atol=1e-9)
        assert (one.width, one.height) == (other.width, other.height)
        assert one.time == pytest.approx(other.time)
    for read, picture in zip(found.photographs, shown, strict=True):
        assert np.array_equal(eight_bits(read()), eight_bits(picture()))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_gives_the_same_scene(
    layout: str, tmp_path: Path, truth: tuple[list[Camera], list[Callable[[], Tensor]]]
) -> None:
    cameras, shown = truth
    same(decoded(in_time(load_cameras(LAYOUTS[layout](tmp_path / "it", cameras, shown)))), cameras, shown)


def test_a_clip_with_a_camera_for_each_frame(
    tmp_path: Path, truth: tuple[list[Camera], list[Callable[[], Tensor]]]
) -> None:
    cameras, shown = truth
    path, clip = clip_with_cameras(tmp_path / "it", cameras, shown)
    timed = [replace(camera, time=at / (len(cameras) - 1)) for at, camera in enumerate(cameras)]
    found = in_time(load_cameras(path, images=clip))
    same(decoded(found), timed, shown)
    some = decoded(in_time(load_cameras(path, images=clip), "2:10:4").within(12))
    assert [camera.width for camera in some.cameras] == [12, 12] and some.photographs is not None
    half = shown[6]().reshape(12, 2, 12, 2, 3).mean((1, 3))
    assert (some.photographs[1]() - half).abs().max() < 2 / 255
    said = json.loads(path.read_text())
    path.write_text(json.dumps({**said, "frames": said["frames"][1:]}))
    with pytest.raises(SceneError, match="12 frames for 11 cameras"):
        load_cameras(path, images=clip)


def test_layouts_that_are_half_there_are_named(
    tmp_path: Path,
    truth: tuple[list[Camera], list[Callable[[], Tensor]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cameras, shown = truth
    rig = dynerf(tmp_path / "rig", cameras, shown, TIMES)
    with monkeypatch.context() as smaller:
        smaller.setattr(clips, "MOST", 1000)
        with pytest.raises(SceneError, match=r"take every fourth \(--frames ::4\)"):
            decoded(load_cameras(rig))
    (rig / "cam02.mkv").unlink()
    with pytest.raises(SceneError, match="3 clips for 4 cameras"):
        load_cameras(rig)
    warped = hypernerf(tmp_path / "warped", cameras, shown, TIMES)
    (warped / "camera/000003.json").unlink()
    with pytest.raises(SceneError, match=r"000003\.json: cannot be read"):
        load_cameras(warped)
    shutil.rmtree(warped / "rgb")
    with pytest.raises(SceneError, match="has no pictures: rgb/2x"):
        load_cameras(warped)
    blended = dnerf(tmp_path / "blended", cameras, shown)
    (blended / "train/r_004.png").unlink()
    with pytest.raises(SceneError, match="train/r_004"):
        load_cameras(blended)


def test_times_are_brought_to_0_to_1_and_some_taken(
    truth: tuple[list[Camera], list[Callable[[], Tensor]]],
) -> None:
    cameras, shown = truth
    late = LoadedCameras(tuple(replace(c, time=10 + 3 * (c.time or 0)) for c in cameras), tuple(shown))
    found = in_time(late, "::2")
    assert sorted({camera.time for camera in found.cameras}) == [0, pytest.approx(2 / 3)]
    assert "times 10 to 13 are taken as 0 to 1" in found.notes and len(found.cameras) == 2 * VIEWS
    timeless = LoadedCameras((replace(cameras[0], time=None), *cameras[1:]), tuple(shown))
    for given, frames, said in (
        (timeless, None, "has no time, nor have 0 others"),
        (late, "a:b", "expected FROM:TO:STEP"),
        (late, "9:", "none of the 4 times"),
        (late, "0:1", "all cameras are of one time"),
    ):
        with pytest.raises(SceneError, match=said):
            in_time(given, frames)


def test_points_are_guessed_where_something_is() -> None:
    cameras, shown, _ = pictures(ROLLING, 8, 2, SIZE)
    found = guessed_points(cameras, shown, 200, SKY_RGB["blue"])
    near = torch.cdist(found.positions, points(ROLLING, 2000).positions).amin(1)
    assert 100 < len(found) <= 200 and near.median() < 0.35 and "guessed" in found.notes[0]
    again = guessed_points(cameras, shown, 200, SKY_RGB["blue"])
    assert torch.equal(again.positions, found.positions)
    away = [replace(camera, view=camera.view.clone()) for camera in cameras]
    for camera in away:
        camera.view[:3] *= torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    with pytest.raises(SceneError, match="look away from each other"):
        guessed_points(away, shown, 200, SKY_RGB["blue"])
