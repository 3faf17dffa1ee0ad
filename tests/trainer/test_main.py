"""`python -m trainer`: the commands are there, light to ask for, and end with a clear code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from data_rows import draw_pictures, many, write_rows

from trainer.__main__ import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0 and "usage: python -m trainer" in capsys.readouterr().out


def test_help_and_nonsense_end_at_once() -> None:
    code = (
        "import sys, trainer.__main__ as t\ntry: t.main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "world" in out.stdout and out.stdout.strip().endswith("False")
    with pytest.raises(SystemExit) as end:
        main(["nonsense"])
    assert end.value.code == 2


def test_what_does_not_fit_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", str(tmp_path / "out"), "--rows", "1", "--size", "4"]) == 2
    assert capsys.readouterr().err.startswith("error: size 4")
    assert not (tmp_path / "out").exists()


def test_the_home_is_known_behind_an_equals_sign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell expands `--out=~/x`."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    write_rows(draw_pictures(tmp_path / "data") / "rows.jsonl", many(4))
    assert main(["start", "data", "--base=bundled", "--out=~/made.yaml"]) == 0
    assert (tmp_path / "home" / "made.yaml").is_file() and not (tmp_path / "~").exists()
