"""What an evaluation writes, and what a killed one left."""

from __future__ import annotations

import os
from pathlib import Path

from trainer.evaluation.results import write


def test_what_a_killed_process_left_is_taken_away_a_minute_later(tmp_path: Path) -> None:
    left, fresh, other = (tmp_path / f".{name}.0123456789abcdef.tmp" for name in ("a.md", "b.md", "c.md"))
    for path in (left, fresh, other):
        path.write_text("half")
    for path in (left, other):
        os.utime(path, (1, 1))
    write(tmp_path, {"a.md": "whole", "b.md": "whole"})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [fresh.name, other.name, "a.md", "b.md"]
    )
