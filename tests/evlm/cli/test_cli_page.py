"""docs/cli.md: every command and flag stands there, and its examples run where they need no other model."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from test_moving_folders import walking
from test_pipeline import Paints, Says, circle, trace
from test_scene_job import scene

from evlm.cli import request_flags
from evlm.cli.main import COMMANDS, build_parser, main
from evlm.models.zoo import BUNDLED
from evlm.pipeline import Pipeline
from evlm.plan.trace import render
from evlm.reason.reasoner import Reasoner
from evlm.request import EXAMPLES
from evlm.scene.files import save_gaussians
from evlm.scene.moving import save_folder, save_sequence

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")
LINES = [line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S) for line in block.splitlines()]


class Ended:
    """A server that is ended as soon as it serves."""

    url, answered = "http://127.0.0.1:1/v1", 0

    def __init__(self, *_: Any) -> None:
        pass

    def __enter__(self) -> Ended:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def serve_forever(self) -> None:
        raise KeyboardInterrupt


def test_every_command_and_flag_stands_on_the_page() -> None:
    (table,) = [action for action in build_parser()._actions if isinstance(action.choices, dict)]
    assert set(re.findall(r"^## (.+)", PAGE, re.M)) == set(COMMANDS)
    for command, parser in dict(table.choices or {}).items():
        section = PAGE.split(f"## {command}\n")[1].split("\n## ")[0]
        flags = _flags(parser) - {"-h", "--help"}
        told = set(re.findall(r"`(--[a-z-]+)", "\n".join(re.findall(r"^\|.*", section, re.M))))
        if command == "scene":  # those of a request stand in the section of edit
            requests = argparse.ArgumentParser()
            request_flags.add_flags(requests)
            flags -= _flags(requests) - told
        assert flags == told, command


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    """Of a command, and of the actions below it."""
    flags = {flag for action in parser._actions for flag in action.option_strings}
    for action in parser._actions:
        if isinstance(action.choices, dict):
            flags = flags.union(*map(_flags, action.choices.values()))
    return flags


@pytest.mark.parametrize("line", LINES)
def test_the_examples_run(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small steps in place of the models, and nothing fetched."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLES / "1-reference.png", "photo.png")
    shutil.copy(EXAMPLES / "1-reference-reference-1.png", "like_this.png")
    clip = [Image.new("RGB", (24, 20), (60 * i, 90, 30)) for i in range(4)]
    for name in ("clip.gif", "edited.gif"):
        clip[0].save(name, save_all=True, append_images=clip[1:])
    Image.new("L", (24, 20), 255).save("mask.png")
    save_gaussians("room.ply", scene().gaussians)
    moving = walking()
    if line.endswith("walk"):
        save_sequence(Path("plys"), moving, (0.0, 0.5, 1.0))
    else:
        save_folder(Path("walk"), moving)
    if "scene check" in line:  # of an edit that took the first ball away
        first = np.arange(80) < 40
        Path("out/scene").mkdir(parents=True)
        np.savez("out/scene/selection.npz", rows=first)
        save_gaussians("out/scene/edited.ply", scene().gaussians.rows(torch.from_numpy(~first)))
    if "models/Qwen2.5-VL-7B-Instruct" in line:
        shutil.copytree(BUNDLED / "reasoner", "models/Qwen2.5-VL-7B-Instruct")
    asked: list[Any] = []

    def load(*given: Any, **_: Any) -> Pipeline:
        asked.append(given)
        return Pipeline(Says(render(trace(circle()))), None, None, Paints())

    def fetch(name: str, *_: Any) -> Path:
        asked.append(name)
        return tmp_path

    monkeypatch.setattr(Pipeline, "load", load)
    monkeypatch.setattr(Reasoner, "load", load)
    monkeypatch.setattr("evlm.reason.server.Server", Ended)
    monkeypatch.setattr("evlm.models.download.download", fetch)
    words = shlex.split(line)
    while "=" in words[0]:  # of the environment
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    words = words[3:]
    assert main(words) == 0
    models = words[0] in ("edit", "demo", "serve") or words[:2] == ["scene", "edit"]
    assert bool(asked) == (models or "--download" in words)
    if words[0] == "edit":
        assert Path("out/photo/edited.png").is_file()
