"""The demo's requests: what lies in evlm/bundled/examples is what its recipe draws, and no model saw it in
training."""

from __future__ import annotations

import json
import random
from fractions import Fraction
from pathlib import Path

import torch

from evlm.files.clips import read_clip
from evlm.models.zoo import choose, resolve
from evlm.pipeline import Pipeline
from evlm.reason.reasoner import Reasoner
from evlm.request import EXAMPLES, load_example
from evlm.scene.files import load_gaussians
from evlm.scene.fit.losses import psnr
from evlm.scene.motion import load_motion
from evlm.scene.poses import load_cameras
from evlm.scene.raster import rasterize
from trainer.bundle.example_relief import FOLDER, MOVING, RELIEF, moved, sample_question
from trainer.bundle.example_scene import COUNT, SCENE, sample_solids, turned
from trainer.bundle.examples import (
    CHOSEN,
    CLIP,
    RATE,
    SEED,
    TWO_EDITS,
    WHAT_IF,
    sample_clip,
    write_examples,
)
from trainer.world.doubles import ask_double
from trainer.world.raytrace import SKY_RGB, view
from trainer.world.relief import cone, relief_view
from trainer.world.render import GROUND_RGB
from trainer.world.rows import Recipe, question_at
from trainer.world.solid_cameras import ring
from trainer.world.whatif.ask import ask_what_if
from trainer.world.whatif.reader import outcome_right


def test_the_committed_examples_are_what_the_recipe_draws(tmp_path: Path) -> None:
    write_examples(tmp_path)
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    committed = {path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("*.*")}
    assert names == sorted(committed - {Path(SCENE[0])})
    for name in set(names) - {Path(CLIP[0])}:
        assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes(), (
            f"{name}: run `python -m trainer bundle examples`"
        )


def test_the_committed_clip_is_the_one_that_is_drawn() -> None:
    drawn, committed = sample_clip(), read_clip(EXAMPLES / CLIP[0])
    assert committed.frames.shape == drawn.shape and set(committed.durations or ()) == {Fraction(1, RATE)}
    # h264 is not lossless, and another encoder writes other bytes
    assert float((committed.frames - drawn).abs().mean()) < 0.01


def test_the_committed_scene_looks_as_the_world_does() -> None:
    """A fit of it takes minutes, and ends in other bytes on another machine."""
    gaussians, solids = load_gaussians(EXAMPLES / SCENE[0]).gaussians, sample_solids()
    assert len(gaussians) == COUNT
    sky = torch.tensor(SKY_RGB[solids.sky])
    for camera in ring(3, 48, held_out=True):
        exact = torch.from_numpy(view(solids, camera).picture).float() / 255
        assert psnr(rasterize(gaussians, turned(camera), sky).image.clamp(0, 1), exact) > 25


def test_the_committed_relief_looks_as_the_flat_world_does() -> None:
    question = sample_question()
    asked = json.loads((FOLDER / RELIEF[0] / "request.json").read_text("utf-8"))
    assert asked["prompt"] == question.prompt and question.edit.split == "test"
    gaussians = load_gaussians(FOLDER / RELIEF[0] / "scene.spz").gaussians
    cameras = load_cameras(FOLDER / RELIEF[0] / "transforms.json", gaussians).cameras
    assert [camera.name for camera in cameras] == [camera.name for camera in cone(len(cameras))]
    behind = torch.tensor(GROUND_RGB[question.edit.source.ground])
    for camera in cameras[::4]:
        exact = torch.from_numpy(relief_view(question.edit.source, camera)).float() / 255
        assert psnr(rasterize(gaussians, camera, behind).image.clamp(0, 1), exact) > 25


def test_the_committed_relief_that_moves_looks_as_the_flat_world_does() -> None:
    """At the times it was fitted at, and between them; only the thing that goes has rows that move."""
    asked = json.loads((FOLDER / MOVING / "request.json").read_text("utf-8"))
    assert asked["prompt"] == sample_question().prompt and asked["cameras"] == RELIEF[0]
    gaussians = load_gaussians(FOLDER / MOVING / "scene.spz").gaussians
    motion = load_motion(FOLDER / MOVING / "motion.safetensors", len(gaussians))
    assert 100 < int(motion.moving.sum()) < 0.2 * len(gaussians)
    behind = torch.tensor(GROUND_RGB[moved(0).ground])
    for camera, time in zip(cone(3), (0.0, 0.6, 1.0), strict=True):
        exact = torch.from_numpy(relief_view(moved(time), camera)).float() / 255
        shown = rasterize(motion.at(gaussians, time), camera, behind).image.clamp(0, 1)
        assert psnr(shown, exact) > 25


def test_the_examples_are_requests_of_five_kinds_from_the_test_split() -> None:
    requests = [load_example(path)[1] for path in sorted(EXAMPLES.glob("*.json"))]
    assert requests[0].prompt == "like this" and len(requests) == 5
    assert [len(r.references) for r in requests] == [1, 0, 1, 1, 0]
    for _, _, op, category, number in CHOSEN:
        assert question_at(Recipe(SEED, "test", op=op, category=category), number).edit.split == "test"


def test_the_bundled_reasoner_answers_both_edits_of_the_fourth() -> None:
    question = ask_double(random.Random(TWO_EDITS[2]), "test", "image")
    reasoner = Reasoner.load(resolve("bundled", "reasoner"), device="cpu")
    plan = reasoner.reason(load_example(EXAMPLES / f"{TWO_EDITS[0]}.json")[1]).trace.plan
    assert (plan.instruction, plan.targets) == (question.edit.instruction, question.edit.targets)
    assert len(plan.steps) == 2 and all(step.mask_text for step in plan.steps)


def test_the_bundled_models_show_what_follows_from_the_cause_in_the_fifth() -> None:
    question = ask_what_if(random.Random(WHAT_IF[2]), "test", WHAT_IF[3])
    result = Pipeline.load(choose(["bundled"]), device="cpu").run(
        load_example(EXAMPLES / f"{WHAT_IF[0]}.json")[1]
    )
    assert result.plan.instruction == question.edit.instruction and len(result.plan.steps) == 2
    assert outcome_right(result.edited[0].numpy(), question) == (True, True)
