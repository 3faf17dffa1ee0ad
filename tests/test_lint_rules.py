"""Rules of the registry's lint (comfy-test) that need no tool to be held (N14)."""

from __future__ import annotations

import fnmatch
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SKIPPED = {"lib", "site-packages", "node_modules", "venv", "out"}


def files(pattern: str, under: str = ".") -> list[Path]:
    """Without entering what is skipped: a virtual environment holds tens of thousands."""
    found: list[Path] = []
    for folder, inner, names in os.walk(ROOT / under):
        inner[:] = [each for each in inner if each not in SKIPPED and not each.startswith(".")]
        found += [Path(folder, each) for each in fnmatch.filter(names, pattern) if not each.startswith(".")]
    return found


def namespace() -> str:
    shown = re.search(
        r'^DisplayName = "([^"]+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE
    )
    assert shown
    return re.sub(r"[^a-z0-9]", "", shown[1].lower())


def test_a_python_file_can_be_read_as_cp1252() -> None:
    """Windows reads files so where nobody says utf-8."""
    wrong = []
    for path in files("*.py"):
        text = path.read_text(encoding="utf-8")
        wrong += [f"{path.relative_to(ROOT)}: {c!r}" for c in sorted(set(text)) if not _fits(c)]
    assert not wrong, "\n".join(wrong)


def _fits(character: str) -> bool:
    try:
        character.encode("cp1252")
    except UnicodeEncodeError:
        return False
    return True


def test_an_extension_has_the_packs_name_before_its_own() -> None:
    """Two extensions of one name, and the page drops one of them."""
    names = []
    for path in files("*.js", "web"):
        code = path.read_text(encoding="utf-8")
        names += re.findall(r"registerExtension\(\{\s*name:\s*\"([^\"]+)\"", code)
        assert code.count("registerExtension(") == len(re.findall(r"registerExtension\(\{\s*name:", code))
    assert len(names) == len(set(names)) >= 4
    assert all(name.startswith(f"{namespace()}.") for name in names), names


def test_no_node_of_another_pack_is_hooked() -> None:
    """What the page compares a node's kind with is ours."""
    kind = re.compile(r"""comfyClass\)?\s*[!=]==?\s*["'](\w+)|["'](\w+)["']\s*[!=]==?\s*[\w?.]*comfyClass""")
    named = [
        one or other for path in files("*.js", "web") for one, other in kind.findall(path.read_text("utf-8"))
    ]
    assert len(named) >= 4 and all(each.startswith("EVLM_") for each in named), named


@pytest.mark.parametrize(
    "shared",
    [
        r"document\.(head|body|documentElement)\b[^\n]*\.(append|prepend|appendChild|insertBefore)\(",
        r"document\.adoptedStyleSheets",
        r"document\.addEventListener",
        r"\b(window|globalThis)\.\w+\s*=[^=]",
        r"createElement\(\"style\"\)",
    ],
)
def test_nothing_is_put_into_the_page_that_all_packs_share(shared: str) -> None:
    for path in files("*.js", "web"):
        assert not re.search(shared, path.read_text(encoding="utf-8")), path.name
