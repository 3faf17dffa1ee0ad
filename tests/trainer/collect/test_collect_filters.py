"""What is no row: empty, too long, giving the edit away, naming no target, said too often."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.collect.filters import TextFilter
from trainer.collect.recipe import Filters

GOOD = {"thinking": "a street", "intermediate": "it snows", "reflection": "that holds",
        "instruction": "cover the parked cars with snow", "targets": ["car"]}  # fmt: skip


def found(**changed: Any) -> tuple[str, str] | None:
    return TextFilter(Filters()).problem("weather", {**GOOD, **changed})


def test_a_good_answer_passes() -> None:
    assert found() is None
    assert found(targets=["parked cars", "snow"]) is None
    assert found(thinking="the resulting image is what was asked for") is None


@pytest.mark.parametrize(
    ("one", "several"),
    [("dress", "dresses"), ("glass", "glasses"), ("bus", "buses"), ("cactus", "cactuses"), ("box", "boxes"),
     ("bench", "benches"), ("house", "houses"), ("horse", "horses"), ("vase", "vases"), ("car", "cars"),
     ("cherry", "cherries"), ("leaf", "leaves"), ("knife", "knives"), ("shoe", "shoes")],
)  # fmt: skip
def test_a_target_and_its_plural_are_one_word(one: str, several: str) -> None:
    for said, target in ((one, several), (several, one)):
        assert found(instruction=f"cover the {said} with fresh snow", targets=[target]) is None
    assert found(instruction=f"cover the {several} with fresh snow", targets=["gate"]) is not None


@pytest.mark.parametrize(
    ("changed", "name", "said"),
    [
        ({"reflection": " "}, "format", "reflection is empty"),
        ({"reflection": "word " * 121}, "format", "121 words"),
        ({"instruction": "add snow"}, "format", "2 words"),
        ({"instruction": "car " * 61}, "format", "61 words"),
        ({"thinking": "In the edited image the street is white."}, "words", "edited image"),
        ({"reflection": "written as if I had not seen it"}, "words", "as if I had not seen"),
        ({"targets": ["dog"]}, "words", "'dog'"),
        ({"targets": ["car", "bus"]}, "words", "'bus'"),
    ],
)
def test_a_bad_one_is_named_with_what_was_found(changed: dict[str, Any], name: str, said: str) -> None:
    problem = found(**changed)
    assert problem is not None and problem[0] == name and said in problem[1]


def test_the_same_instruction_is_kept_so_many_times_in_an_edit_type() -> None:
    asked = TextFilter(Filters(same_instruction=2))
    spelt = [
        "Cover the parked cars with snow!",
        "cover the parked cars with snow",
        "cover the  parked cars with snow",
    ]
    problems = [asked.problem("weather", {**GOOD, "instruction": text}) for text in spelt]
    assert problems[:2] == [None, None] and problems[2] is not None and problems[2].name == "near text"
    assert asked.problem("style", GOOD) is None
