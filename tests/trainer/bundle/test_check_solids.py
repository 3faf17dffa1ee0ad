"""Measuring on solids: what is true counts as right, what is not as wrong, whatever model was asked."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from evlm.edit.ip2p import IP2P
from evlm.scene import Gaussians
from trainer.bundle import check_scenes, check_solids
from trainer.bundle.check import PARTS, bars
from trainer.bundle.check_scenes import ask_scene, edit_scene, frozen
from trainer.world.raytrace import view
from trainer.world.solid import solid_scene_split
from trainer.world.solid_cameras import HEIGHTS
from trainer.world.solid_stills import can_be_read, draw_still
from trainer.world.solid_traces import plan_of, write_solid_trace

BUNDLED = Path(__file__).resolve().parents[3] / "evlm" / "bundled"


def test_plans_are_counted_by_category_and_kind(monkeypatch) -> None:
    asked: list = []

    def answers(make, work, items, log, jobs):
        asked.extend(items)
        return [plan_of(question.edit) if at else None for at, question in enumerate(items)]

    monkeypatch.setattr(check_solids, "parallel_map", answers)
    shares = check_solids.plans(BUNDLED, 4, 3, print, 1)
    assert shares["exact"] == 0.75 and {question.edit.split for question in asked} == {"test"}
    assert shares[f"exact, {asked[0].edit.op}"] < 1 and shares[f"exact, {asked[0].category}"] < 1


def test_an_exact_editor_is_right_and_one_that_leaves_all_as_it_is_wrong() -> None:
    rng = random.Random(4)
    drawn = next(
        d for d in iter(lambda: draw_still(rng, "recolour", "test", samples=2), None) if can_be_read(d)
    )
    truth = torch.from_numpy(drawn.pictures()[1]).float() / 255

    class Painter(IP2P):
        def __init__(self, frames: torch.Tensor | None = None) -> None:
            self.frames = frames

        def edit(self, source, *_, **__):
            return SimpleNamespace(frames=source if self.frames is None else self.frames)

    assert check_solids.paint_one(Painter(truth), drawn) and not check_solids.paint_one(Painter(), drawn)


def test_a_box_filled_is_no_silhouette_and_what_is_not_found_counts_as_nothing(monkeypatch) -> None:
    from evlm.boxes import Box
    from evlm.ground.grounder import Grounder
    from evlm.segment.segmenter import Segmenter

    def filled(picture, boxes):
        corners = [
            b if isinstance(b, torch.Tensor) else torch.tensor([b.x0, b.y0, b.x1, b.y1]) for b in boxes
        ]
        masks = torch.zeros(len(corners), 1, 64, 64)
        for mask, (x0, y0, x1, y1) in zip(masks, corners, strict=True):
            mask[0, int(y0) : int(y1), int(x0) : int(x1)] = 1
        return SimpleNamespace(masks=masks)

    found: list[Box] = []
    monkeypatch.setattr(Grounder, "load", lambda _: SimpleNamespace(ground=lambda *_, **__: found))
    monkeypatch.setattr(Segmenter, "load", lambda _: SimpleNamespace(segment=filled))
    shares = check_solids.find_places(BUNDLED, 2, 3)
    assert shares["recall"] == shares["box_iou"] == shares["iou_detected"] == 0 and 0.4 < shares["iou"] < 1
    found.append(Box("ball", 0.9, 0, 0, 64, 64))
    assert 0 < check_solids.find_places(BUNDLED, 2, 3)["iou_detected"] < 0.4


def test_every_part_has_bars_and_each_name_is_measured() -> None:
    named = {bar.part: {name for b in bars() if b.part == bar.part for name in b.names} for bar in bars()}
    assert set(PARTS) == set(named)
    assert {"scene", "scene, seconds", "scene, frozen"} == named["scenes"]
    whole = {"recall", "iou", "iou_detected", "exact", "editor, global", *check_solids.worst_categories()}
    assert named["solids"] == whole | {f"editor, {op}" for op in check_solids.LOCAL}


def test_a_scene_is_asked_from_its_rings_first_view_and_held_out() -> None:
    one, again = (ask_scene(3, 1) for _ in range(2))
    assert one == again and one.edit.split == "test" == solid_scene_split(one.edit.source)
    assert (one.edit.stand.azimuth, one.edit.stand.elevation) == (0.0, HEIGHTS[0])
    assert one.edit.op in check_scenes.OPERATIONS


def test_a_chain_that_cannot_plan_is_wrong_and_one_that_paints_the_truth_is_right(monkeypatch) -> None:
    """The fit is two steps long, the pictures are the truth's."""
    from evlm.errors import SceneError
    from evlm.scene_job import SceneJob

    monkeypatch.setattr(check_scenes, "VIEWS", 4)
    monkeypatch.setattr(check_scenes, "HELD", 3)
    monkeypatch.setattr(check_scenes, "POINTS", 60)
    monkeypatch.setattr(check_scenes, "STEPS", 2)
    rng = random.Random(2)
    question = next(
        q for q in (ask_scene(rng.randrange(99), 0) for _ in range(99)) if q.edit.op == "recolour"
    )
    trace = write_solid_trace(random.Random(0), question)

    def refuses(job, looks):
        raise SceneError("no plan")

    monkeypatch.setattr(SceneJob, "reason", refuses)
    outcome = edit_scene(SimpleNamespace(), question)
    assert not outcome.right and not outcome.planned and outcome.frozen and outcome.fit > 0
    monkeypatch.setattr(SceneJob, "reason", lambda job, looks: SimpleNamespace(trace=trace))
    monkeypatch.setattr(SceneJob, "select_all", lambda job, reasoned, looks: [])

    def paints(job, selections, looks):
        job.home = torch.arange(len(job.scene))
        return replace(job.scene, selection=torch.zeros(len(job.scene), dtype=torch.bool))

    monkeypatch.setattr(SceneJob, "paint", paints)

    def truth(gaussians, camera, background):
        return torch.from_numpy(view(question.edit.result, camera).picture.astype(np.float32) / 255)

    monkeypatch.setattr(check_scenes, "picture_of", truth)
    outcome = edit_scene(SimpleNamespace(), question)
    assert outcome.right and outcome.planned and outcome.frozen


def test_rows_that_came_or_went_leave_the_others_frozen() -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = ((6, 3), (6, 3), (6, 4), (6,), (6, 1, 3))
    before = Gaussians(*(torch.randn(*shape, generator=draw) for shape in shapes))
    selected = torch.tensor([False, True, True, False, False, False])
    home = torch.tensor([0, 2, 3, 4, 5, -1])  # row 1 was removed, the last is new
    after = before.rows(torch.tensor([0, 2, 3, 4, 5, 1]))
    assert frozen(before, after, selected, home)
    repainted = Gaussians(**{**after.tensors(), "logits": after.logits + (home == 2)})
    assert frozen(before, repainted, selected, home), "what was selected may change"
    moved = Gaussians(**{**after.tensors(), "logits": after.logits + (home == 3)})
    assert not frozen(before, moved, selected, home)
    assert not frozen(before, after.rows(torch.arange(1, 6)), selected, home[1:]), "one is missing"
