"""`python -m trainer start`: ten public forms are known, and what is written can be planned and run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from evlm.errors import EVLMError
from evlm.records import RowWriter
from trainer.__main__ import main
from trainer.config.recipe import load_config
from trainer.run.dry_run import plan
from trainer.start import draft as drafts
from trainer.start.look import look
from trainer.world.rows import Recipe, rows

COUNT = 48
ASKED, ANSWER = "What is in picture {}?", "It is picture number {}."
Make = Callable[[Path], Path]


def pictures(folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{colour}.png" for colour in ("red", "green", "blue")]
    for name in names:
        Image.new("RGB", (64, 48), name.removesuffix(".png")).save(folder / name)
    return names


def foreign(name: str, row: Callable[[int, str], dict[str, Any]], info: dict[str, Any] | None = None) -> Make:
    """A folder with one file of rows, its pictures beside it, or in it where it is a parquet file."""

    def make(folder: Path) -> Path:
        shown = pictures(folder)
        made = [row(at, shown[at % 3]) for at in range(COUNT)]
        if info:
            (folder / "dataset_info.json").write_text(json.dumps(info))
        file = folder / name
        if file.suffix == ".parquet":
            import pyarrow
            import pyarrow.parquet

            for each in made:
                each["images"] = [{"bytes": (folder / p).read_bytes(), "path": None} for p in each["images"]]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(made), file)
        elif file.suffix == ".json":
            file.write_text(json.dumps(made))
        else:
            file.write_text("".join(json.dumps(each) + "\n" for each in made))
        return folder

    return make


def own(parquet: bool = False) -> Make:
    def make(folder: Path) -> Path:
        writer = RowWriter(folder)
        for row, shown in rows(Recipe(seed=3), 0, COUNT):
            writer.append(row, {name: shown[name] for name in row.paths() if name in shown})
        if parquet:
            words = ["--from", "evlm", "--to", "evlm", str(folder), str(folder / "rows.parquet")]
            assert main(["data", "convert", *words]) == 0
            (folder / "rows.jsonl").unlink()
        return folder

    return make


def messages(content: Any, at: int) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}, {"role": "assistant", "content": ANSWER.format(at)}]


def sharegpt(at: int, picture: str) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<image>{ASKED.format(at)}"},
        {"from": "gpt", "value": ANSWER.format(at)},
    ]
    return {"conversations": turns, "images": [picture], "kto_tag": at % 3 != 0}


def items(at: int, picture: str) -> dict[str, Any]:
    shown = [{"type": "image"}, {"type": "text", "text": ASKED.format(at)}]
    answer = [{"type": "text", "text": ANSWER.format(at)}]
    turns = [{"role": "user", "content": shown}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "images": [picture]}


def unpaired(at: int, picture: str) -> dict[str, Any]:
    shown = [{"type": "image"}, {"type": "text", "text": ASKED.format(at)}]
    asked, said = {"role": "user", "content": shown}, {"role": "assistant", "content": ANSWER.format(at)}
    return {"prompt": [asked], "completion": [said], "images": [picture], "label": at % 3 != 0}


OPENAI = {
    "chat": {
        "file_name": "chat.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                 "assistant_tag": "assistant"},
    }
}  # fmt: skip
FORMS: dict[str, tuple[str, Make]] = {
    "evlm": ("evlm", own()),
    "evlm_parquet": ("evlm", own(parquet=True)),
    "sharegpt": ("llamafactory", foreign("train.json", sharegpt)),
    "openai": (
        "llamafactory",
        foreign(
            "chat.jsonl",
            lambda at, p: {"messages": messages(f"<image>{ASKED.format(at)}", at), "images": [p]},
            OPENAI,
        ),
    ),
    "alpaca": (
        "llamafactory",
        foreign(
            "alpaca.json",
            lambda at, p: {
                "instruction": f"<image>{ASKED.format(at)}",
                "output": ANSWER.format(at),
                "images": [p],
            },
        ),
    ),
    "swift": (
        "swift",
        foreign(
            "data.jsonl",
            lambda at, p: {
                "messages": messages(f"<image>{ASKED.format(at)}", at),
                "images": [p],
                "label": at % 2 == 0,
            },
        ),
    ),
    "query": (
        "swift",
        foreign(
            "q.jsonl", lambda at, p: {"query": ASKED.format(at), "response": ANSWER.format(at), "images": p}
        ),
    ),
    "trl_sft": ("trl", foreign("train.jsonl", items)),
    "trl_unpaired": ("trl", foreign("train.jsonl", unpaired)),
    "trl_parquet": ("trl", foreign("train-00000-of-00001.parquet", items)),
    "trl_unpaired_parquet": ("trl", foreign("train.parquet", unpaired)),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_known_form_becomes_a_recipe_that_can_be_run(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    form, make = FORMS[name]
    if "parquet" in name:
        pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    folder = make(tmp_path / "my data")
    capsys.readouterr()
    assert main(["start", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f" rows of the form {form}, " in out and "wrote my-data.yaml" in out
    (command,) = [line for line in out.splitlines() if line.endswith("run my-data.yaml")]
    assert shlex.split(command)[:3] == ["python", "-m", "trainer"]
    config = load_config("my-data.yaml")
    assert [source.form for source in config.data] == [form]
    assert config.phases[0].kind == "sft" and config.phases[0].epochs == 3 and config.eval_every
    assert [line for line in plan(config).missing if not line.startswith("TensorBoard")] == []
    lines = Path("my-data.yaml").read_text().splitlines()
    without = [line for line in lines if ": " in line and "#" not in line]
    assert len(without) <= 6, (
        without
    )  # every choice has its reason; names and what follows from one have none
    labelled = any(word in name for word in ("evlm", "sharegpt", "swift", "unpaired"))
    assert ("#  - kind: kto" in "\n".join(lines)) == labelled


def test_the_recipe_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, but for its length; and with the part that stood behind #."""
    monkeypatch.chdir(tmp_path)
    FORMS["sharegpt"][1](tmp_path / "mine")
    assert main(["start", "mine", "--out", "first.yaml"]) == 0
    text = Path("first.yaml").read_text()
    Path("both.yaml").write_text(text.replace("\n#  ", "\n  "))
    assert [phase.kind for phase in load_config("both.yaml").phases] == ["sft", "kto"]
    words = [
        "lora.rank=2",
        "phases.0.epochs=0",
        "phases.0.steps=1",
        "phases.0.batch=2",
        "phases.0.micro_batch=1",
    ]
    assert main(["run", "first.yaml", *words, "eval_rows=2", "--progress", "jsonl"]) == 0
    assert Path("runs/first/adapter.safetensors").is_file()


def test_the_larger_the_card_the_larger_the_model(tmp_path: Path) -> None:
    found = look(FORMS["sharegpt"][1](tmp_path / "rows"))
    chosen = []
    for gigabytes in (None, 8, 16, 24, 48, 80):
        made = drafts.draft(found, "runs/x", None, None if gigabytes is None else gigabytes * 1e9)
        chosen.append(yaml.safe_load(made.text)["model"]["base"])
    sizes = ["bundled", *reversed(drafts.CHOICES)]
    assert [sizes.index(name) for name in chosen] == sorted(sizes.index(name) for name in chosen)
    assert chosen[0] == "bundled" and chosen[-1] == drafts.CHOICES[0]
    asked = drafts.draft(found, "runs/x", "some/folder", None)
    assert yaml.safe_load(asked.text)["model"]["base"] == "some/folder"


def test_many_files_share_by_their_rows_and_a_bad_one_is_named(tmp_path: Path, capsys: Any) -> None:
    folder = FORMS["trl_sft"][1](tmp_path / "many")
    (folder / "bad.jsonl").write_text('{"messages": 3}\n')
    (folder / "few.jsonl").write_text("\n".join((folder / "train.jsonl").read_text().splitlines()[:16]))
    assert main(["start", str(folder), "--out", str(tmp_path / "r.yaml")]) == 0
    out = capsys.readouterr().out
    assert "left out: " in out and "bad.jsonl" in out
    assert [s.weight for s in load_config(tmp_path / "r.yaml").data] == pytest.approx([0.25, 0.75], abs=1e-3)
    assert main(["start", str(folder), "--out", str(tmp_path / "r.yaml")]) == 2
    assert "is there already" in capsys.readouterr().err


def test_rows_to_be_measured_are_not_learned(tmp_path: Path, capsys: Any) -> None:
    """Of foreign forms, by their files' names; the file itself can be named."""
    folder = FORMS["trl_sft"][1](tmp_path / "many")
    for name in ("test.jsonl", "x_val.jsonl", "Validation-00000-of-00001.jsonl", "latest.jsonl"):
        (folder / name).write_bytes((folder / "train.jsonl").read_bytes())
    found = look(folder)
    assert [part.path.name for part in found.parts] == ["latest.jsonl", "train.jsonl"]
    assert len(found.refused) == 3 and all("not learned" in line for line in found.refused)
    assert [part.path.name for part in look(folder / "test.jsonl").parts] == ["test.jsonl"]
    assert main(["start", str(folder), "--out", str(tmp_path / "r.yaml")]) == 0
    assert capsys.readouterr().out.count("left out: ") == 3


@pytest.mark.parametrize(
    "content", [None, {}, {"notes.txt": "hello"}, {"rows.jsonl": "{broken"}, {"a.json": "[]"}]
)
def test_what_is_no_dataset_is_said(tmp_path: Path, content: dict[str, str] | None) -> None:
    folder = tmp_path / "folder"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(EVLMError, match="folder"):
        look(folder)


def test_rows_that_nobody_wants_are_only_left(tmp_path: Path) -> None:
    folder = foreign("train.jsonl", lambda at, p: {**unpaired(at, p), "label": False})(tmp_path / "bad")
    content = yaml.safe_load(drafts.draft(look(folder), "runs/x", None, None).text)
    assert [phase["kind"] for phase in content["phases"]] == ["kto"]


def test_rows_that_all_ask_the_same_are_not_held_out(tmp_path: Path) -> None:
    """One question is held out whole or not at all; the recipe says why it measures nothing."""
    make = foreign("train.jsonl", lambda at, p: {**sharegpt(0, "red.png"), "kto_tag": None})
    text = drafts.draft(look(make(tmp_path / "same")), "runs/x", None, None).text
    assert "too many rows ask the same question" in text
    content = yaml.safe_load(text)
    assert "eval_every" not in content and "patience" not in content["phases"][0]


def test_a_recipe_that_begins_with_a_dash_can_be_run_as_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    FORMS["sharegpt"][1](tmp_path / "mine")
    assert main(["start", "mine", "--out=-x.yaml"]) == 0
    said = capsys.readouterr().out.partition("next:")[2].strip().splitlines()[-1]
    assert shlex.split(said) == ["python", "-m", "trainer", "run", "./-x.yaml"]


def test_a_validation_split_that_nobody_wanted_is_nothing_to_measure_on(tmp_path: Path) -> None:
    """A recipe that measures on it could not be run."""
    folder = own()(tmp_path / "data")
    file = folder / "rows.jsonl"
    every = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [{**row, "split": "train" if row["label"] else "validation"} for row in every]
    file.write_text("".join(json.dumps(row) + "\n" for row in kept))
    assert main(["start", str(folder), "--base", "bundled", "--out", str(tmp_path / "a.yaml")]) == 0
    config = load_config(tmp_path / "a.yaml", [f"out={tmp_path / 'run'}"])
    assert plan(config).missing == () and look(folder).parts[0].validation == 0
