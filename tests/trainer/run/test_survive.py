"""Whole runs where something goes wrong, and one that is measured on the way."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import trainer.model.sampling
import trainer.run.heldout
import trainer.run.loop
from evlm.adapter.checkpoint import load_adapter
from evlm.errors import ConfigError, TrainingError
from trainer.config.recipe import Config, load_config
from trainer.learner.state import States
from trainer.run.loop import run

Events = list[dict[str, Any]]


def small(out: Path, *more: str) -> Config:
    phases = "phases=[{kind: sft, steps: 4, batch: 2, lr: 0.001}]"
    few = ["lora.rank=4", "save_every=1", "log_every=1", "data.0.rows=24"]
    return load_config("tiny", [phases, *few, f"out={out}", *more])


def ran(config: Config, **more: Any) -> tuple[dict[str, torch.Tensor], Events]:
    events: Events = []
    return load_adapter(run(config, events.append, **more))[0], events


def of(events: Events, kind: str) -> Events:
    return [event for event in events if event["event"] == kind]


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture()
def cheap(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], None]:
    """Steps whose gradients are drawn, not computed; the losses of some of them may be given."""

    def install(losses: dict[int, float]) -> None:
        def step(learner: Any, reference: Any, examples: Any, phase: Any, at: int, seed: int, *_: Any) -> Any:
            for parameter in learner.trainable():
                parameter.grad = 1e-3 * torch.randn_like(parameter)
            return {"loss": losses.get(at, 1.0)}

        monkeypatch.setattr(trainer.run.loop, "_step", step)

    install({})
    return install


class Cut(Exception):
    """The process is gone."""


def test_out_of_memory_halves_the_micro_batch_and_keeps_the_gradients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = "phases.0.steps=2"
    parts, _ = ran(small(tmp_path / "parts", two, "phases.0.micro_batch=1"))
    step = trainer.run.loop._step

    def short(learner: Any, reference: Any, examples: Any, phase: Any, at: int, *rest: Any) -> Any:
        numbers = step(learner, reference, examples, phase, at, *rest)  # leaves gradients and spends chance
        if phase.micro_batch != 1 and at == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return numbers

    monkeypatch.setattr(trainer.run.loop, "_step", short)
    sizes: list[int] = []

    def until_saved(event: dict[str, Any]) -> None:
        if event["event"] == "memory":
            sizes.append(event["micro_batch"])
        if event["event"] == "saved":
            raise Cut

    with pytest.raises(Cut):
        run(small(tmp_path / "short", two), until_saved)
    assert sizes == [1]
    numbers, events = ran(small(tmp_path / "short", two))
    assert equal(numbers, parts) and not of(events, "memory"), "the resumed run knows what fits"


def test_bad_steps_are_dropped_counted_over_a_resume_and_end_the_run(tmp_path: Path, cheap: Any) -> None:
    cheap({2: math.nan})
    _, events = ran(small(tmp_path / "one"))
    assert [event["step"] for event in of(events, "dropped")] == [2]
    assert "not finite" in of(events, "dropped")[0]["why"]
    cheap({2: math.nan, 3: math.inf, 4: math.nan})

    def until_third(event: dict[str, Any]) -> None:
        if event["event"] == "saved" and event["step"] == 3:
            raise Cut

    with pytest.raises(Cut):
        run(small(tmp_path / "three"), until_third)
    with pytest.raises(TrainingError, match=r"3 steps in a row.*step 4: loss nan.*lower phases.0.lr"):
        run(small(tmp_path / "three"), lambda event: None)
    assert max(States(tmp_path / "three" / "state", {}).steps()) == 3


def test_a_folder_of_another_recipe_is_neither_used_nor_overwritten(tmp_path: Path, cheap: Any) -> None:
    ran(small(tmp_path))
    before = sorted(path.name for path in (tmp_path / "state").iterdir())
    with pytest.raises(ConfigError, match=r"phases.0.lr was 0.001, is 0.002.*--fresh"):
        run(small(tmp_path, "phases.0.lr=0.002"), lambda event: None)
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == before
    _, events = ran(small(tmp_path, "keep_last=1", "log_every=2", "save_every=3"))
    assert of(events, "resume")[0]["step"] == 4 and not of(events, "step")
    _, events = ran(small(tmp_path, "phases.0.lr=0.002"), fresh=True)
    assert not of(events, "resume") and len(of(events, "step")) == 4


def test_a_full_disk_at_the_end_costs_no_step(
    tmp_path: Path, cheap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    config = small(tmp_path, "phases.0.steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(trainer.run.loop, "save_learned", full)
        with pytest.raises(TrainingError, match=r"adapter.safetensors cannot be written \(No space left"):
            run(config, lambda event: None)
    _, events = ran(config)
    assert not of(events, "step") and of(events, "done")


def test_the_best_of_other_questions_is_not_held_against_these(
    tmp_path: Path, cheap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = iter([0.9, 0.9, 0.2, 0.1])
    monkeypatch.setattr(trainer.run.heldout.HeldOut, "measure", lambda self: {"exact": next(exact)})
    monkeypatch.setattr(trainer.run.heldout.HeldOut, "loss", lambda self: {})

    def until_second(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise Cut

    with pytest.raises(Cut):
        run(small(tmp_path, "eval_every=1", "eval_rows=2"), until_second)
    ran(small(tmp_path, "eval_every=1", "eval_rows=3"))
    assert load_adapter(tmp_path / "best.safetensors")[1].training["steps"] == 3


def test_each_machine_has_its_own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks of SQLite do not hold over a network's file system."""
    assert trainer.run.loop._cache_name() == "reference.sqlite"
    for here, everywhere, own in ((2, 2, False), (2, 4, True)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
        monkeypatch.setenv("WORLD_SIZE", str(everywhere))
        monkeypatch.setattr("platform.node", lambda: "node/7")
        assert trainer.run.loop._cache_name() == ("reference-node_7.sqlite" if own else "reference.sqlite")


def test_a_measurement_that_fails_costs_no_step(
    tmp_path: Path, cheap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any) -> dict[str, float]:
        raise RuntimeError("the power is gone")

    config = small(tmp_path, "eval_every=3", "eval_rows=1", "save_every=100", "keep_last=1")
    with monkeypatch.context() as patch:
        patch.setattr(trainer.run.heldout.HeldOut, "measure", broken)
        with pytest.raises(RuntimeError, match="the power"):
            run(config, lambda event: None)
    assert States(tmp_path / "state", {}).steps() == [3]


def test_a_measurement_that_does_not_fit_is_taken_in_smaller_parts(
    tmp_path: Path, cheap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def short(learner: Any, chats: Any, *_: Any) -> list[str]:
        asked.append(len(chats))
        if len(chats) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 6.90 GiB")
        return [""] * len(chats)

    monkeypatch.setattr(trainer.model.sampling, "answers", short)
    more = ["eval_every=2", "eval_rows=5", "save_every=2"]
    _, events = ran(small(tmp_path, *more))
    assert [event["step"] for event in of(events, "eval")] == [2, 4]
    assert asked == [5, 5, 5, 4, 2, 2, 1, 2, 2, 1], "32, 16, 8 and 4 together do not fit"


@pytest.mark.slow
def test_held_out_questions_are_asked_while_it_learns_and_change_nothing(
    tmp_path: Path, cheap: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer.run.heldout, "MAX_NEW_TOKENS", 8)
    right = iter([(0.25, 0.5), (0.75, 0.5), (0.75, 0.5)])
    measure = trainer.run.heldout.HeldOut.measure

    def measured(self: Any) -> dict[str, float]:
        assert measure(self) == {"exact": 0.0, "iou": 0.0}, "nothing is right that is cut off"
        return dict(zip(("exact", "iou"), next(right), strict=True))

    monkeypatch.setattr(trainer.run.heldout.HeldOut, "measure", measured)
    more = ["eval_every=1", "eval_rows=3", "sample_every=3", "sample_rows=2", "keep_last=1"]
    asked, events = ran(small(tmp_path / "asked", "phases.0.steps=3", *more))
    asked_at = [(event["step"], event["exact"]) for event in of(events, "eval")]
    assert asked_at == [(1, 0.25), (2, 0.75), (3, 0.75)]
    assert len(of(events, "sample")) == 1 and len(of(events, "sample")[0]["items"]) == 2
    best, meta = load_adapter(tmp_path / "asked" / "best.safetensors")
    assert meta.training["steps"] == 2 and not equal(best, asked)
    assert sorted(States(tmp_path / "asked" / "state", {}).steps()) == [2, 3]
    unasked, _ = ran(small(tmp_path / "unasked", "phases.0.steps=3"))
    assert equal(asked, unasked)
