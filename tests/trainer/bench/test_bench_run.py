"""`python -m trainer bench` on small copies in each benchmark's layout: readers, floors, where pictures come
from."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_servers import Local, StandIn, by_pixels, judging, picture

from evlm.errors import ConfigError, EndpointError, EVLMError
from trainer.__main__ import main
from trainer.bench.base import Item
from trainer.bench.cli import BENCHES, bench_of, chosen
from trainer.bench.editors import ComfyUI
from trainer.bench.kris import GROUPS
from trainer.bench.made_by import claim, of_chain
from trainer.evaluation.graded import Ask, Graders
from trainer.evaluation.judges import Judge
from trainer.evaluation.model_marks import marks

BLUE, GREEN, RED = (0, 0, 255), (0, 255, 0), (255, 0, 0)
WORKFLOW = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "{picture}"}},
    "2": {"class_type": "Edit", "inputs": {"image": ["1", 0], "text": "please {instruction}", "n": 3}},
}


@pytest.fixture(scope="module")
def judge() -> Iterator[Local]:
    server = Local(judging(by_pixels))
    yield server
    server.close()


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)


def put(file: Path, data: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())


def colours(number: int) -> bytes:
    """Another picture each."""
    return picture((0, 20 * number, 255))


def small(name: str, folder: Path) -> int:
    """Writes a copy of a few items; gives how many."""
    if name == "rise":
        kinds = ["temporal", "causal", "spatial", "logical", "causal", "temporal"]
        data = []
        for at, kind in enumerate(kinds):
            image = f"{kind}_reasoning_images/{at}.png"
            put(folder / image, colours(at))
            data.append(
                {
                    "index": f"{kind}_{at}",
                    "category": f"{kind}_reasoning",
                    "subtask": "s",
                    "image": image,
                    "instruction": "later",
                    "reference": "it is red",
                    "consistency_free": at == 5,
                }
            )
        put(folder / "data_total.json", data)
        return len(data)
    if name == "kris":
        names = [group[0] for group in GROUPS.values()][:6]
        for at, category in enumerate(names):
            put(folder / category / "1.png", colours(at))
            put(
                folder / category / "annotation.json",
                {
                    "1": {
                        "ori_img": ["1.png"] if at else "1.png",
                        "ins_en": "turn it red",
                        "explain_en": "red",
                    }
                },
            )
        return len(names)
    if name == "imgedit":
        kinds = ["add", "style", "remove", "extract", "compose", "action"]
        for at, kind in enumerate(kinds):
            put(folder / "singleturn" / kind / f"{at}.png", colours(at))
        put(
            folder / "singleturn" / "singleturn.json",
            {
                str(at): {"id": f"{kind}/{at}.png", "prompt": "red", "edit_type": kind}
                for at, kind in enumerate(kinds)
            },
        )
        return len(kinds)
    if name in ("gedit", "complexedit"):
        rows = []
        for at in range(3):
            put(folder / f"{at}.png", colours(at))
            rows.append(
                {"image": f"{at}.png", "compound": ["red", "red, and small"]}
                if name == "complexedit"
                else {
                    "task_type": "color_alter",
                    "key": f"k{at}",
                    "instruction": "red",
                    "input_image": f"{at}.png",
                    "instruction_language": "cn" if at == 2 else "en",
                }
            )
        put(folder / "test.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        return 6 if name == "complexedit" else 3
    if name == "reasonedit":
        for start, texts in (
            ("1-Left-Right", "Left_Right_text.txt"),
            ("6-Reasoning-231115", "Reason_test.txt"),
        ):
            for at in range(3):
                put(folder / start / f"{at}.png", colours(at))
                put(folder / start / f"{at}_mask.png", picture((0, 0, 0)))
            put(folder / start / texts, b"make it red CLIP: a red thing\n" * 3)
        return 6
    for at in range(4):
        put(folder / f"{at}.png", colours(at))
        put(folder / "red.png", picture(RED))
    lines = [{"original": f"{at}.png", "edited": "red.png", "instruction": "red"} for at in range(4)]
    put(folder / "pairs.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    return 4


def table(out: Path, name: str) -> dict[str, dict[str, str]]:
    with open(out / "tables" / f"{name}.csv", newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


FIGURE = {
    "rise": "accuracy",
    "kris": "instruction",
    "gedit": "S en",
    "imgedit": "by items",
    "complexedit": "following",
    "reasonedit": "Ins-align",
    "pairs": "L1",
}
BEST = {"rise": 0.0, "kris": 100.0, "gedit": 10.0, "imgedit": 5.0, "complexedit": 10.0, "reasonedit": 100.0}


@pytest.mark.parametrize("name", BENCHES)
def test_a_folder_of_red_pictures_beside_the_floors(name: str, judge: Local, tmp_path: Path) -> None:
    """Every benchmark, from its layout to its table; the second run asks nothing and says the same."""
    data, out, red = tmp_path / "data", tmp_path / "out", tmp_path / "red"
    count = small(name, data)
    bench = bench_of(name)
    items = bench.items(data, out / "work")
    assert len(items) == count and len({item.id for item in items}) == count
    for item in items:
        put(red / bench.place("m", item).relative_to("m"), picture(RED))
    words = ["bench", name, "--data", str(data), "--out", str(out), "--edits", f"red={red}"]
    words += [] if name == "pairs" else ["--judge", f"{judge.url}/v1", "pixels"]
    judge.seen.clear()
    assert main(words) == 0
    asked, first = len(judge.seen), table(out, name)
    assert set(first) == {"red", "copy", "other"}
    assert all((out / bench.place(model, item)).is_file() for model in first for item in items)
    values = {model: float(row[FIGURE[name]].split(" ")[0]) for model, row in first.items()}
    if name == "pairs":
        assert values["red"] == 0 and values["copy"] > 0.3
    elif (
        name == "rise"
    ):  # nothing that a judge of pixels calls kept is red as well, but where that is not asked
        assert values["red"] > values["copy"] == values["other"] == 0
    else:
        assert values["red"] == BEST[name] > values["copy"] == values["other"]
    assert all(row["no score"] == "0" for row in first.values())
    assert main(words) == 0 and len(judge.seen) == asked and table(out, name) == first


def test_copy_is_consistent_and_other_is_not(judge: Local, tmp_path: Path) -> None:
    small("rise", tmp_path / "data")
    words = ["bench", "rise", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert main([*words, "--judge", f"{judge.url}/v1", "pixels"]) == 0
    found = table(tmp_path / "out", "rise")
    assert found["copy"]["consistency"].startswith("5.00") and found["copy"]["reasoning"].startswith("1.00")
    assert found["other"]["consistency"].startswith("1.00") and found["other"]["plausibility"].startswith(
        "5.00"
    )


def test_answers_that_cannot_be_read_twice_are_counted(tmp_path: Path) -> None:
    server = Local(judging(lambda words, shown: "no idea"))
    try:
        small("imgedit", tmp_path / "data")
        words = ["bench", "imgedit", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
        assert main([*words, "--judge", f"{server.url}/v1", "m"]) == 0
    finally:
        server.close()
    assert {row["no score"] for row in table(tmp_path / "out", "imgedit").values()} == {"6"}
    assert table(tmp_path / "out", "imgedit")["copy"]["by items"] == "-"
    assert len(server.seen) == 2 * 6 * 2, "once more each"


def test_several_and_second_answers_are_drawn_and_first_ones_greedy(tmp_path: Path) -> None:
    """A server may take no seed: at temperature 0 each would be the one before."""
    server = Local(judging(lambda words, shown: "no idea"))
    try:
        graders = Graders(Judge(f"{server.url}/v1", "m"), tmp_path / "scores.jsonl", workers=1)
        asks = [Ask(("a",), ("x",)), *(Ask(("b",), ("x",), repeat=n, sampled=True) for n in range(2))]
        assert graders.scores(asks) == [None] * 3
    finally:
        server.close()
    assert [json.loads(body)["temperature"] for _, _, body in server.seen] == [0, 1, 1, 1, 1, 1]


def test_a_question_that_a_judge_refuses_is_counted_apart(tmp_path: Path) -> None:
    """And a judge that refuses several in a row is given up."""

    def refusing(method: str, path: str, body: bytes) -> tuple[int, bytes]:
        number = int(re.findall(r"question (\d+)", body.decode())[-1])
        return (400, b"no") if number in refused else judging(lambda *_: '{"x": 3}')(method, path, body)

    server, refused = Local(refusing), {1, 2, 3, 6, 7, 8}
    try:
        judge = Judge(f"{server.url}/v1", "m")
        graders = Graders(judge, tmp_path / "scores.jsonl", workers=1, tries=1)
        found = graders.scores([Ask((f"question {n}",), ("x",)) for n in range(10)])
        assert [n for n, given in enumerate(found) if given == {}] == sorted(refused)
        refused |= set(range(20, 25))
        with pytest.raises(EndpointError, match="5 questions in a row"):
            graders.scores([Ask((f"question {n}",), ("x",)) for n in range(18, 30)])
        one = Graders(judge, tmp_path / "scores.jsonl", workers=1, tries=1)
        with pytest.raises(EndpointError, match="1 questions in a row"):
            one.scores([Ask(("question 1",), ("x",))])
    finally:
        server.close()


def test_a_comfyui_server_runs_a_workflow(tmp_path: Path) -> None:
    stand_in = StandIn()
    try:
        small("pairs", tmp_path / "data")
        put(tmp_path / "w.json", WORKFLOW)
        words = ["bench", "pairs", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
        words += ["--comfyui", stand_in.local.url, "--workflow", str(tmp_path / "w.json")]
        assert main(words) == 0
        assert table(tmp_path / "out", "pairs")["comfyui"]["L1"].startswith("0.0000")
        assert len(stand_in.uploads) == len(stand_in.prompts) == 4 and colours(2) in stand_in.uploads[2]
        assert stand_in.prompts[1]["1"]["inputs"]["image"] == "up-2.png"
        assert stand_in.prompts[1]["2"]["inputs"] == {"image": ["1", 0], "text": "please red", "n": 3}
        assert main(words) == 0 and len(stand_in.prompts) == 4, "what is there is not made again"
        put(tmp_path / "w.json", {**WORKFLOW, "3": {"class_type": "Sharpen", "inputs": {}}})
        assert main(words) == 2, "another workflow's pictures are not added to these"
        assert main([*words, "--judge-only"]) == 0 and len(stand_in.prompts) == 4
        stand_in.fails = True
        one = Item("a", "s", (tmp_path / "data" / "0.png",), "red")
        with pytest.raises(EndpointError, match="item a failed"):
            ComfyUI(stand_in.local.url, tmp_path / "w.json")(one)
    finally:
        stand_in.local.close()


def test_pictures_of_two_chains_are_not_mixed(tmp_path: Path) -> None:
    note, pictures = tmp_path / "work" / "made-by" / "chain.json", [tmp_path / "a.png", tmp_path / "b.png"]
    claim(note, "chain", of_chain(["editor=bundled"], 0), pictures)
    pictures[0].write_bytes(colours(1))
    claim(note, "chain", of_chain(["editor=bundled"], 0), pictures)
    for other in (of_chain(["editor=bundled"], 1), of_chain(["editor=bundled", "detector=bundled"], 0)):
        with pytest.raises(
            ConfigError, match=r"a\.png: other models made it, and 0 more, under the name 'chain'"
        ):
            claim(note, "chain", other, pictures)
    pictures[0].unlink()
    claim(note, "chain", of_chain(["editor=bundled"], 1), pictures)  # nothing is left of the first
    note.unlink()
    pictures[1].write_bytes(colours(2))
    claim(note, "chain", of_chain(["editor=bundled"], 0), pictures)
    assert not note.exists(), "of what was made without a note nothing is claimed"


def test_a_model_that_was_trained_on_is_another_one(tmp_path: Path) -> None:
    put(tmp_path / "a" / "model.safetensors", b"one")
    before = marks(tmp_path / "a")
    put(tmp_path / "a" / "model.safetensors", b"two")
    assert [each[:2] for each in before] == [("model.safetensors", 3)] and marks(tmp_path / "a") != before
    assert marks(tmp_path / "a" / "model.safetensors") == marks(tmp_path / "a")


def test_pictures_that_another_program_made_anew_are_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    many = small("pairs", tmp_path / "data")
    words = ["bench", "pairs", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    for colour in (RED, GREEN):
        for at in range(many):
            put(tmp_path / "theirs" / f"{at:05d}.png", picture(colour))
        assert main([*words, "--edits", "theirs=~/theirs", "--generate-only"]) == 0
    assert {file.read_bytes() for file in (tmp_path / "out" / "theirs").rglob("*.png")} == {picture(GREEN)}


@pytest.mark.parametrize(
    ("workflow", "reason"),
    [
        ({"nodes": []}, "in API form"),
        ([], "in API form"),
        ({"1": {"class_type": "A", "inputs": {"a": "{picture}"}}}, "{instruction} stands nowhere"),
    ],
)
def test_a_workflow_that_is_none_is_refused(workflow: Any, reason: str, tmp_path: Path) -> None:
    put(tmp_path / "w.json", workflow)
    with pytest.raises(ConfigError, match=reason):
        ComfyUI("http://127.0.0.1:9", tmp_path / "w.json")


def test_the_limit_takes_of_every_kind() -> None:
    items = [Item(str(at), "ab"[at % 2], (), "") for at in range(20)]
    some = chosen(items, 6, 1)
    assert [int(each.id) for each in some] == sorted(int(each.id) for each in some) and len(some) == 6
    assert sum(each.stratum == "a" for each in some) == 3 and chosen(items, None, 1) == items


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--comfyui", "http://127.0.0.1:9"], "--workflow"),
        (["--edits", "red"], "NAME=FOLDER"),
        (["--edits", "copy=."], "another name"),
        (["--edits", "a=.", "--edits", "a=.."], "a model 'a' is there already"),
        (["--edits", "chain=.", "--chain", "bundled"], "a model 'chain' is there already"),
        (["--limit", "0"], "--limit"),
        ([], "--judge URL MODEL"),
    ],
)
def test_what_does_not_fit_is_said(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small("rise", tmp_path / "data")
    assert (
        main(["bench", "rise", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), *words]) == 2
    )
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("name", BENCHES)
def test_a_folder_that_is_another_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EVLMError, match=r"expected|no table"):
        bench_of(name).items(tmp_path, tmp_path / "work")
    (tmp_path / "data_total.json").write_text('[{"index": 1, "category": "x", "instruction": 3}]')
    if name == "rise":
        with pytest.raises(ConfigError, match="expected a category"):
            bench_of(name).items(tmp_path, tmp_path / "work")


def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "out.png", picture(RED))
    put(tmp_path / "d" / "singleturn.json", {"1": {"id": "../out.png", "prompt": "a", "edit_type": "add"}})
    with pytest.raises(ConfigError):
        bench_of("imgedit").items(tmp_path / "d", tmp_path / "work")
