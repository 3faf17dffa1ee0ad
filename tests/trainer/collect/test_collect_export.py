"""`data export`: shards with the pictures inside, licences kept and asked about; `data sources`."""

from __future__ import annotations

import csv
import json
import tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from evlm.records import Row, RowWriter
from trainer.__main__ import main
from trainer.collect.export import COLUMNS, Tar, columns, export, features


def write(folder: Path, licence: str = "CC0-1.0", split: str = "train") -> list[Row]:
    """Eight rows, the last two of them test, with a picture, a clip, words and a mask."""
    rows = []
    for number in range(8):
        shade = torch.full((8, 8, 3), number / 10)
        pictures = {f"p/{number}{name}.png": (shade + at / 50).clamp(0, 1) for at, name in enumerate("abcd")}
        pictures[f"p/{number}m.png"] = torch.ones(8, 8)
        before, after, *clip = [path for path in pictures if not path.endswith("m.png")]
        references = ({"kind": "video", "frames": clip, "fps": 8.0}, {"kind": "text", "text": "deep red"})
        row = Row(
            id=f"r{number}", question=f"q{number}", split="test" if number > 5 else split, source="ours",
            edit_type="texture", category="video+text", original=(before,), prompt="", thinking="t",
            intermediate="make it red", reflection="r", instruction="make the hat red", targets=("hat",),
            scope="local", label=number % 2 == 0, mask=f"p/{number}m.png", edited=(after,),
            references=references, meta={"license": licence, "source_url": "https://example.org"},
        )  # fmt: skip
        RowWriter(folder).append(row, pictures)
        rows.append(row)
    return rows


def test_parquet_shards_hold_all_that_the_rows_say(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = write(tmp_path / "set")
    counts = export(tmp_path / "set", tmp_path / "hf", "hf", False, print, shard=1000)
    assert counts == {"train": 6, "test": 2}
    files = sorted(file.name for file in (tmp_path / "hf/data").iterdir())
    trained = [name for name in files if name.startswith("train-")]
    assert len(trained) > 1 and all(f"-of-{len(trained):05d}" in name for name in trained)
    back = [each for name in files for each in pq.read_table(tmp_path / "hf/data" / name).to_pylist()]
    assert {each["id"] for each in back} == {row.id for row in rows}
    for row in rows:
        found = next(each for each in back if each["id"] == row.id)
        pictures = {path: (tmp_path / "set" / path).read_bytes() for path in row.paths()}
        wanted = columns(row, pictures)
        assert json.loads(found["meta"]) == row.meta and found.keys() == COLUMNS.keys() == features().keys()
        assert found["original"] == wanted["original"] and found["mask"] == wanted["mask"]
        assert [each["frames"] for each in found["references"]] == [
            each["frames"] for each in wanted["references"]
        ]
        assert Image.open(BytesIO(found["original"][0]["bytes"])).size == (8, 8)
    said = (tmp_path / "hf/README.md").read_text()
    assert said.startswith("---\nconfigs:") and "path: data/test-*.parquet" in said and "8 rows of " in said
    lines = list(csv.reader((tmp_path / "hf/LICENSES.csv").open(newline="")))
    assert lines == [["source", "licence", "rows", "from"], ["ours", "CC0-1.0", "8", "https://example.org"]]
    meta = json.loads(pq.read_schema(tmp_path / "hf/data" / files[0]).metadata[b"huggingface"])
    assert meta["info"]["features"]["original"] == [{"_type": "Image"}]


def test_tars_hold_a_row_and_its_pictures_under_one_number(tmp_path: Path) -> None:
    rows = write(tmp_path / "set")
    export(tmp_path / "set", tmp_path / "wds", "webdataset", False, print)
    with tarfile.open(tmp_path / "wds/train-000000.tar") as tar:
        names = tar.getnames()
        assert names[0] == "000000.json" and {name.split(".")[0] for name in names} == {
            f"{n:06d}" for n in range(6)
        }
        file = tar.extractfile("000000.json")
        assert file is not None
        data = json.load(file)
        first = next(row for row in rows if row.id == data["id"])
        for path, name in data["pictures"].items():
            held = tar.extractfile(f"000000.{name}")
            assert held is not None and held.read() == (tmp_path / "set" / path).read_bytes()
        assert set(data["pictures"]) == set(first.paths())


def test_a_picture_without_an_ending_stays_in_its_rows_sample(tmp_path: Path) -> None:
    (row, *_) = write(tmp_path / "set")
    tar = Tar(tmp_path / "one.tar")
    tar.add(replace(row, original=("v1.0/a",), edited=("b",)), {"v1.0/a": b"1", "b": b"2", "c.d/e.jpg": b"3"})
    tar.close()
    with tarfile.open(tmp_path / "one.tar") as found:
        assert found.getnames() == ["000000.json", "000000.0.bin", "000000.1.bin", "000000.2.jpg"]


@pytest.mark.parametrize(
    "licence",
    ["unknown", "CC-BY-NC-4.0", "Unknown", "CC BY NC 4.0", "for non-commercial use", "NonCommercial"],
)
def test_what_may_not_be_passed_on_is_refused_unless_it_is_allowed(
    tmp_path: Path, licence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "set", licence)
    words = ["data", "export", str(tmp_path / "set"), str(tmp_path / "tars"), "--to", "webdataset"]
    assert main(words) == 2 and not (tmp_path / "tars").exists()
    assert licence in (said := capsys.readouterr().err) and "--allow" in said
    assert main([*words, "--allow"]) == 0 and "8 rows (6 train, 2 test)" in capsys.readouterr().out
    assert main([*words, "--allow"]) == 2 and "exists" in capsys.readouterr().err
    assert not list(tmp_path.glob(".tars*"))


def test_a_split_that_is_no_name_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "set", split="../../out")
    assert main(["data", "export", str(tmp_path / "set"), str(tmp_path / "o"), "--to", "webdataset"]) == 2
    assert "split '../../out'" in capsys.readouterr().err and not (tmp_path / "o").exists()


def test_sources_says_as_what_a_folder_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("originals", "edited"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / f"photos/{name}/{number}.png")
    (tmp_path / "photos/originals/2.jpg").write_bytes(b"")

    def said(*more: Any) -> tuple[int, str]:
        code = main(["data", "sources", *map(str, more)])
        out = capsys.readouterr()
        return code, out.out + out.err

    code, text = said(tmp_path / "photos")
    assert code == 0 and "folder: 3 rows of" in text and "pictures 3, edited 2; licence yours to say" in text
    assert text.count("\n") == 1
    (tmp_path / "words.jsonl").write_text('{"img": "a.png", "text": "make it red"}\n')
    code, text = said(tmp_path / "words.jsonl")
    assert code == 2 and "its table has img, text" in text
    code, text = said(tmp_path / "words.jsonl", "--kind", "ip2p")
    assert code == 2 and text.count("\n") == 1
    assert said(tmp_path / "nowhere")[0] == 2
