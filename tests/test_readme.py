"""The README's promises that a machine can check: its Python runs, its commands parse, its files exist."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evlm.cli.main import build_parser
from evlm.models.zoo import CATALOGUE
from evlm.request import EXAMPLES
from trainer.__main__ import COMMANDS
from trainer.config.recipe import load_config

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def test_the_python_of_the_readme_runs_as_one_program(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "1-reference.png", tmp_path / "scene.png")
    shutil.copy(EXAMPLES / "1-reference-reference-1.png", tmp_path / "reference.png")
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks("python")), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "edited.png").exists()
    assert "make the" in run.stdout, "the plan is printed"


def commands() -> list[str]:
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("python -m evlm")]


@pytest.mark.parametrize("command", commands())
def test_the_commands_of_the_readme_parse(command: str) -> None:
    options = build_parser().parse_args(shlex.split(command)[3:])
    known = {m.name for m in CATALOGUE} | {"bundled"}
    for name in [*(getattr(options, "download", None) or []), *(getattr(options, "models", None) or [])]:
        assert name in known


def test_every_model_of_the_catalogue_is_in_the_readme_and_every_link_leads_somewhere() -> None:
    for model in CATALOGUE:
        stem, _, size = model.name.rpartition("-")
        assert f"`{model.name}`" in README or (f"`{stem}-" in README and f"`-{size}`" in README), model.name
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target
    for flag in set(re.findall(r"`(--[a-z-]+)", README)):
        helped = " ".join(a for parser in _subparsers() for a in parser._option_string_actions)
        assert flag in helped or flag in _trainer_flags(), flag


def test_the_training_commands_of_the_readme_parse(tmp_path: Path) -> None:
    found = [
        line for block in blocks("sh") for line in block.splitlines() if line.startswith("python -m trainer")
    ]
    assert found
    for line in found:
        words = shlex.split(line, comments=True)[3:]
        parser = _trainer_parser(words[0])
        options = parser.parse_args(words[1:])
        if words[0] == "run":
            load_config(options.recipe, options.settings)


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
    for block in blocks("sh"):
        for target in re.findall(r"^make (\S+)", block, re.M):
            assert re.search(rf"^{target}:", makefile, re.M)
