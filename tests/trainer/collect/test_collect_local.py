"""`data make` with a teacher of this machine, in process and behind `evlm serve`."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from evlm.errors import ConfigError
from evlm.models.zoo import BUNDLED
from evlm.reason.reasoner import Reasoner
from evlm.reason.server import Server
from evlm.request import EXAMPLES
from trainer.__main__ import main
from trainer.collect.recipe import load_recipe
from trainer.collect.services import BUNDLED_TERMS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pairs of the drawn world, which the bundled reasoner knows."""
    for number, name in enumerate(("1-reference", "3-removal", "4-two-edits")):
        files = sorted(EXAMPLES.glob(f"{name[0]}-*.png")) or sorted(EXAMPLES.glob("*.png"))
        for folder, file in (("originals", files[0]), ("references", files[-1])):
            path = tmp_path / "photos" / folder / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read_bytes())
    return tmp_path


def recipe(folder: Path, out: str, teacher: Any) -> Path:
    source = {"kind": "folder", "path": str(folder / "photos"), "license": "Apache-2.0"}
    path = folder / f"{out}.yaml"
    path.write_text(
        yaml.safe_dump({"out": str(folder / out), "rows": 3, "sources": [source], "teacher": teacher})
    )
    return path


def texts(folder: Path, out: str) -> list[list[str]]:
    rows = [json.loads(line) for line in (folder / out / "rows.jsonl").read_text().splitlines()]
    return [[row[name] for name in ("thinking", "instruction", "mask_text")] for row in rows]


def test_the_bundled_reasoner_teaches_in_process_and_behind_serve_alike(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)
    drawn = {"samples": 1, "temperature": 0}
    assert main(["data", "make", str(recipe(photos, "own", {"local": "bundled", **drawn}))]) in (0, 1)
    own = texts(photos, "own")
    assert len(own) > 1 and all(thinking and (mask or "box").startswith("box") for thinking, _, mask in own)
    assert json.loads((photos / "own/ledger.json").read_text())["tokens_in"] > 20
    with Server(Reasoner.load(BUNDLED / "reasoner"), "bundled") as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        teacher = {"endpoint": server.url, "model": "bundled", "terms": BUNDLED_TERMS, "send_pictures": True,
                   "hint": "none", "workers": 2, **drawn}  # fmt: skip
        main(["data", "make", str(recipe(photos, "served", teacher))])
        server.shutdown()
    assert texts(photos, "served") == own


def test_a_name_alone_is_a_teacher_of_this_machine(photos: Path) -> None:
    teacher = load_recipe(recipe(photos, "out", "bundled")).teacher
    assert teacher is not None and (teacher.local, teacher.model, teacher.workers) == (
        "bundled",
        "bundled",
        1,
    )
    assert teacher.terms == BUNDLED_TERMS
    for wrong, word in (
        ({"local": "bundled", "endpoint": "http://127.0.0.1:9/v1"}, "either"), ({}, "either"),
        ({"local": "models/Qwen"}, "terms"), ("models/Qwen", "terms"), (7, "expected settings"),
        ({"endpoint": "http://127.0.0.1:9/v1", "terms": "x", "send_pictures": True}, "model"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=word):
            load_recipe(recipe(photos, "out", wrong))
    assert main(["data", "make", str(recipe(photos, "out", {"local": "/nowhere", "terms": "x"}))]) == 2
