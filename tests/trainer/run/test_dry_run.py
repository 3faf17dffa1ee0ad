"""The dry run: all that is missing at once, and numbers that are those of the run."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evlm.models import quantized
from evlm.records import RowWriter
from trainer.__main__ import main
from trainer.config.recipe import load_config
from trainer.learner.adapter import save_learned
from trainer.learner.learner import load_learner
from trainer.model import lean
from trainer.model.forward import embed_inputs
from trainer.model.logprobs import base_of
from trainer.run import dry_run
from trainer.run.dry_run import plan
from trainer.run.memory import Length, kept, looking, seen
from trainer.steps.sft import sft_step
from trainer.world.rows import Recipe, rows

WORLD = "data=[{world: true}]"


def missing(*settings: str) -> list[str]:
    """What is missing, but for the packages of this machine."""
    return [
        line for line in plan(load_config("tiny", settings)).missing if not line.startswith("TensorBoard")
    ]


def test_all_that_is_missing_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/rows.jsonl").write_text('{"id": 3}\n')
    (tmp_path / "file").write_text("")
    settings = [
        "model.base=qwen2-vl-7b",
        "model.quantize=4bit",
        "model.device=cpu",
        "wandb=evlm",
        f"out={tmp_path}/file/run",
        f"data=[{{path: {tmp_path}/gone}}, {{path: {tmp_path}/broken}}]",
    ]
    assert main(["run", "paper", *settings, "--dry-run"]) == 1
    out = capsys.readouterr().out
    lines = [line[2:] for line in out.splitlines() if line.startswith("- ")]
    for start, words in (
        ("model.base: ", "python -m evlm models --download qwen2-vl-7b"),
        ("data.0: ", "gone"),
        ("data.1: ", "line 1"),
        ("wandb: ", "pip install wandb"),
        ("model.quantize: ", "pip install bitsandbytes"),
        ("out: ", "cannot be written to"),
    ):
        package = {"wandb: ": "wandb", "model.quantize: ": "bitsandbytes"}.get(start)
        if package and importlib.util.find_spec(package):
            continue
        (line_of,) = [line for line in lines if line.startswith(start)]
        assert words in line_of
    assert f"missing ({len(lines)}):" in out and "stage 1: rkto, 300 steps of 64 rows" in out
    assert "models--Qwen--Qwen2-VL-7B-Instruct" in out, "the folders that were searched"


def test_nothing_is_missing_for_the_bundled_model(tmp_path: Path) -> None:
    assert missing(WORLD, f"out={tmp_path / 'new' / 'run'}") == [] and not list(tmp_path.iterdir())
    (line,) = missing(WORLD, "model.adapter=/nowhere/a.safetensors")
    assert line.startswith("model.adapter: ") and "/nowhere/a.safetensors" in line
    for targets in ("[q_prj]", "[q_proj, q_prj]"):
        (line,) = missing(WORLD, f"lora.targets={targets}")
        assert "targets q_prj: the model has no such linear modules; it has q_proj, k_proj" in line
    if not torch.cuda.is_available():
        (line,) = missing(WORLD, "model.device=cuda")
        assert line.startswith("model.device: ") and "'cuda' cannot be used on this machine" in line
    (line,) = missing(WORLD, "model.device=abacus")
    assert "not one that torch knows" in line


def test_an_earlier_run_in_the_folder_is_gone_on_from_or_named(tmp_path: Path) -> None:
    settings = [WORLD, "phases=[{kind: sft, steps: 2, batch: 2}]", f"out={tmp_path}", "save_every=1"]
    assert main(["run", "tiny", *settings, "--progress", "jsonl"]) == 0
    assert "goes on from step 2 of 2" in plan(load_config("tiny", settings)).text
    (line,) = missing(*settings, "lora.rank=8")
    assert "another recipe" in line and "lora.rank was 32, is 8" in line
    assert not plan(load_config("tiny", [*settings, "lora.rank=8"]), fresh=True).missing


def test_four_bits_without_what_they_need_are_refused_with_the_remedy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantized, "_installed", lambda name: False)
    words = ["run", "tiny", "model.quantize=4bit", "model.device=cpu", f"out={tmp_path / 'run'}"]
    assert main(words) == 2
    assert "pip install bitsandbytes" in capsys.readouterr().err


def test_a_model_of_another_family_is_said_before_it_is_loaded(tmp_path: Path) -> None:
    from evlm.models.zoo import resolve

    for file in resolve("bundled", "reasoner").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = json.loads((tmp_path / "config.json").read_text())
    content["model_type"] = "qwen2_5_omni"
    (tmp_path / "config.json").write_text(json.dumps(content))
    (line,) = missing(WORLD, f"model.base={tmp_path}")
    assert line.startswith("model.base: ") and "qwen2_5_omni" in line


def test_parameters_and_tokens_are_those_of_the_run() -> None:
    config = load_config("tiny", ["data=[{world: true}]", "phases=[{kind: sft, steps: 10, batch: 16}]"])
    learner = load_learner(config)
    every = sum(p.numel() for n, p in learner.model.named_parameters() if ".lora_" not in n)
    trained = sum(p.numel() for p in learner.trainable())
    text = plan(config).text
    assert f"{every:,} parameters; trained {trained:,}, LoRA of rank 32" in text
    tokens = learner.batch(learner.rows(config, config.phases[0]).batch(0)).tokens
    assert f"about {tokens * 10:,} tokens" in text or f"about {tokens / 1e5:.1f} M tokens" in text
    assert "10 steps of 16 rows from the endless world" in text


def test_an_adapters_own_words_are_counted_where_it_is_trained_on(tmp_path: Path) -> None:
    """The bundled model is asked in short words, the adapter on it was tuned in full ones."""
    recipe = ["data=[{world: true}]", "phases=[{kind: sft, steps: 10, batch: 16}]"]
    learner = load_learner(load_config("tiny", recipe))
    assert learner.style.name == "short"
    above = tmp_path / "adapter.safetensors"
    save_learned(replace(learner, meta=replace(learner.meta, prompt="full")), above, {})
    config = load_config("tiny", [*recipe, f"model.adapter={above}"])
    tuned = load_learner(config)
    tokens, short = (
        each.batch(each.rows(config, config.phases[0]).batch(0)).tokens for each in (tuned, learner)
    )
    assert tuned.style.name == "full" and tokens > 1.5 * short
    text = plan(config).text
    assert f"about {tokens * 10:,} tokens" in text or f"about {tokens / 1e5:.1f} M tokens" in text


@pytest.mark.parametrize(
    ("dropout", "dtype"),
    [
        (0, "fp32"),
        (0.05, "fp32"),
        *(  # a product in 16 bits takes long on most CPUs
            pytest.param(dropout, "bf16", marks=pytest.mark.slow) for dropout in (0, 0.05)
        ),
    ],
)
def test_the_estimate_of_activations_is_near_what_a_step_keeps(
    dtype: str, dropout: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the model's own layers; where ours stand in for them (lean.py), on a CPU, no more is kept."""
    settings = [
        WORLD,
        f"model.dtype={dtype}",
        f"lora.dropout={dropout}",
        "phases.0.batch=2",
        "model.device=cpu",
    ]
    config = load_config("tiny", settings)
    learner = load_learner(config)
    learner.model.train()
    examples = learner.rows(config, config.phases[0]).batch(0)
    weights = {p.untyped_storage().data_ptr() for p in learner.model.parameters()}
    identity: Any = lambda tensor: tensor  # noqa: E731

    def measured() -> int:
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, identity):
            sft_step(learner, examples, config.phases[0])
        return sum(size for storage, size in storages.items() if storage not in weights)

    text = learner.model.config.text_config
    estimated = kept(config, text) * text.num_hidden_layers * learner.batch(examples).tokens
    assert estimated / measured() > 0.7
    monkeypatch.setattr(lean, "usable", lambda core: False)
    assert 0.7 < estimated / measured() < 1.4


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dropout", [0, 0.05])
def test_the_estimate_of_the_tower_is_near_what_it_keeps(dropout: float, checkpointing: bool) -> None:
    config = load_config(
        "tiny",
        [
            *(WORLD, "lora.vision=true", f"lora.dropout={dropout}", f"model.checkpointing={checkpointing}"),
            *("phases.0.batch=2", "model.device=cpu"),
        ],
    )
    learner = load_learner(config)
    learner.model.train()
    batch = learner.batch(learner.rows(config, config.phases[0]).batch(0))
    base = base_of(learner.model)
    weights = {p.untyped_storage().data_ptr() for p in learner.model.parameters()}
    storages: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
        return tensor

    identity: Any = lambda tensor: tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(pack, identity):
        embedded = embed_inputs(base, batch)
    assert embedded is not None
    measured = sum(size for storage, (size, _) in storages.items() if storage not in weights)
    pictures = float(batch.vision_mask.sum()) / 2
    vision = base.config.vision_config
    estimated = looking(config, config.phases[0], vision, Length(0, 0, 0, pictures))["vision tower"]
    if checkpointing:  # what one block needs while it is computed again comes later
        estimated -= seen(config, vision) * pictures * 2 * vision.spatial_merge_size**2
    # This tower is small: its embedding and merger, which are not counted, have their share.
    assert (0.5 if checkpointing else 0.7) < estimated / measured < 1.4
    plain = load_config("tiny", [WORLD])
    assert looking(plain, plain.phases[0], vision, Length(0, 0, 0, pictures)) == {}


def test_samples_need_rows_too(tmp_path: Path) -> None:
    writer = RowWriter(tmp_path / "data")
    for row, pictures in rows(Recipe(seed=3), 0, 4):
        writer.append(row, {name: pictures[name] for name in row.paths() if name in pictures})
    (line,) = missing(f"data=[{{path: {tmp_path / 'data'}}}]", "sample_every=5", f"out={tmp_path / 'run'}")
    assert line.startswith("sample_every: ") and "no row fits (splits validation" in line


def test_of_several_processes_each_holds_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = [WORLD, "phases=[{kind: sft, steps: 2, batch: 64}]"]
    alone = plan(load_config("tiny", settings)).text
    monkeypatch.setenv("WORLD_SIZE", "8")
    shared = plan(load_config("tiny", settings)).text
    assert "for each of 8 processes, estimated" in shared and "processes" not in alone
    activations = [
        float(line.split()[1]) * (1000 if line.endswith("GB") else 1)
        for text in (alone, shared)
        for line in text.splitlines()
        if line.startswith("  activations")
    ]
    assert activations[0] / activations[1] == pytest.approx(8, rel=0.1)


def test_windows_is_asked_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no os.sysconf."""

    class Kernel:
        def GetPhysicallyInstalledSystemMemory(self, kilobytes: Any) -> int:
            kilobytes._obj.value = 1 << 24
            return 1

    monkeypatch.delattr(os, "sysconf")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=Kernel()), raising=False)
    assert dry_run._available(torch.device("cpu")) == 1 << 34


def test_settings_may_stand_behind_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "tiny", "cycles=2", "--dry-run", f"out={tmp_path}", "model.shard=true"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "stage 3: rkto" in text and f"writes {tmp_path}" in text
    assert "each holds a part of 5" in text  # MB of the decoder layers
    for wrong in (["run", "tiny", "--dry-run", "--shard=true"], ["run", "tiny", "--dry-run", "out"]):
        with pytest.raises(SystemExit):
            main(wrong)
    assert "--shard=true" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", "somewhere", "--nothing", "a=b"])
