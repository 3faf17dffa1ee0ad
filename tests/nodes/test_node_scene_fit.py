"""Fit Scene on the stand-in: pictures bring a scene nearer, cancelled it goes on, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from standin import call, nodes, part

SIDE, VIEWS = 24, 4


class Cancelled(Exception):
    pass


@pytest.fixture(autouse=True)
def base(tmp_path: Path) -> Any:
    before = folder_paths.base_path
    folder_paths.use(tmp_path / "comfy")
    (tmp_path / "comfy" / "input").mkdir(parents=True)
    yield tmp_path / "comfy"
    folder_paths.use(Path(before))


@pytest.fixture(scope="module")
def truth() -> Any:
    """150 of the bundled scene's Gaussians, and cameras around them."""
    whole = call("EVLM_LoadScene", cameras="orbit:2").args[0]
    some = whole.gaussians.rows(torch.arange(0, 3000, 20))
    cameras = part("evlm.scene.poses").orbit(some, VIEWS, (10.0, 40.0), size=SIDE)
    return part("evlm.scene").SplatScene(some, cameras)


@pytest.fixture(scope="module")
def pictures(truth: Any) -> torch.Tensor:
    views = part("nodes.scene_views")
    return torch.stack([shown for shown, _ in views.drawn(truth, truth.gaussians, truth.cameras)])


@pytest.fixture(scope="module")
def faded(truth: Any) -> Any:
    """The scene in grey."""
    return replace(truth, gaussians=replace(truth.gaussians, sh=torch.zeros_like(truth.gaussians.sh)))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", texts.append)
    return texts


def refused(**inputs: Any) -> str:
    with pytest.raises(part("evlm.errors").EVLMError) as caught:
        call("EVLM_FitScene", **inputs)
    return str(caught.value)


def away(scene: Any, pictures: torch.Tensor) -> float:
    drawn = part("nodes.scene_views").drawn(scene, scene.gaussians, scene.cameras)
    return sum(float((shown - seen).abs().mean()) for (shown, _), seen in zip(drawn, pictures, strict=True))


def test_a_scene_comes_nearer_also_where_comfyui_forbids_gradients(
    faded: Any, pictures: torch.Tensor, told: list[str]
) -> None:
    """ComfyUI runs its nodes in inference mode, in which nothing can be learnt."""
    with torch.inference_mode():
        scene = replace(
            faded,
            gaussians=faded.gaussians.map(torch.clone),
            cameras=tuple(replace(each, view=each.view.clone()) for each in faded.cameras),
        )
        made = call("EVLM_FitScene", scene=scene, images=pictures.clone(), iterations=24, size=SIDE)
    fitted, preview = made.args
    assert away(fitted, pictures) < 0.7 * away(faded, pictures)
    assert len(fitted) == len(faded) and fitted.cameras == scene.cameras and fitted.photographs is None
    assert preview.shape == (VIEWS, SIDE, 2 * SIDE, 3) and torch.equal(preview[:, :, :SIDE], pictures)
    assert "dB to the photographs" in told[-1]


def test_only_what_is_selected_moves(faded: Any, pictures: torch.Tensor) -> None:
    rows = torch.arange(len(faded)) % 3 == 0
    how = {"images": pictures, "iterations": 6, "size": SIDE}
    fitted = call("EVLM_FitScene", scene=faded.with_selection(rows), **how).args[0]
    for before, after in zip(
        faded.gaussians.tensors().values(), fitted.gaussians.tensors().values(), strict=True
    ):
        assert torch.equal(before[~rows], after[~rows])
    assert not torch.equal(fitted.gaussians.sh, faded.gaussians.sh) and torch.equal(fitted.selection, rows)


def test_cancelled_it_goes_on_to_the_same_bits(
    faded: Any, pictures: torch.Tensor, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"scene": faded, "images": pictures, "iterations": 12, "size": SIDE}
    whole = call("EVLM_FitScene", **how).args[0]
    watch, count = part("nodes.scene_views").Watch, [0]
    plain = watch.__call__

    def cancel(self: Any, what: str, done: float, total: float) -> None:
        count[0] += 1
        if done == 5 and count[0] == 5:
            raise Cancelled
        plain(self, what, done, total)

    monkeypatch.setattr(watch, "__call__", cancel)
    with pytest.raises(Cancelled):
        call("EVLM_FitScene", **how)
    assert "5 iterations are done, and kept" in told[-1]
    temp = part("nodes.folders").temp()
    assert len(list(temp.glob("evlm_unfinished_*/fit.safetensors"))) == 1
    again = call("EVLM_FitScene", **how).args[0]
    assert count[0] == 5 + 7 and any("5 of 12 iterations are from the run before" in text for text in told)
    both = zip(whole.gaussians.tensors().values(), again.gaussians.tensors().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)
    assert not list(temp.glob("evlm_unfinished_*"))


def test_what_fails_within_a_step_leaves_no_half_of_one(
    faded: Any, pictures: torch.Tensor, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"scene": faded, "images": pictures, "iterations": 12, "size": SIDE}
    whole = call("EVLM_FitScene", **how).args[0]
    fitting = part("evlm.scene.fit.fitting").Fitting
    step = fitting.step

    def fails(self: Any) -> Any:
        if self.done == 5:
            self.owned.means.add_(1)
            raise torch.cuda.OutOfMemoryError
        return step(self)

    monkeypatch.setattr(fitting, "step", fails)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        call("EVLM_FitScene", **how)
    monkeypatch.setattr(fitting, "step", step)
    assert not any("and kept" in text for text in told)
    again = call("EVLM_FitScene", **how).args[0]
    both = zip(whole.gaussians.tensors().values(), again.gaussians.tensors().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in both)


def test_photographs_of_a_folder_begin_from_points(base: Path, truth: Any, pictures: torch.Tensor) -> None:
    """nerfstudio's transforms.json with its photographs beside it, and a .ply of points."""
    folder = base / "input" / "garden"
    turn = torch.diag(torch.tensor([1.0, -1, -1, 1]).double())
    frames = []
    for at, (name, camera) in enumerate(zip(("1", "2", "10", "11"), truth.cameras, strict=True)):
        part("evlm.files.pictures").save_picture(folder / "images" / f"{name}.png", pictures[at : at + 1])
        matrix = (torch.linalg.inv(camera.view) @ turn).tolist()
        frames.append({"file_path": f"images/{name}.png", "transform_matrix": matrix})
    lens = {"fl_x": truth.cameras[0].fx, "fl_y": truth.cameras[0].fy, "w": SIDE, "h": SIDE}
    text = json.dumps({**lens, "frames": frames})
    (folder / "transforms.json").write_text(text, encoding="utf-8")
    rows = [
        " ".join(map(str, [*place, *(colour.clamp(0, 1) * 255).int().tolist()]))
        for place, colour in zip(truth.gaussians.means.tolist(), truth.gaussians.colours, strict=True)
    ]
    names = "".join(f"property float {axis}\n" for axis in "xyz")
    names += "".join(f"property uchar {colour}\n" for colour in ("red", "green", "blue"))
    head = f"ply\nformat ascii 1.0\nelement vertex {len(rows)}\n{names}end_header\n"
    (folder / "points.ply").write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    how = {"cameras": "garden", "points": "garden/points.ply", "iterations": 8, "size": SIDE}
    fitted = call("EVLM_FitScene", **how).args[0]
    assert len(fitted) == 150 and len(fitted.cameras) == VIEWS
    assert torch.allclose(fitted.photographs[1](), pictures[1], atol=1 / 255)
    given = call("EVLM_FitScene", images=pictures, **how).args[0]  # as a batch, 2.png before 10.png
    assert torch.allclose(given.gaussians.means, fitted.gaussians.means, atol=1e-2)
    assert len(call("EVLM_FitScene", max_gaussians=40, **how).args[0]) == 40
    assert "bring no points" in refused(cameras="garden", size=SIDE)
    assert "expected a .ply" in refused(**{**how, "points": "garden/transforms.json"})
    (folder / "images" / "10.png").unlink()
    assert "1 of 4 photographs are missing (images/10.png)" in refused(**how)


def test_the_preview_has_photographs_of_several_sizes(truth: Any, pictures: torch.Tensor) -> None:
    wide = truth.cameras[1].resized(2 * SIDE, 2 * SIDE)
    cameras = (truth.cameras[0], wide)
    seen = (lambda: pictures[0], lambda: torch.full((2 * SIDE, 2 * SIDE, 3), 0.5))
    scene = replace(truth, cameras=cameras, photographs=seen)
    preview = call("EVLM_FitScene", scene=scene, iterations=1, size=2 * SIDE).args[1]
    assert preview.shape == (2, 2 * SIDE, 4 * SIDE, 3)
    assert torch.equal(preview[0, :SIDE, :SIDE], pictures[0]) and not preview[0, SIDE:].any()
    assert torch.equal(preview[1, :, : 2 * SIDE], seen[1]())


def test_what_does_not_fit_together_is_refused(faded: Any, pictures: torch.Tensor) -> None:
    assert "no cameras" in refused(images=pictures)
    assert "no pictures" in refused(scene=faded)
    assert "3 pictures for 4 cameras" in refused(scene=faded, images=pictures[:3])
    assert "give pictures of the cameras' shape" in refused(scene=faded, images=pictures[:, :12])
    assert "not in ComfyUI's input folder" in refused(cameras="nowhere", images=pictures)
    assert "expected a name in ComfyUI's input folder" in refused(cameras="../..", images=pictures)
    assert "stand around a scene, and none is given" in refused(cameras="orbit:4", images=pictures)
    check = nodes()["EVLM_FitScene"].validate_inputs
    assert check(cameras="") is True and check(cameras="nowhere") is not True
