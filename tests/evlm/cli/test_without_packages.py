"""A Python that lacks packages, has others than were tried, or is too old (C12); no network (C13)."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from ends import ends

ROOT = Path(__file__).resolve().parents[3]
OLD = (
    "import sys; sys.version_info = (3, 9, 18); from evlm.cli.main import main; sys.exit(main(sys.argv[1:]))"
)
LISTED = """
import sys, evlm.cli.main as m
m.main(["doctor"])
print(*[each.__file__ for name, each in list(sys.modules.items()) if name.split(".")[0] == "evlm"])
"""


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_doctor_works_without_any_package() -> None:
    """-S leaves Python without site-packages, as a fresh one is. (C12)"""
    result = run("-S", "-m", "evlm", "doctor")
    assert result.returncode == 0 and not result.stderr, result.stderr
    for name in ("torch", "transformers", "diffusers", "huggingface-hub", "numpy", "pillow"):
        assert re.search(rf"^  {name} +MISSING: pip install '{name}>=", result.stdout, re.M), name
    assert "bundled" in result.stdout
    assert run("-S", "-m", "evlm", "models").returncode == 0


@pytest.mark.parametrize("command", [["edit", "--image", "x.png", "--prompt", "x", "--out", "o"], ["demo"]])
def test_the_others_say_in_one_line_what_is_missing(command: list[str]) -> None:
    """(C12)"""
    result = run("-S", "-m", "evlm", *command)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    assert "pip install torch" in result.stderr and "doctor" in result.stderr


def test_a_python_that_is_too_old() -> None:
    """Seen with a real 3.9, here a Python that says it is one. (C12)"""
    looked = run("-S", "-c", OLD, "doctor")
    assert looked.returncode == 0 and "TOO OLD" in looked.stdout and "3.10" in looked.stdout
    for command in (["models"], ["edit", "--image", "x", "--out", "o"], ["demo"]):
        refused = run("-S", "-c", OLD, *command)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "3.10" in refused.stderr
    listed = run("-S", "-c", LISTED)
    files = listed.stdout.splitlines()[-1].split()
    assert len(files) > 10
    for file in files:
        ast.parse(Path(file).read_text(encoding="utf-8"), file, feature_version=(3, 9))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("4.12.3", "TOO OLD"),
        ("4.57", ""),
        ("5.24.0", ""),
        ("6.0.0rc1", "newer than what was tried"),
        ("unknown", "TOO OLD"),
    ],
)
def test_the_doctor_says_what_is_too_old_or_too_new(
    found: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """(C12)"""
    monkeypatch.setattr(
        "evlm.cli.doctor.version", lambda name: found if name == "transformers" else version(name)
    )
    assert ends(["doctor"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  transformers ")]
    assert found in line and (said in line if said else line.endswith(found))
    assert bool(said) == ("pip install 'transformers" in line)


def test_the_doctor_outlives_a_torch_that_does_not_load(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """(C12)"""
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", None)
    assert ends(["doctor"]) == ends(["models"]) == 0
    assert "does not work" in capsys.readouterr().out


def test_the_doctors_versions_are_those_of_the_requirements() -> None:
    from evlm.cli.doctor import NEEDED

    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = dict(line.split(">=") for line in lines if ">=" in line)
    for name, (least, newest) in NEEDED.items():
        assert name.startswith("torch") or wanted[name] == least
        assert int(version(name).split(".")[0]) <= newest, f"{name} runs here, so it was tried"


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize("folder", [True, False])
def test_a_download_without_a_network_is_one_line(tmp_path: Path, folder: bool) -> None:
    """The hub's real client against a port where nobody listens. (C13)"""
    words = ["-m", "evlm", "models", "--download", "sam2.1-tiny"]
    words += ["--folder", str(tmp_path / "models")] * folder
    result = run(
        *words,
        HF_ENDPOINT=f"http://127.0.0.1:{closed_port()}",
        HF_HUB_OFFLINE="0",
        HF_HOME=str(tmp_path / "hub"),
        NO_PROXY="*",
        no_proxy="*",
    )
    assert result.returncode == 2 and not result.stdout
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: facebook/sam2.1-hiera-tiny")
    assert "Run it again" in result.stderr and len(result.stderr) < 600


def test_what_cannot_be_fetched_is_said_before_anything_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--download bundled` (C19); of several names the last is wrong; the folder is a file. (C10)"""
    asked: list[Any] = []
    monkeypatch.setattr("evlm.models.download.download", lambda *given: asked.append(given))
    assert ends(["models", "--download", "bundled"]) == 2
    assert "come with EVLM" in capsys.readouterr().err
    assert ends(["models", "--download", "sam2.1-tiny", "someone/model"]) == 2
    assert "someone/model" in capsys.readouterr().err
    (tmp_path / "file").write_text(json.dumps({}))
    assert ends(["models", "--download", "sam2.1-tiny", "--folder", str(tmp_path / "file")]) == 2
    assert "--folder" in capsys.readouterr().err and not asked
