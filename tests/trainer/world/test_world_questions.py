"""Questions: few words, one answer, and as many open ones without the pictures as `k` says."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from itertools import product

import pytest
from world_oracle import solve

from trainer.world.edits import MIX, OPERATIONS
from trainer.world.questions import CATEGORIES, FRAMES, LIKE, Question, ask, name_of
from trainer.world.scene import (
    COLOURS,
    DIRECTIONS,
    GROUNDS,
    SHAPES,
    SIZES,
    STYLES,
    TEXTURES,
    WEATHERS,
    Scene,
    Thing,
    random_scene,
)

KINDS = list(product(CATEGORIES, OPERATIONS))


@cache
def asked(category: str, op: str, count: int = 40) -> tuple[Question, ...]:
    return tuple(ask(random.Random(f"{category} {op} {i}"), "train", op, category) for i in range(count))


@pytest.mark.parametrize(("category", "op"), KINDS)
def test_each_question_has_exactly_the_answer_that_a_reader_of_the_rules_finds(
    category: str, op: str
) -> None:
    for question in asked(category, op):
        assert solve(question.edit.source, question.prompt, question.refs) == question.edit.instruction, (
            question.prompt
        )


def test_the_held_out_questions_have_one_answer_too() -> None:
    for split, i in product(("validation", "test"), range(60)):
        question = ask(random.Random(f"held out {i}"), split)  # type: ignore[arg-type]
        assert solve(question.edit.source, question.prompt, question.refs) == question.edit.instruction


@pytest.mark.parametrize(("category", "op"), KINDS)
def test_a_question_has_few_words_and_the_references_of_its_category(category: str, op: str) -> None:
    for question in asked(category, op):
        assert (question.edit.op, question.category) == (op, category)
        assert len(question.prompt.split()) <= 4 and (question.prompt or question.refs)
        kinds = [ref.kind for ref in question.refs]
        if category == "text":
            assert kinds in ([], ["text"]) and not question.decisive and question.k == 1
        elif category.endswith("+text"):
            assert kinds == [category.split("+")[0], "text"]
        else:
            assert kinds in ([category.split("->")[0]], ["image", "image"])
        assert question.frames == (FRAMES if category == "image->video" else 1)
        assert question.hint and question.edit.source.style == "plain"
        for ref in question.refs:
            if ref.scenes:
                assert ref.pixels(32).shape == (FRAMES if ref.kind == "video" else 1, 32, 32, 3)


# --- what stays open without the pictures ---


def open_answers(question: Question) -> set[object]:
    """All answers that the original and the words leave open, found by trying everything."""
    edit, scene, form = question.edit, question.edit.source, question.form
    text = " ".join(ref.text for ref in question.refs if ref.text)
    words = f"{question.prompt} {text}".split()
    if edit.op in ("weather", "ground", "restyle"):
        values = {
            "weather": (WEATHERS, scene.weather),
            "ground": (GROUNDS, scene.ground),
            "restyle": (STYLES, "plain"),
        }
        return set(values[edit.op][0]) - {values[edit.op][1]}
    if edit.op == "add":
        free = [c for c in range(9) if scene.at(c) is None and not (scene.sign and c in (6, 7))]
        cells = [edit.outcome.cell] if text and edit.outcome else free  # the words say where
        old = {t.look for t in scene.things}
        return {new for new in product(SHAPES, COLOURS, TEXTURES, SIZES, cells) if new[:3] not in old}
    if edit.op == "remove":
        key = next((w for w in words if w in ("shape", "colour", "texture")), None)
        values = [getattr(t, key) for t in scene.things] if key else []
        return {t for t in scene.things if key is None or values.count(getattr(t, key)) == 1}
    if edit.op == "move":
        ways = {(t, d) for t in scene.things for d in DIRECTIONS if free_step(scene, t, d)}
        return {(t, d) for t, d in ways if not text or d == words[-1]}
    key = {"recolour": "colour", "retexture": "texture", "replace": "shape"}[edit.op]
    values = {"colour": COLOURS, "texture": TEXTURES, "shape": SHAPES}[key]
    answers: set[object] = set()
    for thing, value in product(scene.things, values):
        look = {"shape": thing.shape, "colour": thing.colour, "texture": thing.texture} | {key: value}
        if form not in ("twin", "pair") and thing is not edit.target:  # the words name the thing
            continue
        if value == getattr(thing, key) or (
            form == "conflict" and (value == words[0]) == ("picture" in words)
        ):
            continue
        alike = [sum(getattr(t, k) == v for k, v in look.items()) for t in scene.things if t is not thing]
        if max(alike) < (2 if form == "twin" else 3):
            answers.add((thing, value))
    return answers


def free_step(scene: Scene, thing: Thing, direction: str) -> bool:
    dx, dy = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}[direction]
    x, y = thing.cell % 3 + dx, thing.cell // 3 + dy
    taken = {t.cell for t in scene.things} | ({6, 7} if scene.sign else set())
    return 0 <= x < 3 and 0 <= y < 3 and y * 3 + x not in taken


@pytest.mark.parametrize(("category", "op"), [(c, op) for c, op in KINDS if c != "text"])
def test_without_its_pictures_a_question_leaves_k_answers_open(category: str, op: str) -> None:
    for question in asked(category, op)[: 8 if op == "add" else 40]:
        assert len(open_answers(question)) == question.k, (question.form, question.prompt)
        assert question.decisive == (question.k > 1)


def test_the_open_answers_are_equally_likely() -> None:
    """Guessing one of them at random is right once in k times: a blind reader scores the mean of 1/k."""
    rng = random.Random(0)
    hits = expected = variance = 0.0
    for op in ("recolour", "retexture", "remove", "move"):
        for i in range(400):
            question = ask(random.Random(f"blind {op} {i}"), "train", op, "image")
            edit = question.edit
            of = {"remove": edit.target, "move": (edit.target, edit.value)}.get(op, (edit.target, edit.value))
            answers = sorted(open_answers(question), key=repr)
            assert of in answers
            hits += rng.choice(answers) == of
            # nor may it stand out by its place: a reader that always takes the first one gains nothing
            hits += answers[0] == of
            expected += 2 / question.k
            variance += 2 / question.k * (1 - 1 / question.k)
    assert abs(hits - expected) < 4 * variance**0.5


def test_exactly_one_thing_shares_two_attributes_with_a_twin() -> None:
    twins = [q for op in ("recolour", "retexture", "replace") for q in asked("video", op) if q.form == "twin"]
    assert len(twins) > 100
    for question in twins:
        seen = question.refs[0].scenes[0].things[0]
        alike = [
            sum(a == b for a, b in zip(t.look, seen.look, strict=True)) for t in question.edit.source.things
        ]
        assert alike.count(2) == 1 and 3 not in alike
        assert question.edit.source.things[alike.index(2)] is question.edit.target
        assert question.prompt in LIKE


def test_distractors_share_attributes_with_the_target() -> None:
    questions = asked("image", "recolour", 150)
    confusable = sum(
        any(set(t.look) & set(q.edit.target.look) for t in q.edit.source.things if t is not q.edit.target)
        for q in questions
        if q.edit.target
    )
    assert confusable > 0.6 * len(questions)


def test_all_forms_are_asked() -> None:
    forms = {q.form for category, op in KINDS for q in asked(category, op)}
    assert forms == {"twin", "pair", "sign", "grid", "place", "motion", "whole", "words", "conflict", "text"}


def test_a_conflict_follows_the_rule_that_the_question_states() -> None:
    conflicts = [q for q in asked("image+text", "recolour", 200) if q.form == "conflict"]
    assert {q.refs[1].text for q in conflicts} == {"picture wins", "words win"}
    for question in conflicts:
        in_words, in_picture = question.prompt.split()[0], question.refs[0].scenes[0].things[0].colour
        assert in_words != in_picture and question.edit.value == (
            in_picture if question.refs[1].text == "picture wins" else in_words
        )


def test_a_name_means_one_thing() -> None:
    rng = random.Random(7)
    for _ in range(200):
        scene = random_scene(rng)
        names = [name_of(t, scene) for t in scene.things]
        assert len(set(names)) == len(names)
    twin = Thing("circle", "red", "plain", "small", 0)
    others = (Thing("circle", "blue", "plain", "small", 1), Thing("star", "red", "plain", "small", 2))
    assert name_of(twin, Scene((twin, *others))) == "red circle"
    assert name_of(others[0], Scene((twin, *others))) == "blue one"


def test_the_mix_follows_the_papers_figure_10() -> None:
    count, groups = 2000, {"recolour": "transformation", "replace": "transformation", "ground": "weather"}
    questions = [ask(random.Random(f"mix {i}"), "train") for i in range(count)]
    ops = Counter(groups.get(q.edit.op, q.edit.op) for q in questions)
    paper = {"transformation": 56.5, "remove": 10.9, "add": 10.7, "weather": 10.1}
    for op, percent in paper.items():
        assert abs(100 * ops[op] / count - percent) < 3
    assert abs(100 * sum(ops[op] for op in ops if op not in paper) / count - 11.8) < 3
    assert set(Counter(q.edit.op for q in questions)) == set(MIX)
    share = Counter(q.category for q in questions)
    assert all(abs(100 * share[c] / count - 100 / 6) < 3 for c in CATEGORIES)
