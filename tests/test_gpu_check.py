"""`make gpu-check` without a card: its bookkeeping on steps that are made up, and all of it at toy size."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import shard, trl
from benchmarks.gpu.__main__ import main, run
from benchmarks.gpu.journal import Journal
from benchmarks.gpu.steps import Bar, Setting, Step
from benchmarks.gpu.turns import Timed, figures, in_turns
from trainer.config.recipe import Config
from trainer.config.settings import build

CPU = torch.device("cpu")
FULL = Setting(CPU, False, 5)


def step(name: str, calls: list[str], values: dict[str, float] | None = None, **more: object) -> Step:
    def work() -> dict[str, float]:
        calls.append(name)
        if values is None:
            raise RuntimeError("no room")
        return values

    return Step(name, 1.0, work, **more)  # type: ignore[arg-type]


def test_each_measurement_is_on_disk_and_none_is_made_twice(tmp_path: Path) -> None:
    calls: list[str] = []
    steps = [step("one", calls, {"x": 2.0}, bars=(Bar("x", 1.5),)), step("two", calls, {"y": 3.0})]
    assert run(steps[:1], FULL, Journal(tmp_path, FULL), 9, False) == 0
    assert run(steps, FULL, Journal(tmp_path, FULL), 9, False) == 0
    assert calls == ["one", "two"]
    table = (tmp_path / "gpu.md").read_text("utf-8")
    assert "| one | x 2 | x >= 1.5 kept |" in table and "| two | y 3 |  |" in table
    assert run(steps, FULL, Journal(tmp_path, FULL), 9, again=True) == 0
    assert calls == ["one", "two"] * 2


def test_a_missed_bar_a_failure_and_a_missing_package_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    steps = [
        step("slow", calls, {"x": 1.0, "gb": 3.0}, bars=(Bar("x", 1.5), Bar("gb", 2.0, most=True))),
        step("broken", calls),
        step("poor", calls, {"z": 1.0}, needs=("no_such_package_of_ours",)),
        step("cardless", calls, {"z": 1.0}, cuda=True),
        step("alone", calls, {"z": 1.0}, lacks="needs 2 cards, here is 1"),
        step("last", calls, {"z": 1.0}),
    ]
    assert run(steps, FULL, Journal(tmp_path, FULL), 9, False) == 1
    assert calls == ["slow", "broken", "last"]
    said = capsys.readouterr().out
    for line in ("missed: slow: x >= 1.5", "missed: slow: gb <= 2", "broken: RuntimeError"):
        assert line in said
    kept = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["steps"]
    assert kept["broken"]["not measured"] == "RuntimeError: no room"
    assert "no_such_package_of_ours" in kept["poor"]["not measured"]
    assert kept["cardless"]["not measured"] == "needs a CUDA card"
    assert kept["alone"]["not measured"] == "needs 2 cards, here is 1" and "\nalone: needs" not in said
    assert "\ncardless: needs" in said
    assert run(steps, FULL, Journal(tmp_path, FULL), 9, False) == 1
    assert calls[3:] == ["broken"], "what failed is tried again"


def test_nothing_is_begun_that_would_end_too_late(tmp_path: Path) -> None:
    calls: list[str] = []
    steps = [step("short", calls, {"x": 1.0}), step("long", calls, {"x": 1.0})]
    steps[1] = Step("long", 20.0, steps[1].run)
    assert run(steps, FULL, Journal(tmp_path, FULL), 9, False) == 3
    assert calls == ["short"]


def test_a_toy_that_is_a_process_of_its_own_runs_beside_the_others(tmp_path: Path) -> None:
    other, toy = threading.Event(), Setting(CPU, True, 1)

    def waits() -> dict[str, float]:
        return {"x": float(other.wait(30))}

    def sets() -> dict[str, float]:
        other.set()
        return {"y": 1.0}

    broken = step("broken", [], apart=True)
    steps = [Step("waits", 1.0, waits, apart=True), broken, Step("sets", 1.0, sets)]
    journal = Journal(tmp_path, toy)
    assert run(steps, toy, journal, 9, False) == 1
    assert journal.steps["waits"]["values"] == {"x": 1.0}
    assert journal.steps["broken"]["not measured"] == "RuntimeError: no room"


def test_figures_of_another_machine_or_size_are_laid_aside(tmp_path: Path) -> None:
    calls: list[str] = []
    one = [step("one", calls, {"x": 1.0}, bars=(Bar("x", 9.0),))]
    toy = Setting(CPU, True, 1)
    assert run(one, FULL, Journal(tmp_path, FULL), 9, False) == 1
    assert run(one, toy, Journal(tmp_path, toy), 9, False) == 0, "at toy size no bar is judged"
    assert calls == ["one", "one"]
    assert json.loads((tmp_path / "gpu.json.old").read_text("utf-8"))["machine"]["size"] == "full"


def test_turns_and_their_figures() -> None:
    calls: list[str] = []
    ways = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    timed = in_turns(ways, CPU, rounds=3, warm=1)
    assert calls == [*"ab", *"ab", *"ba", *"ab"]
    assert all(each.least <= each.seconds <= each.most for each in timed.values())
    made = {"ours": Timed(2.0, 1, 3, 10), "peer": Timed(3.0, 1, 3, 40)}
    found = figures(made, "peer")
    assert found["ours x"] == 1.5 and found["ours memory"] == 0.25 and "peer x" not in found


def test_a_side_s_first_step_is_not_timed_and_its_median_step_counts() -> None:
    sides = [trl.Training(CPU) for _ in range(2)]
    for side in sides:
        for loss in (1.0, 2.0):
            side.step(loss)
        assert len(side.seconds) == 1 and side.losses == [1.0, 2.0]
    sides[0].seconds, sides[1].seconds = [1.0, 9.0, 2.0], [4.0]
    found = trl.timed({"ours": sides})["ours"]
    assert (found.seconds, found.least, found.most) == (3.0, 2.0, 4.0)
    assert trl.apart([1.0, 2.2], [1.0, 2.0]) == pytest.approx(0.1)
    assert trl.neighbours(3) == [(0, 2), (1, 0), (2, 1)]


def test_trl_s_steps_need_trl_and_hold_bars_of_memory_on_a_card() -> None:
    toy, card = Setting(CPU, True, 1), Setting(torch.device("cuda"), False, 5)
    assert [step.needs for step in trl.steps(toy)] == [("trl", "datasets")] * 4
    bars = {step.name: [*map(str, step.bars)] for step in trl.steps(card)}
    assert bars["trl: Qwen2-VL-7B, KTO, checkpointed"] == ["ours x >= 1.5", "ours memory <= 1"]
    assert len(bars) == 8


def test_rows_for_trl_are_those_that_we_learn_from(tmp_path: Path) -> None:
    from torchvision.io import read_image

    from benchmarks.gpu.train import examples

    mine = examples(Setting(CPU, True, 1), "Qwen2-VL-2B")
    for row, given in zip(mine, trl.their_rows(mine, "kto", tmp_path), strict=True):
        assert given["label"] == row.desired and given["prompt"] == row.chat.messages
        assert given["completion"][0]["content"][0]["text"] == row.answer
        kinds = [item["type"] for turn in given["prompt"] for item in turn["content"]]
        assert kinds.count("image") == len(given["images"]) > 0
        for path, picture in zip(given["images"], row.chat.images, strict=True):
            assert torch.equal(read_image(path), picture)


def test_two_processes_need_two_cards_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Setting(torch.device("cuda"), False, 5)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    one, two = shard.steps(card)
    assert not one.lacks and two.lacks == "needs 2 cards, here is 1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "cards" not in shard.lacks(card, 2)
    assert len(shard.steps(Setting(CPU, True, 1))) == 1


def test_a_sharded_training_is_a_recipe_of_the_trainer_s_and_its_first_step_is_not_timed(
    tmp_path: Path,
) -> None:
    made = build(Config, shard.recipe(FULL, tmp_path))
    assert made.model.shard and made.phases[0].steps == 7 and made.phases[0].batch == 8
    told = [{"step": n, "seconds": s, "tokens": 100, "loss": 2.0} for n, s in ((1, 5.0), (2, 3.0), (3, 2.5))]
    found = shard.figures(told, [3_000_000_000, 2_000_000_000], rows=8)
    assert found["rows/s"] == pytest.approx(16 / 2.5) and found["tokens/s"] == pytest.approx(200 / 2.5)
    assert found["process 0 GB"] == 3 and found["process 1 GB"] == 2 and found["loss"] == 2


def test_full_size_needs_a_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--out", str(tmp_path)]) == 2
    assert "--toy" in capsys.readouterr().err


def test_a_part_of_the_toy_runs(tmp_path: Path) -> None:
    assert main(["--toy", "--device", "cpu", "--only", "scenes", "--out", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["steps"]
    assert kept["scenes: torch rasterizer, device and CPU"]["values"]["apart"] == 0


@pytest.mark.slow
def test_the_whole_toy_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--toy", "--device", "cpu", "--out", str(tmp_path)]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
    kept = json.loads((tmp_path / "gpu.json").read_text("utf-8"))["steps"]
    missing = {name for name, entry in kept.items() if "values" not in entry}
    assert all(kept[name]["not measured"].startswith("needs ") for name in missing)
    assert len(kept) - len(missing) >= 15
