"""`data check` and `data stats`: a thousand broken rows, each named and explained; counts that are right."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from data_rows import FRAMES, ROW, draw_pictures, many, write_rows

from evlm.errors import EVLMError
from evlm.files.safe_paths import Inside
from evlm.plan.trace import Plan
from evlm.records import step_rows
from trainer.__main__ import main
from trainer.data.check import Check, check
from trainer.data.conversation import from_row, to_row
from trainer.data.files import Problem, read
from trainer.data.formats import FORMATS, Layout
from trainer.data.stats import stats

GOOD = json.loads(json.dumps(asdict(ROW)))
OPTIONAL = ("mask", "mask_text", "edited", "references", "fps", "raters", "meta", "answer", "steps")
WRONG: dict[str, list[Any]] = {
    **{name: [None, 3, "", " \n", ["a"], {}] for name in ("id", "question", "split", "source")},
    **{name: [None, 3, True, ["a"], "\ud800"] for name in ("prompt", "thinking", "reflection")},
    "instruction": [None, 3, "", "  ", [], "a\udfffb"],
    "original": [
        None,
        "a.png",
        [],
        [3],
        [None],
        {"a": 1},
        ["/etc/passwd"],
        ["../a.png"],
        ["a\\b.png"],
        [""],
        ["."],
        ["pictures/none.png"],
        ["pictures"],
        ["C:a.png"],
        ["a\0.png"],
        ["pictures/../../a.png"],
        ["a" * 999],
    ],
    "edited": [None, "a.png", [3], [FRAMES[0], "../x.png"], ["pictures/none.png"]],
    "mask": [3, [], True, "/mask.png", "pictures/none.png", ".."],
    "mask_text": [3, [], {}, "\udc00"],
    "targets": [None, "hat", [None], [3], {"a": 1}, ["\ud83d"]],
    "scope": [None, 3, "Local", "", "everywhere", ["local"]],
    "label": [None, 0, 1, "true", [], [True]],
    "raters": [None, [1, 0], "yes", [None], {"a": True}, 3],
    "fps": ["24", 0, -1, 1e9, True, [24], float("nan"), float("inf")],
    "meta": [None, [], "x", {"a": float("nan")}, 3, {"a": ["\ud800"]}],
    "references": [
        None,
        "x",
        [3],
        [{}],
        [{"kind": "sound"}],
        [{"kind": ["image"]}],
        [{"kind": "image"}],
        [{"kind": "image", "frames": FRAMES[:2]}],
        [{"kind": "text", "text": " "}],
        [{"kind": "text", "frames": FRAMES}],
        [{"kind": "image", "frames": ["../a.png"]}],
        [{"kind": "video", "frames": "a.png"}],
        [{"kind": "image", "frames": FRAMES[:1], "size": 3}],
        [{"kind": "image", "frames": FRAMES[:1], "fps": "2"}],
        [{"kind": "text", "text": "a", "note": 3}],
        [{"kind": "text", "text": "\ud800"}],
    ],
}


def broken_row(rng: random.Random) -> tuple[bytes, str]:
    """A line that is no row, and a word that the reasons must hold."""
    data, kind = copy.deepcopy(GOOD), rng.randrange(10)
    data["id"] = f"broken-{rng.random()}"
    text = json.dumps(data).encode()
    if kind == 0:
        return text[: rng.randrange(1, len(text) - 1)], "not JSON"
    if kind == 1:
        endless = b'{"a": ' + b"9" * 5000 + b"}"
        return rng.choice([b"[" * 99_999, b"\xff\xfe", b"NaN,", endless, b"{'a': 1}"]), "not JSON"
    if kind == 2:
        return rng.choice([b"null", b"3", b'"x"', b"[]", b"[{}]", b"true"]), "expected a JSON object"
    if kind == 3:
        name = rng.choice([name for name in data if name not in OPTIONAL])
        del data[name]
        return json.dumps(data).encode(), f"'{name}' is missing"
    if kind == 4:
        name = f"new-{rng.randrange(99)}"
        return json.dumps({**data, name: 1}).encode(), f"'{name}' is not known"
    if kind == 5:
        return json.dumps({**data, "id": "r-0"}).encode(), "was seen on line 1"
    name = rng.choice(list(WRONG))
    data[name] = rng.choice(WRONG[name])
    path = name in ("original", "edited", "mask", "references")
    return json.dumps(data).encode(), "" if path else name


def test_a_thousand_broken_rows_are_each_named_and_explained(tmp_path: Path) -> None:
    rng, good = random.Random(4), [json.dumps(asdict(row)).encode() for row in many(50)]
    lines, expected = good[:1], {}
    for at in range(1000):
        text, word = broken_row(rng)
        lines.append(text)
        expected[len(lines)] = word
        lines += [good[1 + at // 40]] if at % 40 == 0 else []
    (draw_pictures(tmp_path) / "rows.jsonl").write_bytes(b"\n".join(lines))
    problems: list[Problem] = []
    accepted = [row.id for _, row in read(tmp_path, problems.append)]
    assert accepted == [f"r-{at}" for at in range(26)]
    assert [problem.line for problem in problems] == list(expected)
    for problem in problems:
        assert problem.reasons and all(len(reason) > 10 for reason in problem.reasons)
        assert expected[problem.line] in str(problem), lines[problem.line - 1][:200]
        assert (len(str(problem)) < 3000 and str(problem).isprintable()) or "\n" not in str(problem)


def mutate(rng: random.Random, value: Any) -> Any:
    """The value with something in it replaced, removed or added, at any depth."""
    junk = rng.choice(
        [None, 3, "", "x", [], {}, True, ["x"], {"type": "image"}, "<image>", -1.5, [[]], [None]]
    )
    if isinstance(value, (dict, list)) and value and rng.random() < 0.8:
        value = copy.copy(value)
        at = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if rng.random() < 0.2:
            del value[at]
        else:
            value[at] = mutate(rng, value[at])
        return value
    return value[: rng.randrange(len(value) + 1)] if isinstance(value, str) and rng.random() < 0.3 else junk


@pytest.mark.parametrize("carried", [True, False])
@pytest.mark.parametrize("form", FORMATS)
def test_broken_foreign_rows_are_rows_or_explained(tmp_path: Path, form: str, carried: bool) -> None:
    folder, rng, bad = Inside(draw_pictures(tmp_path)), random.Random(form), 0
    row = FORMATS[form].write(from_row(replace(ROW, original=tuple(FRAMES[:3]))))
    row = row if carried else {name: value for name, value in row.items() if name != "evlm"}
    for _ in range(500):
        data = json.loads(json.dumps(row))
        for _ in range(rng.randrange(1, 3)):
            data = mutate(rng, data)
        try:
            to_row(FORMATS[form].read(data, Layout()), "a", form, folder)
        except EVLMError as error:
            bad += 1
            assert len(str(error)) > 10
    assert bad > 150


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.parquet"])
def test_broken_files_end_with_a_sentence(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    for content in (b"PAR1", b"\0" * 99, b"{", b'{"a": 1}'):
        (tmp_path / name).write_bytes(content)
        assert main(["data", "check", str(tmp_path / name)]) in (1, 2)
        assert capsys.readouterr().err.strip()
    assert main(["data", "check", str(tmp_path / "nothing")]) == 2
    assert main(["data", "check", str(tmp_path)]) in (1, 2)


def test_check_lists_bad_rows_up_to_a_limit_and_counts_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw_pictures(tmp_path)
    bad = [replace(row, original=("gone.png",), mask="also-gone.png") for row in many(7)]
    write_rows(folder / "rows.jsonl", [*many(9), *(replace(row, id=f"b{row.id}") for row in bad)])
    assert main(["data", "check", str(folder), "--limit", "2"]) == 1
    out, err = capsys.readouterr()
    assert "16 rows, 9 good, 7 bad" in out and "... and 5 more" in err
    assert "line 10: picture 'gone.png' does not exist; picture 'also-gone.png' does not exist" in err
    assert main(["data", "check", str(folder), "--no-files"]) == 0


def test_a_picture_that_comes_late_is_found_and_links_are_followed(tmp_path: Path) -> None:
    folder = Inside(tmp_path)
    (tmp_path / "a").mkdir()
    assert not folder.is_file("a/b.png")
    (tmp_path / "a/b.png").touch()
    assert folder.is_file("a/b.png")
    (tmp_path / "a/out.png").symlink_to("/etc/hostname")
    (tmp_path / "a/in.png").symlink_to(tmp_path / "a/b.png")
    (tmp_path / "away").symlink_to("/etc")
    assert folder.is_file("a/in.png") and not folder.is_file("a") and not folder.is_file("none/b.png")
    for path in ("a/out.png", "away/hostname", "../x", "/etc/hostname", "a/../../x", ""):
        with pytest.raises(EVLMError):
            folder.is_file(path)


def test_stats_count_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = draw_pictures(tmp_path)
    odd = replace(ROW, id="odd", split="test", mask_text="scribble", mask=None, raters=(), label=False)
    write_rows(folder / "rows.jsonl", [*many(10), odd])
    with open(folder / "rows.jsonl", "a") as out:
        out.write("{\n")
    counted = stats(folder, lambda problem: None)
    assert (counted["rows"], counted["bad"], counted["questions"]) == (11, 1, 6)
    assert counted["desired"] == 6 / 11 and counted["split"] == {"train": 10, "test": 1}
    assert counted["masks"] == {"text": 1.0, "picture": 10 / 11, "unreadable": 1, "area": 0.25}
    assert counted["raters"]["unanimous"] == 0 and counted["raters"]["each"] == []
    assert counted["raters"]["agreement"]["percent"] == pytest.approx(1 / 3)
    assert counted["raters"]["agreement"]["cohen"] == []  # nobody says whose votes they are
    assert counted["lengths"]["thinking"] == {"mean": 9, "median": 9, "p95": 9, "max": 9}
    assert counted["pictures"]["sizes"] == {"8 x 8": 1} and counted["references"] == {"image": 11, "text": 11}
    assert main(["data", "stats", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(counted))
    assert main(["data", "stats", str(folder)]) == 0
    assert "54.5%" in capsys.readouterr().out


def test_stats_pair_votes_by_names_and_not_by_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anna and bert agree on everything; who voted first changes from row to row."""
    folder, rows = draw_pictures(tmp_path), []
    for at, row in enumerate(many(20)):
        good = at % 3 == 0
        votes = [
            {"rater": "anna", "yes": good},
            {"rater": "bert", "yes": good},
            {"rater": "carl", "yes": at < 10},
        ]
        votes = votes[at % 3 :] + votes[: at % 3]
        rows.append(replace(row, label=good, raters=tuple(v["yes"] for v in votes), meta={"votes": votes}))
    write_rows(folder / "rows.jsonl", rows)
    counted = stats(folder, pytest.fail)["raters"]
    pairs = {tuple(each["raters"]): each["kappa"] for each in counted["agreement"]["cohen"]}
    assert pairs["anna", "bert"] == 1 and abs(pairs["anna", "carl"]) < 0.3
    assert [(each["rater"], each["agrees"]) for each in counted["each"][:2]] == [("anna", 1), ("bert", 1)]
    assert main(["data", "stats", str(folder)]) == 0
    assert "anna-bert 1.00 (20)" in capsys.readouterr().out


def test_a_row_of_several_masks_says_one_all_the_same(tmp_path: Path) -> None:
    half = "box 0 0 1000 500 full"
    plan = Plan.of_steps([Plan("make it red", ("hat",), half), Plan("remove it", ("dog",), half)])
    told = {"instruction": plan.instruction, "targets": plan.targets, "scope": plan.scope, "mask_text": None}
    several = replace(ROW, steps=step_rows(plan), **told)  # type: ignore[arg-type]
    write_rows(tmp_path / "rows.jsonl", [several, replace(ROW, id="b", mask_text=None)])
    masks = stats(tmp_path, pytest.fail, pictures=0)["masks"]
    assert (masks["text"], masks["unreadable"]) == (0.5, 0) and masks["area"] == pytest.approx(0.5, abs=0.02)


def test_pictures_inside_a_file_tell_questions_apart(tmp_path: Path) -> None:
    pq, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    asked = [{"role": "user", "content": "what is it?"}, {"role": "assistant", "content": "a hat"}]
    data = [{"messages": asked, "images": [{"bytes": picture}]} for picture in (b"one", b"two", b"one")]
    pq.write_table(arrow.Table.from_pylist(data), tmp_path / "trl.parquet")
    found = check(Check(tmp_path / "trl.parquet", "trl", files=False), pytest.fail)
    assert (found.good, found.questions) == (3, 2)


def test_stats_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    assert stats(tmp_path, pytest.fail)["rows"] == 0 and main(["data", "stats", str(tmp_path)]) == 0


def test_check_opens_what_training_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Truncated, a bomb, a mask of no numbers, an edited picture that is none, longer than the context: each
    is found before a training is; `--fast` asks only whether the files exist."""
    import struct
    import zlib

    from PIL import Image

    folder = draw_pictures(tmp_path)
    whole = (folder / FRAMES[0]).read_bytes()
    Image.effect_noise((64, 64), 99).save(folder / "noise.png")
    (folder / "cut.png").write_bytes((folder / "noise.png").read_bytes()[:1500])
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    (folder / "bomb.png").write_bytes(whole[:8] + chunk + whole[33:])
    Image.new("F", (8, 8), float("nan")).save(folder / "nan.tif")
    (folder / "text.png").write_text("no picture")
    rows = [
        *many(4),
        replace(ROW, id="cut", original=("cut.png",)),
        replace(ROW, id="bomb", references=({"kind": "image", "frames": ["bomb.png"]},)),
        replace(ROW, id="nan", mask="nan.tif"),
        replace(ROW, id="edited", edited=("text.png",)),
        replace(ROW, id="long", thinking="a red hat , " * 2000),
        replace(ROW, id="both", mask="nan.tif", edited=("text.png",)),
    ]
    write_rows(folder / "rows.jsonl", rows)
    assert main(["data", "check", str(folder)]) == 1
    out, err = capsys.readouterr()
    assert "10 rows, 4 good, 6 bad" in out
    for line, words in (
        (5, "truncated"),
        (6, "bomb.png"),
        (7, "mask: "),
        (8, "edited: "),
        (10, "; edited: "),
    ):
        (told,) = [text for text in err.splitlines() if text.startswith(f"line {line}: ")]
        assert words in told, told
    assert "line 9: " in err and "tokens with its pictures, the model bundled holds 2,048" in err
    assert main(["data", "check", str(folder), "--fast"]) == 0
    assert "10 rows, 10 good, 0 bad" in capsys.readouterr().out
    assert main(["data", "check", str(folder), "--model", "/nowhere"]) == 2
