"""The loaders: what ComfyUI may move, and what stays where it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import tiny_qwen
from standin import call, part


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    folder_paths.use(tmp_path)
    yield tmp_path
    folder_paths.use(tmp_path / "gone")


@pytest.mark.parametrize("quantised", [False, True])
def test_weights_that_are_quantised_on_disk_are_not_moved(
    quantised: bool, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ComfyUI moves models between its devices; transformers refuses that for such weights (A12)."""
    seen: list[bool] = []

    class Managed:
        def __init__(
            self, name: str, build: Any, modules: Any, role: str, moves: bool, *_: Any, **__: Any
        ) -> None:
            seen.append(moves)

    monkeypatch.setattr(part("nodes.host"), "Managed", Managed)
    folder = tiny_qwen.save_folder(base / "models" / "evlm" / "tiny")
    if quantised:
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
        (folder / "config.json").write_text(json.dumps(config))
    call("EVLM_LoadModel", model="evlm/tiny")
    assert seen == [not quantised]
