"""Pairs: before and after held against each other, repeated ones left out, and masks of where they differ."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.scripted_teacher import teaching
from evlm.files.pictures import load_mask
from evlm.plan.mask_codec import decode_mask, mask_iou
from trainer.__main__ import main
from trainer.collect import masks
from trainer.collect.masks import MaskFinder
from trainer.collect.near import repeated
from trainer.collect.pairs import changed_where, compared, lab, packed, pair_problem, unpacked
from trainer.collect.pictures import Pictures
from trainer.collect.recipe import Masks
from trainer.world.rows import Recipe, question_at

SIZE = 64


def world(
    op: str, number: int, quality: int | None = None, size: int = SIZE
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(before, after, where it may change) of an edit of the drawn world."""
    edit = question_at(Recipe(op=op, size=size), number).edit
    before, after = (np.asarray(each)[0] for each in edit.pictures(size, 1))
    region = edit.region(size, 1)
    assert region is not None
    if quality is not None:
        before, after = (_jpeg(each, quality) for each in (before, after))
    return before, after, np.asarray(region).reshape(-1, size, size)[0] > 0.5


def _jpeg(pixels: NDArray[Any], quality: int) -> NDArray[Any]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize("size", [64, 192])
@pytest.mark.parametrize(("quality", "bar"), [(None, 0.9), (85, 0.8)])
def test_the_difference_of_a_recoloured_thing_is_its_region(
    quality: int | None, bar: float, size: int
) -> None:
    """At 64 pixels a thing is two blocks of a JPEG wide, of a single one in colour."""
    found = []
    for number in range(24):
        before, after, region = world("recolour", number, quality, size)
        on = changed_where(before / 255, after / 255)
        found.append(float((on & region).sum() / (on | region).sum()))
    assert np.mean(found) >= bar


def test_lab_knows_white_and_red() -> None:
    values = lab(np.array([[[1.0, 1, 1], [1, 0, 0], [0, 0, 0]]]))
    assert values[0] == pytest.approx(np.array([[100, 0, 0], [53.24, 80.09, 67.2], [0, 0, 0]]), abs=0.05)


def save(path: Path, pixels: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def test_what_is_no_pair(tmp_path: Path) -> None:
    before, after, _ = world("replace", 1)
    first, second = save(tmp_path / "a.png", before), save(tmp_path / "b.png", after)
    other = save(tmp_path / "c.png", world("remove", 7)[0])
    assert pair_problem(compared(first, second)) == ""
    assert "differ" in pair_problem(compared(first, first))
    noise = np.random.default_rng(1).integers(0, 256, before.shape).astype(np.uint8)
    assert "edges" in pair_problem(compared(first, save(tmp_path / "n.png", noise)))
    assert "edges" in pair_problem(compared(first, other))
    large = save(tmp_path / "large.png", np.asarray(Image.fromarray(after).resize((200, 200))))
    assert pair_problem(compared(first, large)) == ""


def test_repeated_items_are_those_that_are_near_in_all_their_pictures() -> None:
    assert repeated([[0, 0], [1, 0], [3, 1 << 20], [0, 0xFFFF], [0], [3]]) == {1: 0, 2: 0, 5: 4}


def task(folder: Path, op: str, number: int, **more: Any) -> tuple[dict[str, Any], torch.Tensor]:
    before, after, region = world(op, number)
    save(folder / f"{op}{number}a.png", before)
    save(folder / f"{op}{number}b.png", after)
    told = {"instruction": "make it so", "targets": ["it"], "scope": "local", "mask_text": None,
            "edit_type": "transformation", **more}  # fmt: skip
    return {"original": [f"{op}{number}a.png"], "edited": [f"{op}{number}b.png"], **told}, torch.from_numpy(
        region
    ).float()


def test_a_mask_is_found_and_sharpens_words_that_mean_its_place_alone(tmp_path: Path) -> None:
    finder = MaskFinder(tmp_path, Masks(grow=0.0), Pictures(tmp_path, 8))
    asked, region = task(tmp_path, "recolour", 3)
    found = finder.find(asked)
    mask = load_mask(tmp_path / found["mask"])[0]
    assert found["by"] == "difference" and mask_iou(mask, region) > 0.6
    assert mask_iou(decode_mask(found["mask_text"], SIZE, SIZE), mask) > 0.6
    xs = torch.nonzero(mask)[:, 1]
    corner = "box 0 0 60 60 full" if int(xs.min()) > 8 else "box 900 900 999 999 full"
    elsewhere = finder.find({**asked, "mask_text": corner})
    assert elsewhere["mask"] == found["mask"] and "mask_text" not in elsewhere
    assert finder.find({**asked, "scope": "global"}) == {"by": "plan"}
    assert finder.find({**asked, "edited": asked["original"]}) == {"by": "plan"}
    roomy = finder.find({**asked, "edit_type": "removal"})
    assert roomy["mask_text"].endswith("full")
    for said in ("Replace the ring with a star", "swap it for a star"):  # of another shape, too
        assert finder.find({**asked, "instruction": said})["mask_text"] == roomy["mask_text"]
    save(tmp_path / "white.png", np.full((SIZE, SIZE, 3), 255, np.uint8))
    assert finder.find({**asked, "edited": ["white.png"]})["dropped"] == "pair"
    (tmp_path / "broken.png").write_bytes(b"no")
    assert finder.find({**asked, "edited": ["broken.png"]})["dropped"] == "picture"


def test_a_difference_grows_as_far_as_anything_differs(tmp_path: Path) -> None:
    finder = MaskFinder(tmp_path, Masks(), Pictures(tmp_path, 8))
    ious = []
    for number in range(12):
        asked, region = task(tmp_path, "recolour", number)
        ious.append(mask_iou(load_mask(tmp_path / finder.find(asked)["mask"])[0], region))
    assert np.mean(ious) >= 0.9  # a sharp edit gets no rim
    before = np.full((100, 100, 3), 120, np.uint8)
    halo = before.copy()
    halo[38:62, 38:62] = 123
    halo[40:60, 40:60] = (250, 40, 40)
    save(tmp_path / "x.png", before), save(tmp_path / "y.png", halo)
    pair = {**asked, "original": ["x.png"], "edited": ["y.png"]}
    mask = load_mask(tmp_path / finder.find(pair)["mask"])[0]
    assert (
        mask[50].nonzero().flatten().tolist()
        == list(range(38, 62))
        == mask[:, 50].nonzero().flatten().tolist()
    )


def test_where_a_pair_differs_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [task(tmp_path, "recolour", number)[0] for number in (3, 4)]
    kinds = ("transformation", "removal", "transformation")
    alone = [MaskFinder(tmp_path, Masks(), Pictures(tmp_path, 8)).find({**each, "edit_type": kind})
             for each in asked for kind in kinds]  # fmt: skip
    told = []
    for each in asked:
        found = compared(tmp_path / each["original"][0], tmp_path / each["edited"][0])
        told.append({**each, "differs": json.loads(json.dumps(found))["where"]})
    monkeypatch.setattr(masks, "difference", None)
    finder = MaskFinder(tmp_path, Masks(), Pictures(tmp_path, 8))
    assert [finder.find({**each, "edit_type": kind}) for each in told for kind in kinds] == alone
    on = np.random.default_rng(0).random((7, 13)) < 0.3
    assert (unpacked(packed(on)) == on).all()


def test_the_bundled_segmenter_finds_what_a_plan_means_without_a_pair(tmp_path: Path) -> None:
    finder = MaskFinder(tmp_path, Masks(segmenter="bundled"), Pictures(tmp_path, 8))
    asked, region = task(tmp_path, "recolour", 3)
    assert finder.find(asked)["by"] in ("segmenter", "difference")
    ys, xs = torch.nonzero(region, as_tuple=True)
    box = [1000 * int(v) // SIZE for v in (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)]
    words = f"box {box[0]} {box[1]} {box[2]} {box[3]} full"
    found = finder.find({**asked, "edited": [], "mask_text": words})
    assert found["by"] == "segmenter" and mask_iou(load_mask(tmp_path / found["mask"])[0], region) > 0.5


def test_make_drops_false_pairs_and_repeats_before_anybody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)
    pairs = [world("recolour", number)[:2] for number in range(4)]
    pairs += [pairs[0], (pairs[1][0], pairs[1][0]), (pairs[2][0], world("remove", 7)[0])]
    for number, (before, after) in enumerate(pairs):
        save(tmp_path / f"photos/originals/{number}.png", before)
        save(tmp_path / f"photos/edited/{number}.png", after)
    with teaching() as teacher:
        settings = {
            "out": str(tmp_path / "out"), "rows": 60,
            "sources": [{"kind": "folder", "path": str(tmp_path / "photos"), "license": "CC0-1.0"}],
            "teacher": {"endpoint": teacher.url, "model": "scripted", "terms": "ours", "samples": 1,
                        "send_pictures": True, "workers": 2},
        }  # fmt: skip
        (tmp_path / "r.json").write_text(json.dumps(settings))
        assert main(["data", "make", str(tmp_path / "r.json")]) == 1
        asked = len(teacher.asked)
    dropped = [json.loads(line) for line in (tmp_path / "out/work/dropped.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (tmp_path / "out/rows.jsonl").read_text().splitlines()]
    names = {each["name"] for each in dropped}
    assert {"pair", "duplicate"} <= names and len(rows) <= asked
    assert {row["meta"]["mask_by"] for row in rows} == {"difference"}
    assert all((tmp_path / "out" / row["mask"]).is_file() for row in rows)
    assert main(["data", "check", str(tmp_path / "out")]) == 0
