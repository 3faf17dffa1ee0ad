"""COLMAP's models as pycolmap wrote them: every lens and pose puts points where pycolmap put them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from evlm.errors import SceneError
from evlm.scene.poses.colmap import MODELS, read_colmap
from evlm.scene.poses.lens import distort
from evlm.scene.poses.load import load_cameras

HERE = (
    Path(__file__).parent / "colmap_models"
)  # written by pycolmap 4.2.1, which also projected truth.json's points
TRUTH = json.loads((HERE / "truth.json").read_text())


@pytest.mark.parametrize("kind", ["bin", "txt"])
def test_poses_lenses_and_points_are_those_of_pycolmap(kind: str) -> None:
    cameras, points = read_colmap(HERE / kind)
    assert [camera.name for camera in cameras] == sorted(TRUTH["images"]) and len(cameras) == len(MODELS)
    for camera in cameras:
        truth = TRUTH["images"][camera.name]
        assert torch.allclose(camera.centre, torch.tensor(truth["centre"]).double(), atol=1e-6)
        assert torch.allclose(camera.direction, torch.tensor(truth["direction"]).double(), atol=1e-6)
        seen = torch.tensor(truth["world"]).double() @ camera.rotation.T + camera.view[:3, 3]
        bent = distort(camera, seen[:, :2] / seen[:, 2:])
        pixels = bent @ camera.intrinsics[:2, :2].T + camera.intrinsics[:2, 2]
        assert torch.allclose(pixels, torch.tensor(truth["pixels"]).double(), atol=1e-4), camera.name
        assert (camera.width, camera.height) == (64, 48)
    assert points is not None
    order = sorted(range(len(points)), key=lambda n: points.positions[n].tolist())
    places, colours = zip(*TRUTH["points"], strict=True)
    assert torch.allclose(points.positions[order], torch.tensor(places), atol=1e-6)
    assert (points.colours[order] * 255).round().tolist() == [list(map(float, each)) for each in colours]


def test_a_project_is_searched_for_its_model_and_a_file_of_it_stands_for_all(tmp_path: Path) -> None:
    shutil.copytree(HERE / "txt", tmp_path / "sparse" / "0")
    found = load_cameras(tmp_path)
    again = load_cameras(tmp_path / "sparse" / "0" / "images.txt")
    assert len(found.cameras) == len(again.cameras) == len(MODELS)
    assert found.photographs is None and "own renderings" in found.notes[0]
    assert not any(camera.distortion or camera.fisheye for camera in found.cameras)
    assert found.points is not None and len(found.points) == 5


def test_damaged_models_are_refused_by_name(tmp_path: Path) -> None:
    model = tmp_path / "model"

    def refused(words: str, name: str, data: bytes) -> None:
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(HERE / ("txt" if name.endswith("txt") else "bin"), model)
        (model / name).write_bytes(data)
        with pytest.raises(SceneError, match=words):
            read_colmap(model)

    cameras, images = ((HERE / "bin" / name).read_bytes() for name in ("cameras.bin", "images.bin"))
    refused(
        "promises 281,474,976,710,656 cameras", "cameras.bin", (1 << 48).to_bytes(8, "little") + cameras[8:]
    )
    refused("in the middle of an entry", "cameras.bin", cameras[:-5])
    refused("model 7 is not read; of SIMPLE_PINHOLE", "cameras.bin", cameras[:12] + b"\7" + cameras[13:])
    named = images.index(b"\0", 72) + 1  # behind the first image's name
    refused(
        "promises 1,099,511,627,776 points of 'simple_pinhole.png'",
        "images.bin",
        images[:named] + (1 << 40).to_bytes(8, "little") + images[named + 8 :],
    )
    refused("no image is registered", "images.bin", bytes(8))
    refused("is of camera 1, which cameras.txt does not have", "cameras.txt", b"2 PINHOLE 64 48 1 1 1 1\n")
    refused("line 1: camera model 'FOV' is not read", "cameras.txt", b"1 FOV 64 48 1 1 1 1 1\n")
    refused("line 2: '64 48 60 33', expected 5 finite", "cameras.txt", b"#\n1 SIMPLE_PINHOLE 64 48 60 33\n")
    refused("its width is 0.0", "cameras.txt", b"1 SIMPLE_PINHOLE 0 48 60 33 24\n")
    refused("the quaternion .* is no rotation", "images.txt", b"1 0 0 0 0 1 2 3 1 a.png\n\n")
    refused("line 1: 9 values", "images.txt", b"1 1 0 0 0 1 2 3 1\n\n")


def test_two_lines_an_image_also_where_the_second_is_empty(tmp_path: Path) -> None:
    (tmp_path / "cameras.txt").write_text("1 SIMPLE_PINHOLE 64 48 60 32 24\n")
    (tmp_path / "images.txt").write_text(
        "# remark\n7 1 0 0 0 0 0 0 1 b one.png\n\n3 1 0 0 0 1 0 0 1 a.png\n1 2 -1 3 4 5\n"
    )
    cameras, points = read_colmap(tmp_path)
    assert [camera.name for camera in cameras] == ["a.png", "b one.png"] and points is None
    assert cameras[0].centre.tolist() == [-1, 0, 0]


@pytest.mark.parametrize("number", ["--5", "1" * 20, "+1", "\u0663", "1_0"])
def test_the_number_of_a_camera_is_a_whole_one(number: str, tmp_path: Path) -> None:
    shutil.copytree(HERE / "txt", tmp_path / "model")
    (tmp_path / "model/cameras.txt").write_text(f"{number} PINHOLE 64 48 60 60 32 24\n", encoding="utf-8")
    with pytest.raises(SceneError, match="expected the number of a camera"):
        load_cameras(tmp_path / "model")
