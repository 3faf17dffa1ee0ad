"""What the registry and Manager get: no empty fields, a small package, pictures that it takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What a ComfyUI runs or shows; all else can be read in the repository.
KEPT = {"__init__.py", "nodes", "evlm", "trainer", "web", "locales", "workflows", "docs", "pyproject.toml",
        "subgraphs", "requirements.txt", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md",
        ".comfyignore", ".gitignore"}  # fmt: skip


def test_no_field_is_empty_and_an_address_is_one() -> None:
    """(N13)"""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert not re.findall(r'^(\w+) = ""', project, re.MULTILINE)
    addresses = re.findall(r'^(Repository|Icon|Banner) = "(.*)"', project, re.MULTILINE)
    assert all(address.startswith("https://") for _, address in addresses)
    assert addresses or "Not published yet" in project


def test_no_pattern_that_comfy_test_forbids() -> None:
    """`comfy-test lint` looks, line by line, for what ComfyUI has its own way for: layers, dtype, memory. The
    trainer is a program of its own and the engine runs without ComfyUI: they import torch's by name."""
    words = (r"torch\.autocast\s*\(", r"torch\.(cuda\.)?amp\.autocast", r"torch\.load\s*\(",
             r"\bnn\.(Linear|Conv\w*|LayerNorm|GroupNorm|Embedding)\s*\(", r"\.to\s*\(\s*[\"']cuda",
             r"\.cuda\s*\(", r"torch\.cuda\.empty_cache\s*\(")  # fmt: skip
    forbidden = re.compile("|".join(words))
    files = [path for room in ("evlm", "trainer", "nodes") for path in (ROOT / room).rglob("*.py")]
    lines = [(path, line) for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    assert not [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path, line in lines
        if forbidden.search(line) and not line.lstrip().startswith("#")
    ]


@pytest.mark.parametrize(("name", "most"), [("icon", (400, 400)), ("banner", (1260, 540))])
def test_icon_and_banner_are_what_the_registry_takes(name: str, most: tuple[int, int]) -> None:
    """(N13)"""
    from PIL import Image

    file = ROOT / "docs" / f"{name}.png"
    assert file.is_file() and file.stat().st_size < 30_000
    with Image.open(file) as picture:
        assert picture.width <= most[0] and picture.height <= most[1]
        assert picture.width * most[1] == picture.height * most[0]  # square; 21 to 9


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="no checkout")
def test_the_package_holds_no_tests() -> None:
    """`comfy node pack` takes what git knows, without what .comfyignore names (N13)."""

    def files(*more: str) -> set[str]:
        out = subprocess.run(
            ["git", "ls-files", "-z", *more], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return set(filter(None, out.stdout.split("\0")))

    ignore = ROOT / ".comfyignore"
    left_out = files("-c", "-i", f"--exclude-from={ignore}") if ignore.is_file() else set()
    packed = files() - left_out
    assert {path.split("/")[0] for path in packed} == KEPT
    assert not [path for path in packed if Path(path).name.startswith("test_")]
    bundled = {path for path in packed if path.startswith("evlm/bundled/")}
    assert (
        sum((ROOT / path).stat().st_size for path in packed - bundled) < 6_000_000
    )  # CLIP's merges .2, sources 4.4, pictures of workflows and pages 0.9
