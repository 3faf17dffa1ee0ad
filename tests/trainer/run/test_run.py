"""Whole runs, small: they resume in the same bits, stop when asked, and end in an adapter that loads."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evlm.adapter.checkpoint import load_adapter
from evlm.errors import RecordError
from evlm.models.zoo import resolve
from evlm.reason.reasoner import Reasoner, Sampling
from evlm.records import RowWriter
from trainer.__main__ import main
from trainer.config.recipe import Config, load_config
from trainer.learner.learner import load_learner
from trainer.model.batch import Collator
from trainer.model.logprobs import base_of
from trainer.model.reference import ReferencePolicy
from trainer.run import loop
from trainer.run.loop import Stopped, run
from trainer.steps.kto import kto_step
from trainer.steps.rkto import rkto_step
from trainer.steps.sft import sft_step
from trainer.world.rows import Recipe, question_at, rows, to_request

SMALL = [
    "phases.0.steps=3",
    "phases.0.batch=2",
    "phases.1.steps=3",
    "phases.1.batch=2",
    "phases.1.micro_batch=1",
    "phases.1.kind=kto",
    "phases.1.eta0.over=pairs",
    "lora.rank=4",
    "lora.dropout=0.1",
    "save_every=1",
    "log_every=1",
    "data.0.rows=24",
]


def small(out: Path, *more: str) -> Config:
    return load_config("tiny", [*SMALL, f"out={out}", *more])


def bits(path: Path) -> dict[str, bytes]:
    """Every tensor's bytes; the file's own vary, for safetensors writes its metadata in any order."""
    return {name: tensor.numpy().tobytes() for name, tensor in load_adapter(path)[0].items()}


def test_a_run_that_is_cut_anywhere_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = bits(run(small(tmp_path / "whole"), lambda event: None))

    class Cut(Exception):
        pass

    out = tmp_path / "cut"
    for stop in (2, 5):

        def report(event: dict[str, Any], stop: int = stop) -> None:
            if event["event"] == "step" and event["step"] == stop:
                raise Cut

        with pytest.raises(Cut):
            run(small(out), report)
    events: list[dict[str, Any]] = []
    assert bits(run(small(out), events.append)) == whole
    assert [e["step"] for e in events if e["event"] == "resume"] == [4]
    assert [e["step"] for e in events if e["event"] == "step"] == [5, 6]
    again: list[dict[str, Any]] = []
    assert bits(run(small(out), again.append)) == whole, "a finished run only writes its adapter"
    assert not [e for e in again if e["event"] == "step"]


@pytest.mark.slow
def test_rkto_that_is_cut_draws_the_same_samples_and_ends_in_the_same_bits(tmp_path: Path) -> None:
    """With the mask's, the reflection's and the undesired rows' terms."""
    more = [
        "phases.0.steps=1",
        "phases.1.kind=rkto",
        "phases.1.rkto={lambda_ref: 0.2, lambda_u: 0.5, baseline: row}",
        "phases.1.batch=4",
        "phases.1.rewards={samples: 2, max_new_tokens: 120, temperature: 1.5}",
        "phases.1.diagnose_every=2",
    ]
    events: list[dict[str, Any]] = []
    whole = bits(run(small(tmp_path / "whole", *more), events.append))
    steps = [each for each in events if each["event"] == "step" and each["kind"] == "rkto"]
    assert {"loss_likelihood", "loss_reinforce", "loss_reflection", "weight_entropy", "iou"} <= set(steps[0])
    assert {"kl_reference", "norm_reinforce", "cos_sft_likelihood"} <= set(steps[0])

    class Cut(Exception):
        pass

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 3:
            raise Cut

    with pytest.raises(Cut):
        run(small(tmp_path / "cut", *more), report)
    assert bits(run(small(tmp_path / "cut", *more), lambda event: None)) == whole


def test_a_step_of_nothing_leaves_the_weights_to_one_process_as_to_several(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has no gradient then, and several have gradients of zeros, which momentum would go on with."""
    whole = loop._step

    def silent(learner: Any, *args: Any) -> dict[str, float]:
        if args[3] < 3:
            return whole(learner, *args)
        for parameter in learner.trainable():
            parameter.grad = torch.zeros_like(parameter) if several else None
        return {"loss": 0.0}

    monkeypatch.setattr(loop, "_step", silent)
    ends = []
    for several in (False, True):
        config = small(tmp_path / str(several), "phases=[{kind: sft, steps: 4, batch: 2, weight_decay: 0.1}]")
        ends.append(bits(run(config, lambda event: None)))
    assert ends[0] == ends[1]


def test_sigterm_saves_and_leaves(tmp_path: Path) -> None:
    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    config = small(tmp_path, "save_every=100", "phases.1.steps=1")
    with pytest.raises(Stopped, match="step 2"):
        run(config, report)
    events: list[dict[str, Any]] = []
    run(config, events.append)
    assert [e["step"] for e in events if e["event"] == "step"] == [3, 4]


# rkto's is held in model/test_logprobs too, on a small model.
@pytest.mark.parametrize("kind", ["sft", "kto", pytest.param("rkto", marks=pytest.mark.slow)])
def test_micro_batches_give_the_gradient_of_the_batch(tmp_path: Path, kind: str) -> None:
    config = small(tmp_path, "lora.dropout=0", f"phases.0.kind={kind}", "phases.0.batch=3")
    learner, gradients = load_learner(config), []
    examples = learner.rows(config, config.phases[0]).batch(0)
    for size in (1, 2, None):
        phase = replace(config.phases[0], micro_batch=size)
        for parameter in learner.trainable():
            parameter.grad = None
        if kind == "sft":
            parts = sft_step(learner, examples, phase)
        elif kind == "kto":
            parts = kto_step(learner, ReferencePolicy(learner.model, None), examples, phase, 1)
        else:
            parts = rkto_step(learner, ReferencePolicy(learner.model, None), examples, phase, 1, 0)
        gradient = torch.cat([p.grad.flatten() for p in learner.trainable() if p.grad is not None])
        gradients.append((parts["loss"], gradient))
    for loss, gradient in gradients[1:]:
        assert loss == pytest.approx(gradients[0][0], rel=1e-5)
        assert float((gradient - gradients[0][1]).norm() / gradients[0][1].norm()) < 1e-4


@pytest.mark.slow  # test_family_runs and test_export hold adapters against peft
def test_the_adapter_changes_the_reasoner_as_it_changed_the_learner(tmp_path: Path) -> None:
    config = small(tmp_path, "lora.dropout=0", "phases.0.lr=0.01")
    path = run(config, lambda event: None)
    tensors, meta = load_adapter(path)
    assert meta.prompt == "short" and meta.training["steps"] == 6
    question = question_at(Recipe(seed=5), 0)
    text = (
        Reasoner.load(resolve("bundled", "reasoner"), path, "fp32", "cpu")
        .generate(to_request(question), Sampling(40))
        .text
    )
    learner = load_learner(config)
    base = base_of(learner.model)
    with torch.no_grad():
        for name, value in base.named_parameters():
            stored = name.replace(".default", "")
            if stored in tensors:
                value.copy_(tensors[stored])
            elif f"base_model.model.{stored}" in tensors:
                value.copy_(tensors[f"base_model.model.{stored}"])
    learner.model.eval()
    chat = learner.chat(to_request(question))
    batch = Collator(learner.processor)([chat], [text])
    from trainer.model.forward import hidden_states

    with torch.no_grad():
        chosen = base.lm_head(hidden_states(base, batch)).argmax(-1)[0, :-1]
    learned = batch.labels[0, 1:] != -100
    assert torch.equal(chosen[learned][:30], batch.labels[0, 1:][learned][:30])


def test_the_vision_tower_learns_where_it_is_asked_to(tmp_path: Path) -> None:
    config = small(tmp_path, "lora.vision=true", "phases.0.lr=0.01", "phases.1.steps=1")
    tensors, _ = load_adapter(run(config, lambda event: None))
    seeing = {name: tensor for name, tensor in tensors.items() if ".visual." in name}
    assert {name.split(".")[-3] for name in seeing} == {"qkv", "proj", "fc1", "fc2"}
    assert all(bool(tensor.any()) for name, tensor in seeing.items() if "lora_B" in name)
    request = to_request(question_at(Recipe(seed=5), 0))
    base, folder = resolve("bundled", "reasoner"), tmp_path / "adapter.safetensors"
    plain, trained = (Reasoner.load(base, adapter, "fp32", "cpu") for adapter in (None, folder))
    towers = [dict(reasoner.module.named_parameters()) for reasoner in (plain, trained)]
    moved = [name for name in towers[0] if ".visual." in name and not torch.equal(*(t[name] for t in towers))]
    assert any("fc1" in name for name in moved)
    assert trained.generate(request, Sampling(10, guided="never")).tokens == 10


def test_a_row_that_is_longer_than_the_context_is_named(tmp_path: Path) -> None:
    row, pictures = next(rows(Recipe(seed=3), 0, 1))
    long = replace(row, id="endless", prompt="make it red " * 1500, label=True)
    RowWriter(tmp_path / "data").append(long, {name: pictures[name] for name in row.paths()})
    config = small(tmp_path / "out", f"data=[{{path: {tmp_path / 'data'}}}]")
    with pytest.raises(RecordError, match=r"row 'endless': 4,605 tokens .* holds 2,048; shorten"):
        run(config, lambda event: None)


@pytest.mark.slow  # data/test_public_forms runs on datasets
def test_rows_of_a_dataset_train_too(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path / "data")
    for row, pictures in rows(Recipe(seed=3), 0, 8):
        writer.append(row, {name: pictures[name] for name in row.paths() if name in pictures})
    config = small(tmp_path / "out", f"data=[{{path: {tmp_path / 'data'}}}]")
    assert run(config, lambda event: None).is_file()


def test_the_command_speaks_json_and_plans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "tiny", *SMALL, f"out={tmp_path}", "phases.1.steps=1"]
    assert main([*words, "--dry-run"]) == 0
    assert "stage 1: kto, 1 steps of 2 rows" in capsys.readouterr().out and not any(tmp_path.iterdir())
    assert main([*words, "--progress", "jsonl"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["event"] == "start" and events[-1] == {
        "event": "done",
        "adapter": str(tmp_path / "adapter.safetensors"),
    }
    assert {"loss", "eta0", "s_desired"} & set(events[-4]) and (tmp_path / "log.jsonl").read_text().count(
        "\n"
    ) == len(events)
    assert main(["run", "tiny", "lora.rnk=3"]) == 2
    assert "did you mean rank" in capsys.readouterr().err
