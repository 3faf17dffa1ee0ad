"""The world draws today what it drew when its models were trained: scenes, splits, questions, rows, pairs.

Every digest was computed at commit 1c55b69. A model was trained on the training split of that commit, so what
moves a scene to another split makes its measurements worthless. Where a test here fails, mend the change:
new things of the world are drawn by generators of their own, and new fields are left out of the hash.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice

import pytest

from evlm.plan.mask_codec import get_codec
from evlm.reason.messages import SHORT
from evlm.records import row_data
from trainer.bundle.editor.data import LOCAL, WHOLE, draw_pair
from trainer.bundle.objects import samples
from trainer.bundle.reasoner import PRACTICE, questions
from trainer.config.recipe import RECIPES, load_config
from trainer.learner.rows import open_rows
from trainer.world.edits import OPERATIONS, random_edit
from trainer.world.questions import CATEGORIES, Question, ask
from trainer.world.rows import Recipe, rows
from trainer.world.scene import COLOURS, random_scene, scene_hash, scene_split

SPLIT_COUNTS = {"train": 798, "test": 99, "validation": 103}
SCENES = "89148cbf49856a17"
EDITS = "3e1c3b34f4a18d96"
ROWS = {"train-0": "247b4ddbfb93f563", "validation-3-32": "93041f2e9a5c0239", "test-1-48": "8707b6d199a7ce13"}
ASKED = {
    "image": "2b6ff4dced6a775b",
    "image+text": "d3ee0f4f6ea57c2a",
    "video": "c3daa3deae953c64",
    "image->video": "e1faee56331c63da",
    "video+text": "8ae452c36d6a22a0",
    "text": "c6db3e2aa12fd582",
}
TINY = "6261af3097fd3bfb"
WHATIF = "0ed963ee30055477"  # of its first day, 2026-11-30
PRACTISED = "39ab15d1ca1daed5"
MEASURED = "f8571c5cdb7651fa"
PAIRS = "d65041094f38e9e4"
SAMPLES = "4a0591e55eb3d942"


def digest(parts: Iterable[str | bytes]) -> str:
    whole = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "big") + data)
    return whole.hexdigest()[:16]


def said(question: Question) -> str:
    """All that a question holds, as text."""
    edit = question.edit
    graph = (asdict(edit.source), asdict(edit.result), edit.instruction, edit.targets, edit.split)
    refs = [asdict(ref) for ref in question.refs]
    rest = (question.category, question.form, question.prompt, question.k, question.hint, question.decisive)
    return json.dumps([graph, refs, rest], sort_keys=True)


def test_a_thousand_scenes_keep_their_hash_and_their_split() -> None:
    rng, scenes = random.Random("golden scenes"), []
    for number in range(1000):
        sign = rng.choice(COLOURS) if number % 10 == 0 else None
        scenes.append(random_scene(rng, sign=sign, moving=number % 4 == 0))
    assert Counter(scene_split(scene) for scene in scenes) == SPLIT_COUNTS
    assert digest(f"{scene_hash(scene)} {scene_split(scene)}" for scene in scenes) == SCENES
    edits = [random_edit(rng, op, scene) for scene in scenes for op in OPERATIONS]
    assert digest(f"{each and (each.instruction, each.split)}" for each in edits) == EDITS


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe(3, "validation", 32), Recipe(1, "test", 48, 2.0)], ids=str
)
def test_a_dataset_of_a_recipe_has_the_same_rows_byte_for_byte(recipe: Recipe) -> None:
    parts: list[str | bytes] = []
    for row, pictures in rows(recipe, 0, 20):
        parts.append(json.dumps(row_data(row), sort_keys=True))
        for path, picture in sorted(pictures.items()):
            parts += [path, (picture * 255).round().byte().numpy().tobytes()]
    assert digest(parts) == ROWS[recipe.name]


@pytest.mark.parametrize("category", CATEGORIES)
def test_one_kind_of_edit_and_of_input_is_asked_alike(category: str) -> None:
    asked = [
        ask(random.Random(f"golden {split} {op} {number}"), split, op, category)  # type: ignore[arg-type]
        for split in ("train", "validation", "test")
        for op in OPERATIONS
        for number in range(3)
    ]
    assert digest(map(said, asked)) == ASKED[category]


def test_each_recipe_of_the_world_learns_from_the_same_rows() -> None:
    drawn = {}
    for file in sorted(RECIPES.glob("*.yaml")):
        if not load_config(file).data[0].world:
            continue  # a folder's rows are what lies in it
        config = load_config(file, ["data.0.rows=60"])
        parts: list[str] = []
        for phase in config.stages:
            desired, codec = phase.kind == "sft", get_codec("box-spans-8")
            found = open_rows(config.data, phase.batch, config.seed, desired, SHORT, codec)
            for step in range(2):
                for example in found.batch(step):
                    parts.append(f"{example.name} {example.desired} {example.answer} {example.chat.messages}")
        drawn[file.stem] = digest(parts)
    assert drawn == {"tiny": TINY, "whatif": WHATIF}


def test_the_bundles_recipes_learn_from_the_same_questions_pairs_and_samples() -> None:
    def practised(step: int) -> list[Question]:
        rng, ops = random.Random(f"reasoner 0 {step}"), random.Random(step)
        return [ask(rng, "train", ops.choices(list(PRACTICE), list(PRACTICE.values()))[0]) for _ in range(32)]

    assert digest(said(q) for step in range(3) for q in practised(step)) == PRACTISED
    assert digest(said(q) for q in questions("test", 60, 1)) == MEASURED
    rng = random.Random("golden pairs")
    pairs = [draw_pair(rng, op, 64) for op in [*LOCAL, *WHOLE] for _ in range(3)]
    assert digest(f"{pair.edit.instruction} {scene_hash(pair.edit.source)}" for pair in pairs) == PAIRS
    seen = list(islice(samples("train", 0), 30)) + list(islice(samples("test", 0), 10))
    assert digest(each.picture.tobytes() + each.boxes.tobytes() for each in seen) == SAMPLES
