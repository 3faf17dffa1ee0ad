"""Select in Scene and Edit Scene on the stand-in for ComfyUI: what may change, what does not, and stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folder_paths
import pytest
import torch
from standin import call, part

SIZE, VIEWS = 40, 3
QUICK = {"views": VIEWS, "size": SIZE, "schedule": "direct", "steps": 1}


class Cancelled(Exception):
    pass


@pytest.fixture(autouse=True)
def base(tmp_path: Path) -> Any:
    before = folder_paths.base_path
    folder_paths.use(tmp_path / "comfy")
    (tmp_path / "comfy" / "input").mkdir(parents=True)
    (tmp_path / "comfy" / "output").mkdir(parents=True)
    yield tmp_path / "comfy"
    folder_paths.use(Path(before))


@pytest.fixture(scope="module")
def pipe() -> Any:
    return call("EVLM_LoadAll").args[0]


@pytest.fixture(scope="module")
def scene() -> Any:
    """Of which every second row was left out: what is drawn here is not looked at."""
    whole = call("EVLM_LoadScene", cameras="orbit:4:20:-y", size=SIZE).args[0]
    few = whole.gaussians.rows(torch.arange(len(whole)) % 4 == 0)
    return part("evlm.scene").SplatScene(few, whole.cameras, background=(0.5, 0.6, 0.7))


@pytest.fixture(scope="module")
def plan() -> Any:
    return call("EVLM_PlanFromText", text="make the red ball green", targets="red ball").args[0]


@pytest.fixture(scope="module")
def mask() -> torch.Tensor:
    on = torch.zeros(1, SIZE, SIZE)
    on[:, 14:30, 10:28] = 1
    return on


@pytest.fixture(scope="module")
def selected(scene: Any, plan: Any, mask: torch.Tensor) -> Any:
    with torch.inference_mode():  # as ComfyUI runs nodes
        return call("EVLM_SelectInScene", scene=scene, plan=plan, mask=mask, views=VIEWS, size=SIZE)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    texts: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", texts.append)
    return texts


def refused(node: str, **inputs: Any) -> str:
    with pytest.raises(part("evlm.errors").EVLMError) as caught:
        call(node, **inputs)
    return str(caught.value)


def bits(scene: Any, rows: torch.Tensor) -> list[bytes]:
    return [tensor[rows].numpy().tobytes() for tensor in scene.gaussians.tensors().values()]


def kept(base: Path) -> list[Path]:
    return sorted((base / "output" / "evlm" / "unfinished").glob("*"))


def test_a_mask_in_the_first_view_selects_what_fills_it(
    selected: Any, scene: Any, mask: torch.Tensor
) -> None:
    chosen, preview, masks = selected.args
    rows = chosen.selection
    assert 0 < int(rows.sum()) < len(scene) and chosen.gaussians is scene.gaussians
    assert preview.shape == (VIEWS, SIZE, SIZE, 3) and masks.shape == (VIEWS, SIZE, SIZE)
    inside, outside = masks[0][mask[0] > 0].mean(), masks[0][mask[0] == 0].mean()
    assert inside > 0.5 and outside < 0.1
    drawn = part("nodes.scene_views").first(scene, SIZE)[0]
    assert float((preview[0] - drawn)[masks[0] > 0.9].abs().mean()) > 0.1, "and it is shown"


def test_unselected_rows_keep_their_bits(pipe: Any, selected: Any, plan: Any, told: list[str]) -> None:
    source = selected.args[0]
    with torch.inference_mode():
        made = call("EVLM_EditScene", pipe=pipe, scene=source, plan=plan, **QUICK)
    edited, pairs, preview, done = made.args
    rows = source.selection
    assert bits(edited, ~rows) == bits(source, ~rows)
    assert all(a != b for a, b in zip(bits(edited, rows), bits(source, rows), strict=True))
    assert torch.equal(edited.selection, rows) and edited.cameras is source.cameras
    assert pairs.shape == (VIEWS, SIZE, 2 * SIZE, 3) and preview.shape == (VIEWS, SIZE, SIZE, 3)
    assert not torch.equal(pairs[:, :, :SIZE], pairs[:, :, SIZE:]) and done is plan
    assert f"{int(rows.sum()):,} Gaussians" in told[-1]


def test_cancelled_it_goes_on_with_the_same_bits_in_another_process_too(
    base: Path, pipe: Any, selected: Any, plan: Any, monkeypatch: pytest.MonkeyPatch, told: list[str]
) -> None:
    given = {"pipe": pipe, "scene": selected.args[0], "plan": plan, **QUICK}
    whole = call("EVLM_EditScene", **given).args[0]
    assert not kept(base)
    painter = part("evlm.scene.edit.painters").EditorPainter
    job = part("evlm.scene.edit.schedules").EditJob
    fit, paint, painted = job.fit, painter.paint, []

    def stops(self: Any, *rest: Any) -> None:
        raise Cancelled

    def counted(self: Any, *rest: Any) -> Any:
        painted.append(rest)
        return paint(self, *rest)

    monkeypatch.setattr(painter, "paint", counted)
    monkeypatch.setattr(job, "fit", stops)
    with pytest.raises(Cancelled):
        call("EVLM_EditScene", **given)
    assert len(painted) == 1 and len(kept(base)) == 1 and "queue the same again" in told[-1]
    monkeypatch.setattr(job, "fit", fit)
    monkeypatch.setattr(part("nodes.unfinished"), "_HEAD", "evlm_unfinished_of_another_process_")
    again = call("EVLM_EditScene", **given).args[0]
    assert len(painted) == 1 and not kept(base) and "in the run before" in told[-1]
    everything = torch.ones(len(whole), dtype=torch.bool)
    assert bits(again, everything) == bits(whole, everything)


def test_by_a_doubtful_plan_nothing_is_painted_unless_it_is_asked(
    pipe: Any, scene: Any, told: list[str]
) -> None:
    plan = part("evlm.plan.trace").parse("instruction: make everything heroic")
    stopped = call("EVLM_EditScene", pipe=pipe, scene=scene, plan=plan, **QUICK).args
    assert stopped[0].gaussians is scene.gaussians and "nothing was painted" in told[-1]
    assert "'paint anyway'" in told[-1], "and what to do"
    assert torch.equal(stopped[1][:, :, :SIZE], stopped[1][:, :, SIZE:])
    painted = call("EVLM_EditScene", pipe=pipe, scene=scene, plan=plan, stop="paint anyway", **QUICK).args[0]
    assert not torch.equal(painted.gaussians.sh, scene.gaussians.sh)


def test_stopped_at_the_plan_it_selects_and_paints_nothing(
    pipe: Any, scene: Any, plan: Any, mask: torch.Tensor, selected: Any
) -> None:
    how = {**QUICK, "stop": "stop at the plan"}
    made = call("EVLM_EditScene", pipe=pipe, scene=scene, plan=plan, mask=mask, **how).args
    assert made[0].gaussians is scene.gaussians and bool(made[0].selection.any())


def test_a_plan_of_several_pictures_is_refused_and_a_scene_is_reasoned_about_itself(
    pipe: Any, scene: Any, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for frames, pictures, said in ((1, 4, "one of 4 pictures"), (6, 1, "6 frames together")):
        message = refused("EVLM_SelectInScene", scene=scene, plan=plan.for_picture(frames, pictures))
        assert said in message and "connect the scene itself" in message
    seen: list[Any] = []
    answered = SimpleNamespace(trace=plan, text="", notes=[])

    def reason(self: Any, requests: Any, *rest: Any, **more: Any) -> Any:
        seen.extend(requests)
        return [answered]

    monkeypatch.setattr(
        part("evlm.reason.batch"), "reason_all", lambda *given, **more: reason(None, given[1])
    )
    planned = call("EVLM_Reason", model=pipe.reasoner, image=scene, prompt="green").args[0][0]
    assert torch.equal(seen[0].original, part("nodes.scene_views").first(scene))
    with pytest.raises(part("evlm.errors").SceneError, match="has no cameras"):
        call("EVLM_Reason", model=pipe.reasoner, image=scene.with_cameras(()), prompt="green")
    call("EVLM_SelectInScene", scene=scene, plan=planned, views=1, size=SIZE, mask=torch.ones(1, 8, 8))


def test_wrong_things_are_refused_with_the_remedy(
    pipe: Any, scene: Any, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = scene.with_cameras(())
    assert "no cameras" in refused("EVLM_SelectInScene", scene=bare, plan=plan)
    given = {"pipe": pipe, "scene": scene, "plan": plan}
    assert "views 0" in refused("EVLM_EditScene", **{**given, **QUICK, "views": 0})
    assert "expected one of consistent" in refused("EVLM_EditScene", **{**given, **QUICK, "schedule": "all"})
    assert "a link to EVLM Load Scene" in refused("EVLM_EditScene", **{**given, "scene": 3}, **QUICK)
    many = scene.with_cameras(part("evlm.scene.poses").orbit(scene.gaussians, 1000, size=4096))
    monkeypatch.setattr(part("evlm.scene_job").SceneJob, "_shown", None)  # before anything is drawn
    for node, more in (("EVLM_SelectInScene", {}), ("EVLM_EditScene", {"pipe": pipe, **QUICK})):
        text = refused(node, **{**more, "scene": many, "plan": plan, "views": 1000, "size": 4096})
        assert "held in memory at once" in text and "Look from fewer views (views)" in text
    monkeypatch.undo()
    none = torch.zeros(1, SIZE, SIZE)
    assert refused("EVLM_SelectInScene", scene=scene, plan=plan, mask=none, views=2, size=SIZE)


@pytest.mark.slow  # repainting and removing are above and below
def test_a_selection_is_obeyed_by_every_kind_of_edit_and_with_a_mask(
    pipe: Any, scene: Any, selected: Any, mask: torch.Tensor, plan: Any
) -> None:
    """Whatever the plan or the mask would find besides."""
    source, how = selected.args[0], {"pipe": pipe, **QUICK}
    half = source.selection & (torch.arange(len(source)) % 2 == 0)
    source = source.with_selection(half)
    aside = torch.zeros(1, SIZE, SIZE)
    aside[:, 16:30, 26:38] = 1
    move = call("EVLM_PlanFromText", text="move the red ball to the right", targets="red ball").args[0]
    edited = call("EVLM_EditScene", scene=source, plan=move, mask=aside, **how).args[0]
    stays = ~edited.selection
    assert bits(edited, stays) == bits(source, ~half)
    assert not (edited.gaussians.means[:, None] == source.gaussians.means[half][None]).all(-1).any()
    stop = {**how, "stop": "stop at the plan", "plan": plan}
    filled = call("EVLM_EditScene", scene=scene, mask=mask, **stop).args[0].selection
    inside = call("EVLM_EditScene", scene=source, mask=mask, **stop).args[0].selection
    assert bool(inside.any()) and torch.equal(inside, filled & half)
    beside = scene.with_selection(~filled)
    assert "draw it over what is selected" in refused("EVLM_EditScene", scene=beside, mask=mask, **stop)


def test_what_is_selected_goes_where_the_plan_removes(pipe: Any, selected: Any) -> None:
    """The rows that stay keep their bits and their order."""
    source = selected.args[0]
    plan = call("EVLM_PlanFromText", text="remove the red ball", targets="red ball").args[0]
    edited = call("EVLM_EditScene", pipe=pipe, scene=source, plan=plan, **QUICK).args[0]
    stays = ~edited.selection
    assert int(stays.sum()) == int((~source.selection).sum())
    assert bits(edited, stays) == bits(source, ~source.selection)
    gone = source.gaussians.means[source.selection]
    assert not (edited.gaussians.means[:, None] == gone[None]).all(-1).any()


def test_a_moving_scene_keeps_its_motion_and_all_that_is_not_selected(
    pipe: Any, selected: Any, plan: Any, told: list[str]
) -> None:
    source, motions = selected.args[0], part("evlm.scene.motion")
    motion = motions.RigidBases.begin(source.gaussians, source.selection, motions.Keys.even(2), count=1)
    motion.shifts[0, 1, 1] = 0.5
    moving = replace(source, motion=motion)
    quick = {**QUICK, "views": 4, "schedule": "consistent", "rounds": 1}
    with torch.inference_mode():
        edited, pairs, _, _ = call("EVLM_EditScene", pipe=pipe, scene=moving, plan=plan, **quick).args
    rows = source.selection
    assert bits(edited, ~rows) == bits(source, ~rows) and bits(edited, rows) != bits(source, rows)
    for name, tensor in motion.tensors().items():
        assert torch.equal(edited.motion.tensors()[name], tensor)
    before = pairs[:, :, :SIZE]
    assert (before[0] - before[-1]).abs().mean() > 0.01, "the last of the views is of the other time"
    with torch.no_grad():
        assert edited.at(1.0).means.shape == source.gaussians.means.shape
