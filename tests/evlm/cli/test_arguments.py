"""Whatever the arguments, a command ends in one line that says what does not fit, before anything is loaded.

Nothing leaves as a traceback. (C10, C11)"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ends import ends
from wrong_arguments import EDIT, WRONG

from evlm.cli.main import main
from evlm.errors import ModelError
from evlm.files.pictures import save_picture
from evlm.pipeline import Pipeline
from evlm.reason.reasoner import Reasoner

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What the words of `wrong_arguments` stand for."""
    monkeypatch.chdir(tmp_path)
    save_picture(tmp_path / "a.png", torch.zeros(8, 8, 3))
    (tmp_path / "file.txt").write_text("no picture")
    return {
        "IMAGE": str(tmp_path / "a.png"),
        "FILE": str(tmp_path / "file.txt"),
        "OUT": str(tmp_path / "new"),
    }


def filled(words: list[str], places: dict[str, str]) -> list[str]:
    return [
        word.replace("FILE", places["FILE"]) if "FILE" in word else places.get(word, word) for word in words
    ]


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The times that models were loaded or fetched; both then fail, as does what is wrong only for them."""
    times: list[Any] = []

    def refuse(*given: Any, **_: Any) -> Any:
        times.append(given)
        raise ModelError("loaded")

    monkeypatch.setattr(Pipeline, "load", refuse)
    monkeypatch.setattr(Reasoner, "load", refuse)
    monkeypatch.setattr("evlm.models.download.download", refuse)
    return times


@pytest.mark.parametrize("command", WRONG)
def test_200_wrong_argument_sets_end_in_one_line(
    command: str, places: dict[str, str], loaded: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """(C10, C11)"""
    before = sorted(Path.cwd().rglob("*"))
    assert len(WRONG[command]) >= 200
    wrong, needs_models = [], []
    for words in WRONG[command]:
        code = ends(filled(words, places))
        said = capsys.readouterr().err
        if code != 2 or said.count("\n") != 1 or not said.startswith("error: ") or len(said) > 6000:
            wrong.append(f"{words[1:]!a:.200} -> {code} {said!a:.300}")
        if loaded:
            needs_models.append(words)
            loaded.clear()
    assert not wrong, f"{len(wrong)} of {len(WRONG[command])}:\n" + "\n".join(wrong[:20])
    assert sorted(Path.cwd().rglob("*")) == before, "nothing was written"
    last = [["--adapter", "/dev/null"], ["--adapter", "FILE"], ["--models", "reasoner=none"]]
    held = [words[-2:] for words in needs_models]
    assert held in ([], last[:2], last), "an adapter is held against its model"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--threshold", "nan"], "from 0 to 1"),
        (["--threshold", "2"], "from 0 to 1"),
        (["--threshold", "-5"], "from 0 to 1"),
        (["--steps", "0"], "from 1 to 1000"),
        (["--guidance", "1e999"], "from 0 to 100"),
        (["--temperature", "-1"], "from 0.001 to 100"),
        (["--seed", "-1"], "from 0 to 9223372036854775807"),
        (["--folder", "/nope"], "'/nope', expected a folder that exists"),
        (["--models", ""], "expected a model's name"),
        (["--models", "bundled", "detector="], "expected a model's name"),
        (["--device", "gpu"], "try 'cuda', 'mps' or 'cpu'"),
        (["--device", "cuda:99"], "'cuda:99' cannot be used on this machine"),
        (["--device", "mps:9"], "'mps:9' cannot be used on this machine"),
        (["--adapter", "/nope"], "--adapter /nope"),
    ],
)
def test_the_value_and_its_range_are_named_before_anything_is_loaded(
    more: list[str], said: str, places: dict[str, str], loaded: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """(C11)"""
    assert ends(filled([*EDIT, *more], places)) == 2
    shown = capsys.readouterr().err
    assert said in shown and more[-1] in shown and not loaded


def test_what_fits_reaches_the_models(places: dict[str, str], loaded: list[Any]) -> None:
    """The ends of the ranges are inside them."""
    edge = ["--threshold", "1", "--steps", "1000", "--guidance", "0", "--temperature", "0"]
    edge += ["--seed", str(2**63 - 1), "--max-new-tokens", "65536", "--device", "cpu"]
    assert ends(filled([*EDIT, *edge], places)) == 2
    assert len(loaded) == 1


def test_names_that_are_empty_are_no_models_for_python_either() -> None:
    """(C11)"""
    from evlm.models.zoo import choose

    for name in ("", " ", "detector="):
        with pytest.raises(ModelError, match="empty"):
            choose(["bundled", name])


ERRORS = [
    RuntimeError("CUDA error: out\nof luck"),
    OSError(5, "Input/output error", "/x/y"),
    MemoryError(),
    UnicodeEncodeError("ascii", "ä", 0, 1, "no"),
    KeyError("bug"),
]


@pytest.mark.parametrize("error", ERRORS)
def test_what_fails_underway_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """(C10)"""

    def fail(options: Any) -> int:
        raise error

    monkeypatch.setattr("evlm.cli.doctor.run", fail)
    assert ends(["doctor"]) == (1 if isinstance(error, KeyError) else 2)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Traceback" not in said
    monkeypatch.setenv("EVLM_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["doctor"])


def test_without_arguments_it_says_what_can_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    """(C19)"""
    assert ends([]) == 0
    shown = capsys.readouterr().out
    for word in ("edit --image", "models", "doctor", "demo", "--help"):
        assert word in shown


def test_version_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """(C19)"""
    from evlm import __version__

    for words, expected in ((["--version"], __version__), (["edit", "--help"], "(default: 768)")):
        assert ends(words) == "exit 0" and expected in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("command", WRONG)
def test_ten_as_real_processes(command: str, places: dict[str, str]) -> None:
    """(C10, C11)"""
    sets = [
        words for words in WRONG[command] if not any("\0" in word or len(word) > 10_000 for word in words)
    ]
    for words in sets[:: len(sets) // 10][:10]:
        result = subprocess.run(
            [sys.executable, "-m", "evlm", *filled(words, places)],
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
        )
        assert result.returncode == 2, (words, result.stderr)
        assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: "), (words, result.stderr)
