"""`pip install .`: a wheel with engine, bundled models, trainer and recipes, and two commands. (C18)"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "evlm" / "bundled" / "examples" / "2-words.png"


def project() -> dict[str, str]:
    """The sections of pyproject.toml as text; Python 3.10 has no reader for it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    parts = re.split(r"^\[(.+)\]$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_project_can_be_built_and_its_commands_exist() -> None:
    """(C18)"""
    from importlib import import_module

    sections = project()
    assert 'build-backend = "setuptools.build_meta"' in sections.get("build-system", "")
    assert re.search(r'^license = "Apache-2.0"$', sections["project"], re.M), "tables end in February 2027"
    scripts = dict(re.findall(r'^([\w-]+) = "([\w.:]+)"', sections.get("project.scripts", ""), re.M))
    assert sorted(scripts) == ["evlm", "evlm-train"]
    for target in scripts.values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))
    assert 'PublisherId = "evlm"' in sections["tool.comfy"] and "requires-comfyui" in sections["tool.comfy"]


def run(command: Sequence[str | Path], **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        text=True,
        timeout=280,
        **more,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that sees this one's packages, with the project installed from a copy."""
    place = tmp_path_factory.mktemp("install")
    source = place / "source"
    files = run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT
    ).stdout.splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    venv.create(place / "env", with_pip=False)
    python = place / "env" / "bin" / "python"
    packages = run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip()
    (Path(packages) / "seen.pth").write_text(sysconfig.get_path("purelib") + "\n")
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", place, source]
    built = run([sys.executable, "-m", "pip", *words])
    assert built.returncode == 0, built.stderr
    (wheel,) = place.glob("*.whl")
    words = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    put = run([sys.executable, "-m", "pip", "--python", python, *words])
    assert put.returncode == 0, put.stderr
    return place


@pytest.mark.slow
def test_the_wheel_holds_what_is_needed_and_nothing_that_would_hide_others(installed: Path) -> None:
    """(C18)"""
    (wheel,) = installed.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.partition("/")[0] for name in names}
    assert {each for each in top if not each.endswith(".dist-info")} == {"evlm", "trainer"}
    for package in ("evlm", "trainer"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                assert path.relative_to(ROOT).as_posix() in names


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["evlm", "edit", "--image", EXAMPLE, "--prompt", "make it red", "--out", "out"], "out/edited.png"),
        (["evlm-train", "run", "tiny", "--dry-run"], "rows"),
        (["evlm", "--version"], "EVLM 0."),
        (["evlm"], "evlm edit --image"),
        (["evlm", "edit"], "`evlm edit --help`"),
        (["evlm-train", "--help"], "usage: evlm-train"),
        (["python", "-m", "evlm", "edit"], "`python -m evlm edit --help`"),
        (["python", "-m", "trainer", "--help"], "usage: python -m trainer"),
    ],
    ids=lambda value: "-".join(map(str, value[:3])) if isinstance(value, list) else None,
)
def test_the_commands_work_from_another_folder(
    installed: Path, tmp_path: Path, command: list[str], said: str
) -> None:
    """(C18)"""
    program = installed / "env" / "bin" / command[0]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = run([program, *command[1:]], cwd=tmp_path, env={**environment, "HF_HUB_OFFLINE": "1"})
    assert said in result.stdout + result.stderr, result.stderr
    assert result.returncode == (2 if command[-1] == "edit" else 0), result.stderr
    assert "Traceback" not in result.stderr
