"""The measured table: lines that came later than the numbers wait until they are measured."""

from __future__ import annotations

from trainer.bundle.check import bars, table
from trainer.bundle.check_reasoner import KINDS, PANELS, Answer, of_kind, story_sets, story_shares
from trainer.bundle.check_whatif import by_rule, what_if_sets, what_if_shares
from trainer.world.traces import plan_of
from trainer.world.whatif.ask import PLANNED
from trainer.world.whatif.rules import SCENARIOS


def test_lines_that_were_not_measured_are_left_out_and_others_held_to_their_bar() -> None:
    double = next(bar for bar in bars() if bar.names == ("exact, double",))
    measured = {"reasoner": {"exact": 0.99}}
    assert not double.known(measured) and double.title not in table(measured)
    measured["reasoner"]["exact, double"] = 0.5
    assert double.known(measured) and f"| {double.title} | 0.5 (missed) |" in table(measured)


def test_each_kind_has_its_line_and_questions_of_the_test_split() -> None:
    names = {name for bar in bars() for name in bar.names}
    for kind in KINDS:
        assert f"exact, {kind}" in names
        first, again = of_kind(kind, 3, 5), of_kind(kind, 2, 5)
        assert first[:2] == again and {question.edit.split for question in first} == {"test"}


def test_what_ifs_are_counted_by_rule_scenario_wording_and_null() -> None:
    sets = what_if_sets(6, 3)
    assert list(sets) == [by_rule(rule) for rule in PLANNED]
    wrong = by_rule("fade")
    answers = {
        name: [Answer(question, None if name == wrong else plan_of(question.edit)) for question in asked]
        for name, asked in sets.items()
    }
    shares = what_if_shares(answers)
    assert shares[f"exact, {wrong}"] == 0 and shares[f"exact, {by_rule('fall')}"] == 1
    assert shares["exact, what if"] == 12 / 13 and shares["exact, what if, story"] == 1
    assert shares["exact, what if, temporal"] == 0.5  # of clock and fade
    assert 0 < shares["exact, what if, unseen wording"] <= 1 and 0 < shares["what if, chance"] < 0.6
    names = {name for bar in bars() for name in bar.names}
    assert {f"exact, {name}" for name in sets} <= names


def test_stories_are_asked_without_their_panels_and_with_anothers() -> None:
    causes = what_if_sets(3, 3)
    sets = story_sets(causes, 3)
    stories = [question for rule in SCENARIOS["story"] for question in causes[by_rule(rule)]]
    withheld, shuffled = (sets[name] for name in PANELS)
    assert len(withheld) == len(shuffled) == len(stories) == 12
    assert not any(question.refs for question in withheld)
    for asked, other in zip(stories, shuffled, strict=True):
        assert other.prompt == asked.prompt and other.refs != asked.refs and len(other.refs) == 2
    knowing = {name: [Answer(each, plan_of(each.edit)) for each in some] for name, some in sets.items()}
    shares = story_shares(knowing)
    assert shares[PANELS[0]] == 1 and shares[f"{PANELS[0]} above chance"] > 2
    nothing = {name: [Answer(each, None) for each in some] for name, some in sets.items()}
    assert all(value <= 0 for value in story_shares(nothing).values())
