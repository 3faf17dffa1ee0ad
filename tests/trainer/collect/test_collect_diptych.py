"""The seam of a diptych, and diptychs as a source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.seams import diptych, measure, other
from evlm.errors import RecordError
from trainer.collect.diptych import split
from trainer.collect.pictures import Pictures
from trainer.collect.recipe import Source
from trainer.collect.sources.kinds import items


def test_the_seam_is_found_in_most_and_others_are_refused() -> None:
    found = measure(count=30, others=12, seed=1, height=256)
    assert found["found"] >= 0.9 > 0.6 > found["cut in the middle"]
    assert found["others let through"] == 0


def test_halves_are_of_one_size_and_touch_no_border() -> None:
    drawn = diptych("a border", "border", 256)
    halves = split(drawn.picture)
    assert halves is not None and halves.left.size == halves.right.size and halves.agrees > 0.3
    assert abs(halves.left.width - drawn.start) <= 2


@pytest.mark.parametrize("size", [(1, 1), (8, 300), (300, 8), (40, 40)])
@pytest.mark.parametrize("shade", [0, 255])
def test_what_has_nothing_in_it_is_no_diptych(size: tuple[int, int], shade: int) -> None:
    assert split(Image.new("L", size, shade)) is None


def read(path: Path, **more: Any) -> list[Any]:
    return list(items(0, Source("diptychs", str(path), "CC0-1.0", **more)))


def test_a_folder_of_diptychs_is_pairs(tmp_path: Path) -> None:
    drawn = diptych("one", "tight", 256)
    drawn.picture.save(tmp_path / "a.png")
    other("none", 256).save(tmp_path / "b.png")
    found = read(tmp_path)
    copies = [
        [Pictures(tmp_path / "out", 8).copy(media) for media in (item.original, item.edited)]
        for item in found
    ]
    sizes = [Image.open(tmp_path / "out" / copy["paths"][0]).size for copy in copies[0]]
    assert sizes[0] == sizes[1] and abs(sizes[0][0] - drawn.start) <= 2
    assert all("no diptych" in copy["dropped"] for copy in copies[1])
    said = {"picture": "a.png", "instruction": "paint it", "edit_type": "transformation", "group": "g"}
    (tmp_path / "diptychs.jsonl").write_text(json.dumps(said) + "\n")
    item = read(tmp_path)[0]
    assert (item.instruction, item.edit_type, item.group) == ("paint it", "transformation", "0/g")


@pytest.mark.parametrize(
    ("line", "says"),
    [('{"picture": "c.png"}', "does not exist"), ('{"picture": "../a"}', "line 1"), ("{}", "expected an obj"),
     ('{"picture": "a.png", "note": ""}', "'note' is not known"), ('{"picture": 3}', "expected text")],
)  # fmt: skip
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "diptychs.jsonl").write_text(line + "\n")
    with pytest.raises(RecordError, match=says):
        read(tmp_path)


def test_an_empty_folder_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"neither diptychs.jsonl nor a picture"):
        read(tmp_path)
