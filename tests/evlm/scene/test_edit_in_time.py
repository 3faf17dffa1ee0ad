"""A scene that moves is edited once and is true at every time; what is not selected keeps its bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_scene_job import BLUE, MAKE, QUICK, RED, SIZE, Cuts, Greens, Looks, colour_mask, job, scene
from torch import Tensor

from evlm.cli.main import main
from evlm.errors import Cancelled, SceneError
from evlm.pipeline import Pipeline
from evlm.plan.trace import Plan, plan_to_json
from evlm.scene import SplatScene
from evlm.scene.edit import SceneEdit
from evlm.scene.edit.schedules import edit_rows
from evlm.scene.motion import Keys, RigidBases, Table, posed
from evlm.scene.moving import load_scene, save_folder, views_in_time
from evlm.scene.raster import rasterize
from evlm.scene.select import select_rows, vote
from evlm.scene_job import SceneJob

RED_ONES = torch.arange(80) < 40
GREEN = torch.tensor([0.1, 0.8, 0.1])
STEPS = SceneEdit("canonical", views=6, times=3, longest=SIZE, strengths=(1.0,), steps=2)


def rising() -> SplatScene:
    """Two balls; the red one rises by 1.2 and the camera's time is 0."""
    still = scene()
    motion = RigidBases.begin(still.gaussians, RED_ONES, Keys.even(3), count=1)
    motion.shifts[0, :, 2] = torch.tensor([0.0, 0.6, 1.2])
    return replace(still, motion=motion)


def moving_job(*steps: Plan, **more: object) -> SceneJob:
    made = job(*steps, **more)  # type: ignore[arg-type]
    made.scene, made.settings = rising(), STEPS
    return made


def run(work: SceneJob) -> tuple[Tensor, SplatScene]:
    looks = work.looks()
    selections = work.select_all(work.reason(looks), looks)
    return selections[0].rows, work.paint(selections, looks)


def test_pairs_of_a_place_and_a_time() -> None:
    moving = rising()
    assert moving.motion is not None
    pairs = views_in_time(moving.cameras, moving.motion, 6, 3)
    assert [each.time for each in pairs] == [0, 0, 0.5, 0.5, 1, 1]
    assert pairs[0].name == pairs[2].name == moving.cameras[0].name and pairs[0].name != pairs[1].name
    late = [replace(camera, time=0.5) for camera in moving.cameras]
    assert [each.time for each in views_in_time(late, moving.motion, 6, 3)] == [0.5, 0.5, 0, 0, 1, 1]


def test_votes_of_all_times_are_of_one_row() -> None:
    """A mask of where the thing is at each time selects it; without its motion it would not."""
    moving = rising()
    assert moving.motion is not None
    pairs = [pair for pair in views_in_time(moving.cameras, moving.motion, 6, 3) if pair.time]
    shown = [rasterize(moving.at(pair.time), pair, torch.full((3,), 0.5)).image for pair in pairs]
    masks = [colour_mask(picture, RED) for picture in shown]
    rows = select_rows(moving.gaussians, vote(moving.gaussians, pairs, masks, motion=moving.motion)).rows
    assert rows[RED_ONES].float().mean() > 0.9 and not bool(rows[~RED_ONES].any())
    without = vote(moving.gaussians, pairs, masks)
    assert without.share[RED_ONES].mean() < 0.7


def test_the_rising_ball_is_green_at_every_time_and_the_rest_as_it_was() -> None:
    work = moving_job(MAKE)
    before = work.scene
    rows, after = run(work)
    assert rows[RED_ONES].float().mean() > 0.9 and not bool(rows[~RED_ONES].any())
    for name, tensor in after.gaussians.tensors().items():
        assert torch.equal(tensor[~rows], before.gaussians.tensors()[name][~rows])
    assert after.motion is not None and before.motion is not None
    for name, tensor in after.motion.tensors().items():
        assert torch.equal(tensor, before.motion.tensors()[name])
    background = torch.full((3,), 0.5)
    for time in (0.0, 0.25, 0.75, 1.0):  # two of them were never painted
        camera = replace(before.cameras[0], time=time)
        was = rasterize(before.at(time), camera, background).image
        now = rasterize(after.at(time), camera, background).image
        inside = colour_mask(was, RED) > 0
        assert int(inside.sum()) > 8 and (now[inside] - GREEN).abs().mean() < 0.12
        blue = colour_mask(was, BLUE) > 0
        assert (now - was)[blue].abs().mean() < 0.05
    painted = [count for _, count in work.pipeline.editor.orders]
    assert painted == [2, 4], "the first time's views, then those of the others"


def test_a_removed_thing_takes_its_motion_with_it() -> None:
    work = moving_job(Plan("remove the red ball", ("red ball",)))
    rows, after = run(work)
    assert after.motion is not None and work.home is not None
    assert len(after.motion.moving) == len(after) and int(after.motion.moving.sum()) <= 3
    kept = work.home >= 0
    assert torch.equal(after.gaussians.means[kept], work.scene.gaussians.means[work.home[kept]])
    assert not bool(rows[work.home[kept]].any())


def test_rows_that_stay_keep_their_ways() -> None:
    moving = rising()
    assert moving.motion is not None
    home = torch.tensor([3, 70, -1, 12])
    some = moving.motion.taken(home)
    assert some.moving.tolist() == [True, False, False, True]
    table = Table(
        Keys.even(2), RED_ONES, torch.arange(240).reshape(2, 40, 3).float(), torch.ones(2, 40, 4)
    ).taken(home)
    assert torch.equal(table.means[0], torch.tensor([[9.0, 10, 11], [36, 37, 38]]))
    rows = moving.gaussians.rows(home.clamp(min=0))
    at = posed(rows, replace(moving.cameras[0], time=1.0), some)
    assert torch.allclose(at.means[0], moving.at(1.0).means[3], atol=1e-6)
    with pytest.raises(SceneError, match="cannot grow"):
        growing = replace(QUICK, growth=2.0)
        edit_rows(moving.gaussians, RED_ONES, [], Greens(), growing, motion=moving.motion)  # type: ignore[arg-type]


def test_a_stopped_edit_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    _, whole = run(moving_job(MAKE, work=tmp_path / "whole"))
    with pytest.raises(Cancelled):
        run(moving_job(MAKE, work=tmp_path / "twice", editor=Greens(1)))
    again = moving_job(MAKE, work=tmp_path / "twice")
    _, resumed = run(again)
    assert again.pipeline.editor.orders == [("make the red ball green", 4)]
    for one, other in zip(
        whole.gaussians.tensors().values(), resumed.gaussians.tensors().values(), strict=True
    ):
        assert torch.equal(one, other)


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command of a folder with a scene and a plan, and the steps that it would load."""
    monkeypatch.chdir(tmp_path)
    save_folder(Path("walk"), rising())
    Path("plan.json").write_text(plan_to_json(MAKE))
    monkeypatch.setattr("evlm.models.zoo.choose", lambda *_: {})
    monkeypatch.setattr(
        Pipeline, "load", lambda models, reasoner, *_, **__: Pipeline(reasoner, Looks(), Cuts(), Greens())
    )
    return ["scene", "edit", "--scene", "walk", "--plan", "plan.json", "--longest", "32", "--views", "6"]


def test_killed_while_it_writes_it_gets_its_names_again(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its folder, and behind it, where an earlier run has the names without a number."""
    words = [*words, "--views", "2", "--at-times", "2", "--schedule", "canonical", "--out", "out"]
    assert main(words) == 0
    before = set(Path("out").iterdir())

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # nothing is tidied up behind a kill
        patch.setattr("evlm.cli.outputs.Outputs.release", lambda *_: None)
        patch.setattr("evlm.scene.moving.folder.shutil", SimpleNamespace(rmtree=lambda *_, **__: None))
        patch.setattr("evlm.scene.moving.folder._moves_alike", killed)
        assert main(words) == 130 and len(list(Path("out").glob(".edited-2.*.tmp"))) == 1
    with monkeypatch.context() as patch:
        patch.setattr("evlm.cli.outputs.Outputs.release", lambda *_: None)
        patch.setattr("evlm.cli.scene_pictures.write_clip", killed)
        assert main(words) == 130 and Path("out/edited-2").is_dir()
    assert main(words) == 0
    made = set(Path("out").iterdir()) - before
    assert sorted(path.name for path in made) == [
        "before_after-2.mp4", "edited-2", "selection-2.npz", "sheet-2.png", "trace-2.json",
    ]  # fmt: skip
    assert all(path.is_dir() or path.stat().st_size for path in made)
    for path in Path("out/edited").iterdir():
        assert (Path("out/edited-2") / path.name).read_bytes() == path.read_bytes()


def test_on_the_command_line(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--at-times", "3", "--out", "out"]) == 0
    assert sorted(path.name for path in Path("out").iterdir()) == [
        "before_after.mp4", "edited", "selection.npz", "sheet.png", "trace.json",
    ]  # fmt: skip
    for name in ("motion.safetensors", "cameras.json"):
        assert (Path("out/edited") / name).read_bytes() == (Path("walk") / name).read_bytes()
    rows = torch.from_numpy(np.load("out/selection.npz", allow_pickle=False)["rows"])
    before, after = (load_scene(path).gaussians.tensors() for path in ("walk", "out/edited"))
    assert bool(rows[RED_ONES].any()) and not bool(rows[~RED_ONES].any())
    assert all(torch.equal(after[name][~rows], before[name][~rows]) for name in before)
    assert not torch.equal(after["sh"][rows], before["sh"][rows])
