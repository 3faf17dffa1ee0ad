"""Moving scenes on disk: our folder, one .ply a time, the times at which they are drawn; hostile ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from a_few_gaussians import some

from evlm.errors import SceneError
from evlm.scene import Camera, Gaussians, SplatScene
from evlm.scene.camera import looking_at, pinhole
from evlm.scene.motion import Keys, RigidBases
from evlm.scene.moving import is_moving, load_scene, paired, save_folder, save_sequence, times_of
from evlm.scene.moving.sequence import frames_of
from evlm.scene.poses import load_cameras

UP = torch.tensor([0.0, 0.0, 1.0])


def walking(keys: int = 3) -> SplatScene:
    """Every second of fifty Gaussians goes along x and turns; three cameras at two times each."""
    gaussians = some()
    motion = RigidBases.begin(gaussians, torch.arange(50) % 2 == 0, Keys.even(keys), count=2)
    motion.shifts[..., 0] += torch.linspace(0, 1, keys)
    motion.turns[..., 3] += torch.linspace(0, 0.5, keys)
    eyes = [torch.tensor([5.0 * x, -6.0, 1.3]) for x in (-0.37, 0.11, 0.53)]
    views = [looking_at(eye, torch.zeros(3), UP) for eye in eyes]
    cameras = tuple(
        Camera(view, pinhole(31.7, 24, 20), 24, 20, name=f"{at}", time=time)
        for at, view in enumerate(views)
        for time in (0.0, 1 / 3)
    )
    return SplatScene(gaussians, cameras, background=(0.1, 0.2, 1 / 3), motion=motion)


def same(one: Gaussians, other: Gaussians) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(one.tensors().values(), other.tensors().values(), strict=True)
    )


def test_our_folder_keeps_every_bit(tmp_path: Path) -> None:
    scene = walking()
    save_folder(tmp_path / "walk", scene)
    found = load_scene(tmp_path / "walk")
    again = found.scene()
    assert found.kind == "moving" and again.background == scene.background
    for time in (0.0, 0.4, 1.0):
        assert same(again.at(time), scene.at(time))
    for one, other in zip(again.cameras, scene.cameras, strict=True):
        assert torch.equal(one.view, other.view) and torch.equal(one.intrinsics, other.intrinsics)
        assert (one.width, one.height, one.name, one.time) == (24, 20, other.name, other.time)
    assert is_moving(tmp_path / "walk/canonical.ply") and len(load_cameras(tmp_path / "walk").cameras) == 6
    assert same(load_scene(tmp_path / "walk/canonical.ply").scene().at(0.4), scene.at(0.4))
    save_folder(tmp_path / "copy", again, tmp_path / "walk")
    for name in ("canonical.ply", "motion.safetensors", "cameras.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "walk" / name).read_bytes()
    with pytest.raises(SceneError, match="exists: name another folder"):
        save_folder(tmp_path / "walk", scene)
    with pytest.raises(SceneError, match=r"stands still: write it as a \.ply"):
        save_folder(tmp_path / "still", replace(scene, motion=None))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "walk"]


def test_one_ply_a_time_is_the_same_motion(tmp_path: Path) -> None:
    """What is exported at a time is what the motion says of it, to the bit, there and back."""
    scene, times = walking(), (0.0, 0.25, 1.0)
    save_sequence(tmp_path / "plys", scene, times)
    found = load_scene(tmp_path / "plys")
    again = found.scene()
    assert found.kind == "plys" and again.motion is not None
    assert again.motion.keys.times.tolist() == list(times)
    assert int(again.motion.moving.sum()) == 25
    for time in times:
        assert same(again.at(time), scene.at(time))
    (tmp_path / "plys/times.json").unlink()
    assert load_scene(tmp_path / "plys").scene().motion.keys.times.tolist() == [0, 0.5, 1]  # type: ignore[union-attr]


def test_a_sequence_that_nobody_could_read_back_is_not_written(tmp_path: Path) -> None:
    for times in ((0.5, 0.0), (0.0, 0.5, 0.5), (0.0, 2.0)):
        with pytest.raises(SceneError, match=r"not later than the one before it|expected within 0\.\.1"):
            save_sequence(tmp_path / "plys", walking(), times)
    assert not list(tmp_path.iterdir())
    (tmp_path / "\u00b25.ply").touch()  # a digit that is no number
    assert [path.name for path in frames_of(tmp_path)] == ["\u00b25.ply"]


def test_what_is_no_moving_scene_is_named(tmp_path: Path) -> None:
    scene, walk = walking(), tmp_path / "walk"
    with pytest.raises(SceneError, match="scene fit PICTURES OUT"):
        load_scene(tmp_path / "deformation.pth")
    (tmp_path / "other/point_cloud/iteration_14000").mkdir(parents=True)
    (tmp_path / "other/point_cloud/iteration_14000/deformation.pth").write_bytes(b"\x80\x04")
    with pytest.raises(SceneError, match=r"deformation\.pth: a pickle may run code"):
        load_scene(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SceneError, match="is no scene that moves; expected a folder of ours"):
        load_scene(tmp_path / "empty")
    save_folder(walk, scene)
    said = json.loads((walk / "cameras.json").read_text())
    for change, words in (
        ({"background": [0, 1]}, "three numbers from 0 to 1"),
        ({"format": "x"}, "no cameras.json of a moving scene"),
        ({"cameras": [{**said["cameras"][0], "time": 7}]}, "camera 0: time is 7, expected 0 to 1"),
        ({"cameras": [{**said["cameras"][0], "width": -1}]}, "camera 0: width is -1"),
    ):
        (walk / "cameras.json").write_text(json.dumps({**said, **change}))
        with pytest.raises(SceneError, match=words):
            load_scene(walk)
    (walk / "motion.safetensors").rename(tmp_path / "motion")
    with pytest.raises(SceneError, match=r"half of a moving scene: motion\.safetensors is missing"):
        load_scene(walk)
    save_sequence(tmp_path / "plys", scene, (0.0, 1.0))
    (tmp_path / "plys/times.json").write_text("[1.0, 0.5]")
    with pytest.raises(SceneError, match=r"times\.json: time 1 is 0\.5, not later"):
        load_scene(tmp_path / "plys")


def test_times_by_words() -> None:
    scene = walking()
    assert times_of("all", scene.motion) == (0, 0.5, 1) and times_of("5", scene.motion)[1] == 0.25
    assert times_of("1.0", scene.motion) == (1.0,) and times_of("0.0,.5", scene.motion) == (0, 0.5)
    for wrong in ("1", "now", "0.0,2.0", "99999999"):
        with pytest.raises(SceneError, match="times"):
            times_of(wrong, scene.motion)
    with pytest.raises(SceneError, match="stands still"):
        times_of("all", None)
    fixed = paired(scene.cameras[:1], (0.0, 0.5, 1.0))
    assert [(each.name, each.time) for each in fixed] == [("0", 0.0), ("0", 0.5), ("0", 1.0)]
    around = paired(scene.cameras, (0.0, 0.5, 1.0))
    assert [each.time for each in around] == [0, 0, 0.5, 0.5, 1, 1]


def test_of_a_large_folder_only_some_files_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def endless(self: Path, pattern: str) -> Iterator[Path]:
        for at in range(1_000_000):
            seen.append(at)
            yield self / f"{at:07d}.txt"

    monkeypatch.setattr(Path, "rglob", endless)
    with pytest.raises(SceneError, match="is no scene that moves"):
        load_scene(tmp_path)
    assert len(seen) <= 10_000


def test_hidden_files_beside_the_frames_are_none(tmp_path: Path) -> None:
    """macOS puts them there on disks of others."""
    save_sequence(tmp_path / "walk", walking(), (0.0, 0.5, 1.0))
    for at in range(3):
        (tmp_path / f"walk/._f_{at:05d}.ply").write_bytes(b"\x00\x05\x16\x07" + bytes(60))
    found = load_scene(tmp_path / "walk")
    assert found.kind == "plys" and found.motion is not None and len(found.motion.keys) == 3
