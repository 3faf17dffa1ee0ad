"""Public sets in their own layouts, three rows each, written here with exactly their column names."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evlm.errors import ConfigError, RecordError
from trainer.collect.recipe import Source
from trainer.collect.sources.item import Item
from trainer.collect.sources.kinds import items


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 1, 2)).save(file, "PNG")
    return file.getvalue()


def cell(shade: int) -> dict[str, Any]:
    return {"bytes": png(shade), "path": f"{shade}.png"}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def read(kind: Any, path: Path) -> list[Item]:
    return list(items(0, Source(kind, str(path))))


def pictures(found: list[Item]) -> list[tuple[Any, Any]]:
    return [(item.original.load(), item.edited.load()) for item in found if item.edited]


def test_magicbrush(tmp_path: Path) -> None:
    turns = ((7, 1), (7, 2), (9, 1))
    rows = [
        {"img_id": str(image), "turn_index": turn, "source_img": cell(n), "mask_img": cell(50 + n),
         "instruction": f"add {n}", "target_img": cell(90 + n)}
        for n, (image, turn) in enumerate(turns)
    ]  # fmt: skip
    write(tmp_path / "data/train-00000-of-00051.parquet", rows[:2])
    write(tmp_path / "data/dev-00000-of-00004.parquet", rows[2:])
    found = read("magicbrush", tmp_path)
    assert [item.key for item in found] == ["9-1", "7-1", "7-2"]  # dev stands before train
    assert found[1].group == found[2].group != found[0].group
    assert {item.license for item in found} == {"CC-BY-4.0"} and found[2].extra == {"turn": 2}
    assert pictures(found) == [(png(2), png(92)), (png(0), png(90)), (png(1), png(91))]


def test_magicbrush_is_not_read_from_its_test_set(tmp_path: Path) -> None:
    write(tmp_path / "test-00000-of-00001.parquet", [{"img_id": "1"}])
    with pytest.raises(RecordError, match="not for training"):
        read("magicbrush", tmp_path)


def test_ip2p(tmp_path: Path) -> None:
    rows = [
        {"original_prompt": f"a hill {n // 2}", "original_image": cell(n), "edit_prompt": f"make it {n}",
         "edited_prompt": f"a hill of {n}", "edited_image": cell(90 + n)}
        for n in range(3)
    ]  # fmt: skip
    write(tmp_path / "data/train-00000-of-00262-57cebf95b4a9170c.parquet", rows)
    found = read("ip2p", tmp_path)
    assert [item.instruction for item in found] == ["make it 0", "make it 1", "make it 2"]
    assert found[0].group == found[1].group != found[2].group and found[0].license == "unknown"
    assert pictures(found) == [(png(n), png(90 + n)) for n in range(3)]


def test_ultraedit_free_form_has_no_mask(tmp_path: Path) -> None:
    rows = [
        {"idx": n, "edit_prompt": f"turn {n}", "source_image": cell(n), "edited_image": cell(90 + n),
         "mask_image": None, "edit_object": "the lake", "source_caption": f"lake {n}",
         "target_caption": f"ice {n}", "clip_sim_source": 0.3, "clip_sim_target": 0.3, "clip_sim_dir": 0.2,
         "clip_sim_image": 0.8, "dinov2_sim": 0.7, "ssim": 0.5}
        for n in range(3)
    ]  # fmt: skip
    write(tmp_path / "data/FreeForm-00000-of-00500.parquet", rows)
    found = read("ultraedit", tmp_path)
    assert [(item.key, item.region, item.extra["scores"]["ssim"]) for item in found] == [
        (str(n), "the lake", 0.5) for n in range(3)
    ]
    assert pictures(found) == [(png(n), png(90 + n)) for n in range(3)]


def test_hqedit_goes_both_ways_in_one_group(tmp_path: Path) -> None:
    rows = [
        {"input": f"day {n}", "input_image": cell(n), "edit": f"make it night {n}",
         "inverse_edit": f"make it day {n}", "output": f"night {n}", "output_image": cell(90 + n)}
        for n in range(3)
    ]  # fmt: skip
    write(tmp_path / "data/train-00000-of-00103.parquet", rows)
    found = read("hqedit", tmp_path)
    assert len(found) == 6 and len({item.group for item in found}) == 3
    assert (found[1].instruction, found[1].license) == ("make it day 0", "CC-BY-NC-4.0")
    assert pictures(found[:2]) == [(png(0), png(90)), (png(90), png(0))]
    assert found[1].extra["captions"] == {"original": "night 0", "edited": "day 0"}


def smartedit(tmp_path: Path, **changed: Any) -> None:
    (tmp_path / "SyntheticData/pictures").mkdir(parents=True)
    content: dict[str, Any] = {}
    for n in range(3):
        names = [f"SyntheticData/pictures/{n}{side}.png" for side in ("a", "b")]
        for name, shade in zip(names, (n, 90 + n), strict=True):
            (tmp_path / name).write_bytes(png(shade))
        content[f"{n:04d}"] = {"origin_img_path": names[0], "target_img_path": names[1],
                               "instruction": [f"add a {n}", f"put a {n} there"]}  # fmt: skip
    content["0002"].update(changed)
    (tmp_path / "SyntheticData/SyntheticData_info_new.json").write_text(json.dumps(content))


def test_a_broken_list_of_smartedit_is_named(tmp_path: Path) -> None:
    smartedit(tmp_path)
    next(tmp_path.rglob("SyntheticData_info_new.json")).write_text("{")
    with pytest.raises(RecordError, match=r"SyntheticData_info_new\.json: not JSON"):
        read("smartedit", tmp_path)


def test_smartedit_takes_one_instruction_and_keeps_the_others(tmp_path: Path) -> None:
    smartedit(tmp_path)
    found = read("smartedit", tmp_path)
    assert [item.key for item in found] == ["0000", "0001", "0002"]
    for n, item in enumerate(found):
        assert {item.instruction, *item.extra["also"]} == {f"add a {n}", f"put a {n} there"}
        assert item.original.load().read_bytes() == png(n)  # type: ignore[union-attr]
    assert [item.instruction for item in read("smartedit", tmp_path)] == [item.instruction for item in found]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"origin_img_path": "../../etc/passwd"}, "inside the dataset"),
        ({"instruction": []}, "no instruction"),
        ({"target_img_path": "SyntheticData/none.png"}, "does not exist"),
    ],
)
def test_a_bad_smartedit_pair_is_named(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    smartedit(tmp_path, **changed)
    with pytest.raises(RecordError, match=said):
        read("smartedit", tmp_path)


def test_omniedit(tmp_path: Path) -> None:
    tasks = ("removal", "swap", "env")
    rows = [
        {"omni_edit_id": f"task_{n}", "task": task, "src_img": cell(n), "edited_img": cell(90 + n),
         "edited_prompt_list": [f"take {n} away", f"no {n} here"], "sc_score_1": 9, "sc_score_2": 8,
         "pq_score": 9, "o_score": 8.5}
        for n, task in enumerate(tasks)
    ]  # fmt: skip
    write(tmp_path / "data/train-00000-of-00001.parquet", rows)
    found = read("omniedit", tmp_path)
    assert [item.edit_type for item in found] == ["removal", "transformation", None]
    assert pictures(found) == [(png(n), png(90 + n)) for n in range(3)]
    for n, item in enumerate(found):
        assert {item.instruction, *item.extra["also"]} == {f"take {n} away", f"no {n} here"}
        assert item.extra["scores"]["o_score"] == 8.5 and item.license == "MIT"
    write(tmp_path / "data/train-00000-of-00001.parquet", [{**rows[0], "edited_prompt_list": []}])
    with pytest.raises(RecordError, match="list of instructions"):
        read("omniedit", tmp_path)


def test_reason50k(tmp_path: Path) -> None:
    for n in range(3):
        for folder, shade in (("src", n), ("tgt", 90 + n)):
            path = tmp_path / f"images/{folder}/{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(shade))
    rows = [
        {"id": n, "category": "physical", "src_image": f"images/src/{n // 2}.png", "objects": ["ice"],
         "tgt_image": f"images/tgt/{n}.png", "instruction": f"what if it melts {n}"}
        for n in range(3)
    ]  # fmt: skip
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:2]))
    (tmp_path / "val.jsonl").write_text(json.dumps(rows[2]) + "\n")
    (tmp_path / "test.jsonl").write_text("not read")
    found = read("reason50k", tmp_path)
    assert [item.key for item in found] == ["0", "1", "2"] and found[0].group == found[1].group
    assert found[0].extra == {"category": "physical", "objects": ["ice"], "scenario": "physical"}
    assert [after.read_bytes() for _, after in pictures(found)] == [png(90), png(91), png(92)]
    (tmp_path / "val.jsonl").write_text("{")
    with pytest.raises(RecordError, match=r"val\.jsonl"):
        read("reason50k", tmp_path)
    (tmp_path / "val.jsonl").write_text('{"id": 1}')
    with pytest.raises(RecordError, match="expected id, src_image"):
        read("reason50k", tmp_path)
    with pytest.raises(RecordError, match=r"no train\.jsonl"):
        read("reason50k", tmp_path / "images")


@pytest.mark.parametrize("says_kind", [False, True], ids=["as published", "with categories"])
def test_editworld_with_its_spelling_and_the_right_one(tmp_path: Path, says_kind: bool) -> None:
    root = tmp_path / "editworld/video_img/group_3"
    root.mkdir(parents=True)
    texts = {}
    for n, spelling in enumerate(("instuction", "instruction", "instuction")):
        (root / f"sample{n}_ori.png").write_bytes(png(n))
        (root / f"sample{n}_tar.png").write_bytes(png(90 + n))
        kind = {"category": ("Long-Term", "Exaggeration", "Story-Type")[n]} if says_kind else {}
        texts[f"sample{n}"] = {spelling: f"let {n} pass", "original_img_path": "x", **kind}
    (root / "img_txt.json").write_text(json.dumps(texts))
    for path in (tmp_path, tmp_path / "editworld"):
        found = read("editworld", path)
        assert [item.instruction for item in found] == [f"let {n} pass" for n in range(3)]
        assert [item.key for item in found] == [f"video_img-group_3-sample{n}" for n in range(3)]
        wanted = ["temporal", None, "story"] if says_kind else [None] * 3
        assert [item.extra.get("scenario") for item in found] == wanted
        assert [before.read_bytes() for before, _ in pictures(found)] == [png(n) for n in range(3)]
    texts["sample1"] = {}
    (root / "img_txt.json").write_text(json.dumps(texts))
    with pytest.raises(RecordError, match="row 1: an instruction of None"):
        read("editworld", tmp_path)
    (root / "img_txt.json").write_text("[")
    with pytest.raises(RecordError, match=r"img_txt\.json"):
        read("editworld", tmp_path)
    with pytest.raises(RecordError, match="in the groups of"):
        read("editworld", root)


@pytest.mark.parametrize("kind", ["ip2p", "ultraedit", "hqedit", "magicbrush", "omniedit"])
def test_a_table_of_another_set_says_which_column_is_missing(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "train-0.parquet", [{"image": cell(1), "text": "x"}])
    with pytest.raises(RecordError, match=r"no column .* this table image, text"):
        read(kind, tmp_path)


def test_own_pictures_need_a_licence_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="license: expected"):
        Source("folder", str(tmp_path))


def lay(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(shade))


def loaded(found: list[Item]) -> list[tuple[bytes, bytes]]:
    return [(Path(str(a)).read_bytes(), Path(str(b)).read_bytes()) for a, b in pictures(found)]


def test_anyedit(tmp_path: Path) -> None:
    coco = "COCO_train2014_000000521165.jpg"
    lay(tmp_path / "coco/train2014" / coco, 1)
    for n, kind in enumerate(("color_alter", "remove", "visual_reference")):
        lay(tmp_path / f"anyedit_datasets/{kind}/{n}.png", 90 + n)
    lay(tmp_path / "flux_coco_images/7.jpg", 2)
    lay(tmp_path / "anyedit_datasets/visual_reference/seal.png", 7)
    rows = [
        {"edit": f"edit {n}", "edited object": region, "input": "a", "output": "b", "edit_type": kind,
         "visual_input": shown, "image_file": file, "edited_file": f"{n}.png"}
        for n, (kind, region, shown, file) in enumerate([
            ("color_alter", "airplane", "None", coco), ("remove", "None", None, coco),
            ("visual_reference", "elephants", "seal.png", "7.jpg"),
        ])
    ]  # fmt: skip
    (tmp_path / "all_postfilter.json").write_text(json.dumps(rows))
    found = read("anyedit", tmp_path)
    assert [(item.edit_type, item.region) for item in found] == [
        ("transformation", "airplane"), ("removal", ""), (None, "elephants"),
    ]  # fmt: skip
    assert loaded(found) == [(png(1), png(90)), (png(1), png(91)), (png(2), png(92))]
    assert found[0].group == found[1].group != found[2].group and found[0].license == "CC-BY-4.0"
    assert [item.reference is None for item in found] == [True, True, False] and found[2].reference
    assert Path(str(found[2].reference.load())).read_bytes() == png(7)
    (tmp_path / "anyedit_datasets/remove/1.png").unlink()
    with pytest.raises(RecordError, match=r"row 1: '1.png' is in none of .*anyedit_datasets/remove"):
        read("anyedit", tmp_path)


def test_imgedit(tmp_path: Path) -> None:
    one, other = (
        "results_remove_laion_part5/00094_00030_000304748",
        "results_version_part0/00031_00020_000209651",
    )
    for name, shade in (("original", 1), ("result", 91)):
        lay(tmp_path / f"Singleturn/{one}/{name}.png", shade)
    for turn in range(2):
        lay(tmp_path / f"Multiturn/{other}/origin_{turn}.png", 2 + turn)
        lay(tmp_path / f"Multiturn/{other}/result_{turn}.png", 92 + turn)
    single = {
        "input_images": [f"{one}/original.png"],
        "output_images": [f"{one}/result.png"],
        "prompt": "less",
    }
    turns = [{"input_images": [f"{other}/origin_{n}.png"], "output_images": [f"{other}/result_{n}.png"],
              "prompt": f"turn {n}"} for n in range(2)]  # fmt: skip
    write(tmp_path / "Parquet/remove_part5.parquet", [single])
    write(tmp_path / "Parquet/version_backtracking_part0.parquet", [{"data": turns}])
    found = read("imgedit", tmp_path)
    assert [(item.instruction, item.edit_type) for item in found] == [
        ("less", "removal"), ("turn 0", None), ("turn 1", None)]  # fmt: skip
    assert loaded(found) == [(png(1), png(91)), (png(2), png(92)), (png(3), png(93))]
    assert found[1].group == found[2].group != found[0].group and found[0].group == "0/00094_00030_000304748"
    assert found[2].extra == {"task": "version_backtracking", "turn": 2} and found[0].license == "unknown"
    (tmp_path / f"Singleturn/{one}/result.png").unlink()
    with pytest.raises(RecordError, match="unpack its tars"):
        read("imgedit", tmp_path)


def test_gpt_image_edit(tmp_path: Path) -> None:
    def line(name: str, text: str) -> dict[str, Any]:
        said = [{"from": "human", "value": f"<image>\n{text}"}, {"from": "gpt", "value": "<image>"}]
        return {"image": [f"input/{name}.png", f"output/{name}.png"], "conversations": said}

    for n, (folder, name) in enumerate((("hqedit/edit", "00060995"), ("omniedit", "a_1"))):
        for side, shade in (("input", n), ("output", 90 + n)):
            lay(tmp_path / f"gpt-edit/{folder}/{side}/{name}.png", shade)
    lists = {"hqedit_gpt_edit": line("00060995", "a hat"), "omniedit_gpt": line("a_1", "make it red"),
             "omniedit_gpt_rewrite": line("a_1", "let it be red")}  # fmt: skip
    for file, each in lists.items():
        (tmp_path / "training_json").mkdir(exist_ok=True)
        (tmp_path / f"training_json/{file}.json").write_text(json.dumps([each]))
    found = read("gpt-image-edit", tmp_path)
    assert [item.instruction for item in found] == ["a hat", "make it red", "let it be red"]
    assert loaded(found) == [(png(0), png(90)), (png(1), png(91)), (png(1), png(91))]
    assert found[1].group == found[2].group != found[0].group and found[0].license == "unknown"
    (tmp_path / "training_json/omniedit_gpt.json").write_text('[{"image": ["a"], "conversations": []}]')
    with pytest.raises(RecordError, match=r"expected \[input, output\]"):
        read("gpt-image-edit", tmp_path)
