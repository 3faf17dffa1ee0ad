"""Kinds of questions beside the world's own mix: conflicts, vague ones, and what share of each is asked."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from world_oracle import solve

from evlm.errors import ConfigError
from trainer.world.conflicts import CATEGORIES as DISAGREEING
from trainer.world.conflicts import ask_conflict
from trainer.world.doubles import DOUBLE
from trainer.world.mix import Mix, ask_mixed
from trainer.world.question import CATEGORIES, Question
from trainer.world.questions import ask
from trainer.world.vague import ask_vague, is_vague


def conflicts(category: str, count: int = 15) -> list[Question]:
    rng = random.Random(f"conflicts {category}")
    return [ask_conflict(rng, "train", category) for _ in range(count)]


@pytest.mark.parametrize("category", DISAGREEING)
def test_words_and_picture_disagree_and_the_rule_decides(category: str) -> None:
    for question in conflicts(category):
        edit, shown = question.edit, question.refs[0].scenes[0].things[0]
        assert edit.target is not None and edit.outcome is not None
        said, *name = question.prompt.split()
        rule = question.refs[1].text if len(question.refs) > 1 else ""
        value = said if rule != "picture wins" else shown.look[1 if edit.op == "recolour" else 2]
        assert edit.instruction == f"make the {edit.target.label} {value}"
        assert said not in edit.target.look and said not in shown.look  # they do disagree
        assert solve(edit.source, f"{value} {' '.join(name)}", ()) == edit.instruction  # the name is enough
        assert f"the words say {said} but the picture " in question.hint
        assert (rule or "no rule") in question.hint and question.form == "conflict"
        assert question.decisive == (rule == "picture wins") and (question.k == 1) != question.decisive
        assert [ref.kind for ref in question.refs] == (
            [category.split("-")[0].split("+")[0]] + (["text"] if category.endswith("+text") else [])
        )


def test_both_rules_and_both_attributes_occur_and_words_alone_never_disagree() -> None:
    asked = conflicts("image+text", 40)
    assert {question.refs[1].text for question in asked} == {"picture wins", "words win"}
    assert {question.edit.op for question in asked} == {"recolour", "retexture"}
    with pytest.raises(ValueError, match="'text'"):
        ask_conflict(random.Random(0), "train", "text")


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_vague_question_never_says_its_value(category: str) -> None:
    rng = random.Random(f"vague {category}")
    for _ in range(12):
        question = ask_vague(rng, "test", category)
        edit = question.edit
        words = f"{question.prompt} {' '.join(ref.text for ref in question.refs)}".split()
        assert edit.scope == "global" and edit.value not in words
        assert solve(edit.source, question.prompt, question.refs) == edit.instruction


def test_a_thing_or_a_value_that_is_named_is_not_vague() -> None:
    rng = random.Random(1)
    assert not is_vague(ask(rng, "train", "recolour", "image"))
    prompts = {q.prompt: is_vague(q) for q in (ask(rng, "train", "weather", "text") for _ in range(80))}
    assert not prompts["make it rain"] and prompts["stormy"]


def test_a_mix_asks_in_its_shares_and_without_one_what_was_always_asked() -> None:
    mix, kinds = Mix(doubles=0.3, conflicts=0.2), Counter[str]()
    for number in range(200):
        question = ask_mixed(random.Random(f"kind {number}"), random.Random(number), "train", mix)
        kinds[
            DOUBLE if question.edit.op == DOUBLE else question.form if question.form == "conflict" else ""
        ] += 1
        if question.edit.op != DOUBLE and question.form != "conflict":
            assert question == ask(random.Random(number), "train")
    assert abs(kinds[DOUBLE] - 60) < 20 and 25 < kinds["conflict"] < 70
    assert ask_mixed(random.Random(1), random.Random(5), "test", Mix()) == ask(random.Random(5), "test")


@pytest.mark.parametrize("shares", [(-0.1, 0), (1.5, 0), (float("nan"), 0), (0.7, 0.4)])
def test_shares_that_cannot_be_are_named(shares: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match=r"doubles|more than 1"):
        Mix(*shares)
