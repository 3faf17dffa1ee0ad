"""How long a phase is and how its rate falls: epochs, schedules, and an end before its time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from test_survive import cheap  # noqa: F401 (a fixture)

from evlm.adapter.checkpoint import load_adapter
from evlm.errors import ConfigError
from trainer.config.recipe import Config, load_config
from trainer.learner.state import States
from trainer.model.optim import decayed
from trainer.run import heldout
from trainer.run.dry_run import plan
from trainer.run.heldout import HeldOut
from trainer.run.loop import _Run, run

Event = dict[str, Any]


def config_of(out: Path, *settings: str) -> Config:
    small = ["data=[{world: true, rows: 12}]", f"out={out}", "lora.rank=2", "save_every=1", "log_every=1"]
    return load_config("tiny", [*small, "model.device=cpu", *settings])


@pytest.mark.parametrize("how", ["cosine", "linear"])
def test_the_schedules_are_those_of_transformers(how: str) -> None:
    """After the warmup, which here ends at the whole rate and not one step later."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    make = getattr(transformers, f"get_{how}_schedule_with_warmup")
    theirs = make(optimizer, 5, 40)
    rates = []
    for _ in range(40):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    ours = [decayed(step, 40, 5, how, 0.3) for step in range(40)]
    assert ours[5:] == pytest.approx(rates[5:], abs=1e-12)
    assert ours[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_epochs_are_steps_over_the_rows_that_there_are(tmp_path: Path) -> None:
    phases = "phases=[{kind: sft, epochs: 1.5, batch: 4, schedule: cosine, warmup: 0, lr: 1e-3}]"
    events: list[Event] = []
    run(config_of(tmp_path, phases), events.append)
    rows = config_rows(config_of(tmp_path, phases))
    steps = [event for event in events if event["event"] == "step"]
    assert len(steps) == -(-1.5 * rows // 4) > 2
    assert [s["lr"] for s in steps] == pytest.approx(
        [1e-3 * decayed(n, len(steps), 0, "cosine", 0.3) for n in range(len(steps))]
    )
    with pytest.raises(ConfigError, match="no end"):
        run(config_of(tmp_path / "other", phases, "data=[{world: true}]"), events.append)
    for wrong in ("{kind: sft}", "{kind: sft, steps: 2, epochs: 1}"):
        with pytest.raises(ConfigError, match="either steps or epochs"):
            load_config("tiny", [f"phases=[{wrong}]"])


def config_rows(config: Config) -> int:
    from trainer.learner.learner import load_learner

    count = load_learner(config).rows(config, config.phases[0]).count
    assert count is not None
    return count


def test_cpu_seconds_are_of_the_steps_and_not_of_what_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that stands still but for gradients (1), the optimiser (10) and measuring (100)."""
    now = [0.0]

    def costing(owner: Any, name: str, cost: float) -> None:
        whole = getattr(owner, name)

        def slower(*given: Any, **named: Any) -> Any:
            now[0] += cost
            return whole(*given, **named)

        monkeypatch.setattr(owner, name, slower)

    clock = SimpleNamespace(process_time=lambda: now[0], monotonic=time.monotonic)
    monkeypatch.setattr("trainer.run.loop.time", clock)
    costing(_Run, "_gradients", 1)
    costing(torch.optim.AdamW, "step", 10)
    costing(HeldOut, "loss", 100)
    monkeypatch.setattr(HeldOut, "measure", lambda self: {})
    phases = "phases=[{kind: sft, steps: 3, batch: 2}]"
    config = config_of(tmp_path, phases, "eval_every=1", "eval_rows=1")
    run(config, lambda event: None)
    saved = States(tmp_path / "state", json.loads(config.identity)).newest()
    assert saved is not None and saved.progress.cpu_seconds == 33 and now[0] == 333


PATIENT = (
    "phases=[{kind: sft, steps: 9, batch: 2, patience: 2, lr: 1e-3}, "
    "{kind: kto, steps: 3, batch: 2, lr: 1e-3}]"
)


def test_a_phase_ends_when_its_measurements_get_no_better(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cheap: Any,  # noqa: F811
) -> None:
    """Best at its second of measurements, two more wait; the next phase is whole, and measured as well."""
    losses = {1: 3.0, 2: 2.0, 3: 2.5, 4: 2.0}
    at: list[int] = []

    def loss(self: HeldOut) -> dict[str, float]:
        return {"loss": losses.get(at[-1], 1.0)}

    def watch(events: list[Event], stop: int = 0) -> Any:
        def report(event: Event) -> None:
            events.append(event)
            if event["event"] == "step":
                at.append(event["step"])
            if stop and event["event"] == "saved" and event["step"] == stop:
                raise KeyboardInterrupt

        return report

    monkeypatch.setattr(HeldOut, "loss", loss)
    monkeypatch.setattr(HeldOut, "measure", lambda self: {})
    settings = [PATIENT, "eval_every=1", "eval_rows=2"]
    events: list[Event] = []
    path = run(config_of(tmp_path / "whole", *settings), watch(events))
    assert [e["step"] for e in events if e["event"] == "early"] == [4]
    assert [(e["kind"], e["step"]) for e in events if e["event"] == "phase"] == [("sft", 4), ("kto", 7)]
    assert [(e["kind"], e["step"]) for e in events if e["event"] == "eval"] == [
        *[("sft", n) for n in (1, 2, 3, 4)],
        *[("kto", n) for n in (5, 6, 7)],
    ]
    for stop in (3, 4, 5):  # while it waits, at the end, and in the next phase
        with pytest.raises(KeyboardInterrupt):
            run(config_of(tmp_path / "cut", *settings), watch([], stop))
    again = run(config_of(tmp_path / "cut", *settings), watch([]))
    ours, theirs = load_adapter(path)[0], load_adapter(again)[0]
    assert all(torch.equal(ours[name], theirs[name]) and bool(ours[name].any()) for name in ours)
    with pytest.raises(ConfigError, match="eval_every"):
        load_config("tiny", [PATIENT])


@pytest.mark.slow  # as the phases of test_a_phase_ends_when_... do
def test_every_phase_ends_with_a_measurement(tmp_path: Path) -> None:
    """The held-out loss falls in both kinds where the rows are learned by heart."""
    phases = "phases=[{kind: sft, steps: 3, batch: 4, lr: 3e-3, warmup: 0}, {kind: kto, steps: 1, batch: 2}]"
    events: list[Event] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeldOut, "measure", lambda self: {})
        run(config_of(tmp_path, phases, "eval_every=100", "eval_rows=4"), events.append)
    measured = [(e["kind"], e["step"]) for e in events if e["event"] == "eval"]
    assert measured == [("sft", 3), ("kto", 4)]
    assert all(e["loss"] > 0 for e in events if e["event"] == "eval")


def test_a_run_killed_while_it_measures_measures_when_it_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cheap: Any,  # noqa: F811
) -> None:
    """At a saved step, at a phase's end and at the last one; a run that is done measures nothing again."""
    kills, at = {2, 3, 4}, [0]

    def loss(self: HeldOut) -> dict[str, float]:
        if at[0] in kills:
            kills.remove(at[0])
            raise KeyboardInterrupt
        return {"loss": 1.0 / at[0]}

    def report(event: Event) -> None:
        events.append(event)
        at[0] = event.get("step", at[0])

    monkeypatch.setattr(HeldOut, "loss", loss)
    monkeypatch.setattr(HeldOut, "measure", lambda self: {})
    phases = "phases=[{kind: sft, steps: 3, batch: 2}, {kind: sft, steps: 1, batch: 2}]"
    config = config_of(tmp_path, phases, "eval_every=2", "eval_rows=2")
    events: list[Event] = []
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run(config, report)
    run(config, report)
    assert [e["step"] for e in events if e["event"] == "eval"] == [2, 3, 4]
    assert [e["step"] for e in events if e["event"] == "phase"] == [3, 4]
    assert [e["step"] for e in events if e["event"] == "step"] == [1, 2, 3, 4]
    assert (tmp_path / "best.safetensors").is_file()
    events.clear()
    run(config, report)
    assert [e["event"] for e in events] == ["start", "resume", "done"]


def test_patience_by_what_is_not_measured_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the training; the dry run says it too."""
    monkeypatch.setattr(heldout, "_questions", lambda *_: [])
    phases = "phases=[{kind: sft, steps: 1, batch: 2, patience: 1, patience_by: exact}]"
    config = config_of(tmp_path, phases, "eval_every=1", "eval_rows=2")
    with pytest.raises(ConfigError, match=r"phases\.0\.patience_by 'exact'.*'loss'"):
        run(config, lambda _: None)
    assert any("patience_by 'exact'" in line for line in plan(config).missing)


@pytest.mark.slow  # test_survive holds that such a best one does not count
def test_measurements_of_other_questions_are_not_waited_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cheap: Any,  # noqa: F811
) -> None:
    """The phase's best one was of other questions: the first of the new ones is the best that there is."""
    losses, cut = [3.0, 2.0], [3]
    events: list[Event] = []

    def report(event: Event) -> None:
        events.append(event)
        if event["event"] == "saved" and event["step"] in cut:
            cut.clear()
            raise KeyboardInterrupt

    monkeypatch.setattr(HeldOut, "loss", lambda self: {"loss": losses.pop(0) if losses else 5.0})
    monkeypatch.setattr(HeldOut, "measure", lambda self: {})
    config = config_of(tmp_path, PATIENT, "eval_every=1", "eval_rows=2")
    with pytest.raises(KeyboardInterrupt):
        run(config, report)
    whole = HeldOut.__init__

    def changed(self: HeldOut, *args: Any) -> None:
        whole(self, *args)
        self.hash = "another"

    monkeypatch.setattr(HeldOut, "__init__", changed)
    run(config, report)
    assert [e["step"] for e in events if e["event"] == "early"] == [5], "not 4"
