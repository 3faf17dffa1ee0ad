"""How far labels are trusted: rows that nobody rated, sources that share names, terms that weigh by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from data_rows import draw_pictures, many, write_rows

from evlm.errors import RecordError
from evlm.plan.mask_codec import get_codec
from evlm.reason.messages import get_style
from trainer.config.recipe import Source
from trainer.learner.rows import Example, open_rows
from trainer.objectives.rkto import RKTOConfig, rkto_terms, step_weights

VOTES = [(True, True), (True, False), (True, True), (True, True), (True, False), ()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("trust"))


def named(votes: Sequence[bool], rater: str = "") -> list[dict[str, Any]]:
    return [{"rater": rater or f"r0{at}", "yes": yes} for at, yes in enumerate(votes)]


def source(folder: Path, name: str, votes: Sequence[Sequence[bool]], **more: Any) -> Source:
    rows = [
        replace(row, label=True, raters=tuple(said), meta={"votes": named(said)})
        for row, said in zip(many(len(votes)), votes, strict=True)
    ]
    return Source(path=str(write_rows(folder / f"{name}.jsonl", rows)), **{"trust": "raters", **more})


def opened(*sources: Source, **more: Any) -> list[Example]:
    rows = open_rows(sources, 12, 0, False, get_style("short"), get_codec("box-spans-8"), **more)
    return rows.batch(0)


def test_a_row_that_nobody_rated_counts_whole_among_rated_ones(folder: Path) -> None:
    examples = opened(source(folder, "some", VOTES))
    weights = {example.name: example.weight for example in examples}
    assert weights["r-5"] == 1 and 0 <= weights["r-1"] < weights["r-0"] < 1


def test_a_source_without_a_vote_is_named(folder: Path) -> None:
    with pytest.raises(RecordError, match=r"none\.jsonl: trust 'raters' needs votes"):
        opened(source(folder, "rated", VOTES), source(folder, "none", [()] * 4))


@pytest.mark.parametrize(
    "votes",
    [None, "r00", named((True,)), named((True, True)), named((True, False), "same")],
)
def test_a_row_that_does_not_say_who_voted_is_named(folder: Path, votes: Any) -> None:
    """Else the r-th vote of every row would be one rater's, whoever gave it. None is no meta.votes at all."""
    rated = [replace(row, raters=(True, False), meta={"votes": named((True, False))}) for row in many(3)]
    rated[1] = replace(rated[1], meta={} if votes is None else {"votes": votes})
    file = write_rows(folder / "unnamed.jsonl", rated)
    expected = r"unnamed\.jsonl: row 'r-1': .*who voted.*meta\.votes.*data rated.*leave out data's trust"
    with pytest.raises(RecordError, match=expected):
        opened(Source(path=str(file), trust="raters"))


def test_the_worlds_raters_are_known_by_their_place(folder: Path) -> None:
    rated = [replace(row, raters=said, label=True, source="world", meta={})
             for row, said in zip(many(6), VOTES, strict=True)]  # fmt: skip
    file = write_rows(folder / "world.jsonl", rated)
    names = {e.name: e.weight for e in opened(Source(path=str(file), trust="raters"))}
    assert names == {e.name: e.weight for e in opened(source(folder, "named", VOTES))}


def test_trust_is_of_its_own_source(folder: Path) -> None:
    """Ids are of their source alone."""
    plain = source(folder, "plain", VOTES, trust="label", split="validation")
    both = opened(source(folder, "rated", VOTES), source(folder, "plain", VOTES, trust="label"))
    assert sum(each.weight == 1 for each in both) == 7 and len(both) == 12
    # One without a row that fits is left out, and asked for nothing.
    left = opened(replace(plain, trust="raters"), source(folder, "rated", VOTES), labelled=True)
    assert sum(each.weight == 1 for each in left) == 2, "the unrated row, twice"


def test_what_is_held_out_counts_alike(folder: Path) -> None:
    none = source(folder, "held", [()] * 6, heldout=0.5)
    assert {each.weight for each in opened(none, held=True)} == {1.0}


def test_every_term_of_rkto_that_learns_from_a_label_weighs_by_its_trust() -> None:
    config = RKTOConfig(lambda_u=0.5, lambda_sft=0.3, reinforce="none")
    logps, lengths, one = torch.tensor([-4.0, -6.0]), torch.tensor([2, 3]), torch.ones(2, 1)
    away, none = torch.tensor([0.2, -0.4]), torch.zeros(())

    def terms(trust: list[float]) -> dict[str, float]:
        has_mask, given = torch.zeros(2, dtype=torch.bool), torch.tensor(trust)
        weights = step_weights(logps, logps, lengths, none, one, one, has_mask, config, trust=given)
        found = rkto_terms(logps, lengths, weights, config, undesired=away, undesired_trust=given.flip(0))
        return {name: float(value) for name, value in found.items()}

    both, first, second = terms([1, 1]), terms([1, 0]), terms([0, 0.5])
    assert set(both) == {"likelihood", "undesired", "sft"}
    for name, value in both.items():
        assert first[name] > 0 and second[name] > 0
        assert first[name] + 2 * second[name] == pytest.approx(value), name
