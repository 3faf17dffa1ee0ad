"""Benchmarks of the procedural world: what is made, how the exact reader grades it, and one command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

from evlm.files.pictures import to_pil
from trainer.__main__ import main
from trainer.bench.base import Item
from trainer.bench.world import SCENARIOS, WorldPairs, WorldRise, graded, plain, what_if, write

ROWS = 12


def drawn(pixels: object, file: Path) -> Path:
    to_pil(torch.from_numpy(pixels.copy()).float() / 255).save(file)  # type: ignore[attr-defined]
    return file


def rows(out: Path, name: str) -> dict[str, dict[str, str]]:
    with open(out / "tables" / f"{name}.csv", newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def rise(tmp_path_factory: pytest.TempPathFactory) -> tuple[WorldRise, list[Item]]:
    folder = tmp_path_factory.mktemp("rise")
    write("rise", folder, ROWS, 4)
    bench = WorldRise()
    return bench, bench.items(folder, folder)


def test_what_follows_is_right_and_what_was_is_not(
    rise: tuple[WorldRise, list[Item]], tmp_path: Path
) -> None:
    """The picture that is right has 5 everywhere; the original keeps all else, and follows from nothing but
    a premise that changes nothing."""
    bench, items = rise
    nulls = 0
    for item in items:
        asked = item.more["asked"]
        right = drawn(asked.edit.pictures(64, 1)[1][0], tmp_path / "right.png")
        assert bench.read(item, right) == dict.fromkeys(("reasoning", "consistency", "plausibility"), 5.0)
        same = bench.read(item, item.originals[0])
        assert (same["reasoning"], same["consistency"]) == (5.0 if asked.null else 1.0, 5.0)
        assert same["plausibility"] == 5.0 and bench.score(item, same)["right"] == 100 * asked.null
        nulls += asked.null
    assert nulls < len(items) / 2
    assert {item.stratum for item in items} == set(SCENARIOS)
    assert len({item.more["subtask"] for item in items}) == 9, "each rule, in turn"


def test_noise_is_no_picture_of_the_world(rise: tuple[WorldRise, list[Item]], tmp_path: Path) -> None:
    bench, items = rise
    noise = (torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0)) * 255).byte().numpy()
    found = bench.read(items[0], drawn(noise, tmp_path / "noise.png"))
    assert found["reasoning"] == 1.0 and found["plausibility"] == 1.0 and found["consistency"] < 5.0
    odd = bench.read(items[0], drawn(noise[:40], tmp_path / "odd.png"))
    assert set(odd.values()) == {1.0}


def test_items_are_functions_of_number_and_seed(rise: tuple[WorldRise, list[Item]], tmp_path: Path) -> None:
    _, items = rise
    write("rise", tmp_path, ROWS, 4)
    again = WorldRise().items(tmp_path, tmp_path)
    assert [each.prompt for each in again] == [each.prompt for each in items]
    assert [a.originals[0].read_bytes() for a in again] == [b.originals[0].read_bytes() for b in items]
    assert all(what_if(n, 4)[1].edit.split == "test" for n in range(ROWS))
    assert all("So: " in each.more["reference"] for each in items), "another judge is told what follows"
    assert all(not plain(n, 4).refs and plain(n, 4).edit.split == "test" for n in range(6))


def test_shares_are_graded() -> None:
    assert [graded([True] * n + [False] * (8 - n)) for n in (0, 1, 2, 7, 8)] == [1, 1, 2, 4, 5]
    assert graded([]) == 5


@pytest.mark.parametrize("name", [pytest.param("rise", marks=pytest.mark.slow), "pairs"])
def test_one_command_makes_edits_and_judges(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With folders in the chain's place: one that has the right pictures, which another run made."""
    out = tmp_path / "out"
    command = ["bench", name, "--world", "6", "--seed", "4", "--out", str(out)]
    assert main(command) == 0, "the floors alone"
    made = out / "work" / "world"
    bench = (WorldRise if name == "rise" else WorldPairs)()
    right = tmp_path / "right"
    for item in bench.items(made, made):
        file = right / f"{item.id}.png"
        file.parent.mkdir(exist_ok=True)
        drawn(item.more["asked"].edit.pictures(64, 1)[1][0], file)
    assert main([*command, "--edits", f"right={right}"]) == 0
    found = rows(out, name)
    assert list(found) == ["right", "copy", "other"]
    if name == "rise":
        assert found["right"]["accuracy"].startswith("100.0") and found["copy"]["reasoning"] < "4"
        assert found["other"]["consistency"] < found["copy"]["consistency"]
    else:
        assert found["right"]["right, %"].startswith("100.0") and found["right"]["L1"].startswith("0.0000")
        assert found["copy"]["right, %"] == "0.0 [0.0, 39.0]", "Wilson's, of 6"
        lines = [json.loads(line) for line in (made / "pairs.jsonl").read_text().splitlines()]
        assert len(lines) == 6 and all(line["instruction"] for line in lines)
    capsys.readouterr()
    assert main([*command[:3], "7", *command[4:]]) == 2
    assert "made otherwise" in capsys.readouterr().err


def test_what_does_not_fit_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(tmp_path / "o")]
    for words, reason in (
        (["kris", "--world", "5"], "rise and pairs can"),
        (["rise", "--world", "0"], "--world"),
        (["rise"], "expected --data FOLDER, or --world N"),
        (["rise", "--world", "5", "--data", str(tmp_path)], "expected --data FOLDER, or --world N"),
    ):
        assert main(["bench", *words, *out]) == 2
        assert reason in capsys.readouterr().err
