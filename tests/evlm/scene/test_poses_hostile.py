"""Mutated files of cameras: read, or refused in words; never another error."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from evlm.errors import SceneError
from evlm.scene.poses.load import load_cameras

MODELS = Path(__file__).parent / "colmap_models"
ROUNDS = 60
POSE = torch.eye(4).tolist()
TRANSFORMS = {
    "fl_x": 60.0, "fl_y": 60.0, "w": 64, "h": 48, "k1": 0.01, "camera_model": "OPENCV",
    "applied_transform": POSE[:3],
    "frames": [{"file_path": f"images/{n}.png", "transform_matrix": POSE, "time": 0.5} for n in range(3)],
}  # fmt: skip
INRIA = [
    {"id": 0, "img_name": "a", "width": 64, "height": 48, "position": [0.0, 1.0, 2.0], "fx": 60.0, "fy": 60.0,
     "rotation": [row[:3] for row in POSE[:3]]}
]  # fmt: skip
INFO = {"position": {"x": 1, "y": 2, "z": 3}, "target": {"x": 0, "y": 0, "z": 0}, "fov": 35, "zoom": 1}
ODD = ("null", "-1", "1e999", "[]", "{}", '"x"', "true", "NaN", "0", "1e30", "99999999999999999999", '"../x"')


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few bytes flipped, cut, doubled, or made a number of the largest."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(max(1, len(changed)))
        kind = rng.randrange(5)
        if kind == 0 and changed:
            changed[at % len(changed)] = rng.randrange(256)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at:at] = changed[at : at + rng.randint(1, 40)]
        elif kind == 3:
            changed[at : at + 8] = rng.choice(
                (b"\xff" * 8, bytes(8), b"\xff" * 7 + b"\x7f", b"\0\0\0\0\0\0\xf0\x7f")
            )
        else:
            del changed[at : at + rng.randint(1, 20)]
    return bytes(changed)


def odd(rng: random.Random, data: bytes) -> bytes:
    """One value of a JSON text made another."""
    parts = data.decode().split(",")
    at = rng.randrange(len(parts))
    head, colon, _ = parts[at].rpartition(":")
    parts[at] = f"{head}{colon} {rng.choice(ODD)}" if colon else rng.choice(ODD)
    return ",".join(parts).encode()


def read(path: Path) -> bool:
    try:
        found = load_cameras(path)
    except SceneError as error:
        assert str(error) and "\n" not in str(error)
        return False
    assert found.cameras and found.photographs is None
    return True


def files(folder: Path) -> dict[str, bytes]:
    poses = np.concatenate([np.eye(4)[:3], [[48], [64], [60]]], 1).ravel()
    np.save(folder / "a.npy", np.array([[*poses, 1, 2]] * 3))
    return {
        "transforms.json": json.dumps(TRANSFORMS).encode(),
        "cameras.json": json.dumps(INRIA).encode(),
        "info.json": json.dumps(INFO).encode(),
        "poses_bounds.npy": (folder / "a.npy").read_bytes(),
    }


@pytest.mark.parametrize("name", ["transforms.json", "cameras.json", "info.json", "poses_bounds.npy"])
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    data, rng = files(tmp_path)[name], random.Random(name)
    path = tmp_path / name
    path.write_bytes(data)
    assert read(path)
    refused = 0
    for _ in range(ROUNDS):
        path.write_bytes(
            odd(rng, data) if name.endswith("json") and rng.random() < 0.7 else mutated(rng, data)
        )
        refused += not read(path)
    assert refused > ROUNDS / 4


@pytest.mark.parametrize("kind", ["bin", "txt"])
@pytest.mark.parametrize("name", ["cameras", "images", "points3D"])
def test_mutated_models_of_colmap_are_read_or_refused(kind: str, name: str, tmp_path: Path) -> None:
    rng = random.Random(f"{kind} {name}")
    shutil.copytree(MODELS / kind, tmp_path / "model")
    path = tmp_path / "model" / f"{name}.{kind}"
    data = path.read_bytes()
    refused = 0
    for _ in range(ROUNDS // 2):
        path.write_bytes(mutated(rng, data))
        refused += not read(tmp_path / "model")
    assert refused > ROUNDS / 20
