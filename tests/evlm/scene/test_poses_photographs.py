"""Photographs: found inside their folder, held to their cameras, undistorted as a pinhole would see."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from evlm.errors import SceneError
from evlm.files import save_picture
from evlm.scene import Camera
from evlm.scene.poses.lens import distort, undistort, undistorted
from evlm.scene.poses.load import load_cameras

EYE = torch.eye(4, dtype=torch.float64)
LENS = torch.tensor([[50.0, 0, 33], [0, 54.0, 23], [0, 0, 1]]).double()
BARREL, PINCUSHION, WIDE = (-0.2, 0.04, 0.002, -0.003), (0.25, 0.0, 0.0, 0.0), (0.05, -0.01, 0.0, 0.0)


def camera(distortion: tuple[float, ...], fisheye: bool = False) -> Camera:
    return Camera(EYE, LENS, 64, 48, distortion=distortion, fisheye=fisheye, name="a.png")


def rays(of: Camera) -> Tensor:
    """[H, W, 2] of a pinhole's pixel centres."""
    y, x = torch.meshgrid(torch.arange(of.height) + 0.5, torch.arange(of.width) + 0.5, indexing="ij")
    return torch.stack([(x - of.cx) / of.fx, (y - of.cy) / of.fy], -1).double()


def scenery(ways: Tensor) -> Tensor:
    """[..., 3]: what stands in a direction; smooth."""
    x, y = ways.unbind(-1)
    return torch.stack([0.5 + 0.4 * torch.sin(3 * x), 0.5 + 0.4 * torch.cos(2 * y), 0.5 + 0.3 * x * y], -1)


def straightened(of: Camera) -> Tensor:
    """[H, W, 2]: the ray that each pixel of a bent picture comes from, by fixed-point iteration."""
    bent = rays(of)
    ways = bent.clone()
    for _ in range(200):
        ways = ways + 0.5 * (bent - distort(of, ways))
    assert (distort(of, ways) - bent).abs().max() < 1e-6
    return ways


@pytest.mark.parametrize(
    ("distortion", "fisheye", "zooms"),
    [(BARREL, False, False), (PINCUSHION, False, True), (WIDE, True, False)],
)
def test_a_bent_picture_becomes_what_a_pinhole_sees(
    distortion: tuple[float, ...], fisheye: bool, zooms: bool
) -> None:
    source = camera(distortion, fisheye)
    target = undistorted(source)
    picture = undistort(scenery(straightened(source)), source, target)
    assert not target.distortion and not target.fisheye and (target.fx > source.fx) == zooms
    assert (picture - scenery(rays(target))).abs().max() < 6e-3
    pixels = distort(source, rays(target)) * torch.tensor([50.0, 54.0]) + torch.tensor([33.0, 23.0])
    assert pixels.min() >= 0 and pixels[..., 0].max() <= 64 and pixels[..., 1].max() <= 48  # nothing made up


def test_a_lens_that_folds_its_picture_is_refused_and_a_straight_one_left_alone() -> None:
    with pytest.raises(SceneError, match="folds the picture; undistort the photographs"):
        undistorted(camera((-1e6, 0.0, 0.0, 0.0)))
    straight = camera(())
    assert undistorted(straight) is straight and undistorted(camera((0.0,) * 4)).distortion == ()


def dataset(folder: Path, names: tuple[str, ...], **values: object) -> Path:
    frames = [{"file_path": name, "transform_matrix": torch.eye(4).tolist()} for name in names]
    (folder / "transforms.json").write_text(
        json.dumps({"fl_x": 50, "fl_y": 54, "cx": 33, "cy": 23, "w": 64, "h": 48, "frames": frames, **values})
    )
    return folder / "transforms.json"


def test_photographs_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    k1, k2, p1, p2 = BARREL
    path = dataset(tmp_path, ("a.png", "b.png"), k1=k1, k2=k2, p1=p1, p2=p2)
    seen = scenery(straightened(camera(BARREL))).float()
    for name in ("a.png", "b.png"):
        save_picture(tmp_path / name, seen)
    found = load_cameras(path)
    assert found.photographs is not None and "undistorted as they are read" in found.notes[0]
    assert (found.photographs[0]() - scenery(rays(found.cameras[0]))).abs().max() < 1e-2
    small = found.within(32)
    assert (small.cameras[0].width, small.cameras[0].height) == (32, 24)
    assert small.photographs is not None and small.photographs[0]().shape == (24, 32, 3)
    assert (small.photographs[0]() - scenery(rays(small.cameras[0]))).abs().max() < 2e-2
    assert [each.name for each in found.only([1]).cameras] == ["b.png"]
    (tmp_path / "b.png").write_bytes(b"no picture")
    with pytest.raises(SceneError, match=r"b\.png: not a picture"):
        found.photographs[1]()
    save_picture(tmp_path / "a.png", seen[:40])
    with pytest.raises(SceneError, match="is now 64 x 40 pixels, and was 64 x 48"):
        found.photographs[0]()


def test_photographs_are_those_of_the_cameras_or_smaller(tmp_path: Path) -> None:
    path = dataset(tmp_path, ("images/a.png", "images/b.png"))
    assert load_cameras(path).photographs is None
    (tmp_path / "images").mkdir()
    (tmp_path / "small").mkdir()
    (tmp_path / "empty").mkdir()
    save_picture(tmp_path / "images" / "a.png", torch.zeros(48, 64, 3))
    with pytest.raises(SceneError, match=r"1 of 2 photographs are missing \(images/b\.png\)"):
        load_cameras(path)
    alone = load_cameras(path, photographs=False)
    assert [each.name for each in alone.cameras] == ["images/a.png", "images/b.png"]
    assert (alone.cameras[0].width, alone.photographs, alone.notes) == (64, None, ())
    save_picture(tmp_path / "images" / "b.png", torch.zeros(64, 48, 3))
    with pytest.raises(SceneError, match=r"48 x 64 pixels, its camera .* 64 x 48; it was turned"):
        load_cameras(path)
    save_picture(tmp_path / "images" / "b.png", torch.zeros(48, 48, 3))
    with pytest.raises(SceneError, match="take the photographs that the cameras were made from"):
        load_cameras(path)
    for name in ("a.png", "b.png"):
        save_picture(tmp_path / "small" / name, torch.zeros(24, 32, 3))
    halved = load_cameras(path, images=tmp_path / "small")
    assert halved.cameras[0].fx == 25 and halved.cameras[0].width == 32 and "by 2;" in halved.notes[0]
    with pytest.raises(SceneError, match="none of the 2 photographs is there"):
        load_cameras(path, images=tmp_path / "empty")
    with pytest.raises(SceneError, match="is no folder"):
        load_cameras(path, images=tmp_path / "nowhere")


def test_what_exif_says_of_the_upright_is_not_what_the_camera_saw(tmp_path: Path) -> None:
    path = dataset(tmp_path, ("a.jpg",))
    image = Image.new("RGB", (64, 48))
    image.paste((255, 0, 0), (0, 0, 32, 48))
    exif = image.getexif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "a.jpg", exif=exif, quality=95)
    found = load_cameras(path)
    assert found.photographs is not None
    picture = found.photographs[0]()
    assert picture[24, 10, 0] > 0.9 and picture[24, 54, 0] < 0.1


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    save_picture(tmp_path / "secret.png", torch.zeros(48, 64, 3))
    path = dataset(tmp_path / "set", ("a.png",))
    (tmp_path / "set" / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(SceneError, match="leads out of the dataset folder"):
        load_cameras(path)


def test_the_same_view_in_another_size_keeps_its_lens() -> None:
    bent = camera(PINCUSHION)
    half = undistorted(bent.resized(32, 24))
    assert abs(half.fx * 2 - undistorted(bent).fx) < 1e-4
    assert replace(half, name="x").width == 32
