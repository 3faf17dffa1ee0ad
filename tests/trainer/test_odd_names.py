"""Folders whose names are no UTF-8, which Linux allows: what is written of them is, and no command breaks."""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from data_rows import draw_pictures, many, write_rows

from trainer.__main__ import main
from trainer.config.recipe import load_config
from trainer.evaluation.results import write
from trainer.report.progress import reporting

ODD = os.fsdecode(b"caf\xe9")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    try:
        (tmp_path / ODD).mkdir()
    except OSError:
        pytest.skip("this disk has names in UTF-8 alone")
    write_rows(draw_pictures(tmp_path / ODD) / "rows.jsonl", many(8))
    return tmp_path / ODD


def test_a_recipe_is_drafted_and_names_the_folder(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / f"{ODD}.yaml"
    assert main(["start", str(folder), "--out", str(file)]) == 0
    config = load_config(file)
    assert config.data[0].path == str(folder) and config.out == f"runs/{ODD}"
    assert "caf" in file.read_text(encoding="utf-8")


def test_a_draft_says_any_text_as_yaml(folder: Path) -> None:
    import yaml

    from trainer.start.draft import _said

    for text in (str(folder), "a\U0001f600b", "\x7f\x85\ufeff\u2028", '"\\\t: #\n', "\ud83d", "\U000e0001"):
        assert yaml.safe_load(f"at: {_said(text)}   # said") == {"at": text}


def test_a_card_and_exports_are_written(folder: Path, tmp_path: Path) -> None:
    assert main(["data", "card", str(folder)]) == 0
    assert (folder / "README.md").read_text(encoding="utf-8").count("# caf\\udce9\n") == 1
    for target in ("hf", "webdataset"):
        out = tmp_path / f"{ODD} {target}"
        assert main(["data", "export", str(folder), str(out), "--to", target, "--allow"]) == 0
        assert "# caf\\udce9\n" in (out / "README.md").read_text(encoding="utf-8")


def test_parquet_is_written_and_read_there_and_says_what_it_cannot_hold(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / f"{ODD}.parquet"
    assert main(["data", "convert", str(folder), str(file), "--from", "evlm", "--to", "evlm"]) == 0
    assert main(["data", "check", str(file)]) == 0 and "8 good" in capsys.readouterr().out
    other = tmp_path / "trl.parquet"  # whose paths lead through the folder
    assert main(["data", "convert", str(folder), str(other), "--from", "evlm", "--to", "trl"]) == 2
    error = capsys.readouterr().err
    assert "UTF-8 alone" in error and "write .jsonl" in error and not list(tmp_path.glob("*.parquet*"))


def test_results_that_name_the_folder_are_written(tmp_path: Path) -> None:
    write(tmp_path, {"results.md": f"2 questions of the dataset {ODD}\n"})
    assert (tmp_path / "results.md").read_bytes() == b"2 questions of the dataset caf\\udce9\n"


def test_a_run_there_is_one_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    module = types.ModuleType("wandb")
    module.init = lambda **how: (
        asked.append(how)
        or types.SimpleNamespace(  # type: ignore[attr-defined]
            log=lambda *_, **__: None, finish=lambda *_, **__: None, summary={}
        )
    )
    monkeypatch.setitem(sys.modules, "wandb", module)
    try:
        (tmp_path / ODD).mkdir()
    except OSError:
        pytest.skip("this disk has names in UTF-8 alone")
    out = json.dumps(str(tmp_path / ODD))
    with reporting(load_config("tiny", [f"out={out}", "wandb=evlm"]), "jsonl"):
        pass
    assert len(asked) == 1 and len(asked[0]["id"]) >= 16
