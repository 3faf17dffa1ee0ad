"""What a run says: to people, to programs, into its log and to TensorBoard and W&B; and the log read back."""

from __future__ import annotations

import io
import json
import struct
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evlm.errors import ConfigError, RecordError, TrainingError
from trainer.config.recipe import Config, load_config
from trainer.report.events import History, json_line, numbers, read_history
from trainer.report.progress import Bar, reporting, said

START = {"event": "start", "steps": 40, "trainable": 10}


def step(at: int, loss: float = 1.0, stage: int = 0, **more: Any) -> dict[str, Any]:
    kind = "sft" if stage == 0 else "rkto"
    return {
        "event": "step",
        "stage": stage,
        "kind": kind,
        "step": at,
        "steps": 40,
        "loss": loss,
        "tokens_per_second": 1234.5,
        "parts": {"iou": 0.5},
        **more,
    }


def config(out: Path, *more: str) -> Config:
    return load_config("tiny", [f"out={out}", *more])


def write(run: Path, *events: dict[str, Any]) -> History:
    run.mkdir(exist_ok=True)
    (run / "log.jsonl").write_text("".join(json_line(event) + "\n" for event in events))
    return read_history(run)


def test_programs_get_the_very_lines_of_the_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(config(tmp_path / "run"), "jsonl") as report:
        for event in (
            START,
            step(10),
            step(20, float("nan"), words="Zürich"),
            {"event": "done", "adapter": "a"},
        ):
            report(event)
    out = capsys.readouterr().out
    assert out == (tmp_path / "run/log.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line, parse_constant=lambda word: pytest.fail(word)) for line in out.splitlines()]
    assert lines[1] == step(10) and lines[2]["loss"] is None and lines[2]["words"] == "Zürich"


def test_people_without_a_terminal_get_plain_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [{"right": True, "iou": 0.5}, {"right": False, "iou": None}]
    with reporting(config(tmp_path)) as report:
        for event in (START, step(10), {"event": "sample", "step": 10, "items": items}):
            report(event)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("sft step 10 loss 1 ") and "\r" not in "".join(lines)
    assert lines[2] == "samples at step 10: 1 of 2 right, mask IoU 0.50"
    assert said({"event": "dropped", "stage": 1, "step": 7, "loss": "nan"}) == "dropped 7 loss nan"


def test_a_terminal_gets_a_bar_that_knows_where_the_run_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    bar = Bar()
    for event in (START, {"event": "resume", "step": 20}, step(30, 0.25), {"event": "dropped", "step": 31}):
        bar.take(event, "")
    assert (bar.bar.n, bar.bar.total, bar.bar.initial) == (30, 40, 20)
    bar.take(step(40, stage=1), "")
    bar.close()
    text = screen.getvalue()
    assert "loss 0.25" in text and "1,234 tokens/s" in text and "40/40" in text and "dropped 31" in text
    assert "rkto" in text


def test_half_a_line_of_a_killed_run_does_not_spoil_the_next_one(tmp_path: Path) -> None:
    write(tmp_path, START, step(10))
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write('{"event": "step", "st')
    with reporting(config(tmp_path), "jsonl") as report:
        report(step(20))
    history = read_history(tmp_path)
    assert [event["step"] for event in history.steps] == [10, 20] and history.unreadable == 1


def test_steps_that_are_done_again_count_once(tmp_path: Path) -> None:
    history = write(
        tmp_path / "a",
        START,
        step(10, 1),
        {"event": "dropped", "step": 12},
        step(20, 2),
        step(30, 3),
        START,
        {"event": "resume", "step": 15},
        step(20, 4),
        {"event": "eval", "step": 20, "exact": 1.0},
    )
    assert [(event["step"], event["loss"]) for event in history.steps] == [(10, 1), (20, 4)]
    assert len(history.dropped) == len(history.evals) == 1 and history.done is None
    history = write(tmp_path / "b", START, step(3), step(7), {"event": "done"}, START, step(5, 9))
    assert [event["step"] for event in history.steps] == [5], "another recipe in the same folder"
    history = write(
        tmp_path / "c", START, step(3), {"event": "done"}, START, {"event": "done", "adapter": "x"}
    )
    assert [event["step"] for event in history.steps] == [3], "a finished run only writes its adapter again"
    assert history.done == {"event": "done", "adapter": "x"}


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{}",
        '{"event": 3}',
        '{"event": "step"}',
        '{"event": "resume", "step": "x"}',
        "\x00",
        "[" * 100_000,
        '{"event":"step","step":true}',
    ],
)
def test_lines_that_are_no_events(tmp_path: Path, line: str) -> None:
    (tmp_path / "log.jsonl").write_text(line + "\n" + json_line(step(1)) + "\n")
    history = read_history(tmp_path)
    assert history.unreadable == 1 and len(history.steps) == 1


def test_a_folder_without_a_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"log\.jsonl cannot be read"):
        read_history(tmp_path)


def test_numbers_of_an_event() -> None:
    event = step(3, 2.0, norms={"sft": {"norm": 1, "step": 5}}, flag=True, bad=float("inf"), word="x")
    assert numbers(event) == {
        "loss": 2.0,
        "tokens_per_second": 1234.5,
        "parts/iou": 0.5,
        "norms/sft/norm": 1.0,
        "norms/sft/step": 5.0,
    }


def records(folder: Path) -> Iterator[bytes]:
    """The records of TensorBoard's event files: length, its checksum, the event, its checksum."""
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data, at = file.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            yield data[at + 12 : at + 12 + length]
            at += 16 + length


def test_tensorboard_gets_every_number_by_phase(tmp_path: Path) -> None:
    from tensorboardX.proto import event_pb2 as proto

    with reporting(config(tmp_path), "jsonl") as report:
        for event in (
            START,
            step(10, 0.5),
            step(20, 0.25, stage=1),
            {"event": "eval", "step": 20, "exact": 0.75},
        ):
            report(event)
    with reporting(config(tmp_path), "jsonl") as report:
        for event in (START, {"event": "resume", "step": 15}, step(20, 0.125, stage=1)):
            report(event)
    events = [proto.Event.FromString(record) for record in records(tmp_path / "tensorboard")]
    scalars = [(v.tag, e.step, v.simple_value) for e in events for v in e.summary.value]
    assert (
        ("sft/loss", 10, 0.5) in scalars
        and ("sft/parts/iou", 10, 0.5) in scalars
        and ("eval/exact", 20, 0.75) in scalars
    )
    assert [value for tag, at, value in scalars if (tag, at) == ("rkto/loss", 20)] == [0.25, 0.125]
    assert any(e.session_log.status == e.session_log.START and e.step == 16 for e in events), (
        "hides what came after"
    )


class FakeRun:
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    def log(self, values: dict[str, float], step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_wandb_gets_the_same_and_only_if_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = FakeRun(), []
    module = types.ModuleType("wandb")
    module.init = lambda **options: asked.append(options) or run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    with reporting(config(tmp_path / "a"), "jsonl"):
        pass
    assert not asked
    for _ in range(2):
        with reporting(config(tmp_path / "a", "wandb=evlm"), "jsonl") as report:
            report(step(10))
    assert run.finished and run.logged[0] == (
        10,
        {"sft/loss": 1.0, "sft/tokens_per_second": 1234.5, "sft/parts/iou": 0.5},
    )
    assert (
        asked[0]["project"] == "evlm" and asked[0]["id"] == asked[1]["id"] and asked[0]["config"]["seed"] == 0
    )

    for fresh in (True, False, True):
        with reporting(config(tmp_path / "a", "wandb=evlm"), "jsonl", fresh):
            pass
    ids = [each["id"] for each in asked[1:]]
    assert len(set(ids)) == 3 and ids[1] == ids[2], "a run that begins anew is another one there"

    def offline(**_: Any) -> None:
        raise RuntimeError("no route to host")

    module.init = offline  # type: ignore[attr-defined]
    with pytest.raises(TrainingError, match=r"no route to host.*WANDB_MODE=offline"):
        reporting(config(tmp_path / "a", "wandb=evlm"), "jsonl").__enter__()
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        reporting(config(tmp_path / "a", "wandb=evlm"), "jsonl").__enter__()


def test_without_tensorboardx_a_run_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(TrainingError, match="pip install tensorboardX"):
        reporting(config(tmp_path), "jsonl").__enter__()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot be written"):
        reporting(config(tmp_path / "file/run"), "jsonl").__enter__()
