"""One moving scene in the layouts of other projects, each by the formula that its own code reads by."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from evlm.files import write_clip
from evlm.scene import Camera
from evlm.scene.points import Points

Shown = Sequence[Callable[[], Tensor]]


def eight_bits(picture: Tensor) -> np.ndarray:
    return (picture.numpy() * 255).round().astype(np.uint8)


def opengl(camera: Camera) -> list[list[float]]:
    """nerf-pytorch's load_blender.py: camera to world, x right, y up, looking down -z."""
    pose = np.linalg.inv(camera.view.numpy())
    return (pose @ np.diag([1.0, -1.0, -1.0, 1.0])).tolist()


def nerfstudio(folder: Path, cameras: Sequence[Camera], shown: Shown) -> Path:
    """nerfstudio_dataparser.py: one transforms.json, `time` a frame."""
    (folder / "images").mkdir(parents=True)
    frames, one = [], cameras[0]
    for at, (camera, picture) in enumerate(zip(cameras, shown, strict=True)):
        Image.fromarray(eight_bits(picture())).save(folder / f"images/{at:04d}.png")
        said = {"file_path": f"images/{at:04d}.png", "transform_matrix": opengl(camera), "time": camera.time}
        frames.append(said)
    lens = {"fl_x": one.fx, "fl_y": one.fy, "cx": one.cx, "cy": one.cy, "w": one.width, "h": one.height}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    return folder


def dnerf(folder: Path, cameras: Sequence[Camera], shown: Shown) -> Path:
    """D-NeRF's load_blender.py: transforms_train.json, names without an ending, RGBA, `camera_angle_x`."""
    (folder / "train").mkdir(parents=True)
    frames = []
    for at, (camera, picture) in enumerate(zip(cameras, shown, strict=True)):
        pixels = eight_bits(picture())
        opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        Image.fromarray(np.concatenate([pixels, opaque], 2)).save(folder / f"train/r_{at:03d}.png")
        said = {"file_path": f"./train/r_{at:03d}", "transform_matrix": opengl(camera), "time": camera.time}
        frames.append({**said, "rotation": 0.1})
    wide = 2 * float(np.arctan(0.5 * cameras[0].width / cameras[0].fx))
    (folder / "transforms_train.json").write_text(json.dumps({"camera_angle_x": wide, "frames": frames}))
    return folder


def dynerf(folder: Path, cameras: Sequence[Camera], shown: Shown, times: int) -> Path:
    """N3DV: camNN, here lossless, and LLFF's poses_bounds.npy (axes down, right, back). A test's camera,
    which readers leave out, comes first."""
    folder.mkdir(parents=True)
    rows = []
    views = [list(zip(cameras, shown, strict=True))[at : at + times] for at in range(0, len(cameras), times)]
    for at, pairs in enumerate([views[0], *views]):
        camera = pairs[0][0]
        right, down, forward = camera.rotation.numpy()
        pose = np.stack([down, right, -forward, camera.centre.numpy()], 1)
        hwf = np.array([[camera.height], [camera.width], [camera.fx]])
        rows.append(np.concatenate([np.concatenate([pose, hwf], 1).ravel(), [0.1, 100.0]]))
        frames = (torch.from_numpy(eight_bits(picture())).float()[None] / 255 for _, picture in pairs)
        write_clip(folder / f"cam{at:02d}.mkv", frames, "ffv1", [Fraction(1, 8)] * times)
    np.save(folder / "poses_bounds.npy", np.stack(rows))
    return folder


def hypernerf(folder: Path, cameras: Sequence[Camera], shown: Shown, times: int) -> Path:
    """nerfies/camera.py and datasets/nerfies.py: orientation is world to camera, position the centre; what is
    read is (position - center) * scale."""
    middle, scale = np.array([0.3, -0.2, 0.1]), 0.5
    for name in ("camera", "rgb/1x"):
        (folder / name).mkdir(parents=True)
    meta, ids = {}, []
    for at, (camera, picture) in enumerate(zip(cameras, shown, strict=True)):
        name = f"{at:06d}"
        ids.append(name)
        meta[name] = {"camera_id": at // times, "appearance_id": at, "warp_id": at % times}
        said = {
            "orientation": camera.rotation.tolist(),
            "position": (camera.centre.numpy() / scale + middle).tolist(),
            "focal_length": camera.fx,
            "principal_point": [camera.cx, camera.cy],
            "skew": 0.0,
            "pixel_aspect_ratio": 1.0,
            "radial_distortion": [0.0, 0.0, 0.0],
            "tangential_distortion": [0.0, 0.0],
            "image_size": [camera.width, camera.height],
        }
        (folder / f"camera/{name}.json").write_text(json.dumps(said))
        Image.fromarray(eight_bits(picture())).save(folder / f"rgb/1x/{name}.png")
    whole = {"count": len(ids), "num_exemplars": len(ids), "ids": ids, "train_ids": ids, "val_ids": []}
    for file, content in (
        ("dataset", whole),
        ("metadata", meta),
        ("scene", {"center": middle.tolist(), "scale": scale, "near": 0.1, "far": 9.0}),
    ):
        (folder / f"{file}.json").write_text(json.dumps(content))
    return folder


def clip_with_cameras(folder: Path, cameras: Sequence[Camera], shown: Shown) -> tuple[Path, Path]:
    """(transforms.json without times or pictures, a clip with a frame for each)."""
    folder.mkdir(parents=True)
    one = cameras[0]
    frames = [
        {"file_path": f"frame_{at:05d}.png", "transform_matrix": opengl(camera)}
        for at, camera in enumerate(cameras)
    ]
    lens = {"fl_x": one.fx, "fl_y": one.fy, "cx": one.cx, "cy": one.cy, "w": one.width, "h": one.height}
    (folder / "transforms.json").write_text(json.dumps({**lens, "frames": frames[::-1]}))
    pictures = (torch.from_numpy(eight_bits(picture())).float()[None] / 255 for picture in shown)
    write_clip(folder / "walk.mkv", pictures, "ffv1", [Fraction(1, 8)] * len(cameras))
    return folder / "transforms.json", folder / "walk.mkv"


def point_cloud(points: Points) -> bytes:
    """A .ply of coloured points, as nerfstudio's ply_file_path names one."""
    lines = "".join(f"property float {axis}\n" for axis in "xyz")
    lines += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n{lines}end_header\n"
    rows = np.zeros(len(points), [("place", "<f4", 3), ("colour", "u1", 3)])
    rows["place"], rows["colour"] = points.positions.numpy(), eight_bits(points.colours)
    return head.encode() + rows.tobytes()
