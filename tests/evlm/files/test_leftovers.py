"""Files that others have, change or take away while ours are written and compared."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest
import torch

from evlm.files.append import replace_lines
from evlm.files.clip_writer import write_clip
from evlm.files.pictures import forget_parts
from evlm.files.states import state_of


def test_parts_that_are_not_ours_to_take_stop_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [tmp_path / f".a.png.{digit * 16}.tmp" for digit in "01"]
    for part in parts:
        part.touch()
    unlink = Path.unlink

    def refused(path: Path, missing_ok: bool = False) -> None:
        if path == parts[0]:
            raise PermissionError(1, "not yours", str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    forget_parts(tmp_path / "a.png")
    assert parts[0].exists() and not parts[1].exists()


def test_what_a_clip_that_was_not_finished_left_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evlm.files.clip_writer.shutil.rmtree", lambda *_, **__: None)  # as if killed before
    write_clip(tmp_path / "a.mp4", torch.rand(2, 16, 16, 3))
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2
    forget_parts(tmp_path / "a.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such rights")
def test_lines_are_replaced_in_a_file_that_keeps_its_rights(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"a\nb\n")
    path.chmod(0o664)
    replace_lines(path, lambda line: line == b"a\n", b"c\n")
    assert path.read_bytes() == b"b\nc\n" and stat.S_IMODE(path.stat().st_mode) == 0o664


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_beside_a_link_that_leads_nowhere_a_folder_has_its_state(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"1")
    os.symlink(tmp_path / "nowhere", folder / "b.png")
    before = state_of(str(folder), tmp_path / "out")
    assert [each[0] for each in before[1:]] == ["a.png", "b.png"]
    (folder / "a.png").write_bytes(b"22")
    assert state_of(str(folder), tmp_path / "out") != before
