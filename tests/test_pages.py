"""What the README and the pages of docs/ promise, as far as a machine can check: their Python runs, their
commands parse, their files exist, their tables are the measured ones."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evlm.cli.main import build_parser
from evlm.models.sets import SETS
from evlm.models.zoo import BUNDLED, CATALOGUE
from evlm.request import EXAMPLES
from trainer.__main__ import COMMANDS
from trainer.bundle.check import PAGES as TABLES
from trainer.bundle.check import write_tables
from trainer.config.recipe import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
}
MODELS = PAGES["docs/models.md"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGES[page], re.M | re.S)


def commands(program: str) -> list[str]:
    """The commands of all pages that begin so, each once."""
    lines = [line for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    return sorted({line for line in lines if line.startswith(program)})


def test_the_readme_is_one_page() -> None:
    assert len(PAGES["README.md"].splitlines()) <= 120


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The Python of the page, and the pictures that it reads beside it."""
    shutil.copy(EXAMPLES / "1-reference.png", tmp_path / "scene.png")
    shutil.copy(EXAMPLES / "1-reference-reference-1.png", tmp_path / "reference.png")
    script = tmp_path / "page.py"
    script.write_text("\n".join(blocks("docs/python.md", "python")), encoding="utf-8")
    return script


def test_the_python_of_the_page_runs(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "edited.png").exists()
    assert "make the" in capsys.readouterr().out, "the plan is printed"


@pytest.mark.slow
def test_the_python_of_the_page_runs_as_one_program(script: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "edited.png").exists()
    assert "make the" in run.stdout, "the plan is printed"


@pytest.mark.parametrize("command", commands("python -m evlm"))
def test_the_commands_parse(command: str) -> None:
    words = shlex.split(command, comments=True)[3:]
    if {"--help", "--version"} & set(words):
        with pytest.raises(SystemExit) as end:
            build_parser().parse_args(words)
        assert end.value.code == 0
        return
    options = build_parser().parse_args(words)
    known = {m.name for m in CATALOGUE} | {"bundled"} | {each.name for each in SETS}
    for name in [*(getattr(options, "download", None) or []), *(getattr(options, "models", None) or [])]:
        assert name in known or "=" in name


@pytest.mark.parametrize("line", commands("python -m trainer"))
def test_the_training_commands_parse(line: str) -> None:
    words = shlex.split(line, comments=True)[3:]
    options = _trainer_parser(words[0]).parse_args(words[1:])
    if words[0] == "run":
        load_config(options.recipe, options.settings)


def test_the_readme_shows_how_to_train() -> None:
    assert any("python -m trainer run" in block for block in blocks("README.md", "sh"))


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGES[page]):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", ["README.md", "docs/nodes.md", "docs/models.md", "docs/python.md"])
def test_every_flag_that_is_named_exists(page: str) -> None:
    for flag in set(re.findall(r"`(--[a-z-]+)", PAGES[page])):
        helped = " ".join(a for parser in _subparsers() for a in parser._option_string_actions)
        assert flag in helped or flag in _trainer_flags(), flag


def test_every_model_of_the_catalogue_is_on_its_page() -> None:
    for model in CATALOGUE:
        stem, _, size = model.name.rpartition("-")
        assert f"`{model.name}`" in MODELS or (f"`{stem}-" in MODELS and f"`-{size}`" in MODELS), model.name


def test_the_tables_are_what_was_measured(tmp_path: Path) -> None:
    for page in TABLES:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(PAGES[page], encoding="utf-8")
    write_tables(tmp_path, json.loads((BUNDLED / "measured.json").read_text()))
    for page in TABLES:
        assert (tmp_path / page).read_text(encoding="utf-8") == PAGES[page]
    lines = re.findall(r"^\| (.+?) \| [\d.-]+ \|", PAGES["README.md"], re.M)
    assert len(lines) == 3, "the headlines"


def _trainer_parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[command][0]).add_parser(parser)
    return parser


def _trainer_flags() -> set[str]:
    return {flag for command in COMMANDS for flag in _trainer_parser(command)._option_string_actions}


def _subparsers() -> list:  # type: ignore[type-arg]
    (action,) = [a for a in build_parser()._actions if hasattr(a, "choices") and isinstance(a.choices, dict)]
    return list(action.choices.values())


def test_make_knows_the_two_commands() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in blocks("README.md", "sh"):
        for target in re.findall(r"^make (\S+)", block, re.M):
            assert re.search(rf"^{target}:", makefile, re.M)
