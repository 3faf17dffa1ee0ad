"""The order of training: a function of seed and step, every row once an epoch, shares that hold."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from data_rows import FRAMES, ROW, STILLS, draw_pictures, many, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evlm.errors import RecordError
from evlm.plan.trace import render
from evlm.reason.messages import SHORT, build_messages
from trainer.data.conversation import Conversation
from trainer.data.convert import Conversion, convert
from trainer.data.stream import Sample, Source, Stream, permuted

SHARED = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("stream"))


@pytest.fixture(scope="module")
def sources(folder: Path) -> list[Source]:
    """Three datasets of 7, 30 and 5 rows."""
    return [
        Source(
            write_rows(folder / f"{n}.jsonl", [replace(row, id=f"{n}-{row.id}") for row in many(n)]), weight
        )
        for n, weight in ((7, 1.0), (30, 3.0), (5, 0.7))
    ]


def ids(samples: list[Sample]) -> list[str]:
    return [sample.item.id for sample in samples]  # type: ignore[union-attr]


@given(count=st.integers(1, 3000), key=st.text(max_size=5))
def test_a_permutation_holds_each_number_once(count: int, key: str) -> None:
    order = [permuted(at, count, key) for at in range(count)]
    assert sorted(order) == list(range(count))


def test_permutations_of_other_keys_have_nothing_in_common() -> None:
    orders = [[permuted(at, 1000, f"0 0 {epoch}") for at in range(1000)] for epoch in range(20)]
    fixed = [sum(a == b for a, b in zip(orders[0], other, strict=True)) for other in orders[1:]]
    assert max(fixed) <= 6  # one is expected by chance
    steps = [abs(a - b) for a, b in zip(orders[0], orders[0][1:], strict=False)]
    assert 300 < sum(steps) / len(steps) < 367  # a third of the length where neighbours are independent
    first = Counter(permuted(0, 10, str(key)) for key in range(5000))
    assert all(400 < first[value] < 600 for value in range(10))


@SHARED
@given(seed=st.integers(0, 2**40), batch=st.integers(1, 9), step=st.integers(0, 10**7))
def test_the_same_seed_and_step_give_the_same_rows(sources, seed: int, batch: int, step: int) -> None:
    first, second = Stream(sources, batch, seed), Stream(sources, batch, seed)
    assert ids(first.batch(step)) == ids(second.batch(step)) and len(first.batch(step)) == batch
    assert first.fingerprint == second.fingerprint


@SHARED
@given(batch=st.integers(1, 9), stop=st.integers(0, 30), ranks=st.integers(1, 4))
def test_resumed_is_uninterrupted_and_ranks_are_one_batch(sources, batch: int, stop: int, ranks: int) -> None:
    whole, resumed = Stream(sources, batch).batches(), Stream(sources, batch).batches(stop)
    for _ in range(stop):
        next(whole)
    for step in range(stop, stop + 3):
        expected = ids(next(whole))
        assert ids(next(resumed)) == expected
        pieces = [ids(Stream(sources, batch).batch(step, rank, ranks)) for rank in range(ranks)]
        assert [row for piece in pieces for row in piece] == expected
        assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


@SHARED
@given(seed=st.integers(0, 2**40))
def test_every_row_once_an_epoch_in_an_order_of_its_own(sources, seed: int) -> None:
    stream = Stream(sources[1:2], 30, seed)
    epochs = [ids(stream.batch(step)) for step in range(4)]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == 30 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 4
    mixed: dict[tuple[int, int], list[str]] = {}
    stream = Stream(sources, 1, seed)
    for sample in map(stream.draw, range(60)):
        mixed.setdefault((sample.source, sample.epoch), []).append(*ids([sample]))
    counts = stream.counts
    assert counts == [7, 30, 5] and all(
        len(rows) == len(set(rows)) <= counts[s] for (s, _), rows in mixed.items()
    )
    assert {len(rows) for (source, epoch), rows in mixed.items() if source == 0 and epoch == 0} == {7}


@SHARED
@given(weights=st.lists(st.floats(0.05, 20), min_size=3, max_size=3), start=st.integers(0, 10**6))
def test_shares_hold_from_any_start_to_within_two(sources, weights: list[float], start: int) -> None:
    stream = Stream([replace(s, weight=w) for s, w in zip(sources, weights, strict=True)], 8)
    places = [stream.place(number) for number in range(start, start + 1000)]
    for source, weight in enumerate(weights):
        positions = [position for which, position in places if which == source]
        assert abs(len(positions) - 1000 * weight / sum(weights)) <= 2
        assert positions == list(range(positions[0], positions[0] + len(positions))) if positions else True


@SHARED
@given(
    weights=st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
    batch=st.integers(1, 60),
    seed=st.integers(0, 2**40),
)
def test_first_rows_come_once_each_however_the_sources_weigh(sources, weights, batch: int, seed: int) -> None:
    weighted = [replace(s, weight=w) for s, w in zip(sources, weights, strict=True)]
    stream = Stream(weighted, batch, seed)
    first, usual = ids(stream.first()), ids(stream.batch(0))
    assert len(first) == len(set(first)) == min(batch, 7 + 30 + 5)
    assert first[: len(set(usual))] == list(dict.fromkeys(usual))  # the order of training where it can be


def test_a_fifth_of_each_batch_is_other_instruction_data(folder: Path) -> None:
    turns = [
        {"role": "user", "content": "<image>What is it? <video>"},
        {"role": "assistant", "content": "A lamp."},
    ]
    row = {"messages": turns, "images": [STILLS[0]], "videos": [FRAMES[:3]]}
    (folder / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(4)))
    stream = Stream(
        [
            Source(write_rows(folder / "own.jsonl", many(9)), 0.8),
            Source(folder / "other.jsonl", 0.2, form="swift"),
        ],
        10,
    )
    for step in range(20):
        samples = stream.batch(step)
        assert Counter(sample.source for sample in samples) == {0: 8, 1: 2}
    [ours, *_], [other, *_] = ([s for s in samples if s.source == source] for source in (0, 1))
    assert isinstance(other.item, Conversation) and other.answer == "A lamp." and other.label
    chat = other.chat()
    assert [item["type"] for item in chat.messages[0]["content"]] == ["image", "text", "video"]
    assert chat.images[0].dtype == torch.uint8 and chat.videos[0].frames.shape == (3, 3, 8, 8)
    assert ours.answer == render(ROW.trace())
    assert ours.chat(SHORT).messages == build_messages(ROW.request(folder), style=SHORT).messages


def test_filters_take_what_fits_and_say_when_nothing_does(folder: Path) -> None:
    rows = [replace(row, split="train" if at % 2 else "test") for at, row in enumerate(many(20))]
    file = write_rows(folder / "split.jsonl", rows)
    stream = Stream([Source(file, splits=("train",), desired=True)], 6)
    assert sorted(ids(stream.batch(0))) == sorted(r.id for r in rows if r.split == "train" and r.label)
    with pytest.raises(RecordError, match=r"no row fits \(splits validation, desired only\)"):
        Stream([Source(file, splits=("validation",), desired=True)], 6)


def test_bad_rows_are_named_never_skipped(folder: Path, tmp_path: Path) -> None:
    file = write_rows(folder / "bad.jsonl", [*many(3), replace(ROW, id="gone", original=("gone.png",))])
    with pytest.raises(RecordError, match=r"line 4: picture 'gone\.png' does not exist"):
        Stream([Source(file)], 2)
    assert Stream([Source(file)], 2, check_files=False).counts == [4]
    write_rows(file, [*many(3), *many(1)])
    with pytest.raises(RecordError, match="line 4: id 'r-0' comes twice"):
        Stream([Source(file)], 2)
    none, light, odd, away = [], [Source(file, 0)], [Source(file, form="x")], [Source(tmp_path)]
    for sources, reason in (
        (none, "0 sources"),
        (light, "weight"),
        (odd, "form 'x'"),
        (away, "no such file"),
    ):
        with pytest.raises(RecordError, match=reason):
            Stream(sources, 2)


def test_a_file_that_changes_is_noticed_one_that_grows_is_not_disturbed(folder: Path) -> None:
    file = write_rows(folder / "grows.jsonl", many(6))
    stream = Stream([Source(file)], 6)
    before, expected = stream.fingerprint, ids(stream.batch(0))
    file.write_text(file.read_text() + "half a li")
    assert ids(stream.batch(0)) == expected
    write_rows(file, many(7))
    assert Stream([Source(file)], 6).fingerprint != before
    write_rows(file, many(6, prompt="and now?"))
    with pytest.raises(RecordError, match="was changed since"):
        stream.batch(0)


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_rows_of_other_files_come_in_the_same_order(tmp_path: Path, suffix: str) -> None:
    draw_pictures(tmp_path)
    plain, file = write_rows(tmp_path / "plain.jsonl", many(23)), tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        count = convert(Conversion("evlm", "evlm", plain, file), print)
        assert (count["rows"], count["bad"]) == (23, 0)
    else:
        file.write_text(json.dumps([json.loads(line) for line in plain.read_text().splitlines()]))
    # A folder's rows.parquet is found in the folder.
    ours = Stream([Source(tmp_path if suffix == ".parquet" else file)], 4, seed=3)
    theirs = Stream([Source(plain)], 4, seed=3)
    assert ours.counts == theirs.counts == [23]
    for step in (0, 9, 3):
        assert [s.item for s in ours.batch(step)] == [s.item for s in theirs.batch(step)]
    assert ours.batch(0)[0].chat(SHORT).images


def test_a_bad_row_of_another_file_is_named_by_its_number(folder: Path) -> None:
    rows = [json.loads(json.dumps(asdict(row))) for row in many(3)]
    rows[1]["label"] = "perhaps"
    file = folder / "bad.json"
    file.write_text(json.dumps(rows))
    with pytest.raises(RecordError, match=r"bad\.json, line 2: .*label"):
        Stream([Source(file)], 2)
    pyarrow.parquet.write_table(
        pyarrow.table({"images": [[{"bytes": b"x", "path": None}]], "label": [True]}), folder / "in.parquet"
    )
    with pytest.raises(RecordError, match=r"in\.parquet, line 1: prompt"):
        Stream([Source(folder / "in.parquet", form="trl")], 1)
