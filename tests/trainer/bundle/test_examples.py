"""The demo's requests: what lies in evlm/bundled/examples is what its recipe draws, and no model saw it in
training."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from evlm.files.clips import read_clip
from evlm.plan.trace import parse_exact
from evlm.request import EXAMPLES, PLANNED, load_example, load_planned
from trainer.bundle.examples import CHOSEN, CLIP, RATE, SEED, sample_clip, write_examples
from trainer.world.rows import Recipe, question_at


def test_the_committed_examples_are_what_the_recipe_draws(tmp_path: Path) -> None:
    write_examples(tmp_path)
    names = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert names == sorted(path.relative_to(EXAMPLES) for path in EXAMPLES.rglob("*.*"))
    for name in set(names) - {Path(CLIP[0])}:
        assert (tmp_path / name).read_bytes() == (EXAMPLES / name).read_bytes(), (
            f"{name}: run `python -m trainer bundle examples`"
        )


def test_the_committed_clip_is_the_one_that_is_drawn() -> None:
    drawn, committed = sample_clip(), read_clip(EXAMPLES / CLIP[0])
    assert committed.frames.shape == drawn.shape and set(committed.durations or ()) == {Fraction(1, RATE)}
    # h264 is not lossless, and another encoder writes other bytes
    assert float((committed.frames - drawn).abs().mean()) < 0.01


def test_the_examples_are_three_requests_of_three_kinds_from_the_test_split() -> None:
    requests = [load_example(path)[1] for path in sorted(EXAMPLES.glob("*.json"))]
    assert requests[0].prompt == "like this" and len(requests) == 3
    assert [len(r.references) for r in requests] == [1, 0, 1]
    for _, _, op, category, number in CHOSEN:
        assert question_at(Recipe(SEED, "test", op=op, category=category), number).edit.split == "test"


def test_the_request_for_two_edits_comes_with_a_plan_of_two_steps() -> None:
    (path,) = (EXAMPLES / PLANNED).glob("*.json")
    _, request, text = load_planned(path)
    plan = parse_exact(text).plan
    assert len(plan.steps) == 2 and len(request.references) == 1
    assert all(step.targets and step.mask_text for step in plan.steps)
