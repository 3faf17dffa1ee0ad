"""The demo's pieces in the fast suite: the world as a maker, scripts that vote at the real page; and, slowly,
all of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainer.__main__ import main
from trainer.demo.chain import Chain
from trainer.demo.maker import PAIRS, TRUTH, draw_pairs, picture_key
from trainer.demo.scripted import ScriptedRater
from trainer.raters import app as served
from trainer.raters.agree import votes_by_item
from trainer.raters.items import load_items
from trainer.raters.rated import write_rated
from trainer.raters.store import FILE, Store, add_rater


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_world_draws_the_same_pairs_again_and_data_make_reads_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_pairs(tmp_path / "a", 12)
    draw_pairs(tmp_path / "b", 12)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    lines = [json.loads(line) for line in (tmp_path / "a" / PAIRS).read_text().splitlines()]
    truth = json.loads((tmp_path / "a" / TRUTH).read_text())
    assert len(truth) == len(lines) == 12 and {line["instruction"] for line in lines} == set(truth.values())
    for line in lines:
        original = tmp_path / "a" / line["original"]
        first = original if original.is_file() else original / "00.png"
        assert truth[picture_key(np.asarray(Image.open(first)))] == line["instruction"]
    recipe = tmp_path / "r.json"
    source = {"kind": "folder", "path": str(tmp_path / "a"), "license": "Apache-2.0"}
    recipe.write_text(json.dumps({"out": str(tmp_path / "set"), "rows": 12, "reuse": 2, "sources": [source]}))
    assert main(["data", "make", str(recipe), "--only", "pairs"]) in (0, 1)
    assert "12 items" in (said := capsys.readouterr().out) and "0 dropped" in said


def dataset(folder: Path, photos: Path) -> int:
    """Rows of the maker's stills, of which every other one says something else than it stands for."""
    rows = []
    truth = json.loads((photos / TRUTH).read_text())
    for number, line in enumerate(map(json.loads, (photos / PAIRS).read_text().splitlines())):
        source = photos / line["original"]
        if source.is_dir():
            continue
        picture = folder / "pictures" / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(source.read_bytes())
        said = truth[picture_key(np.asarray(Image.open(source)))]
        rows.append({
            "id": f"r{number}", "question": f"q{number}", "split": "train", "source": "demo",
            "edit_type": line["edit_type"], "category": "text", "original": [f"pictures/{number}.png"],
            "prompt": "", "thinking": "a", "intermediate": "b", "reflection": "c",
            "instruction": said.upper() if number % 2 else "make everything blue", "targets": ["it"],
            "scope": "local", "label": True, "references": [{"kind": "text", "text": "so"}],
        })  # fmt: skip
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(rows)


def test_three_scripts_vote_at_the_page_and_their_majority_is_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    testclient = pytest.importorskip("starlette.testclient")
    monkeypatch.setattr(served, "BURST", 1e9)
    photos, folder = tmp_path / "photos", tmp_path / "set"
    draw_pairs(photos, 18)
    count = dataset(folder, photos)
    store = Store(folder / FILE)
    load_items(store, folder, 3, 0, lambda problem: None)
    truth = json.loads((photos / TRUTH).read_text())
    with testclient.TestClient(served.make_app(folder, store)) as client:

        def ask(self: ScriptedRater, method: str, path: str, body: Any = None) -> bytes:
            headers = {"Authorization": f"Bearer {self.token}"}
            response = client.request(method, path, json=body, headers=headers)
            assert response.status_code == 200, response.text
            return bytes(response.content)

        monkeypatch.setattr(ScriptedRater, "_ask", ask)
        raters = [
            ScriptedRater("http://127.0.0.1:1", add_rater(store, name), name, truth, errs)
            for name, errs in (("one", 0.0), ("two", 0.0), ("three", 1.0))
        ]
        assert [rater.rate_all() for rater in raters] == [count] * 3
        assert [rater.rate_all() for rater in raters] == [0] * 3
    assert all(len(votes) == 3 for votes in votes_by_item(store).values())
    done = write_rated(store, folder, tmp_path / "rated", lambda problem: None)
    store.close()
    rows = [json.loads(line) for line in (tmp_path / "rated/rows.jsonl").read_text().splitlines()]
    assert done["rows"] == count == len(rows)
    assert all(row["label"] == bool(int(row["id"][1:]) % 2) and len(row["raters"]) == 3 for row in rows)


def test_wrong_numbers_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "demo", str(tmp_path / "out"), "--rows", "1"]) == 2
    assert main(["data", "demo", str(tmp_path / "out"), "--steps", "0"]) == 2
    (tmp_path / "file").write_text("x")
    assert main(["data", "demo", str(tmp_path / "file" / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 3 and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_whole_chain_and_again(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn")
    chain = Chain(tmp_path / "demo", 18, 2)
    chain.run()
    rows = (chain.set / "rows.jsonl").read_bytes()
    rated = [json.loads(line) for line in (chain.rated / "rows.jsonl").read_text().splitlines()]
    assert rated and all(len(row["raters"]) == 3 for row in rated)
    assert {row["label"] for row in rated} == {True, False}
    before = files(chain.rated)
    chain.run()
    assert (chain.set / "rows.jsonl").read_bytes() == rows and files(chain.rated) == before
