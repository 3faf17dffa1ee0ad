"""Pairs held against each other and their captions by a CLIP of this machine; the lowest are left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import save_clip

from benchmarks.scripted_teacher import Teacher, teaching
from evlm.errors import ConfigError
from trainer.__main__ import main
from trainer.collect import similar
from trainer.collect.recipe import Filters
from trainer.collect.similar import Pair, Similar, captions, lowest
from trainer.collect.sources.item import Item, Media

PAIRS = 20


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(autouse=True)
def private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)


def draw(folder: Path, number: int) -> None:
    """A before and an after whose edges agree."""
    dice = np.random.default_rng(number)
    before = np.asarray(Image.fromarray(dice.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((48, 48)))
    after = before.copy()
    after[8:24, 8:24] = 255 - after[8:24, 8:24]
    for name, pixels in (("before", before), ("after", after)):
        Image.fromarray(pixels).save(folder / f"{name}{number}.png")


def recipe(tmp_path: Path, teacher: Teacher, clip: Path, **filters: Any) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for n in range(PAIRS):
        draw(tmp_path, n)
        cells = [{"bytes": (tmp_path / f"{name}{n}.png").read_bytes(), "path": None}
                 for name in ("before", "after")]  # fmt: skip
        rows.append({"original_prompt": f"red thing {n}", "original_image": cells[0],
                     "edit_prompt": "be blue", "edited_prompt": f"blue thing {n}",
                     "edited_image": cells[1]})  # fmt: skip
    (tmp_path / "data").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data/train-0.parquet")
    settings = {
        "out": str(tmp_path / "out"), "rows": 60, "filters": {"clip": str(clip), **filters},
        "sources": [{"kind": "ip2p", "path": str(tmp_path)}],
        "teacher": {"endpoint": teacher.url, "model": "scripted", "terms": "ours", "samples": 1,
                    "send_pictures": True, "workers": 2},
    }  # fmt: skip
    (tmp_path / "r.json").write_text(json.dumps(settings))
    return tmp_path / "r.json"


def test_the_four_numbers_are_clips_own(clip: Path, tmp_path: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    draw(tmp_path, 3)
    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    shown = [Image.open(tmp_path / f"{name}3.png") for name in ("before", "after")]
    given = processor(text=["red thing", "blue thing"], images=shown, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**given)
    near = torch.nn.functional.cosine_similarity
    (before, after), (red, blue) = out.image_embeds, out.text_embeds
    found = Similar(clip, tmp_path)(Pair("before3.png", "after3.png", ("red thing", "blue thing")))
    assert found == pytest.approx({
        "image": float(near(before, after, dim=0)), "source": float(near(before, red, dim=0)),
        "target": float(near(after, blue, dim=0)),
        "direction": float(near(after - before, blue - red, dim=0)),
    }, abs=1e-3)  # fmt: skip
    alone = Similar(clip, tmp_path)(Pair("before3.png", "after3.png"))
    assert alone == {"image": found["image"]}


def test_the_lowest_of_each_measure_are_left_out_and_equal_ones_stay() -> None:
    values = {n: {"image": n / 10, "direction": 1 - n / 10} for n in range(10)} | {10: {"image": 0.05}}
    assert set(lowest(values, 0.1)) == {0, 9}
    assert lowest(values, 0.0) == lowest({n: {"image": 0.5} for n in range(9)}, 0.9) == {}
    assert "direction 0.100, among the lowest 10% of 10" in lowest(values, 0.1)[9]


def test_captions_are_both_or_none() -> None:
    media = Media("0/a", "image", lambda: b"")

    def item(said: Any) -> Item:
        return Item("a", "a", media, "CC0-1.0", "ip2p", extra={"captions": said})

    assert captions(item({"original": "a hill", "edited": "a hill in snow"})) == ("a hill", "a hill in snow")
    for said in ({"original": "a hill"}, {"original": "a hill", "edited": " "}, "a hill", None):
        assert captions(item(said)) == ()


def test_make_leaves_them_out_before_anybody_is_asked_and_measures_once(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, clip, clip_lowest=0.1)
        main(["data", "make", str(path), "--dry-run"])
        said = capsys.readouterr().out
        assert (
            "20 pairs are measured, 20 of them have captions; by each measure the lowest 10% are left out"
            in said
        )
        assert not (tmp_path / "out").exists()
        assert main(["data", "make", str(path)]) == 1
        asked = len(teacher.asked)
        rows = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
        gone = [json.loads(line) for line in (tmp_path / "out/work/dropped.jsonl").read_text().splitlines()]
        assert {each["name"] for each in gone} == {"similar"} and asked == len(rows)
        least = min(row["meta"]["similar"]["image"] for row in rows)
        measured = [json.loads(line)["result"] for line in
                    (tmp_path / "out/work/similar.jsonl").read_text().splitlines()]  # fmt: skip
        assert len(measured) == PAIRS
        assert sum(each["image"] < least for each in measured) >= 2  # a tenth of twenty
        monkeypatch.setattr(similar, "Clip", None)
        main(["data", "make", str(recipe(tmp_path, teacher, clip, clip_lowest=0.0))])
        assert len((tmp_path / "out/rows.jsonl").read_text().splitlines()) == len(rows) + len(gone)


def test_a_folder_without_a_clip_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, tmp_path / "nowhere")
        for more in (["--dry-run"], []):
            assert main(["data", "make", str(path), *more]) == 2
            assert "filters.clip" in (said := capsys.readouterr().err) and "no CLIP" in said
        (tmp_path / "nowhere").mkdir()
        (tmp_path / "nowhere/config.json").write_text('{"model_type": "siglip"}')
        assert main(["data", "make", str(path), "--dry-run"]) == 2
        assert "'siglip'" in capsys.readouterr().err and not teacher.asked
    with pytest.raises(ConfigError, match="clip_lowest"):
        Filters(clip_lowest=1.0)
