"""A folder is one process's until it ends, however it ends."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evlm.files.append import append_lines
from evlm.files.lock import HeldError, holding

ROOT = Path(__file__).resolve().parents[3]
CHILD = """
import sys, time
from pathlib import Path
from evlm.files.lock import holding
with holding(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_another_process_has_it_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match=f"at work already .process {child.pid} on "), holding(folder):
            pass
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
    with holding(folder), pytest.raises(HeldError), holding(folder):
        pass


def test_whoever_takes_the_folder_away_at_its_end_leaves_it_free(tmp_path: Path) -> None:
    for _ in range(2):
        with holding(tmp_path / "work"):
            shutil.rmtree(tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("why", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_that_knows_no_locks_is_worked_on_all_the_same(
    why: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lustre without flock, NFS without a lock daemon: nobody else is at work because of that."""
    fcntl = pytest.importorskip("fcntl")

    def refused(*_: object) -> None:
        raise OSError(why, "no locks here")

    monkeypatch.setattr(fcntl, "flock", refused)
    with holding(tmp_path / "work"):
        append_lines(tmp_path / "rows.jsonl", b"1\n")
    append_lines(tmp_path / "rows.jsonl", b"2\n")
    assert (tmp_path / "rows.jsonl").read_bytes() == b"1\n2\n"
