"""Datasets in other trainers' formats: the same rows come back, the prompt is ours, nothing gets out."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from data_rows import FRAMES, ROW, STILLS, draw_pictures, many, rows, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evlm.errors import RecordError
from evlm.plan.trace import parse, render
from evlm.reason.messages import FULL, SHORT, build_messages
from trainer.__main__ import main
from trainer.data.conversation import from_row
from trainer.data.convert import Conversion, convert
from trainer.data.files import Problem, read
from trainer.data.formats import FORMATS
from trainer.world.cli import write_rows as write_world
from trainer.world.rows import Recipe

NUMBER = count()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("data"))


def there_and_back(folder: Path, form: str, suffix: str, given_rows: list) -> list:
    name = f"{next(NUMBER)}"
    source = write_rows(folder / f"{name}-in.jsonl", given_rows)
    foreign, back = folder / f"{name}-{form}{suffix}", folder / f"{name}-back{suffix}"
    problems: list[Problem] = []
    assert convert(Conversion("evlm", form, source, foreign), problems.append)["rows"] == len(given_rows)
    assert convert(Conversion(form, "evlm", foreign, back), problems.append)["rows"] == len(given_rows)
    rows = [row for _, row in read(back, problems.append)]
    assert not problems
    return rows


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(drawn=st.lists(rows(), min_size=1, max_size=3))
def test_rows_come_back_equal(folder: Path, form: str, suffix: str, drawn: list) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    given_rows = [replace(row, id=f"id-{at}") for at, row in enumerate(drawn)]
    assert there_and_back(folder, form, suffix, given_rows) == given_rows


@pytest.mark.parametrize("style", [FULL, SHORT])
def test_the_prompt_and_its_pictures_are_those_of_the_reasoner(tmp_path: Path, style) -> None:
    write_world(tmp_path, Recipe(), 16)
    for _, row in read(tmp_path, pytest.fail):
        conversation, chat = from_row(row, style), build_messages(row.request(tmp_path), style=style)
        opened = conversation.chat(tmp_path)
        assert (
            conversation.messages == chat.messages and parse(conversation.answer, repair=False) == row.trace()
        )
        assert len(opened.images) == len(chat.images) and len(opened.videos) == len(chat.videos)
        assert all(map(torch.equal, opened.images, chat.images))
        assert all(torch.equal(a.frames, b.frames) for a, b in zip(opened.videos, chat.videos, strict=True))


def converted(folder: Path, form: str, row) -> dict:
    source = write_rows(folder / f"{next(NUMBER)}-in.jsonl", [row])
    out = folder / f"{next(NUMBER)}-{form}.jsonl"
    convert(Conversion("evlm", form, source, out), pytest.fail)
    return json.loads(out.read_text())


def test_trl_shows_the_frames_of_a_video_as_pictures(folder: Path) -> None:
    row = converted(folder, "trl", replace(ROW, original=tuple(FRAMES)))
    kinds = [item["type"] for message in row["prompt"] for item in message["content"]]
    assert kinds.count("image") == len(row["images"]) == 8 + 1  # eight frames of ten, one reference
    assert row["completion"] == [
        {"role": "assistant", "content": [{"type": "text", "text": render(ROW.trace())}]}
    ]
    assert row["label"] is True and row["images"][-1] == STILLS[0]


@pytest.mark.parametrize(("form", "content"), [("llamafactory", "value"), ("swift", "content")])
def test_stand_ins_and_pictures_agree_in_number(folder: Path, form: str, content: str) -> None:
    row = converted(
        folder,
        form,
        replace(ROW, prompt="no <image> but <video>", thinking="<image>", original=tuple(FRAMES)),
    )
    turns = row["conversations" if form == "llamafactory" else "messages"]
    text = "".join(turn[content] for turn in turns)
    assert text.count("<image>") == len(row["images"]) == 1
    assert text.count("<video>") == len(row["videos"]) == 1 and len(row["videos"][0]) == 8


def test_a_broken_description_is_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(RecordError, match=r"dataset_info\.json: not JSON"):
        FORMATS["llamafactory"].layout(tmp_path / "rows.jsonl")


def test_llamafactory_is_told_where_the_columns_are(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"other": {"file_name": "x.json"}}')
    source = write_rows(folder / "info.jsonl", [ROW])
    convert(Conversion("evlm", "llamafactory", source, tmp_path, copy=True), pytest.fail)
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["other"] and info["llamafactory"]["file_name"] == "llamafactory.jsonl"
    assert set(info["llamafactory"]["columns"].values()) <= set(
        json.loads((tmp_path / "llamafactory.jsonl").read_text())
    )


def test_what_was_changed_in_a_foreign_file_counts(folder: Path) -> None:
    row = converted(folder, "swift", ROW)
    row["label"] = False
    row["messages"][-1]["content"] = row["messages"][-1]["content"].replace("blue", "green")
    (folder / "changed.jsonl").write_text(json.dumps(row) + "\n")
    convert(Conversion("swift", "evlm", folder / "changed.jsonl", folder / "changed-back.jsonl"), pytest.fail)
    [(_, back)] = read(folder / "changed-back.jsonl", pytest.fail)
    assert back == replace(
        ROW, label=False, intermediate="make it green", instruction="make the red hat green"
    )


ANSWER = render(ROW.trace())
OUTSIDE = {
    "trl": {"prompt": "make it so", "completion": ANSWER, "images": [FRAMES[0], STILLS[1]], "label": False,
            "hint": 3},
    "llamafactory": {
        "said": [{"role": "system", "content": "You edit."},
                 {"role": "user", "content": "<image>make <image>it so"},
                 {"role": "assistant", "content": ANSWER}],
        "pics": [FRAMES[0], STILLS[1]], "kto_tag": False, "hint": 3,
    },
    "swift": {
        "messages": [{"role": "user", "content": "<image><image>make it so"},
                     {"role": "assistant", "content": ANSWER}],
        "images": [FRAMES[0], {"bytes": None, "path": STILLS[1]}], "label": False, "hint": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMATS)
def test_rows_from_outside_get_defaults(tmp_path: Path, form: str) -> None:
    draw_pictures(tmp_path)
    (tmp_path / f"{form}.jsonl").write_text(json.dumps(OUTSIDE[form]) + "\n")
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"file_name": "llamafactory.jsonl", "formatting": "sharegpt", "tags": tags,
             "columns": {"messages": "said", "images": "pics", "kto_tag": "kto_tag"}}  # fmt: skip
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": entry}))
    assert main(["data", "convert", "--from", form, "--to", "evlm", str(tmp_path), str(tmp_path)]) == 0
    [(_, row)] = read(tmp_path, pytest.fail)
    assert row.original == (FRAMES[0],) and row.references == ({"kind": "image", "frames": [STILLS[1]]},)
    assert row.prompt == "make it so" and row.trace() == ROW.trace() and row.label is False
    assert (row.id, row.split, row.source) == (f"{form}-000001", "train", form)
    assert row.meta["columns"] == {"hint": 3} and row.meta.get("system") == (
        "You edit." if form == "llamafactory" else None
    )


def test_pictures_inside_a_file_come_out(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    picture = (draw_pictures(tmp_path / "there") / FRAMES[3]).read_bytes()
    row = {
        "prompt": "make it so",
        "completion": ANSWER,
        "images": [{"bytes": picture, "path": None}],
        "label": True,
    }
    parquet.write_table(arrow.Table.from_pylist([row]), tmp_path / "trl.parquet")
    command = ["data", "convert", "--from", "trl", "--to", "evlm", str(tmp_path), str(tmp_path / "out")]
    assert main(command) == 2  # the pictures' folder is not the target's
    assert main([*command, "--copy"]) == 0
    [(_, back)] = read(tmp_path / "out", pytest.fail)
    assert (tmp_path / "out" / back.original[0]).read_bytes() == picture


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"images": [FRAMES[0]]}, "2 places for images in the text, 1 given"),
        ({"images": [FRAMES[0], "../secret.png"]}, "inside the dataset"),
        ({"images": [FRAMES[0], "/etc/passwd"]}, "lies outside of"),
        ({"images": [FRAMES[0], "https://example.org/a.png"]}, "download it first"),
        ({"images": [FRAMES[0], "pictures/none.png"]}, "'pictures/none.png' does not exist"),
        ({"label": 1}, "label: expected true or false, got 1"),
        ({"messages": []}, "messages: expected a list"),
        ({"messages": OUTSIDE["swift"]["messages"][:1]}, "there is no answer"),
        (
            {"messages": [*OUTSIDE["swift"]["messages"][:1], {"role": "assistant", "content": ""}]},
            "is no trace",
        ),
        ({"evlm": "{"}, "not JSON"),
        ({"evlm": '{"id": "a"}'}, "field 'prompt' is missing"),
    ],
)
def test_what_cannot_be_read_is_listed(folder: Path, change: dict, reason: str) -> None:
    file, out = folder / f"{next(NUMBER)}.jsonl", folder / f"{next(NUMBER)}-out.jsonl"
    good = json.dumps(OUTSIDE["swift"])
    file.write_text(f"{good}\n{json.dumps({**OUTSIDE['swift'], **change})}\n{good}\n")
    problems: list[Problem] = []
    counted = convert(Conversion("swift", "evlm", file, out), problems.append)
    assert counted == {"rows": 2, "bad": 1} and [problem.line for problem in problems] == [2]
    assert reason in str(problems[0])


def test_copies_stay_in_the_target_and_change_nothing(folder: Path, tmp_path: Path) -> None:
    source = write_rows(folder / "copied.jsonl", many(4))
    target, outside = tmp_path / "target", tmp_path / "elsewhere"
    convert(Conversion("evlm", "trl", source, target, copy=True), pytest.fail)
    assert sorted(p.relative_to(target).as_posix() for p in target.rglob("*.png")) == sorted(
        [FRAMES[0], FRAMES[1], STILLS[0], "pictures/mask.png"]
    )
    assert (target / STILLS[0]).read_bytes() == (folder / STILLS[0]).read_bytes()
    with pytest.raises(RecordError, match="give --copy"):
        convert(Conversion("evlm", "trl", source, outside), pytest.fail)
    assert not outside.exists()
    outside.mkdir()
    os.symlink(tmp_path, outside / "pictures")
    problems: list[Problem] = []
    assert convert(Conversion("evlm", "evlm", source, outside, copy=True), problems.append)["bad"] == 4
    assert "leads out of the dataset folder" in str(problems[0])
    changed = tmp_path / "changed"
    (changed / FRAMES[0]).parent.mkdir(parents=True)
    (changed / FRAMES[0]).write_bytes(b"mine")
    convert(Conversion("evlm", "evlm", source, changed, copy=True), problems.append)
    assert (
        "exists with another content" in str(problems[-1]) and (changed / FRAMES[0]).read_bytes() == b"mine"
    )


def test_rows_from_a_folder_inside_the_target_are_named_from_there(tmp_path: Path) -> None:
    write_rows(draw_pictures(tmp_path / "inner") / "rows.jsonl", [ROW])
    convert(Conversion("evlm", "evlm", tmp_path / "inner", tmp_path), pytest.fail)
    [(_, row)] = read(tmp_path, pytest.fail)
    assert row.original == (f"inner/{FRAMES[0]}",) and row.references[0]["frames"] == [f"inner/{STILLS[0]}"]


def test_nothing_is_overwritten_and_no_half_file_stays(folder: Path, tmp_path: Path, monkeypatch) -> None:
    source = write_rows(folder / "whole.jsonl", many(3))
    with pytest.raises(RecordError, match="exists; name another file"):
        convert(Conversion("evlm", "swift", source, source), pytest.fail)
    out = folder / "half.jsonl"

    def stop(problem: Problem) -> None:
        raise KeyboardInterrupt

    source.write_text(source.read_text() + "{\n")
    with pytest.raises(KeyboardInterrupt):
        convert(Conversion("evlm", "swift", source, out), stop)
    assert not out.exists() and not list(folder.glob(".*.tmp"))


def test_pictures_that_no_stand_in_shows_come_first(tmp_path: Path) -> None:
    """As ms-swift puts them (A22)."""
    messages = [{"role": "user", "content": "make it so"}, {"role": "assistant", "content": ANSWER}]
    row = {"messages": messages, "images": [FRAMES[0], STILLS[1]]}
    draw_pictures(tmp_path)
    (tmp_path / "swift.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["data", "convert", "--from", "swift", "--to", "evlm", str(tmp_path), str(tmp_path)]) == 0
    [(_, back)] = read(tmp_path, pytest.fail)
    assert back.original == (FRAMES[0],) and back.references == ({"kind": "image", "frames": [STILLS[1]]},)
    assert back.prompt == "make it so" and back.trace() == ROW.trace()
