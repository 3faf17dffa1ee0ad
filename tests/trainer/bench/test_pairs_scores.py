"""Pairs: the CLIP score of a folder, and what judges say of what follows; by scenario."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_servers import Local, judging
from PIL import Image
from tiny_clip import save_clip

from trainer.__main__ import main
from trainer.bench.base import Item
from trainer.bench.clip_score import ClipScore, DinoScore
from trainer.bench.pixels import Pairs, ReasonEdit

SCENARIOS = ("physical", "story", "physical", "story")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for name, colour in (("red", (220, 20, 20)), ("blue", (20, 20, 220))):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{name}.png")
    lines = [
        {"original": "blue.png", "edited": "red.png", "instruction": f"what if {n}", "scenario": scenario}
        for n, scenario in enumerate(SCENARIOS)
    ]
    lines[0]["caption"], lines[1]["target_caption"] = "red thing", "red thing " * 40
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Local]:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")

    def answer(words: str, shown: list[np.ndarray]) -> str:
        """Yes where the last picture is red; of what follows, every other time."""
        name = "follows" if '"follows"' in words else "aligned"
        red = shown[-1][..., 0].mean() > 200
        turns.append(name)
        return json.dumps({name: int(red and (name == "aligned" or turns.count(name) % 2 == 0))})

    turns: list[str] = []
    server = Local(judging(answer))
    yield server
    server.close()


def table(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "tables" / "pairs.csv", newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def value(cell: str) -> float:
    return float(cell.split(" ")[0])


def test_the_score_is_clips_own_cosine(clip: Path, pairs: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor

    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    picture = Image.open(pairs / "red.png")
    given = processor(text=["red thing"], images=[picture], return_tensors="pt")
    with torch.no_grad():
        out = model(**given)  # CLIP's logits are cosines times the scale
    scale = float(model.logit_scale.detach().exp())
    assert ClipScore(clip)(pairs / "red.png", "red thing") == pytest.approx(
        float(out.logits_per_image[0, 0]) / scale, abs=1e-5
    )


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    folder = tmp_path_factory.mktemp("dino")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    ViTModel(ViTConfig(**small, image_size=32, patch_size=8)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_two_pictures_and_how_they_changed(clip: Path, dino: Path, pairs: Path) -> None:
    from transformers import CLIPModel, CLIPProcessor, ViTImageProcessor, ViTModel

    model, processor = CLIPModel.from_pretrained(clip), CLIPProcessor.from_pretrained(clip)
    red, blue = (Image.open(pairs / f"{name}.png") for name in ("red", "blue"))
    given = processor(text=["red thing", "blue thing"], images=[red, blue], return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**given)
        seen = ViTModel.from_pretrained(dino)(
            **ViTImageProcessor.from_pretrained(dino)(images=[red, blue], return_tensors="pt")
        ).last_hidden_state[:, 0]
    cosine = torch.nn.functional.cosine_similarity
    moved, said = (each[0] - each[1] for each in (out.image_embeds, out.text_embeds))
    score, one, two = ClipScore(clip), pairs / "red.png", pairs / "blue.png"
    assert score.alike(one, two) == pytest.approx(float(cosine(*out.image_embeds, dim=0)), abs=1e-5)
    expected = float(cosine(moved, said, dim=0))
    assert score.direction(two, one, "blue thing", "red thing") == pytest.approx(expected, abs=1e-3)
    assert score.direction(one, one, "blue thing", "red thing") == 0
    assert DinoScore(dino).alike(one, two) == pytest.approx(float(cosine(*seen, dim=0)), abs=1e-5)
    assert DinoScore(dino).alike(one, one) == pytest.approx(1, abs=1e-6)


def test_pairs_of_a_set_with_both_captions(clip: Path, dino: Path, pairs: Path) -> None:
    """Under Emu Edit's names. The other lines have one caption, or none."""
    lines = [json.loads(line) for line in (pairs / "pairs.jsonl").read_text().splitlines()]
    lines[2] |= {"input_caption": "blue thing", "output_caption": "red thing"}
    (pairs / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    bench = Pairs()
    items = bench.items(pairs, pairs)
    assert not {"CLIP-I", "CLIP-dir", "DINO"} & {figure.title for figure in bench.figures(items)}
    bench.clip, bench.dino = ClipScore(clip), DinoScore(dino)
    assert {"CLIP score", "CLIP-I", "CLIP-dir", "DINO"} <= {each.title for each in bench.figures(items)}
    found = [bench.measure(item, pairs / "red.png") for item in items]
    assert [sorted({"clip", "clip_dir"} & set(each)) for each in found] == [
        ["clip"], ["clip"], ["clip", "clip_dir"], [],
    ]  # fmt: skip
    assert all(each["clip_i"] == pytest.approx(1, abs=1e-5) == each["dino"] for each in found)


def test_reasonedits_score_is_of_the_masks_box(clip: Path, tmp_path: Path) -> None:
    """Cut as its script cuts, without the last row and column, from the picture at 256."""
    mask, edited = np.zeros((64, 64), np.uint8), np.full((64, 64, 3), 90, np.uint8)
    mask[8:24, 16:40], edited[8:24, 16:40] = 255, (220, 20, 20)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(edited).save(tmp_path / "edited.png")
    bench = ReasonEdit()
    more = {"mask": tmp_path / "mask.png", "caption": "red thing"}
    item = Item("1-Left-Right/1", "1-Left-Right", (tmp_path / "edited.png",), "x", more)
    assert "clip" not in bench.measure(item, tmp_path / "edited.png")
    bench.clip = ClipScore(clip)
    small = Image.fromarray(edited).resize((256, 256), Image.Resampling.BICUBIC).crop((64, 32, 159, 95))
    expected = 100 * max(0.0, bench.clip.of(small, "red thing"))
    assert bench.measure(item, tmp_path / "edited.png")["clip"] == pytest.approx(expected, abs=1e-4)
    assert "CLIP, understanding" in [figure.title for figure in bench.figures([item])]


def test_scores_by_scenario(clip: Path, pairs: Path, judge: Local, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["bench", "pairs", "--data", str(pairs), "--out", str(out), "--clip", str(clip)]
    red = tmp_path / "red"
    red.mkdir()
    for at in range(4):
        Image.open(pairs / "red.png").save(red / f"{at:05d}.png")
    words += ["--edits", f"red={red}", "--judge", f"{judge.url}/v1", "m"]
    assert main(words) == 0
    found = table(out)
    assert value(found["red"]["Ins-Align"]) == 1 and value(found["copy"]["Ins-Align"]) == 0
    assert 0 < value(found["red"]["MLLM score"]) < 1 and value(found["copy"]["MLLM score"]) == 0
    assert {f"Ins-Align, {each}" for each in SCENARIOS} <= set(found["red"])
    one, two = (value(found["red"][f"CLIP score, {each}"]) for each in ("physical", "story"))
    # a line without a caption counts in no mean; each scenario has one with
    assert value(found["red"]["CLIP score"]) == pytest.approx((one + two) / 2, abs=1e-3)
    asked = len(judge.seen)
    assert main(words) == 0 and len(judge.seen) == asked  # answers are kept


def test_a_folder_without_clip_and_a_bench_without_the_score(
    pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "pairs", "--data", str(pairs), "--out", str(tmp_path / "o"), "--clip", str(pairs)]
    assert main(words) == 2
    assert "no CLIP with its processor" in capsys.readouterr().err
    assert main(["bench", "rise", *words[2:]]) == 2
    assert "has no CLIP score" in capsys.readouterr().err
