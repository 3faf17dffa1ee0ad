"""`python -m evlm scene fit | render` on a world of solids in COLMAP's text files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from splat_examples import ply_bytes

from evlm.cli.main import main
from evlm.scene import Camera
from evlm.scene.files import load_gaussians
from evlm.scene.fit import fitting
from trainer.world.raytrace import surface, view
from trainer.world.solid import random_solids
from trainer.world.solid_cameras import ring


def wxyz(rotation: np.ndarray) -> list[float]:
    """Of a rotation [3, 3], by its eigenvector: q q^T's trace form (Bar-Itzhack 2000)."""
    (a, b, c), (d, e, f), (g, h, i) = rotation
    k = np.array([[a - e - i, 0, 0, 0], [d + b, e - a - i, 0, 0], [g + c, h + f, i - a - e, 0],
                  [h - f, c - g, d - b, a + e + i]]) / 3  # fmt: skip
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    return [float(w), float(x), float(y), float(z)]


@pytest.fixture
def colmap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of COLMAP's: six photographs of 24 pixels, points on what they see."""
    monkeypatch.chdir(tmp_path)
    scene, cameras = random_solids(random.Random(1), 2), ring(6, 24)
    model, images = tmp_path / "sparse/0", tmp_path / "images"
    model.mkdir(parents=True)
    images.mkdir()
    lens: Camera = cameras[0]
    (model / "cameras.txt").write_text(f"1 PINHOLE 24 24 {lens.fx} {lens.fy} {lens.cx} {lens.cy}\n")
    lines = []
    for number, camera in enumerate(cameras, 1):
        Image.fromarray(view(scene, camera).picture).save(images / camera.name)
        pose = [*wxyz(camera.rotation.numpy()), *camera.view[:3, 3].tolist()]
        lines += [f"{number} {' '.join(map(str, pose))} 1 {camera.name}", ""]
    (model / "images.txt").write_text("\n".join(lines) + "\n")
    met = surface(scene, cameras, 150)
    rows = zip(met.points.tolist(), (met.colours * 255).round().astype(int).tolist(), strict=True)
    text = [f"{n} {x} {y} {z} {r} {g} {b} 0.1" for n, ((x, y, z), (r, g, b)) in enumerate(rows, 1)]
    (model / "points3D.txt").write_text("\n".join(text) + "\n")
    return tmp_path


def test_photographs_become_a_scene_that_is_seen_again(
    colmap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["scene", "fit", ".", "room.ply", "--iterations", "40", "--max-gaussians", "140"]
    asked += ["--preview", "now.png", "--background", "158,189,224"]
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert "6 photographs, 140 Gaussians, 40 iterations" in shown and "40 of 40: loss" in shown
    assert len(load_gaussians("room.ply").gaussians) == 140 and Image.open("now.png").size == (24, 24)
    assert not Path("room.ply.fit.safetensors").exists()
    assert (
        main(["scene", "render", "room.ply", "views", "--cameras", ".", "--background", "158,189,224"]) == 0
    )
    assert "6 views of 140 Gaussians" in capsys.readouterr().out
    drawn = [np.asarray(Image.open(each).convert("RGB")) for each in sorted(Path("views").glob("*.png"))]
    seen = [np.asarray(Image.open(each)) for each in sorted(Path("images").iterdir())]
    assert len(drawn) == 6 and np.abs(np.stack(drawn).astype(float) - np.stack(seen)).mean() < 30
    assert main(asked) == 2
    assert "room.ply exists: name another file, or add --overwrite" in capsys.readouterr().err


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is written every 20 iterations."""
    run = fitting.Fitting.run
    monkeypatch.setattr(fitting.Fitting, "run", lambda self, *given: run(self, *given, every=20))


def test_a_fit_that_was_stopped_goes_on_to_the_same_bytes(
    colmap: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["scene", "fit", ".", "--iterations", "30"]
    assert main([*asked, "whole.ply"]) == 0
    step, done = fitting.Fitting.step, []

    def stopped(self: fitting.Fitting) -> fitting.FitStep:
        done.append(self.done)
        if len(done) == 25:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(fitting.Fitting, "step", stopped)
    assert main([*asked, "twice.ply"]) == 130
    assert Path("twice.ply.fit.safetensors").exists() and not Path("twice.ply").exists()
    assert main([*asked, "twice.ply"]) == 0
    assert done[25] == 20 and Path("twice.ply").read_bytes() == Path("whole.ply").read_bytes()


def test_what_lacks_is_said(colmap: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scene", "fit", ".", "room.obj"]) == 2
    assert "room.obj: expected a name that ends in .ply" in capsys.readouterr().err
    Path("sparse/0/points3D.txt").unlink()
    assert main(["scene", "fit", ".", "room.ply"]) == 2
    assert "name a .ply of points by --points" in capsys.readouterr().err
    for each in Path("images").iterdir():
        each.unlink()
    assert main(["scene", "fit", ".", "room.ply"]) == 2
    assert "name their folder by --images" in capsys.readouterr().err


def test_a_fit_replaces_neither_what_it_reads_nor_a_picture_unasked(
    colmap: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says so before it begins."""
    asked = ["scene", "fit", ".", "--iterations", "10"]
    columns = {name: ("float", np.zeros(3, np.float32)) for name in "xyz"}
    for name in ("points.ply", "other.ply", "mine.png"):
        Path(name).write_bytes(ply_bytes(columns))
    photograph = next(Path("images").iterdir())
    kept = (Path("points.ply"), Path("other.ply"), Path("mine.png"), photograph)
    before = {path: path.read_bytes() for path in kept}
    more = ["--points", "points.ply", "--overwrite"]
    for words, said in (
        (["points.ply", *more], "points.ply is read by this command"),
        (["other.ply", "--overwrite"], "other.ply holds points or a mesh, no Gaussians: it is not replaced"),
        (["room.ply", "--preview", "./points.ply", *more], "points.ply: expected a name that ends in"),
        (["room.ply", "--preview", "mine.png"], "--preview mine.png exists: name another file, or add"),
        (["room.ply", "--preview", str(photograph), "--overwrite"], "is read by this command"),
        (["room.ply", "--preview", "now.mp4"], "--preview now.mp4: expected a name that ends in .png"),
        (["room.ply", "--preview", "images", "--overwrite"], "expected a name that ends in"),
    ):
        assert main([*asked, *words]) == 2
        assert said in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before and not Path("room.ply").exists()
    assert main([*asked, "room.ply", "--preview", "mine.png", "--overwrite"]) == 0
    assert Image.open("mine.png").size == (24, 24)


def test_a_fit_that_goes_on_writes_its_preview_again(
    colmap: Path, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ["scene", "fit", ".", "room.ply", "--iterations", "23", "--preview", "now.png"]
    step = fitting.Fitting.step

    def stopped(self: fitting.Fitting) -> fitting.FitStep:
        if self.done == 22:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(fitting.Fitting, "step", stopped)
    assert main(asked) == 130 and Path("now.png").exists()
    monkeypatch.setattr(fitting.Fitting, "step", step)
    assert main(asked) == 0


@pytest.mark.parametrize("out", ["room.ply", "moving"])
def test_an_orbit_is_no_photographs(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["scene", "fit", "orbit:3", out]) == 2
    said = capsys.readouterr().err
    assert "orbit:3: a scene is fitted to photographs, and an orbit has none" in said and "COLMAP" in said
