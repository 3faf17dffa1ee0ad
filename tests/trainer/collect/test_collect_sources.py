"""Sources as people have them on their disk: folders, tables, clips; three rows each."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evlm.errors import ConfigError, RecordError
from trainer.__main__ import main
from trainer.collect.recipe import Columns, Recipe, Source, load_recipe
from trainer.collect.sources.item import Asked, Item
from trainer.collect.sources.kinds import items
from trainer.collect.sources.rows import Place


def paint(path: Path, colour: tuple[int, int, int] = (9, 9, 9)) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path)
    return path.read_bytes()


def read(kind: Any, path: Path, columns: Columns | None = None, rows: int = 0) -> list[Item]:
    return list(items(0, Source(kind, str(path), "CC0-1.0", rows, "", columns)))


def refused(kind: Any, path: Path, columns: Columns | None = None) -> str:
    with pytest.raises(RecordError) as error:
        read(kind, path, columns)
    return str(error.value)


def test_a_folder_of_pictures_with_and_without_their_others(tmp_path: Path) -> None:
    for name in (
        "originals/a.png",
        "originals/b.jpg",
        "originals/c.mp4",
        "edited/a.png",
        "references/b.webp",
    ):
        paint(tmp_path / name) if not name.endswith("mp4") else (tmp_path / name).write_bytes(b"x")
    a, b, c = read("folder", tmp_path)
    assert (a.key, b.key, c.key) == ("a", "b", "c")
    assert a.edited and a.edited.load() == tmp_path / "edited/a.png" and a.reference is None
    assert b.reference and b.reference.kind == "image" and b.edited is None
    assert c.original.kind == "video" and a.license == "CC0-1.0" and a.source == "folder"
    assert len({a.group, b.group, c.group}) == 3
    assert [item.key for item in read("folder", tmp_path, rows=2)] == ["a", "b"]


def test_pairs_of_a_folder(tmp_path: Path) -> None:
    paint(tmp_path / "o/1.png")
    paint(tmp_path / "e/1.png")
    lines = [
        {"original": "o/1.png", "edited": "e/1.png", "instruction": "make it red", "edit_type": "texture"},
        {"original": "o/1.png"},
        {"original": "o/1.png", "reference": "e/1.png", "region": "only the hat", "group": "g"},
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    one, two, three = read("folder", tmp_path)
    assert one.group == two.group != three.group
    assert (one.instruction, one.edit_type, three.region) == ("make it red", "texture", "only the hat")


def test_what_somebody_asked_stands_in_a_folders_pairs_or_a_tables_columns(tmp_path: Path) -> None:
    for name in ("o/1.png", "r/1.png", "r/2.png"):
        paint(tmp_path / name)
    lines = [
        {"original": "o/1.png", "prompt": " like these ", "references": ["r/1.png", "r/2.png"]},
        {"original": "o/1.png", "prompt": "so", "reference": "r/1.png", "texts": ["velvet"]},
        {"original": "o/1.png", "reference": "r/1.png"},  # nobody asked anything: a question is planned
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    several, one, none = read("folder", tmp_path)
    assert several.asked and several.asked.prompt == "like these" and several.reference is None
    assert [each.load() for each in several.asked.references] == [tmp_path / "r/1.png", tmp_path / "r/2.png"]
    assert len({each.id for each in several.asked.references}) == 2
    assert one.asked and one.asked.references == (one.reference,) and one.asked.texts == ("velvet",)
    assert none.asked is None and none.reference is not None
    (tmp_path / "table.jsonl").write_text(
        json.dumps({"img": "o/1.png", "ref": "r/1.png", "said": "like this"}) + "\n"
        + json.dumps({"img": "o/1.png", "ref": None, "said": ""}) + "\n"
    )  # fmt: skip
    columns = Columns("img", reference="ref", prompt="said")
    first, second = read("columns", tmp_path / "table.jsonl", columns=columns)
    assert first.asked == Asked("like this", (first.reference,)) and second.asked is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"original": "o/1.png", "references": "o/1.png"}', "references 'o/1.png': expected a list"),
        ('{"original": "o/1.png", "texts": [""]}', "texts"),
        ('{"original": "o/1.png", "references": ["../x.png"]}', "inside the dataset"),
        ('{"original": "o/1.png", "reference": "o/1.png", "references": ["o/1.png"]}', "give one"),
        ('{"original": "../x.png"}', "inside the dataset"),
        ('{"original": "o/1.png", "edit": "e"}', "'edit' is not known"),
        ('{"original": "o/2.png"}', "does not exist"),
        ('{"original": "o/1.png", "edit_type": "colour"}', "edit type 'colour'"),
        ('{"original": ', "line 1"),
        ('{"original": "o/1.png", "instruction": 3}', "instruction 3"),
        ("[]", "expected an object"),
    ],
)
def test_a_bad_pair_is_named_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    paint(tmp_path / "o/1.png")
    (tmp_path / "pairs.jsonl").write_text(line + "\n")
    assert said in refused("folder", tmp_path)


def test_a_folder_that_cannot_be_meant_so(tmp_path: Path) -> None:
    assert "does not exist" in refused("folder", tmp_path / "nowhere")
    assert "neither pairs.jsonl" in refused("folder", tmp_path)
    paint(tmp_path / "originals/a.png")
    paint(tmp_path / "edited/b.png")
    assert "no original called 'b'" in refused("folder", tmp_path)
    paint(tmp_path / "originals/a.jpg")
    assert "have one name" in refused("folder", tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_to_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    paint(tmp_path / "originals/a.png")
    (tmp_path / "secret").write_text("x")
    (tmp_path / "originals/b.png").symlink_to(tmp_path / "secret")
    assert "link" in refused("folder", tmp_path)


def test_clips_are_files_or_folders_of_frames(tmp_path: Path) -> None:
    paint(tmp_path / "walk/0.png")
    (tmp_path / "run.mp4").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    found = read("frames", tmp_path)
    assert [item.key for item in found] == ["run.mp4", "walk"]
    assert {item.original.kind for item in found} == {"video"}
    assert "has no clip" in refused("frames", tmp_path / "empty")


WITH_PICTURES = Columns("img", "out", instruction="text", edit_type="kind", group="coco")
ROWS = [{"text": f"turn it {n}", "kind": "style", "coco": n // 2} for n in range(3)]


def table(tmp_path: Path, form: str) -> list[bytes]:
    """Three rows with the columns img, out, text, kind, coco; returns the bytes of img."""
    pictures = [paint(tmp_path / "pictures" / f"{n}.png", (n, n, n)) for n in range(3)]
    if form == "jsonl":
        lines = [
            {**row, "img": f"pictures/{n}.png", "out": f"pictures/{n}.png"} for n, row in enumerate(ROWS)
        ]
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return pictures
    import pyarrow
    from pyarrow import parquet

    cells = [{"bytes": data, "path": None} for data in pictures]
    rows = [{**row, "img": cell, "out": cell["bytes"]} for row, cell in zip(ROWS, cells, strict=True)]
    made = pyarrow.Table.from_pylist(rows)
    if form == "parquet":
        parquet.write_table(made, tmp_path / "t.parquet", row_group_size=2)
    else:
        (tmp_path / "dataset_info.json").write_text("{}")
        with pyarrow.ipc.new_stream(tmp_path / "data-00000-of-00001.arrow", made.schema) as out:
            out.write_table(made)
    return pictures


@pytest.mark.parametrize("form", ["jsonl", "parquet", "arrow"])
def test_a_table_by_the_names_of_its_columns(tmp_path: Path, form: str) -> None:
    if form != "jsonl":
        pytest.importorskip("pyarrow")
    pictures = table(tmp_path, form)
    path = tmp_path if form == "arrow" else tmp_path / f"t.{form}"
    found = read("columns", path, WITH_PICTURES)
    for item, data in zip(found, pictures, strict=True):
        held = [each.load() for each in (item.original, item.edited) if each]
        assert [each.read_bytes() if isinstance(each, Path) else each for each in held] == [data, data]
    assert [item.instruction for item in found] == ["turn it 0", "turn it 1", "turn it 2"]
    assert found[0].group == found[1].group != found[2].group


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_a_folder_of_several_splits_is_read_whole(tmp_path: Path, form: str) -> None:
    pytest.importorskip("pyarrow")
    for split in ("train", "test"):
        table(tmp_path / split, form)
        if form == "arrow":
            (tmp_path / split / "state.json").write_text("{}")
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = read("columns", tmp_path, Columns("img"))
    assert len({item.key for item in found}) == len({item.group for item in found}) == 6
    assert len({item.original.id for item in found}) == 6
    if form == "parquet":  # a public set in the same layout: its rows have no names of their own
        place = Place(0, Source("ip2p", str(tmp_path), "x"), tmp_path / "train/t.parquet", 1)
        assert place.key == "train/t-1"


@pytest.mark.parametrize("form", ["arrow", "parquet"])
def test_without_pyarrow_its_tables_are_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    (tmp_path / f"t.{form}").write_bytes(b"x")
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert f"t.{form}: {form} needs the package pyarrow: pip install" in refused(
        "columns", tmp_path / f"t.{form}", Columns("img")
    )


def test_a_table_with_other_column_names_says_which_it_has(tmp_path: Path) -> None:
    table(tmp_path, "jsonl")
    said = refused("columns", tmp_path / "t.jsonl", Columns("image"))
    assert "no column 'image'" in said and "coco, img, kind, out, text" in said
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    assert "bad.parquet" in refused("columns", tmp_path / "bad.parquet", Columns("img"))


def recipe_file(tmp_path: Path, **settings: Any) -> Path:
    base = {"out": str(tmp_path / "out"), "rows": 6,
            "sources": [{"kind": "folder", "path": str(tmp_path), "license": "CC0-1.0"}]}  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps({**base, **settings}))
    return path


def test_a_recipe_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    assert isinstance(load_recipe(recipe_file(tmp_path), ["rows=9"]), Recipe)
    for settings, said in (
        ({"row": 3}, "did you mean rows"),
        ({"rows": 0}, "rows 0"),
        ({"sources": []}, "at least one"),
        ({"sources": [{"kind": "folder", "path": "x"}]}, "license: expected"),
        ({"sources": [{"kind": "folders", "path": "x", "license": "y"}]}, "did you mean folder"),
        ({"sources": [{"kind": "columns", "path": "x", "license": "y"}]}, "kind 'columns' needs"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_recipe(recipe_file(tmp_path, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("teacher", ["bundled", {"local": "bundled"}, None])
def test_a_teacher_in_short_takes_settings_too(tmp_path: Path, teacher: object) -> None:
    file = recipe_file(tmp_path, teacher=teacher)
    found = load_recipe(file, ["teacher.samples=3", "teacher.local=bundled"]).teacher
    assert found is not None and (found.local, found.samples) == ("bundled", 3)
    assert load_recipe(file, ["teacher=bundled"]).teacher != found


def test_a_dry_run_says_what_is_there_and_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(3):
        paint(tmp_path / f"originals/{n}.png")
        paint(tmp_path / f"edited/{n}.png")
    assert main(["data", "make", str(recipe_file(tmp_path)), "rows=6", "--dry-run"]) == 1
    said = capsys.readouterr().out
    assert "3 items, 3 pictures, 3 pairs" in said
    assert "video: 1 more need pictures, and clips" in said
    assert not (tmp_path / "out").exists()
