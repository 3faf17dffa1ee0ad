"""CONTRIBUTING.md: the files that it sends people to are there, and it knows every room."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_house import HOUSE, rooms

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = sorted(set(re.findall(r"`((?:evlm|trainer|nodes|web|locales|tests|docs)/[\w./]+\.\w+)`", PAGE)))


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_named_exists(file: str) -> None:
    assert (ROOT / file).is_file()


def test_each_kind_of_addition_says_its_files() -> None:
    kinds = re.findall(r"^- \*\*(an? [^*]+)\*\*(.*?)(?=^- \*\*|^## )", PAGE, re.M | re.S)
    assert [kind for kind, _ in kinds] == [
        "an editor",
        "a reasoner family",
        "a loss term",
        "an arm of a study",
        "a node",
        "a dataset format",
        "a language",
    ]
    assert all(len(re.findall(r"`[\w./]+/[\w./]+`", text)) >= 2 for _, text in kinds)


@pytest.mark.parametrize("package", HOUSE)
def test_the_rooms_stand_in_the_order_of_the_house(package: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{package}/`"))
    folders = [r for r in rooms(package) if (ROOT / package / r / "__init__.py").exists()]
    listed = [word for word in re.findall(r"`(\w+)`", row.split("|")[2]) if word in folders]
    assert listed == [name for name in HOUSE[package].split() if name in folders]
