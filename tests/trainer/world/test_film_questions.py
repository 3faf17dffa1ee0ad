"""Questions about films: the first frame's, with its answer, of an original that moves."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from evlm.models.zoo import resolve
from evlm.reason.messages import SHORT, build_messages, evenly, sample_clip
from trainer.bundle.vision_warmup import shown_in
from trainer.model.batch import Collator
from trainer.world.clips import OPERATIONS
from trainer.world.film_questions import LENGTHS, FilmQuestion, ask_film
from trainer.world.rows import to_request
from trainer.world.scene import scene_split


def drawn(count: int, split: str = "test") -> list[FilmQuestion]:
    return [ask_film(random.Random(f"films {n}"), split) for n in range(count)]  # type: ignore[arg-type]


def test_a_film_begins_as_its_still_and_moves() -> None:
    moved = 0
    for question in drawn(30):
        request = question.request()
        still = to_request(question.still)
        assert torch.equal(request.original[0], still.original[0]) and len(still.original) == 1
        assert len(request.original) == min(8, question.film.frames) and question.film.frames in LENGTHS
        assert (request.prompt, len(request.references)) == (still.prompt, len(still.references))
        assert question.still.edit.op in OPERATIONS and scene_split(question.still.edit.source) == "test"
        moved += not torch.equal(request.original[0], request.original[-1])
    assert moved > 20
    assert {len(q.still.refs) > 0 and q.still.refs[0].frames for q in drawn(60)} >= {1, 4}, "all categories"


def test_a_film_is_a_function_of_its_draw() -> None:
    one, two = ask_film(random.Random(5), "train", "remove"), ask_film(random.Random(5), "train", "remove")
    assert one.still == two.still and one.still.edit.op == "remove" and np.array_equal(one.shown, two.shown)
    assert ask_film(random.Random(5), "train", "move").still.edit.op in OPERATIONS, "no clip has it"


@pytest.mark.parametrize("total", [1, 4, 8, 9, 16, 24, 100])
def test_frames_are_those_that_a_reasoner_is_shown(total: int) -> None:
    frames = torch.rand(total, 4, 4, 3)
    assert sample_clip(frames, 24.0).indices == evenly(total, 8)
    assert evenly(total, 1) == (0,) and evenly(total, 8)[-1] == total - 1


def test_of_a_film_the_eyes_are_asked_nothing_and_of_its_references_the_same() -> None:
    collate = Collator(AutoProcessor.from_pretrained(resolve("bundled", "reasoner"), local_files_only=True))
    pictures = collate.pictures
    for question in drawn(12):
        batch = collate([build_messages(question.request(), style=SHORT)], ["x"])
        shown = shown_in(question, pictures)
        assert len(shown) == len(batch.pixels)
        still = shown_in(question.still, pictures)
        of_film = -(-len(question.shown) // pictures.temporal) * (64 // pictures.patch) ** 2
        assert bool((shown[:of_film] == -100).all())
        assert torch.equal(shown[of_film:], still[(64 // pictures.patch) ** 2 :])
