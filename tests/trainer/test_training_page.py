"""docs/training.md against the code: settings with their defaults, commands that parse, files that exist."""

from __future__ import annotations

import argparse
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from trainer.__main__ import COMMANDS
from trainer.config.recipe import RECIPES, Config, Source, load_config
from trainer.config.settings import build

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
TABLES = PAGE.partition("\n## Every setting\n")[2]


def settings(kind: Any, where: str = "recipe") -> Iterator[tuple[str, Any]]:
    """(heading, dataclass) of the recipe and of all that it holds."""
    yield where, kind
    hints = get_type_hints(kind)
    for each in fields(kind):
        for inner in (hints[each.name], *get_args(hints[each.name])):
            if is_dataclass(inner):
                yield from settings(inner, each.name if where == "recipe" else f"{where}.{each.name}")


def shown(field: Any, hint: Any) -> str:
    """A field's default as the tables write it."""
    if field.default is MISSING and field.default_factory is MISSING:
        return "required"
    if any(is_dataclass(each) for each in (hint, *get_args(hint))):
        return ""
    value = field.default if field.default is not MISSING else field.default_factory()
    if isinstance(value, tuple):
        return ", ".join(value)
    return str(value) if isinstance(value, str) else json.dumps(value)


@pytest.mark.parametrize(("heading", "kind"), list(settings(Config)))
def test_each_table_lists_every_setting_with_its_default(heading: str, kind: Any) -> None:
    (section,) = re.findall(rf"^### {re.escape(heading)}\n(.*?)(?=^#|\Z)", TABLES, re.M | re.S)
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")] for line in section.splitlines() if "|" in line
    ]
    hints = get_type_hints(kind)
    wanted = {each.name: shown(each, hints[each.name]) for each in fields(kind)}
    assert {row[0]: row[1] for row in rows[2:]} == wanted
    assert all(len(row) == 3 and row[2] for row in rows)


def test_no_table_is_about_something_else() -> None:
    assert set(re.findall(r"^### (.+)$", TABLES, re.M)) == {heading for heading, _ in settings(Config)}


def test_the_commands_parse_and_the_recipes_exist() -> None:
    lines = [
        line for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S) for line in block.splitlines()
    ]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line, comments=True)
        words = words[words.index("trainer") + 1 :]
        parser = argparse.ArgumentParser()
        importlib.import_module(COMMANDS[words[0]][0]).add_parser(parser)
        options = parser.parse_args(words[1:])
        if words[0] == "run":
            load_config(options.recipe, options.settings)
    named = set(re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE.split("## Before")[0], re.M))
    assert named == {path.stem for path in RECIPES.glob("*.yaml")}
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.M | re.S)
    for source in yaml.safe_load(text)["data"]:
        build(Source, source)
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target
