"""Dataset rows: what is written is read, two writers lose nothing, no path leads out, bad lines are named."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evlm.errors import EVLMError, RecordError
from evlm.plan.trace import parse, render
from evlm.records import ROWS_FILE, Row, RowWriter, check_row, inside, read_rows, row_problems

FRAME = (torch.arange(4 * 5 * 3) % 256).reshape(4, 5, 3) / 255
MASK = torch.eye(4, 5)


def make_row(name: str = "a", **changes: object) -> Row:
    row = Row(
        id=name,
        question=f"q-{name}",
        split="train",
        source="test",
        edit_type="recolour",
        category="image+text->image",
        original=(f"pictures/{name}.png",),
        prompt="like this",
        thinking="a star",
        intermediate="make it blue",
        reflection="yes",
        instruction="make the circle blue",
        targets=("circle",),
        scope="local",
        label=True,
        mask_text="box 0 0 1000 1000 full",
        mask=f"masks/{name}.png",
        edited=(f"pictures/{name}.png",),
        references=(
            {"kind": "image", "frames": [f"pictures/{name}.png"], "note": "this colour"},
            {"kind": "text", "text": "blue"},
        ),
        raters=(True, False, True),
        meta={"seed": 1, "nested": {"k": [1.5, None, "ü"]}},
    )
    return replace(row, **changes)


def pictures_of(row: Row) -> dict[str, torch.Tensor]:
    return {path: MASK if path == row.mask else FRAME for path in row.paths()}


@pytest.fixture
def folder(tmp_path):
    row = make_row()
    RowWriter(tmp_path / "data").append(row, pictures_of(row))
    return tmp_path / "data"


# --- round trips ---


def test_what_is_written_is_read(folder):
    assert list(read_rows(folder)) == list(read_rows(folder / ROWS_FILE)) == [make_row()]
    row = next(read_rows(folder))
    request = row.request(folder)
    assert torch.allclose(request.original[0], FRAME, atol=1e-6) and request.prompt == "like this"
    assert [reference.kind for reference in request.references] == ["image", "text"]
    assert request.references[0].note == "this colour" and request.references[1].text == "blue"
    assert torch.equal(row.true_mask(folder), MASK[None])
    assert parse(render(row.trace()), repair=False) == row.trace()
    assert row.trace().plan.mask_text == row.mask_text


def test_videos_and_missing_pieces(tmp_path):
    row = make_row(
        original=("v/0.png", "v/1.png"), fps=8.0, mask=None, mask_text=None, edited=(), references=()
    )
    RowWriter(tmp_path).append(row, {"v/0.png": FRAME, "v/1.png": FRAME[None]})
    (again,) = read_rows(tmp_path)
    assert again == row and again.true_mask(tmp_path) is None
    assert again.request(tmp_path).original.shape == (2, 4, 5, 3) and again.request(tmp_path).fps == 8.0


def test_frames_of_several_sizes_are_refused_on_loading(tmp_path):
    row = make_row(original=("0.png", "1.png"), mask=None, edited=(), references=())
    RowWriter(tmp_path).append(row, {"0.png": FRAME, "1.png": FRAME[:2]})
    with pytest.raises(RecordError, match="all of one size"):
        next(read_rows(tmp_path)).request(tmp_path)


TEXTS = st.text(max_size=30) | st.sampled_from(["\n", "\u2028", "\ud800", "\x00", '"', "\\n", "\r\n"])
FILLED = TEXTS.filter(lambda text: text.strip())


@settings(max_examples=40, deadline=None)
@given(
    prompt=TEXTS,
    prose=TEXTS,
    instruction=FILLED,
    targets=st.lists(FILLED, max_size=3),
    meta=st.dictionaries(TEXTS, TEXTS),
)
def test_any_text_survives(tmp_path_factory, prompt, prose, instruction, targets, meta):
    folder = tmp_path_factory.getbasetemp() / "any-text"
    path = folder / ROWS_FILE
    row = make_row(prompt=prompt, thinking=prose, instruction=instruction, targets=tuple(targets), meta=meta)
    RowWriter(folder).append(row, pictures_of(row))
    assert list(read_rows(folder)) == [row]
    path.unlink()


def test_prompts_of_ten_thousand_characters(tmp_path):
    row = make_row(prompt="\u0436" * 10_000)
    RowWriter(tmp_path).append(row, pictures_of(row))
    assert next(read_rows(tmp_path)).request(tmp_path).prompt == row.prompt
    with pytest.raises(RecordError, match="prompt: 20,001 characters"):
        RowWriter(tmp_path).append(make_row("b", prompt="x" * 20_001), pictures_of(make_row("b")))


# --- two writers ---


def write_many(folder: Path, name: str) -> None:
    writer = RowWriter(folder)
    for index in range(40):
        row = make_row(
            f"{name}-{index}", mask=None, edited=(), references=(), original=("pictures/shared.png",)
        )
        # Longer than what a system writes in one piece by itself.
        writer.append(replace(row, thinking="long " * 3000), {"pictures/shared.png": FRAME})


def test_two_processes_at_once_lose_nothing(tmp_path):
    # Forked where that exists: importing torch twice takes longer than the whole test.
    kind = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(kind)
    writers = [context.Process(target=write_many, args=(tmp_path, name)) for name in "AB"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0]
    names = [row.id for row in read_rows(tmp_path)]
    for name in "AB":  # each writer's rows are all there and in its order
        assert [each for each in names if each[0] == name] == [f"{name}-{index}" for index in range(40)]
    assert len(names) == 80
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pictures", "rows.jsonl", "rows.lock"]


def test_a_line_that_somebody_left_half_is_kept_apart(folder):
    path = folder / ROWS_FILE
    path.write_bytes(path.read_bytes() + b'{"id": "half')
    row = make_row("b")
    RowWriter(folder).append(row, pictures_of(row))
    problems = []
    assert [row.id for row in read_rows(folder, on_problem=problems.append)] == ["a", "b"]
    assert len(problems) == 1 and "line 2: not JSON" in str(problems[0])


def test_a_failed_write_leaves_the_rows_as_they_were(folder, monkeypatch):
    before = (folder / ROWS_FILE).read_bytes()
    row = make_row("b", mask=None, mask_text=None, original=("pictures/a.png",), edited=(), references=())

    def fail(handle):
        raise OSError("disk full")

    monkeypatch.setattr("evlm.files.append.os.fsync", fail)
    with pytest.raises(RecordError, match="disk full"):
        RowWriter(folder).append(row)
    assert (folder / ROWS_FILE).read_bytes() == before


def test_many_rows_at_once_are_all_or_none(tmp_path):
    rows = [make_row(name) for name in "abc"]
    writer = RowWriter(tmp_path)
    with pytest.raises(RecordError, match="row 'bad' is refused"):
        writer.append_all([(row, pictures_of(row)) for row in [*rows, make_row("bad", scope="everywhere")]])
    assert not (tmp_path / ROWS_FILE).exists()
    writer.append_all([(row, pictures_of(row)) for row in rows])
    assert list(read_rows(tmp_path)) == rows


def test_pictures_are_never_changed(folder):
    row = make_row("b", original=("pictures/a.png",), mask=None, edited=(), references=())
    RowWriter(folder).append(row, {"pictures/a.png": FRAME})  # the same again is fine
    before = (folder / "pictures/a.png").read_bytes()
    with pytest.raises(RecordError, match="never changed"):
        RowWriter(folder).append(replace(row, id="c"), {"pictures/a.png": 1 - FRAME})
    assert (folder / "pictures/a.png").read_bytes() == before
    assert [row.id for row in read_rows(folder)] == ["a", "b"]


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (torch.full((4, 5, 3), 2.5), "0..1"),
        (torch.full((4, 5, 3), float("nan")), "finite"),
        (torch.zeros(2, 4, 5, 3), r"shape \(2, 4, 5, 3\), expected"),
        (torch.zeros(4, 5, 4), "expected"),
        (torch.zeros(5), "expected"),
        ("a.png", "expected a tensor"),
    ],
)
def test_bad_pictures_are_refused(tmp_path, picture, reason):
    row = make_row(mask=None, edited=(), references=())
    with pytest.raises(RecordError, match=reason):
        RowWriter(tmp_path).append(row, {"pictures/a.png": picture})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


# --- paths ---

ESCAPES = [
    "../x.png",
    "a/../../x.png",
    "/etc/x.png",
    "..",
    ".",
    "",
    "a\\..\\x.png",
    "C:/x.png",
    "C:x.png",
    "//host/x.png",
]
ESCAPES += ["a/\x00.png", "a\n.png", "link/x.png", "link2.png", "~/../../x.png"]


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leads_out(folder, tmp_path, path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x.png").write_bytes(b"secret")
    (folder / "link").symlink_to(outside, target_is_directory=True)
    (folder / "link2.png").symlink_to(outside / "x.png")
    everything = sorted(tmp_path.rglob("*"))
    with pytest.raises(RecordError, match=r"relative path inside|leads out"):
        inside(folder, path)
    for changes in ({"original": (path,)}, {"mask": path}, {"edited": (path,)}):
        row = make_row("b", references=(), **changes)
        with pytest.raises(RecordError, match=r"relative path inside|leads out"):
            RowWriter(folder).append(row, pictures_of(row))
        assert row_problems(json.loads(json.dumps(asdict(row))), folder, check_files=False)
    row = make_row("b", references=({"kind": "image", "frames": [path]},))
    with pytest.raises(RecordError):
        RowWriter(folder).append(row, pictures_of(row))
    with pytest.raises(RecordError):
        row.request(folder)
    assert sorted(tmp_path.rglob("*")) == everything and (outside / "x.png").read_bytes() == b"secret"


def test_links_inside_and_linked_datasets_work(folder, tmp_path):
    (folder / "same.png").symlink_to(folder / "pictures" / "a.png")
    assert inside(folder, "same.png").is_file()
    (tmp_path / "alias").symlink_to(folder, target_is_directory=True)
    assert next(read_rows(tmp_path / "alias")).request(tmp_path / "alias").original.shape == (1, 4, 5, 3)


# --- bad rows ---

STEP = {"instruction": "make it red", "targets": ["circle"], "scope": "local"}
TOGETHER = {"instruction": "make it red ; then make it red", "mask_text": None}
BAD = [
    ({"label": 1}, "label: expected true or false, got 1"),
    ({"label": None}, "label"),
    ({"raters": [True, "no"]}, "raters"),
    ({"raters": True}, "raters"),
    ({"id": ""}, "id: it is empty"),
    ({"id": 5}, "id: expected text"),
    ({"prompt": None}, "prompt: expected text"),
    ({"instruction": "  "}, "instruction: it is empty"),
    ({"scope": "here"}, "scope: expected 'local' or 'global'"),
    ({"scope": {}}, "scope: expected"),
    ({"targets": "circle"}, "targets: expected a list"),
    ({"targets": [1]}, "targets: expected a list"),
    ({"original": []}, "original: it is empty"),
    ({"original": "a.png"}, "original: expected a list"),
    ({"original": None}, "original: expected a list"),
    ({"edited": [None]}, "edited: expected a list"),
    ({"mask": ["a.png"]}, "mask: expected text or null"),
    ({"mask_text": 5}, "mask_text: expected text or null"),
    ({"fps": 0}, "fps 0: expected"),
    ({"fps": "8"}, "fps '8': expected"),
    ({"fps": True}, "fps True: expected"),
    ({"meta": []}, "meta: expected a JSON object"),
    ({"meta": {"x": float("nan")}}, "meta: expected a JSON object with finite"),
    ({"extra": 1}, "field 'extra' is not known"),
    ({"references": {}}, "references: expected a list"),
    ({"references": ["a.png"]}, r"references\[0\]: expected an object"),
    ({"references": [{"kind": "sound"}]}, r"references\[0\]: kind 'sound'"),
    ({"references": [{"kind": ["image"]}]}, r"references\[0\]: kind"),
    ({"references": [{"kind": "image"}]}, "has frames and no 'text'"),
    ({"references": [{"kind": "image", "frames": "a.png"}]}, "frames: expected a list"),
    ({"references": [{"kind": "image", "frames": [1]}]}, "frames: expected a list"),
    ({"references": [{"kind": "image", "frames": ["x.png", "y.png"]}]}, "has 1 frame, got 2"),
    ({"references": [{"kind": "text", "text": " "}]}, "has words"),
    ({"references": [{"kind": "text", "text": 3}]}, "text: expected text"),
    ({"references": [{"kind": "text", "text": "a", "size": 3}]}, "field 'size' is not known"),
    ({"references": [{"kind": "video", "frames": ["x.png"], "fps": -1}]}, "fps -1"),
    ({"references": [], "prompt": " "}, "nothing is asked"),
    ({"original": ["missing.png"]}, "picture 'missing.png' does not exist"),
    ({"steps": {}}, "steps: expected a list"),
    ({"steps": [1]}, r"steps\[0\]: expected an object"),
    ({"steps": [{"instruction": "x", "targets": []}]}, r"steps\[0\]: field 'scope' is missing"),
    ({"steps": [{**STEP, "colour": 1}]}, r"steps\[0\]: field 'colour' is not known"),
    ({"steps": [{**STEP, "mask": 1}]}, r"steps\[0\]: mask: expected text"),
    ({"steps": [{**STEP, "targets": "circle"}]}, r"steps\[0\]: targets: expected a list"),
    ({"steps": [{**STEP, "mask": "gone.png"}, STEP], **TOGETHER}, "picture 'gone.png' does not exist"),
    ({"steps": [{**STEP, "mask": "../a.png"}, STEP], **TOGETHER}, "expected a relative path inside"),
    ({"steps": [STEP, STEP]}, "says something else"),
    ({"steps": [STEP] * 5}, "5 steps"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD)
def test_bad_rows_are_named_by_line_and_reason(folder, changes, reason):
    path = folder / ROWS_FILE
    good = json.loads(path.read_text())
    path.write_text(path.read_text() + "\n" + json.dumps({**good, "id": "b", **changes}) + "\n")
    with pytest.raises(RecordError, match=rf"rows.jsonl, line 3: .*{reason}"):
        list(read_rows(folder))
    problems = []
    assert [row.id for row in read_rows(folder, on_problem=problems.append)] == ["a"]
    assert len(problems) == 1


def test_every_problem_of_a_row_is_told_at_once(folder):
    data = json.loads((folder / ROWS_FILE).read_text()) | {"label": 1, "scope": 3, "raters": 5}
    del data["scope"]
    assert row_problems(data, folder) == ["field 'scope' is missing"]
    data |= {"scope": "local"}
    assert len(row_problems(data, folder)) == 2
    with pytest.raises(RecordError, match=r"line 7: label.*raters"):
        check_row(data, 7, folder)


@pytest.mark.parametrize(
    "line",
    [b"{", b"[]", b"3", b'"x"', b"null", b"\xff\xfe", b"{}", b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}"],
)
def test_lines_that_are_no_rows(folder, line):
    path = folder / ROWS_FILE
    path.write_bytes(line + b"\n" + path.read_bytes())
    problems = []
    assert [row.id for row in read_rows(folder, on_problem=problems.append)] == ["a"]
    assert "line 1" in str(problems[0]) and len(str(problems[0])) < 1000


def test_an_id_may_come_once(folder):
    path = folder / ROWS_FILE
    path.write_text(path.read_text() * 2)
    with pytest.raises(RecordError, match="line 2: id 'a' was seen on line 1"):
        list(read_rows(folder))


def test_a_missing_dataset(tmp_path):
    with pytest.raises(RecordError, match="no such file"):
        list(read_rows(tmp_path))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("pictures/a.png"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.just("kind"), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*asdict(make_row()), "x"]), VALUES, min_size=1, max_size=3),
    st.booleans(),
)
def test_any_json_is_a_row_or_one_error(tmp_path_factory, changes, whole):
    folder = tmp_path_factory.getbasetemp()
    data = changes if whole else json.loads(json.dumps(asdict(make_row()))) | changes
    try:
        row = check_row(data, 1, folder, check_files=False)
    except RecordError as error:
        assert str(error).startswith("line 1: ")
    else:
        assert row.trace()
        with contextlib.suppress(EVLMError):  # its pictures do not exist
            row.request(folder)
