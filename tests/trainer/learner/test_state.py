"""States on disk: whole ones come back in their bits, others are passed over, none is lost by writing one."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import trainer.learner.state
from evlm.errors import ConfigError, TrainingError
from trainer.learner.state import Progress, States, differences

RECIPE = {"lr": 0.1, "phases": [{"kind": "sft", "steps": 3}], "betas": (0.9, 0.99)}


def learned(width: int = 3, steps: int = 2) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(width, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        model(torch.randn(4, width)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def saved_at(folder: Path, *steps: int, **more: Any) -> States:
    states = States(folder, RECIPE, more.pop("keep_last", 10))
    for step in steps:
        states.save(*learned(steps=step), Progress(step, **more))
    return states


def test_a_state_comes_back_in_its_bits(tmp_path: Path) -> None:
    progress = Progress(4, 1, 0, 900, 2, 3, 1, [0.1, 1 / 3], [2e-30, 7.0], "abc", {"step": 4, "exact": 0.5})
    model, optimizer = learned(steps=4)
    States(tmp_path, RECIPE).save(model, optimizer, progress)
    saved = States(tmp_path, RECIPE).newest()
    assert saved is not None and saved.progress == progress and saved.folder.name == "step-00000004"
    other, again = learned(steps=1)
    saved.load_weights(other)
    saved.load_optimizer(again)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    ours, theirs = (each.state_dict()["state"][0] for each in (optimizer, again))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("harm", ["cut", "flipped", "missing", "no manifest", "bad manifest", "unfinished"])
def test_what_is_not_whole_is_passed_over(tmp_path: Path, harm: str) -> None:
    states = saved_at(tmp_path, 1, 2)
    file = tmp_path / "step-00000002" / "model.safetensors"
    data = file.read_bytes()
    if harm == "cut":
        file.write_bytes(data[:-1])
    elif harm == "flipped":
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif harm == "missing":
        (file.parent / "optimizer.safetensors").unlink()
    elif harm == "no manifest":
        (file.parent / "manifest.json").unlink()
    elif harm == "bad manifest":
        (file.parent / "manifest.json").write_text("[1")
    else:
        file.parent.rename(tmp_path / "step-00000002.tmp")
    saved = states.newest()
    assert saved is not None and saved.progress.step == 1
    assert states.broken == ([] if harm == "unfinished" else ["step-00000002"])
    saved_at(tmp_path, 2)
    newest = states.newest()
    assert newest is not None and newest.progress.step == 2 and not list(tmp_path.glob("*.tmp"))


def test_a_process_that_dies_while_it_writes_leaves_the_state_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states, flush, calls = saved_at(tmp_path, 1), trainer.learner.state._flush, 0

    class Killed(BaseException):
        pass

    for moment in range(1, 7):  # four files, their folder, the folder of all

        def dying(path: Path, moment: int = moment) -> None:
            nonlocal calls
            calls += 1
            if calls == moment:
                raise Killed
            flush(path)

        calls = 0
        monkeypatch.setattr(trainer.learner.state, "_flush", dying)
        with pytest.raises(Killed):
            states.save(*learned(steps=2), Progress(2))
        saved = States(tmp_path, RECIPE).newest()
        assert saved is not None and saved.progress.step == (2 if moment == 6 else 1)


def test_another_recipe_is_an_error_that_says_what_differs(tmp_path: Path) -> None:
    saved_at(tmp_path, 3)
    other = {**RECIPE, "phases": [{"kind": "sft", "steps": 4}], "seed": 1}
    with pytest.raises(ConfigError) as caught:
        States(tmp_path, other).newest()
    for words in ("step 3", "phases.0.steps was 3, is 4", "seed was not there, is 1", "out=", "--fresh"):
        assert words in str(caught.value)
    states = States(tmp_path, other)
    states.clear()
    assert states.newest() is None
    assert differences({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}) == []
    assert differences({"a": [1]}, {"a": [1, 2]}) == ["a was [1], is [1, 2]"]


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    states = saved_at(tmp_path, 1, 2, 3, 4, 5, keep_last=2, best={"step": 2, "exact": 1.0})
    assert sorted(states.steps()) == [2, 4, 5]
    states = saved_at(tmp_path, 6, keep_last=1)
    assert states.steps() == [6]


def test_the_state_that_was_just_written_stays_beside_a_broken_newer_one(tmp_path: Path) -> None:
    states = saved_at(tmp_path, 1, 4, keep_last=2)
    (tmp_path / "step-00000004" / "manifest.json").write_text("[1")
    for keep, step, left in ((2, 2, [1, 2, 4]), (1, 3, [3, 4])):
        states = saved_at(tmp_path, step, keep_last=keep)
        assert sorted(states.steps()) == left
        saved = states.newest()
        assert saved is not None and saved.progress.step == step


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a file's size")
def test_a_full_disk_is_said_and_costs_no_state(tmp_path: Path) -> None:
    import resource

    model, optimizer = learned(50_000, 1)
    states = States(tmp_path, RECIPE)
    states.save(model, optimizer, Progress(1))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (1 << 18, limit[1])
    )  # this process's, whom nothing else runs in
    try:
        with pytest.raises(TrainingError, match=r"step 2 cannot be written.*step-00000001\): free"):
            States(tmp_path, RECIPE).save(model, optimizer, Progress(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    saved = states.newest()
    assert saved is not None and saved.progress.step == 1 and not list(tmp_path.glob("*.tmp"))
    states.save(model, optimizer, Progress(2))
    assert sorted(states.steps()) == [1, 2]
