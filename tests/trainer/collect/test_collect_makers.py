"""`kind: prompts`: pictures that a maker draws, by an endpoint, a model of this machine, a command."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from picture_server import PictureServer, drawing
from PIL import Image
from test_collect_make import make, private, rows  # noqa: F401 (private is a fixture)

from benchmarks.data_load import texture
from benchmarks.scripted_teacher import Teacher, teaching
from evlm.errors import AnswerError, ConfigError
from trainer.__main__ import main
from trainer.collect import makers, pictures
from trainer.collect.answers import Answers
from trainer.collect.recipe import load_recipe
from trainer.collect.services import Maker

COUNT = 6


def recipe(folder: Path, teacher: Teacher, maker: dict[str, Any], diptychs: bool = False) -> Path:
    """Six prompts; the originals are soft blots of 48 pixels."""
    lines = []
    for n in range(COUNT):
        Image.fromarray(texture(n, 48)).save(folder / f"{n}.png")
        what = {"picture": f"a street, number {n}"} if diptychs else {"original": f"{n}.png"}
        lines.append(json.dumps({"instruction": f"put up sign {n}", **what}))
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / "r.json"
    path.write_text(json.dumps({
        "out": str(folder / "out"), "rows": 30, "maker": maker,
        "sources": [{"kind": "prompts", "path": str(folder / "prompts.jsonl"), "license": "CC0-1.0"}],
        "teacher": {"endpoint": teacher.url, "model": "scripted", "terms": "ours", "send_pictures": True,
                    "samples": 1, "workers": 2, "pause": 0.01, "tries": 9},
    }))  # fmt: skip
    return path


def at(server: PictureServer, **more: Any) -> dict[str, Any]:
    return {"endpoint": server.url, "model": "painter", "send_pictures": True, "workers": 2, "pause": 0.01,
            "tries": 9, "price": 0.04, "prices": {"input": 10, "output": 40}, **more}  # fmt: skip


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in rows(folder).splitlines()]


def pixels(folder: Path, path: str) -> np.ndarray:
    return np.asarray(Image.open(folder / "out" / path).convert("RGB"))


def test_edited_pictures_are_drawn_once_through_faults_and_paid_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher, drawing() as server:
        server.plain, server.failing = True, [429, 500, 429]
        path = recipe(tmp_path, teacher, at(server, size="48x48", max_cost=9))
        main(["data", "make", str(path), "--dry-run"])
        assert f"maker painter at 127.0.0.1:{server.http.server_port}: " in capsys.readouterr().out
        assert not server.asked
        make(path)
        assert server.drawn == len({row["original"][0] for row in lines(tmp_path)}) > 2
        sent, fields = server.asked[-1]
        assert sent == "/v1/images/edits" and fields["n"] == "1" and fields["size"] == "48x48"
        assert sum("response_format" in each for _, each in server.asked) < len(server.asked)
        for row in lines(tmp_path):
            assert row["meta"]["maker"] == "painter" and row["meta"]["maker_prompt"].startswith("put up sign")
            before, after = pixels(tmp_path, row["original"][0]), pixels(tmp_path, row["edited"][0])
            assert (after[2:8, 2:8] == (250, 20, 20)).all() and (before[10:] == after[10:]).all()
        ledger = json.loads((tmp_path / "out/ledger.json").read_text())["maker"]
        assert ledger["answers"] == server.drawn
        assert ledger["cost"] == pytest.approx(server.drawn * (0.04 + (50 * 10 + 100 * 40) / 1e6))
        first, count = rows(tmp_path), len(server.asked)
        make(path)
        assert rows(tmp_path) == first and len(server.asked) == count


def test_a_maker_that_ends_in_the_middle_goes_on_and_one_prompt_that_is_refused_is_dropped(
    tmp_path: Path,
) -> None:
    with teaching() as teacher, drawing() as server:
        server.failing, server.stop_after = [400], 2
        path = recipe(tmp_path, teacher, at(server, workers=1))
        assert make(path) == 2 and not (tmp_path / "out/rows.jsonl").exists()
        server.stop_after = None
        make(path)
        drawn = server.drawn
        make(path)
        assert server.drawn == drawn
        dropped = [
            json.loads(line) for line in (tmp_path / "out/work/dropped.jsonl").read_text().splitlines()
        ]
        assert {each["name"] for each in dropped} == {"picture"} and "not this one" in dropped[0]["reason"]
        assert lines(tmp_path)


def test_a_maker_stops_at_its_sum(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with teaching() as teacher, drawing() as server:
        path = recipe(tmp_path, teacher, at(server, workers=1, max_cost=0.1, max_tokens=64))
        assert make(path) == 2 and "maker.max_cost 0.1" in capsys.readouterr().err and server.drawn == 2
        server.links = True
        assert make(path, "maker.max_cost=9") == 2 and "b64_json" in capsys.readouterr().err


@pytest.mark.parametrize("usage", [None, {"input_tokens": 50}, {"output_tokens": 100}, "many"])
def test_a_sum_holds_where_tokens_cost_and_nobody_says_how_many(
    tmp_path: Path, usage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with teaching() as teacher, drawing() as server:
        server.usage = usage
        more = {"price": 0, "workers": 1, "max_tokens": 1000}
        path = recipe(tmp_path, teacher, at(server, max_cost=0.2, **more))  # a picture may cost 0.08
        assert make(path) == 2 and "maker.max_cost 0.2" in capsys.readouterr().err and server.drawn == 2


def test_a_full_disk_ends_the_drawing_in_one_line_and_its_cost_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any, **more: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pictures, "write_atomically", full)
    with teaching() as teacher, drawing() as server:
        path = recipe(tmp_path, teacher, at(server, workers=1, max_tokens=64))
        assert make(path) == 2 and "No space left on device" in capsys.readouterr().err and server.drawn == 1
    lost = Answers(tmp_path / "out/work/drawn.sqlite").sums()["lost"]
    assert lost == pytest.approx(0.04 + (256 * 10 + 64 * 40) / 1e6)


def test_diptychs_are_drawn_and_cut(tmp_path: Path) -> None:
    with teaching() as teacher, drawing() as server:
        make(recipe(tmp_path, teacher, at(server), diptychs=True))
        assert {path for path, _ in server.asked} == {"/v1/images/generations"}
        assert "a street, number" in server.asked[0][1]["prompt"] and server.drawn <= COUNT
        found = lines(tmp_path)
        assert found and all("A diptych" in row["meta"]["maker_prompt"] for row in found)
        for row in found:
            before, after = pixels(tmp_path, row["original"][0]), pixels(tmp_path, row["edited"][0])
            assert before.shape == after.shape and (before != after).any()


PAINT = """
import sys
from PIL import Image

prompt, original, out = sys.argv[1:]
picture = Image.open(original)
picture.paste((250, 20, 20), (2, 2, 8, 8))
if prompt != "put up sign 1":
    picture.save(out)
"""


def test_a_command_draws(tmp_path: Path) -> None:
    (tmp_path / "paint.py").write_text(PAINT)
    words = [sys.executable, str(tmp_path / "paint.py"), "{prompt}", "{original}", "{out}"]
    with teaching() as teacher:
        make(recipe(tmp_path, teacher, {"command": words, "workers": 1, "tries": 1}))
    for row in lines(tmp_path):
        assert (pixels(tmp_path, row["edited"][0])[2:8, 2:8] == (250, 20, 20)).all()
    dropped = (tmp_path / "out/work/dropped.jsonl").read_text()
    assert "drew nothing" in dropped or "sign 1" not in json.dumps(lines(tmp_path))


def test_a_pipeline_of_this_machine_is_loaded_once_and_draws_in_the_size_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is between the recipe and diffusers; with diffusers itself it is the slow one below."""
    loaded, drawn = [], []

    def pipeline(prompt: str, generator: Any, width: int, height: int) -> Any:
        drawn.append((prompt, generator.initial_seed()))
        picture = Image.new("RGB", (width, height), (len(drawn), 0, 0))
        return SimpleNamespace(images=[picture])

    monkeypatch.setattr(makers, "_pipeline", lambda name: loaded.append(name) or pipeline)
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, {"local": "painter", "size": "64x32"}, diptychs=True)
        assert make(path, "--only", "pairs") == 1
    assert loaded == ["painter"] and all("A diptych" in prompt for prompt, _ in drawn)
    assert len(dict(drawn)) == len({seed for _, seed in drawn}) == len(drawn) > 1
    (size,) = {Image.open(file).size for file in (tmp_path / "out/work/pictures").rglob("*.png")}
    assert size == (64, 32)


@pytest.mark.slow
def test_a_diffusers_folder_draws_diptychs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights draw no diptych, so all of them are dropped: but they are drawn."""
    monkeypatch.setattr(sys.modules[__name__], "COUNT", 2)
    import tiny_ip2p
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    pipe = tiny_ip2p.build()
    unet = UNet2DConditionModel.from_config({**pipe.unet.config, "in_channels": 4})
    parts = {**pipe.components, "unet": unet, "image_encoder": None}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(tmp_path / "model")
    with teaching() as teacher:
        maker = {"local": str(tmp_path / "model"), "size": "64x32"}
        path = recipe(tmp_path, teacher, maker, diptychs=True)
        assert make(path, "--only", "pairs") == 1
        assert make(path, "maker.local=nowhere", "--only", "pairs") == 2
    (drawn,) = {Image.open(file).size for file in (tmp_path / "out/work/pictures").rglob("*.png")}
    assert drawn == (64, 32)


def test_the_bundled_editor_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "COUNT", 2)
    with teaching() as teacher:
        path = recipe(tmp_path, teacher, {"local": "bundled"})
        assert make(path, "--only", "pictures") == 1
    drawn = list((tmp_path / "out/work/pictures").rglob("*.png"))
    assert drawn and all(Image.open(file).size == (48, 48) for file in drawn)


@pytest.mark.parametrize(
    ("maker", "words"),
    [
        (None, "maker: expected who draws"),
        ({"command": ["draw", "{out}"]}, "{prompt} and {out}"),
        ({"command": ["draw", "{prompt}", "{out}"], "local": "bundled"}, "expected one of"),
        ({"endpoint": "https://host/v1", "model": "m", "send_pictures": True}, "prices and max_cost"),
        ({"local": "bundled", "batch": "file"}, "one by one"),
        ({"local": "bundled", "price": -1}, "price"),
    ],
)
def test_a_maker_that_is_none_is_refused(tmp_path: Path, maker: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_recipe(recipe(tmp_path, Teacher(), maker))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"instruction": "x"}, "'original' or 'picture'"),
        ({"original": "0.png"}, "expected 'instruction'"),
        ({"instruction": "x", "original": "0.png", "picture": "y"}, "'original' or 'picture'"),
        ({"instruction": "x", "original": "../0.png"}, "line 1"),
        ({"instruction": "x", "original": "gone.png"}, "does not exist"),
        ({"instruction": "x", "picture": 3}, "expected text"),
        ({"instruction": "x", "pictures": "y"}, "not known"),
    ],
)
def test_a_line_that_asks_for_nothing_is_named(
    tmp_path: Path, line: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, Teacher(), {"local": "bundled"})
    (tmp_path / "prompts.jsonl").write_text(json.dumps(line) + "\n")
    assert make(path, "--dry-run") == 2 and words in capsys.readouterr().err


def test_a_maker_is_not_sent_what_is_not_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_eyes.py").write_text(
        'def look(pictures, texts):\n    return "a face" if "sign 1" in str(texts) else None\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with teaching() as teacher, drawing() as server:
        make(recipe(tmp_path, teacher, at(server)), "filters.safe=my_eyes:look")
        sent = {fields["prompt"] for _, fields in server.asked}
    assert sent and "put up sign 1" not in sent and lines(tmp_path)
    dropped = [json.loads(line) for line in (tmp_path / "out/work/dropped.jsonl").read_text().splitlines()]
    assert all("safe: a face" in each["reason"] for each in dropped)


def test_a_home_in_a_local_makers_name_is_no_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Pipeline:
        @staticmethod
        def from_pretrained(name: str, **_: Any) -> None:
            asked.append(name)
            raise OSError("there is none")

    monkeypatch.setitem(sys.modules, "diffusers", SimpleNamespace(AutoPipelineForText2Image=Pipeline))
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    with pytest.raises(ConfigError, match="'~/sdxl': no diffusers folder"):
        makers._pipeline("~/sdxl")
    assert asked == [str(tmp_path / "sdxl")]


@pytest.mark.parametrize("said", ["\u00e9", "\ud800", "=", "", None, 7, [], {}])
def test_an_answer_that_is_no_base64_holds_no_picture(said: Any) -> None:
    with pytest.raises(AnswerError, match="answered with no picture"):
        makers._picture({"data": [{"b64_json": said}]}, "painter")


def test_a_size_that_a_local_maker_cannot_take_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(makers, "_pipeline", lambda name: None)
    local = makers._Local(Maker(local="folder", size="auto"))
    with pytest.raises(ConfigError, match=r"maker\.size 'auto': expected WIDTHxHEIGHT"):
        local("a hat", None)
