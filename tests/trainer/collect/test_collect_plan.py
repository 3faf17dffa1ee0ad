"""Table 6 and Figure 10 by exact quotas, and which items a category takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from evlm.errors import ConfigError
from trainer.collect.plan import UNKNOWN, make_plan
from trainer.collect.quota import CATEGORIES, TYPES, categories, edit_types, reference_counts, shared_out
from trainer.collect.recipe import Recipe, Source
from trainer.collect.sources.item import Asked, Item, Media
from trainer.collect.split import split_of
from trainer.collect.words import MOST, WORDS, shortened


def recipe(rows: int, reuse: int = 1, seed: int = 0) -> Recipe:
    return Recipe((Source("folder", "x", "CC0-1.0"),), "out", rows, seed, reuse)


def media(name: str, kind: str = "image") -> Media:
    return Media(name, kind, lambda: Path(name))  # type: ignore[arg-type]


def pair(n: int, edit_type: str | None = None, instruction: str = "") -> Item:
    return Item(
        f"p{n}", f"g{n}", media(f"p{n}/o"), "CC0", "s", edited=media(f"p{n}/e"), edit_type=edit_type,
        instruction=instruction,
    )  # fmt: skip


def clip(n: int) -> Item:
    return Item(f"c{n}", f"c{n}", media(f"c{n}/o", "video"), "CC0", "s")


def test_thirty_thousand_rows_are_the_papers_table() -> None:
    assert categories(30_000) == CATEGORIES
    assert edit_types(30_000) == {
        "transformation": 16_950, "removal": 3_270, "addition": 3_210, "weather": 3_030,
        "style": 1_180, "texture": 1_180, "layout": 1_180,
    }  # fmt: skip
    assert reference_counts(30_000) == {1: 22_500, 2: 6_000, 3: 1_500}


def test_three_hundred_rows_have_its_shares() -> None:
    assert categories(300) == {name: count // 100 for name, count in CATEGORIES.items()}
    assert edit_types(300) == {
        "transformation": 170, "removal": 33, "addition": 32, "weather": 30,
        "style": 12, "texture": 12, "layout": 11,
    }  # fmt: skip


@pytest.mark.parametrize("total", [1, 2, 7, 299, 301, 12_345])
def test_parts_sum_up_and_none_is_off_by_a_whole_row(total: int) -> None:
    parts = shared_out(total, CATEGORIES)
    assert sum(parts.values()) == total
    assert all(abs(parts[n] - total * CATEGORIES[n] / 30_000) < 1 for n in parts)
    assert sum(edit_types(total).values()) == sum(reference_counts(total).values()) == total


def test_a_plan_with_enough_sources_is_exact_in_both_margins_and_repeats_nothing() -> None:
    planned = make_plan(recipe(300), [*map(pair, range(150)), *map(clip, range(40))])
    questions = planned.questions
    assert not planned.missing
    assert Counter(q.category for q in questions) == categories(300)
    assert Counter(q.edit_type for q in questions) == edit_types(300)
    assert len({q.id for q in questions}) == 300
    for q in questions:
        kinds = {each.kind for each in q.references}
        assert q.item.original.kind == ("video" if q.category == "image->video" else "image")
        assert kinds == {"text": set()}.get(
            q.category, {"video" if q.category.startswith("video") else "image"}
        )
        assert len({each.id for each in (*q.references, q.item.original)}) == len(q.references) + 1
        assert bool(q.words) == q.category.endswith("text")
        assert all(1 <= len(words.split()) <= MOST for words in q.words)


def test_references_are_of_the_split_that_their_original_is_in() -> None:
    asked = recipe(300)
    items = [*map(pair, range(150)), *map(clip, range(40))]
    owner = {m.id: item.group for item in items for m in (item.original, item.edited, item.reference) if m}
    questions = make_plan(asked, items).questions
    splits = [
        {split_of(g, 0, asked.split) for g in (q.item.group, *(owner[m.id] for m in q.references))}
        for q in questions
    ]
    assert all(len(each) == 1 for each in splits)
    assert Counter(name for each in splits for name in each).keys() == {"train", "test"}
    assert all(q.groups == tuple(owner[m.id] for m in q.references) for q in questions)
    assert any(g != q.item.group for q in questions for g in q.groups)  # some are others'


def test_the_same_items_in_any_order_give_the_same_plan_and_another_seed_another() -> None:
    items = [*map(pair, range(60)), *map(clip, range(20))]
    plans = [
        make_plan(recipe(100, seed=s), i).questions for s, i in ((0, items), (0, items[::-1]), (1, items))
    ]
    assert plans[0] == plans[1] != plans[2]


def test_a_known_edit_type_is_asked_for_as_that_and_free_items_fill_the_rest() -> None:
    known = [pair(n, TYPES[n % len(TYPES)]) for n in range(70)]
    planned = make_plan(recipe(300), [*known, *map(pair, range(100, 230)), *map(clip, range(40))])
    assert not planned.missing
    assert all(q.item.edit_type in (None, q.edit_type) for q in planned.questions)


def test_twenty_photographs_give_their_twenty_questions_and_the_rest_is_missing() -> None:
    photos = [Item(f"{n}", f"{n}", media(f"{n}"), "CC0", "s") for n in range(20)]
    planned = make_plan(recipe(300), photos)
    assert Counter(q.category for q in planned.questions) == {"text": 20}
    lack = Counter[str]()
    for (category, _), count in planned.missing.items():
        lack[category] += count
    assert lack == {**categories(300), "text": 30}
    twice = make_plan(recipe(300, reuse=2), photos).questions
    assert len(twice) == 40 and len({q.id for q in twice}) == 40


def test_items_own_words_are_shortened_and_come_first() -> None:
    assert shortened("Please make the car a rusty old wreck.") == "a rusty old wreck"
    assert shortened("Turn it into a watercolour") == "watercolour"
    assert shortened("make it") == "it"
    assert shortened("add one two three four five six.") == "three four five six"
    planned = make_plan(recipe(60), [pair(n, instruction=f"add a hat number {n}") for n in range(20)])
    texts = [q for q in planned.questions if q.category == "text"]
    assert texts and all(q.words[0] == f"hat number {q.item.key[1:]}" for q in texts)


def test_every_listed_text_has_at_most_four_words() -> None:
    assert set(WORDS) == set(TYPES)
    assert all(1 <= len(text.split()) <= MOST for texts in WORDS.values() for text in texts)


def own(n: int, asked: Asked, kind: str = "image", edit_type: str | None = None) -> Item:
    return Item(f"a{n}", f"a{n}", media(f"a{n}/o", kind), "CC0", "s", edit_type=edit_type, asked=asked)


@pytest.mark.parametrize(
    ("asked", "original", "category"),
    [
        (Asked("make it so"), "image", "text"),
        (Asked(texts=("velvet",)), "image", "text"),
        (Asked("so", (media("r"),)), "image", "image"),
        (Asked("so", (media("r"),), ("velvet",)), "image", "image+text"),
        (Asked("so", (media("r"), media("v", "video"))), "image", "video"),
        (Asked("", (media("v", "video"),), ("velvet",)), "image", "video+text"),
        (Asked("so", (media("r"),), ("velvet",)), "video", "image->video"),
        (Asked("slower"), "video", "text"),
    ],
)
def test_what_somebody_asked_is_asked_as_it_was_and_once(asked: Asked, original: str, category: str) -> None:
    items = [own(1, asked, original), *map(pair, range(40)), *map(clip, range(10))]
    for plan, count in (("paper", 300), ("asked", 1)):
        questions = make_plan(replace(recipe(300, reuse=9), plan=plan), items).questions
        (question,) = [q for q in questions if q.item.key == "a1"]
        assert question.category == category
        assert (question.prompt, question.references, question.words) == (
            asked.prompt, asked.references, asked.texts,
        )  # fmt: skip
        assert question.lenders == () and len(questions) <= count
        assert all(q.prompt == "" for q in questions if q.item.key != "a1")


def test_all_that_somebody_asked_is_planned_up_to_the_rows_and_nothing_else() -> None:
    items = [*(own(n, Asked(f"no {n}"), edit_type="removal" if n % 2 else None) for n in range(30)), pair(1)]
    planned = make_plan(replace(recipe(300), plan="asked"), items)
    assert {q.prompt for q in planned.questions} == {f"no {n}" for n in range(30)}
    assert Counter(q.edit_type for q in planned.questions) == {"removal": 15, UNKNOWN: 15}
    assert len({q.id for q in planned.questions}) == 30 and not planned.missing
    assert make_plan(replace(recipe(12), plan="asked"), items).questions == planned.questions[:12]
    with pytest.raises(ConfigError, match="prompt or references of their own"):
        make_plan(replace(recipe(12), plan="asked"), [pair(1)])
