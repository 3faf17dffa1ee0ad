from __future__ import annotations

from pathlib import Path

import pytest
from scripted import EditCommand, edit_command


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EditCommand:
    """`evlm edit` with every part real but the models."""
    return edit_command(tmp_path, monkeypatch)
