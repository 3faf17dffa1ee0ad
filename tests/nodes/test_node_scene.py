"""Load, Render, Save and to SPLAT on the stand-in for ComfyUI: the bundled scene, and files of folders."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folder_paths
import pytest
import torch
from standin import call, nodes, part

SKY = "#9ebde0"


@pytest.fixture(autouse=True)
def base(tmp_path: Path) -> Any:
    before = folder_paths.base_path
    folder_paths.use(tmp_path / "comfy")
    (tmp_path / "comfy" / "input").mkdir(parents=True)
    yield tmp_path / "comfy"
    folder_paths.use(Path(before))


@pytest.fixture(scope="module")
def scene() -> Any:
    return call("EVLM_LoadScene", cameras="orbit:4", background=SKY).args[0]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", texts.append)
    return texts


def refused(node: str, **inputs: Any) -> str:
    with pytest.raises(part("evlm.errors").EVLMError) as caught:
        call(node, **inputs)
    return str(caught.value)


def equal(one: Any, other: Any) -> bool:
    both = zip(one.tensors().values(), other.tensors().values(), strict=True)
    return all(torch.equal(a, b) for a, b in both)


def a_few(count: int = 40, degree: int = 1) -> Any:
    draw = torch.Generator().manual_seed(3)
    return part("evlm.scene").Gaussians(
        torch.randn(count, 3, generator=draw),
        torch.randn(count, 3, generator=draw) - 2,
        torch.randn(count, 4, generator=draw),
        torch.randn(count, generator=draw),
        torch.randn(count, (degree + 1) ** 2, 3, generator=draw),
    )


def test_the_bundled_scene_has_its_cameras_and_background(scene: Any) -> None:
    assert len(scene) == 3000 and len(scene.cameras) == 4 and scene.cameras[0].width == 512
    assert scene.background == pytest.approx((0x9E / 255, 0xBD / 255, 0xE0 / 255))
    assert scene.photographs is None and scene.selection is None


def test_a_drawing_shows_the_scene_its_selection_and_plays(scene: Any, told: list[str]) -> None:
    pytest.importorskip("av")
    chosen = scene.with_selection(scene.gaussians.means[:, 0] > 0)
    how = {"cameras": "orbit:3:20", "size": 48}
    made = call("EVLM_RenderScene", scene=chosen, **how)
    images, masks, video = made.args
    assert images.shape == (3, 48, 48, 3) and masks.shape == (3, 48, 48)
    assert "3 views of 3,000 Gaussians, 48 x 48" in told[-1]
    sky = torch.tensor(scene.background)
    assert torch.allclose(images[:, 0, 0], sky.expand(3, 3), atol=1e-5)  # above everything
    assert 0.02 < masks.mean() < 0.5 and masks.min() >= 0 and masks.max() <= 1
    marked = call("EVLM_RenderScene", scene=chosen, show_selection=True, **how).args[0]
    off, on = masks == 0, masks > 0.9
    assert torch.equal(marked[off], images[off]) and (marked - images).abs()[on].max() > 0.1
    plain, none, _ = call("EVLM_RenderScene", scene=scene, **how).args
    assert torch.allclose(plain, images, atol=1e-5) and not none.any()
    (shown,) = made.ui["images"]
    assert (part("nodes.folders").temp() / shown["filename"]).is_file()
    assert part("evlm.files.clips").read_clip(video.get_stream_source()).frames.shape[0] == 3


def test_cameras_of_several_sizes_are_drawn_in_one(scene: Any) -> None:
    """The small picture lies in the middle of its own, larger one."""
    pytest.importorskip("av")
    small = scene.cameras[0].resized(32, 24)
    own = scene.with_cameras([scene.cameras[1].resized(32, 32), small])
    images = call("EVLM_RenderScene", scene=own, size=64).args[0]
    alone = call("EVLM_RenderScene", scene=scene.with_cameras([small]), size=64).args[0]
    assert images.shape == (2, 32, 32, 3) and alone.shape == (1, 24, 32, 3)
    assert torch.allclose(images[1, 4:28], alone[0], atol=2e-3)


@pytest.mark.parametrize("kind", ["ply", "compressed.ply", "splat", "spz"])
def test_a_scene_is_saved_numbered_with_its_page_and_read_again(scene: Any, base: Path, kind: str) -> None:
    for number in (1, 2):
        made = call("EVLM_SaveScene", scene=scene, filename_prefix="my scenes/room", format=kind)
        folder = base / "output" / "my scenes"
        file = folder / f"room_0000{number}.{kind}"
        assert made.args == (str(file.resolve()),) and (folder / f"room_0000{number}.html").is_file()
        assert made.ui["text"][0].startswith(f"output/my scenes/room_0000{number}.{kind}: 3,000 Gaussians")
    file.rename(base / "input" / file.name)
    again = call("EVLM_LoadScene", scene=file.name, cameras="orbit:2").args[0]
    assert len(again) == 3000
    if kind == "ply":
        assert equal(again.gaussians, scene.gaussians)
    assert file.name in nodes()["EVLM_LoadScene"].GET_SCHEMA().inputs[0].options


def test_what_else_a_ply_held_is_written_again_byte_for_byte(scene: Any, base: Path) -> None:
    path = base / "input" / "mine.ply"
    part("evlm.scene.files").save_gaussians(path, scene.gaussians)
    path.write_bytes(path.read_bytes().replace(b"element vertex", b"comment of mine\nelement vertex", 1))
    loaded = call("EVLM_LoadScene", scene="mine.ply").args[0]
    (file,) = call("EVLM_SaveScene", scene=loaded, page=False).args
    assert Path(file).read_bytes() == path.read_bytes()
    assert not Path(file).with_suffix(".html").exists()


def test_a_full_disk_leaves_nothing(scene: Any, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *rest: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(part("evlm.scene.page.write"), "write_atomically", full)
    assert "No space left on device" in refused("EVLM_SaveScene", scene=scene)
    assert not [path for path in (base / "output").rglob("*") if path.is_file()]
    monkeypatch.setattr(part("evlm.scene.files.front"), "write_atomically", full)
    assert "nothing was changed" in refused("EVLM_SaveScene", scene=scene)


@pytest.mark.parametrize(
    "prefix", ["../out", "/etc/scene", "a/../../b", "", "a//b", "con", ".hidden", "a\\b", "x" * 65, "a ."]
)
def test_a_prefix_stays_in_the_output_folder(scene: Any, base: Path, prefix: str) -> None:
    assert "filename_prefix" in refused("EVLM_SaveScene", scene=scene, filename_prefix=prefix)
    assert nodes()["EVLM_SaveScene"].validate_inputs(filename_prefix=prefix) is not True
    assert not (base / "output").exists()


def test_names_lead_nowhere_but_into_the_input_folder(scene: Any, base: Path, tmp_path: Path) -> None:
    part("evlm.scene.files").save_gaussians(tmp_path / "secret.ply", scene.gaussians)
    (base / "input" / "link.ply").symlink_to(tmp_path / "secret.ply")
    for name in ("../../secret.ply", str(tmp_path / "secret.ply"), "link.ply", "absent.ply", "", "a\x00.ply"):
        assert "scene" in refused("EVLM_LoadScene", scene=name)
        assert nodes()["EVLM_LoadScene"].validate_inputs(scene=name) is not True
        assert "cameras" in refused("EVLM_LoadScene", cameras=name)
    assert nodes()["EVLM_LoadScene"].validate_inputs(scene="bundled") is True
    assert "background 'red': expected #rrggbb" in refused("EVLM_LoadScene", background="red")


def test_photographs_outside_the_input_folder_are_refused(base: Path, scene: Any) -> None:
    files = part("evlm.files.pictures")
    c2w = torch.linalg.inv(scene.cameras[0].view) @ torch.diag(torch.tensor([1.0, -1, -1, 1]).double())
    frame = {"file_path": "a.png", "transform_matrix": c2w.tolist()}
    text = json.dumps({"fl_x": 20.0, "w": 24, "h": 24, "frames": [frame]})
    (base / "input" / "transforms.json").write_text(text, encoding="utf-8")
    how = {"cameras": "transforms.json", "photographs": True}
    assert "none lie beside" in refused("EVLM_LoadScene", **how)
    for place, message in ((base / "images", "lies outside ComfyUI's input folder"), (base / "input", "")):
        place.mkdir(exist_ok=True)
        files.save_picture(place / "a.png", torch.full((1, 24, 24, 3), 0.5))
        if message:
            assert message in refused("EVLM_LoadScene", **how)
            (place / "a.png").unlink()
    loaded = call("EVLM_LoadScene", **how).args[0]
    assert loaded.photographs is not None and loaded.photographs[0]().shape == (24, 24, 3)


def test_a_changed_file_of_cameras_is_read_anew(base: Path) -> None:
    folder = base / "input" / "shots"
    folder.mkdir()
    (folder / "transforms.json").write_text("{}", encoding="utf-8")
    (folder / "a.png").write_bytes(b"x")
    seen = nodes()["EVLM_LoadScene"].fingerprint_inputs
    before = seen(scene="bundled", cameras="shots", size=512)
    assert before == seen(scene="bundled", cameras="shots", size=512)
    (folder / "transforms.json").write_text("[]", encoding="utf-8")
    assert before != seen(scene="bundled", cameras="shots", size=512)
    assert seen(scene=None, cameras="orbit:4") != seen(scene=None, cameras="orbit:5")


def test_a_changed_photograph_is_read_anew_where_the_cameras_are_a_file(base: Path) -> None:
    folder, save = base / "input" / "shots", part("evlm.files.pictures").save_picture
    frames = [{"file_path": f"images/{at}.png", "transform_matrix": torch.eye(4).tolist()} for at in (0, 1)]
    save(folder / "images" / "0.png", torch.zeros(1, 24, 32, 3))
    text = json.dumps({"fl_x": 30, "w": 32, "h": 24, "frames": frames})
    (folder / "transforms.json").write_text(text, encoding="utf-8")
    load, fit = (nodes()[f"EVLM_{name}Scene"].fingerprint_inputs for name in ("Load", "Fit"))
    for seen in (
        lambda: load(scene="bundled", cameras="shots/transforms.json", size=512),
        lambda: fit(cameras="shots/transforms.json", points="", size=512),
    ):
        (folder / "images" / "1.png").unlink(missing_ok=True)
        said = [seen()]  # one is missing
        for grey in (0.5, 0.6):
            save(folder / "images" / "1.png", torch.full((1, 24, 32, 3), grey))
            os.utime(folder / "images" / "1.png", (grey, grey))
            said.append(seen())
            assert said[-1] == seen()
        assert len(set(said)) == 3


def test_two_million_on_a_cpu_are_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    many = a_few(1, 0).map(lambda tensor: tensor.expand(2_000_000, *tensor.shape[1:]))
    scene = part("evlm.scene").SplatScene(many)
    camera = part("evlm.scene.poses").orbit(a_few(), 2, size=32)
    text = refused("EVLM_RenderScene", scene=scene.with_cameras(camera))
    assert "2,000,000 Gaussians on a CPU" in text and "use a GPU, or thin the scene out" in text
    text = refused("EVLM_FitScene", scene=scene.with_cameras(camera), images=torch.zeros(2, 32, 32, 3))
    assert "2,000,000 Gaussians on a CPU" in text


def test_too_many_pictures_and_no_cameras_are_refused(scene: Any) -> None:
    text = refused("EVLM_RenderScene", scene=scene, cameras="orbit:1000", size=4096)
    assert "held in memory at once" in text and "Draw fewer views" in text
    bare = scene.with_cameras(())
    assert "write orbit:24" in refused("EVLM_RenderScene", scene=bare)
    assert "EVLM Load Scene" in refused("EVLM_RenderScene", scene=scene, cameras="../transforms.json")
    assert "a link to EVLM Load Scene" in refused("EVLM_RenderScene", scene=torch.zeros(2))


# --- core's SPLAT ---


def test_a_splat_is_what_core_draws_and_comes_back_nearly_the_same() -> None:
    few = a_few()
    scene = part("evlm.scene").SplatScene(few)
    splat = call("EVLM_SceneToSplat", scene=scene).args[0]
    assert splat.positions.shape == (1, 40, 3) and splat.opacities.shape == (1, 40, 1)
    assert torch.equal(splat.scales[0], few.log_scales.exp()) and splat.counts is None
    assert torch.allclose(splat.rotations[0].norm(dim=1), torch.ones(40))
    again = call("EVLM_LoadScene", splat=splat, cameras="orbit:2").args[0].gaussians
    assert torch.equal(again.means, few.means) and torch.equal(again.sh, few.sh)
    assert torch.allclose(again.log_scales, few.log_scales, atol=1e-5)
    assert torch.allclose(again.logits, few.logits, atol=1e-4)


def test_a_splat_of_another_pack_is_checked(told: list[str]) -> None:
    def splat(**other: Any) -> Any:
        made = part("nodes.splats").to_splat(a_few())
        return SimpleNamespace(**{**vars(made), **other})

    padded = splat(counts=torch.tensor([30]))
    assert len(call("EVLM_LoadScene", splat=padded, cameras="orbit:2").args[0]) == 30
    holes = splat(positions=torch.cat([torch.full((1, 2, 3), torch.nan), torch.randn(1, 38, 3)], 1))
    assert len(call("EVLM_LoadScene", splat=holes, cameras="orbit:2").args[0]) == 38
    assert "2 of 40 Gaussians have numbers that are not finite" in told[-1]
    for wrong, message in (
        (splat(positions=torch.zeros(2, 40, 3)), "a batch of 2 scenes"),
        (splat(scales=torch.zeros(1, 4, 3)), "its scales are [1, 4, 3], expected [1, 40, 3]"),
        (splat(sh=torch.zeros(1, 40, 7, 3)), "7 harmonics"),
        (splat(rotations=None), "its rotations are no tensor"),
        (splat(counts=torch.tensor([0])), "holds no Gaussians"),
        (SimpleNamespace(positions=1), "a link to a SPLAT"),
    ):
        assert message in refused("EVLM_LoadScene", splat=wrong)


@pytest.fixture
def walk(scene: Any, base: Path) -> Any:
    """The bundled scene, of which one half moves aside, in the input folder."""
    motions = part("evlm.scene.motion")
    half = scene.gaussians.means[:, 0] > 0
    motion = motions.RigidBases.begin(scene.gaussians, half, motions.Keys.even(3), count=1)
    motion.shifts[0, :, 2] = torch.tensor([0.0, 0.4, 0.8])
    moving = part("evlm.scene").SplatScene(
        scene.gaussians, scene.cameras, background=scene.background, motion=motion
    )
    part("evlm.scene.moving").save_folder(base / "input" / "walk", moving)
    return moving


def test_a_moving_scene_goes_in_through_time_and_out_again(walk: Any, base: Path, told: list[str]) -> None:
    pytest.importorskip("av")
    assert "walk/canonical.ply" in nodes()["EVLM_LoadScene"].GET_SCHEMA().inputs[0].options
    how = {"scene": "walk/canonical.ply", "cameras": "own", "size": 48}
    print_before = nodes()["EVLM_LoadScene"].fingerprint_inputs(**how)
    read = call("EVLM_LoadScene", **how).args[0]
    assert read.motion is not None and "of them move, 4 cameras" in told[-1]
    assert read.background == walk.background and read.cameras[0].width == 48
    images, _, video = call("EVLM_RenderScene", scene=read, size=48).args
    assert images.shape == (3, 48, 48, 3) and (images[0] - images[2]).abs().mean() > 0.01
    assert part("evlm.files.clips").read_clip(video.get_stream_source()).frames.shape[0] == 3
    around = call("EVLM_RenderScene", scene=read, cameras="orbit:5", size=16, times="2").args[0]
    assert len(around) == 5
    made = call("EVLM_SaveScene", scene=read, filename_prefix="out", format="spz")
    folder = base / "output" / "out_00001.scene"
    assert made.args == (str(folder / "canonical.ply"),)
    assert '"motion"' in (base / "output" / "out_00001.html").read_text()
    for name in ("canonical.ply", "motion.safetensors"):
        assert (folder / name).read_bytes() == (base / "input" / "walk" / name).read_bytes()
    motion = base / "input" / "walk" / "motion.safetensors"
    motion.touch()
    assert nodes()["EVLM_LoadScene"].fingerprint_inputs(**how) != print_before


def test_what_a_still_scene_has_not_is_said(scene: Any, walk: Any) -> None:
    assert "stands still" in refused("EVLM_RenderScene", scene=scene, times="all", size=16)
    assert "has none of its own" in refused("EVLM_LoadScene", cameras="own")
    images = torch.zeros(4, 16, 16, 3)
    assert "it moves" in refused("EVLM_FitScene", scene=walk, images=images, cameras="")
