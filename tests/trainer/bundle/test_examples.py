"""The demo's requests: what lies in evlm/bundled/examples is what its recipe draws, and no model saw it in
training."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

from evlm.files.clips import read_clip
from evlm.models.zoo import resolve
from evlm.reason.reasoner import Reasoner
from evlm.request import EXAMPLES, load_example
from trainer.bundle.examples import CHOSEN, CLIP, RATE, SEED, TWO_EDITS, sample_clip, write_examples
from trainer.world.doubles import ask_double
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


def test_the_examples_are_requests_of_four_kinds_from_the_test_split() -> None:
    requests = [load_example(path)[1] for path in sorted(EXAMPLES.glob("*.json"))]
    assert requests[0].prompt == "like this" and len(requests) == 4
    assert [len(r.references) for r in requests] == [1, 0, 1, 1]
    for _, _, op, category, number in CHOSEN:
        assert question_at(Recipe(SEED, "test", op=op, category=category), number).edit.split == "test"


def test_the_bundled_reasoner_answers_both_edits_of_the_last() -> None:
    question = ask_double(random.Random(TWO_EDITS[2]), "test", "image")
    reasoner = Reasoner.load(resolve("bundled", "reasoner"), device="cpu")
    plan = reasoner.reason(load_example(EXAMPLES / f"{TWO_EDITS[0]}.json")[1]).trace.plan
    assert (plan.instruction, plan.targets) == (question.edit.instruction, question.edit.targets)
    assert len(plan.steps) == 2 and all(step.mask_text for step in plan.steps)
