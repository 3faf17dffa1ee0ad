"""A scene's page holds everything it needs; in a browser it looks as our renderer draws it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from splat_examples import some_gaussians
from test_moving_folders import walking

from evlm.cli.main import main
from evlm.errors import SceneError
from evlm.scene import Camera, Gaussians
from evlm.scene.camera import looking_at, pinhole
from evlm.scene.files import load_gaussians, save_gaussians
from evlm.scene.page import scene_page, write_page

WIDTH, HEIGHT = 320, 240


def camera() -> Camera:
    eye, up = torch.tensor([1.0, -2.0, -4.0]), torch.tensor([0.0, -1.0, 0.0])
    return Camera(
        looking_at(eye, torch.tensor([0.0, 0.2, 0.0]), up), pinhole(260, WIDTH, HEIGHT), WIDTH, HEIGHT
    )


def data_of(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="scene">(.*?)</script>', page, re.S)
    return json.loads(text)


def test_a_scene_whose_name_is_no_utf8_has_a_page(tmp_path: Path) -> None:
    write_page(
        tmp_path / "a.html", scene_page(some_gaussians(7), camera(), title=os.fsdecode(b"caf\xe9.ply"))
    )
    assert "<title>caf?.ply" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_a_page_holds_the_rows_of_a_splat_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    g = some_gaussians(7)
    page = scene_page(g, camera(), title="</title><script>alert(1)</script>{viewer}")
    save_gaussians(tmp_path / "a.splat", g)
    assert base64.b64decode(data_of(page)["rows"]) == (tmp_path / "a.splat").read_bytes()
    assert "http:" not in page and "https:" not in page and "default-src 'none'" in page
    assert page.count("<script") == 2 and page.count("alert(1)") == 2, "twice as text, never as script"
    assert "&lt;/script&gt;{viewer}</title>" in page


def test_the_view_begins_where_the_camera_stands_or_before_the_scene() -> None:
    g, taken = some_gaussians(30), camera()
    begin = data_of(scene_page(g, taken))["camera"]
    assert np.allclose(begin["eye"], taken.centre) and np.isclose(begin["focal"], 260 / HEIGHT)
    way = torch.tensor(begin["target"]) - torch.tensor(begin["eye"])
    assert torch.allclose(way / way.norm(), taken.direction.float(), atol=1e-5)
    begin = data_of(scene_page(g))["camera"]
    assert begin["eye"][2] < float(g.means[:, 2].median()) and begin["up"] == [0, -1, 0]


def test_too_many_for_a_page_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evlm.scene.page.write.MOST", 5)
    with pytest.raises(SceneError, match="6 Gaussians, a page holds at most 5: thin the scene out"):
        scene_page(some_gaussians(6))


def test_the_command_writes_it_and_replaces_nothing_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save_gaussians("a.ply", some_gaussians())
    assert main(["scene", "page", "a.ply", "a.html"]) == 0
    assert "12 Gaussians" in capsys.readouterr().out and "<title>a.ply</title>" in Path("a.html").read_text()
    assert main(["scene", "page", "a.ply", "a.html"]) == 2
    assert "exists: name another file, or add --overwrite" in capsys.readouterr().err
    assert main(["scene", "page", "a.ply", "a.html", "--overwrite"]) == 0
    assert main(["scene", "page", "a.ply", "a.txt"]) == 2


def test_a_page_of_a_moving_scene_holds_the_ways_of_what_moves() -> None:
    moving = walking()
    assert moving.motion is not None
    held = data_of(scene_page(moving.gaussians, motion=moving.motion))["motion"]
    which = np.frombuffer(base64.b64decode(held["which"]), np.uint32)
    ways = np.frombuffer(base64.b64decode(held["ways"]), np.float32).reshape(held["times"], len(which), 7)
    assert which.tolist() == list(range(0, 50, 2)) and held["times"] == 48
    assert np.allclose(ways[-1, :, :3], moving.at(1.0).means[::2]) and "motion" not in data_of(
        scene_page(moving.gaussians)
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
@pytest.mark.parametrize("time", [0.0, 0.6])
def test_in_a_browser_a_moving_scene_is_where_it_is_at_a_time(time: float, tmp_path: Path) -> None:
    from evlm.scene.raster import rasterize

    moving = walking()
    seen, background = camera(), (0.2, 0.3, 0.4)
    write_page(
        tmp_path / "a.html",
        scene_page(moving.gaussians, seen, background=background, help_line=False, motion=moving.motion),
    )
    page = (tmp_path / "a.html").read_text()
    (tmp_path / "a.html").write_text(page.replace("slider.hidden = false;", ""))
    shown = screenshot(tmp_path, f"?time={time}")
    drawn = rasterize(moving.at(time), seen, torch.tensor(background)).image.clamp(0, 1).numpy()
    other = rasterize(moving.at(1.0), seen, torch.tensor(background)).image.clamp(0, 1).numpy()
    assert np.abs(shown - drawn).mean() < 0.01 < np.abs(shown - other).mean()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_in_a_browser_it_looks_as_our_renderer_draws_it(tmp_path: Path) -> None:
    from evlm.scene.raster import rasterize

    g = some_gaussians(400, degree=0)
    g = Gaussians(g.means * 0.5, g.log_scales + 1, g.quats, g.logits + 1, g.sh)
    save_gaussians(tmp_path / "a.splat", g)  # as its bytes round it
    background = (0.2, 0.3, 0.4)
    page = scene_page(g, camera(), background=background, help_line=False)
    write_page(tmp_path / "a.html", page)
    shown = screenshot(tmp_path)
    drawn = rasterize(
        load_gaussians(tmp_path / "a.splat").gaussians, camera(), torch.tensor(background)
    ).image
    apart = np.abs(shown - drawn.clamp(0, 1).numpy())
    assert apart.max() < 0.03 and -10 * np.log10((apart**2).mean()) > 45


def screenshot(tmp_path: Path, asked: str = "") -> np.ndarray:
    """[H, W, 3] in 0..1 of a.html in Chromium."""
    gl = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    size = ["--hide-scrollbars", "--force-device-scale-factor=1", f"--window-size={WIDTH},{HEIGHT}"]
    shot = [
        "--virtual-time-budget=5000",
        f"--screenshot={tmp_path / 'a.png'}",
        f"file://{tmp_path / 'a.html'}{asked}",
    ]
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        f"--user-data-dir={tmp_path / 'home'}",
        *gl,
        *size,
        *shot,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=280)
    with Image.open(tmp_path / "a.png") as image:
        return np.asarray(image.convert("RGB")) / 255
