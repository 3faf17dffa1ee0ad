"""Forced intermediates: counted by hand with scripted models, and the bundled one, which says nothing else
when it is made to say what it said."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from evlm.errors import ConfigError
from evlm.plan.trace import Plan, Trace, render
from evlm.request import Request
from trainer.__main__ import main
from trainer.evaluation.accuracy import as_learner
from trainer.evaluation.forced import Forced, begun, force, table
from trainer.evaluation.questions import Question, world_questions
from trainer.model.sampling import Begun

SAID = {"a": "make it red", "b": "make it blue", "c": "make it green"}


def question(name: str, other: str = "") -> Question:
    request = Request(torch.zeros(1, 8, 8, 3), name)
    return Question(
        name, "recolour", "text", f"{SAID[name]}", ("it",), lambda: request, lambda: None, other=other
    )


def trace(intermediate: str, output: str) -> str:
    return render(Trace("t", intermediate, "this holds", Plan(output, ("it",), None, "global")))


def scripted(own: dict[str, tuple[str, str]], rule: str):  # type: ignore[no-untyped-def]
    """A model that says `own` by itself; begun, it copies the intermediate, or follows what it thought."""

    def answer(requests: Sequence[Request], starts: Sequence[Begun]) -> list[str]:
        texts = []
        for request, start in zip(requests, starts, strict=True):
            first, last = own[request.prompt]
            if start.kept:
                first = start.text.split("<intermediate>")[1].split("</intermediate>")[0].strip()
                assert start.text[: start.kept].startswith(trace("x", "y").split("<intermediate>")[0])
                last = first if rule == "copies" else last
            texts.append(trace(first, last))
        return texts

    return answer


OWN = {"a": (SAID["a"], SAID["a"]), "b": ("make it pink", "make it pink"), "c": ("make it pink", SAID["c"])}


def counts(kinds: list[Forced], kind: str) -> list[tuple[bool, bool, bool]]:
    return [(each.own, each.outcome.exact, each.followed) for each in kinds if each.kind == kind]


def test_a_model_that_copies_follows_whatever_stands_there() -> None:
    found = force(scripted(OWN, "copies"), [question(name) for name in "abc"])
    assert counts(found.forced, "right") == [(True, True, True), (False, True, True), (True, True, True)]
    assert counts(found.forced, "wrong") == [(True, False, True), (False, False, True), (True, False, True)]
    assert [each.said for each in found.forced if each.kind == "wrong"] == [
        SAID["b"],  # of another question of its kind
        "make it pink",  # the model's own
        "make it pink",
    ]
    text = table(found)
    assert "mended: of 3 wrong intermediates 0 end in a right output (2 of them the model's own words" in text
    assert "spoilt: of 3 right intermediates 0 end" in text
    assert "by itself: of 2 wrong intermediates 1 mended; of 1 right ones 0 spoilt" in text
    assert "| right | wrong | 1 | 1 | 1 | 0 |" in text and "| wrong | right | 2 | 0 | 2 | 0 |" in text


def test_a_model_that_follows_what_it_thought_mends_and_spoils_as_it_thought() -> None:
    found = force(scripted(OWN, "thinks"), [question(name, "make it grey") for name in "abc"])
    assert counts(found.forced, "right") == [(True, True, True), (False, False, False), (True, True, True)]
    assert counts(found.forced, "wrong") == [(True, True, False), (False, False, True), (True, True, False)]
    assert "mended: of 3 wrong intermediates 2 end" in table(found)
    assert "spoilt: of 3 right intermediates 1 end" in table(found)


def test_answers_of_fewer_parts_are_judged_by_those() -> None:
    """A model that writes no reflection."""
    parts = ("thinking", "intermediate", "output")

    def answer(requests: Sequence[Request], starts: Sequence[Begun]) -> list[str]:
        whole = scripted(OWN, "copies")(requests, starts)
        return [re.sub(r"<reflection>.*</reflection>\n*", "", text, flags=re.DOTALL) for text in whole]

    found = force(answer, [question(name) for name in "abc"], parts=parts)
    assert [each.exact for each in found.own] == [True, False, True] and not found.left_out
    assert counts(found.forced, "right") == [(True, True, True), (False, True, True), (True, True, True)]


def test_answers_without_an_intermediate_are_left_out_and_said() -> None:
    found = force(lambda requests, _: ["nonsense"] * len(requests), [question("a")])
    assert found.left_out == 1 and not found.forced
    with pytest.raises(ConfigError, match="nothing to force"):
        table(found)


def test_the_bundled_model_goes_on_as_it_went_by_itself() -> None:
    from evlm.models.zoo import resolve
    from evlm.reason.backbone import load_backbone

    answer = begun(as_learner(load_backbone(resolve("bundled", "reasoner"))))
    requests = [each.request() for each in world_questions(2, 5)]
    own = answer(requests, [Begun()] * 2)
    at = [text.index("</intermediate>") + len("</intermediate>") for text in own]
    assert answer(requests, [Begun(*each) for each in zip(own, at, strict=True)]) == own
    # What stands there stands there, and what comes after it is gone.
    other = own[0].replace("<output>", "<output> x")
    (again,) = answer(requests[:1], [Begun(other, at[0])])
    assert again == own[0]


def test_the_command_prints_and_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--forced", "--rows", "3", "--seed", "3", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "With a forced intermediate:" in printed and "spoilt: of" in printed
    assert (tmp_path / "results.md").read_text() == printed
    rows = [json.loads(line) for line in (tmp_path / "forced.jsonl").read_text().splitlines()]
    assert {row["intermediate"] for row in rows} == {"right", "wrong"}
    assert all(row["said"] in row["answer"] for row in rows)
    assert main(["eval", "--forced", "--rows", "1", "--judge", "http://127.0.0.1:9/v1", "m"]) == 2
    assert "leave out --judge" in capsys.readouterr().err
    assert main(["eval", "--forced", "--rows", "1", "--paint"]) == 2
    assert "leave out --paint" in capsys.readouterr().err
