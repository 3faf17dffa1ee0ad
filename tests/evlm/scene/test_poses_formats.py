"""transforms.json, LLFF, Inria's cameras.json and ComfyUI's camera info: points fall where each project's own
published formula puts them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from a_few_gaussians import some

from evlm.errors import SceneError
from evlm.files import save_picture
from evlm.scene import Camera
from evlm.scene.poses import nerfstudio
from evlm.scene.poses.comfy_info import from_comfy_info
from evlm.scene.poses.load import load_cameras

RNG = np.random.default_rng(5)


def random_rotation() -> np.ndarray:
    q, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def opengl(rotation: np.ndarray, centre: np.ndarray) -> list[list[float]]:
    return np.vstack([np.c_[rotation, centre], [0, 0, 0, 1]]).tolist()


def sees(camera: Camera, point: np.ndarray, pixel: tuple[float, float]) -> None:
    found, depth = camera.project(torch.from_numpy(point)[None])
    assert depth.item() > 0 and np.allclose(found[0].numpy(), pixel, atol=1e-6)


def along(c2w: np.ndarray, way: list[float], far: float) -> np.ndarray:
    """NeRF's get_rays: origin + far * c2w[:3, :3] @ direction."""
    return c2w[:3, 3] + far * (c2w[:3, :3] @ np.array(way))


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def picture(path: Path, width: int, height: int, value: float = 0.25) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(path, torch.full((height, width, 3), value))


def test_nerfstudio_by_its_own_rays(tmp_path: Path) -> None:
    """nerfstudio/cameras/cameras.py, _generate_rays_from_coords: coord = ((x - cx) / fx, -(y - cy) / fy), the
    direction (coord, -1) turned by camera_to_worlds. A frame's own values go before the shared ones."""
    poses = [opengl(random_rotation(), RNG.normal(size=3)) for _ in range(2)]
    frames = [
        {"file_path": "images/a.png", "transform_matrix": poses[0], "time": 0.5},
        {
            "file_path": "./images/b.png",
            "transform_matrix": poses[1],
            "fl_x": 90,
            "fl_y": 80,
            "cx": 30,
            "cy": 20,
        },
    ]
    shared = {"fl_x": 70.0, "fl_y": 75.0, "cx": 33.0, "cy": 22.0, "w": 64, "h": 48, "camera_model": "OPENCV"}
    found = load_cameras(written(tmp_path / "transforms.json", {**shared, "frames": frames}))
    for camera, pose, (fx, fy, cx, cy) in zip(
        found.cameras, poses, ((70, 75, 33, 22), (90, 80, 30, 20)), strict=True
    ):
        x, y = 40.5, 10.5
        sees(camera, along(np.array(pose), [(x - cx) / fx, -(y - cy) / fy, -1], 2.5), (x, y))
    assert [camera.time for camera in found.cameras] == [0.5, None]
    assert [camera.name for camera in found.cameras] == ["images/a.png", "images/b.png"]


def test_blender_by_nerfs_own_rays(tmp_path: Path) -> None:
    """bmild/nerf, load_blender.py: focal = .5 * W / tan(.5 * camera_angle_x); run_nerf_helpers.py, get_rays:
    dirs = ((i - W / 2) / focal, -(j - H / 2) / focal, -1). The size is the pictures'."""
    picture(tmp_path / "train" / "r_0.png", 40, 30)
    pose = opengl(random_rotation(), RNG.normal(size=3))
    frames = [{"file_path": "./train/r_0", "transform_matrix": pose}]
    written(tmp_path / "transforms_train.json", {"camera_angle_x": 0.8, "frames": frames})
    found = load_cameras(tmp_path)
    focal = 0.5 * 40 / math.tan(0.4)
    sees(found.cameras[0], along(np.array(pose), [(7 - 20) / focal, -(25 - 15) / focal, -1], 3), (7, 25))
    assert found.photographs is not None and found.photographs[0]().shape == (30, 40, 3)
    written(
        tmp_path / "transforms_train.json",
        {"camera_angle_x": 0.8, "frames": [{**frames[0], "file_path": "x"}]},
    )
    with pytest.raises(SceneError, match="has no w and h, and there is no photograph 'x'"):
        load_cameras(tmp_path)


def test_llff_by_nerfs_own_rays(tmp_path: Path) -> None:
    """bmild/nerf, load_llff.py: columns (down, right, back) become (right, up, back) by
    [poses[:, 1], -poses[:, 0], poses[:, 2:]]; then get_rays as above. Near and far are not used."""
    rows, poses = [], []
    for at in range(3):
        pose = np.c_[random_rotation(), RNG.normal(size=3), [60, 80, 95.0]]
        poses.append(pose)
        rows.append([*pose.ravel(), 1.0, 9.0])
        picture(tmp_path / "images" / f"IMG_{at}.png", 80, 60)
    np.save(tmp_path / "poses_bounds.npy", np.array(rows))
    found = load_cameras(tmp_path)
    assert [camera.name for camera in found.cameras] == [f"IMG_{at}.png" for at in range(3)]
    for camera, pose in zip(found.cameras, poses, strict=True):
        c2w = np.concatenate([pose[:, 1:2], -pose[:, 0:1], pose[:, 2:]], 1)
        sees(camera, along(c2w, [(12 - 40) / 95, -(50 - 30) / 95, -1], 4), (12, 50))
    (tmp_path / "images" / "IMG_2.png").unlink()
    with pytest.raises(SceneError, match="3 poses for 2 photographs"):
        load_cameras(tmp_path)
    np.save(tmp_path / "poses_bounds.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(SceneError, match=r"array \(1,\) of object, expected \[N, 17\] floats"):
        load_cameras(tmp_path)
    np.save(tmp_path / "poses_bounds.npy", np.array(rows))
    whole = (tmp_path / "poses_bounds.npy").read_bytes()
    (tmp_path / "poses_bounds.npy").write_bytes(whole[:-8])
    with pytest.raises(SceneError, match="promises 3 poses and holds 400 bytes"):
        load_cameras(tmp_path)


def test_inria_by_its_own_writer(tmp_path: Path) -> None:
    """graphdeco-inria/gaussian-splatting, utils/camera_utils.py, camera_to_JSON: Rt = [R^T | T], position and
    rotation are those of its inverse; scene/dataset_readers.py: R = qvec2rotmat(qvec)^T, T = tvec."""
    world_to_camera = np.eye(4)
    world_to_camera[:3, :3], world_to_camera[:3, 3] = random_rotation(), RNG.normal(size=3)
    inverse = np.linalg.inv(world_to_camera)
    entry = {
        "id": 0, "img_name": "DSC0001", "width": 64, "height": 48, "position": inverse[:3, 3].tolist(),
        "rotation": [row.tolist() for row in inverse[:3, :3]], "fy": 55.0, "fx": 60.0,
    }  # fmt: skip
    picture(tmp_path / "images" / "DSC0001.JPG", 64, 48)
    found = load_cameras(written(tmp_path / "cameras.json", [entry]))
    assert np.allclose(found.cameras[0].view.numpy(), world_to_camera, atol=1e-9)
    assert (found.cameras[0].fx, found.cameras[0].fy, found.cameras[0].cx) == (60, 55, 32)
    assert found.photographs is not None
    for change, words in (
        ({"rotation": 3}, "rotation is 3, expected a list"),
        ({"position": [1, 2]}, "expected 1 rows of 3"),
        ({"fx": None}, "fx is None, expected a finite number"),
        ({"fx": -3}, "focal length -3"),
        ({"width": 10.5}, "width is 10.5, expected a whole number of pixels"),
        ({"rotation": (2 * inverse[:3, :3]).tolist()}, "its pose is no rotation"),
        ({"img_name": "../../secret"}, "relative path inside"),
    ):
        with pytest.raises(SceneError, match=words):
            load_cameras(written(tmp_path / "cameras.json", [{**entry, **change}]))


# (info, where its points fall at 96 x 64: x, y, depth), by ComfyUI 0.33's _camera_basis and the projection of
# its _render_gaussian (comfy_extras/nodes_gaussian_splat.py), run on these infos and POINTS.
POINTS = torch.tensor([[0.1, 0.2, 0.3], [-0.4, 0.1, 0.2], [0.3, -0.5, -0.2]])


def xyz(x: float, y: float, z: float) -> dict[str, float]:
    return {"x": x, "y": y, "z": z}


ROLLED = {
    "position": xyz(2.0, -1.0, 1.5),
    "target": xyz(0.0, 0.3, 0.0),
    "quaternion": {
        **xyz(0.28460848331451416, 0.39093858003616333, 0.04628683626651764),
        "w": 0.8740838170051575,
    },
    "fov": 50.0,
    "cameraType": "perspective",
    "zoom": 1.5,
}
COMFY = (
    (
        {"position": xyz(1.5, 2, 3), "target": xyz(0.2, 0.1, -0.3), "fov": 35, "zoom": 1},
        [[45.75, 37.975, 4.198], [33.726, 34.793, 4.23], [45.301, 28.541, 3.392]],
    ),
    (ROLLED, [[52.401, 53.651, 2.676], [38.945, 48.916, 3.024], [53.415, 19.445, 2.591]]),
    (
        {"position": xyz(0, 4, 0), "target": xyz(0, 0, 0), "fov": 60},
        [[49.32, 28.041, 4.2], [42.593, 29.296, 4.1], [52.751, 35.167, 3.5]],
    ),
    (
        {"position": xyz(1, -4, 0), "target": xyz(1, 0, 0), "fov": 60},
        [[34.873, 36.376, 3.8], [28.104, 34.842, 3.9], [39.378, 29.537, 4.5]],
    ),
)


@pytest.mark.parametrize(("info", "expected"), COMFY)
def test_comfyui_by_its_own_camera_basis(info: dict, expected: list, tmp_path: Path) -> None:
    pixels, depth = from_comfy_info(info, 96, 64).project(POINTS)
    assert torch.allclose(torch.cat([pixels, depth[:, None]], 1), torch.tensor(expected).double(), atol=2e-3)
    several = load_cameras([info, info], size=64)
    from_file = load_cameras(written(tmp_path / "camera.json", info), size=64)
    assert len(several.cameras) == 2 and torch.equal(several.cameras[1].view, from_file.cameras[0].view)


def test_camera_info_that_does_not_fit_is_named() -> None:
    info = COMFY[0][0]
    for change, words in (
        ({"cameraType": "orthographic"}, "is orthographic"),
        ({"fov": 200}, "fov 200"),
        ({"position": 3}, "position is int"),
        ({"position": {"x": "a"}}, "position x is 'a'"),
        ({"quaternion": {"x": 0, "y": 0, "z": 0, "w": 0}}, "is no rotation"),
        ({"target": info["position"]}, "line of sight must have a length"),
    ):
        with pytest.raises(SceneError, match=words):
            load_cameras({**info, **change})


def test_values_of_transforms_that_do_not_fit_are_named(tmp_path: Path) -> None:
    frame = {"file_path": "a.png", "transform_matrix": opengl(np.eye(3), np.zeros(3))}
    whole = {"fl_x": 60, "w": 64, "h": 48}
    mirrored = opengl(np.diag([1.0, 1.0, -1.0]), np.zeros(3))
    for change, words in (
        ({"fl_x": "60"}, r"frame 0 \(a.png\): fl_x is '60', expected a finite number"),
        ({"fl_x": float("nan")}, "fl_x is nan"),
        ({"fl_x": 10**400}, "fl_x is 1000"),
        ({"w": True}, "w is True, expected a finite number"),
        ({"camera_model": "EQUIRECTANGULAR"}, "camera_model 'EQUIRECTANGULAR' is not read"),
        ({"k4": 0.1}, "a fourth radial term"),
        ({"frames": []}, "expected a list with at least one entry"),
        ({"frames": [3]}, "frame 0 is int"),
        ({"frames": [{**frame, "transform_matrix": mirrored}]}, "determinant -1"),
        ({"frames": [{**frame, "transform_matrix": [[1, 2], [3]]}]}, "expected 3 rows of 4 numbers"),
        ({"frames": [{**frame, "file_path": "../up.png"}]}, "relative path inside the dataset"),
        ({"ply_file_path": "/etc/passwd"}, "ply_file_path: path"),
    ):
        with pytest.raises(SceneError, match=words):
            load_cameras(written(tmp_path / "transforms.json", {**whole, "frames": [frame], **change}))
    del whole["fl_x"]
    with pytest.raises(SceneError, match="neither fl_x nor camera_angle_x"):
        load_cameras(written(tmp_path / "transforms.json", {**whole, "frames": [frame]}))


def test_the_frame_in_which_the_scene_lies_is_found(tmp_path: Path) -> None:
    """The .ply of a COLMAP training knows nothing of applied_transform; nerfstudio's own export is scaled.
    The cameras follow it to where they see it."""
    turn = np.array([[0, 1.0, 0, 5], [1, 0, 0, -4], [0, 0, -1, 3]])
    gaussians = some(200)  # around the origin
    c2w = np.eye(4)
    c2w[:3, 3] = [0, 0, 8.0]  # OpenGL: looks down -z, at the origin
    file = np.vstack([turn, [0, 0, 0, 1]]) @ c2w
    frame = {"file_path": "a.png", "transform_matrix": file.tolist()}
    whole = {"fl_x": 60, "w": 64, "h": 48, "frames": [frame], "applied_transform": turn.tolist()}
    path = written(tmp_path / "transforms.json", whole)
    found = load_cameras(path, gaussians)
    assert torch.allclose(found.cameras[0].centre, torch.tensor([0.0, 0, 8]).double())
    assert "before applied_transform" in found.notes[-1]
    assert torch.allclose(load_cameras(path).cameras[0].centre, torch.from_numpy(file[:3, 3]))
    written(tmp_path / "dataparser_transforms.json", {"transform": np.eye(4)[:3].tolist(), "scale": 0.1})
    moved = gaussians.means.double() @ torch.from_numpy(turn[:, :3].T) + torch.from_numpy(turn[:, 3])
    scaled = type(gaussians)(**{**gaussians.tensors(), "means": (moved * 0.1).float()})
    assert "dataparser_transforms" in load_cameras(path, scaled).notes[-1]


def test_points_of_a_ply_come_along(tmp_path: Path) -> None:
    frame = {"file_path": "a.png", "transform_matrix": opengl(np.eye(3), np.zeros(3))}
    whole = {"fl_x": 60, "w": 64, "h": 48, "frames": [frame], "ply_file_path": "points.ply"}
    path = written(tmp_path / "transforms.json", whole)
    assert load_cameras(path).points is None
    header = "ply\nformat ascii 1.0\nelement vertex 2\n"
    kinds = {"float": "x y z", "uchar": "red green blue"}
    columns = "".join(f"property {kind} {name}\n" for kind, names in kinds.items() for name in names.split())
    (tmp_path / "points.ply").write_text(f"{header}{columns}end_header\n1 2 3 255 0 51\n0 0 -1 0 0 0\n")
    points = load_cameras(path).points
    assert points is not None and points.positions.tolist() == [[1, 2, 3], [0, 0, -1]]
    assert torch.allclose(points.colours[0], torch.tensor([1.0, 0.0, 0.2]))


def test_files_that_hold_no_cameras_say_what_would(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match="holds no cameras; expected a COLMAP model"):
        load_cameras(tmp_path)
    with pytest.raises(SceneError, match="no such file or folder"):
        load_cameras(tmp_path / "nothing")
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(SceneError, match="is no file of cameras"):
        load_cameras(tmp_path / "a.mp4")
    (tmp_path / "b.json").write_text("[" * 100_000)
    with pytest.raises(SceneError, match="is no JSON"):
        load_cameras(tmp_path / "b.json")
    with pytest.raises(SceneError, match="of no cameras that are known"):
        load_cameras(written(tmp_path / "c.json", {"a": 1}))
    far = {"position": {"x": 900, "y": 0, "z": 0}, "target": {"x": 1000, "y": 0, "z": 0}}
    with pytest.raises(SceneError, match=r"none of the 1 cameras sees the scene.*orbit:24"):
        load_cameras(far, some())


def test_of_what_transforms_say_for_all_frames_only_what_is_known_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or each frame would take as long as the file is."""
    asked: list[set[str]] = []
    made = nerfstudio._camera

    def counted(values: dict[str, Any], *rest: Any) -> Camera:
        asked.append(set(values))
        return made(values, *rest)

    monkeypatch.setattr(nerfstudio, "_camera", counted)
    frame = {"file_path": "a.png", "transform_matrix": np.eye(4).tolist(), "fl_y": 7}
    shared = {"w": 8, "h": 6, "fl_x": 5, "fl_y": 5, "is_fisheye": False, **{f"more{n}": n for n in range(99)}}
    (camera,) = load_cameras(written(tmp_path / "transforms.json", {**shared, "frames": [frame]})).cameras
    assert asked == [{*frame, "w", "h", "fl_x", "is_fisheye"}] and (camera.fx, camera.fy) == (5, 7)
