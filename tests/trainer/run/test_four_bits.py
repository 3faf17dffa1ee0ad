"""QLoRA on a CPU: gradients against the same weights dequantised, and whole runs. Skipped where bitsandbytes
is not installed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch
from native_forward import config_of, examples, gradient, learner_of, native_gradient, off, phases, requests

from evlm.adapter.checkpoint import load_adapter
from evlm.reason.messages import SHORT, build_messages, encode
from evlm.reason.reasoner import Reasoner, Sampling
from trainer.config.recipe import Config, load_config
from trainer.learner.learner import Learner
from trainer.model.logprobs import base_of
from trainer.model.reference import ReferencePolicy
from trainer.run.dry_run import plan
from trainer.run.loop import run
from trainer.steps.kto import kto_step
from trainer.steps.rkto import rkto_step
from trainer.steps.sft import sft_step
from trainer.world.rows import Recipe, question_at, to_request

bitsandbytes = pytest.importorskip(
    "bitsandbytes",
    reason="4-bit weights need bitsandbytes (pip install bitsandbytes), which is not installed",
)

FOUR = "model.quantize=4bit"
PHASES = [
    "{kind: sft, steps: 2, batch: 2, lr: 1e-2, warmup: 0}",
    "{kind: kto, steps: 2, batch: 3, lr: 1e-2, warmup: 0, micro_batch: 2}",
    "{kind: rkto, steps: 2, batch: 2, lr: 1e-2, warmup: 0, rkto: {reinforce: all, lambda_ref: 0.2}, "
    "rewards: {samples: 2, max_new_tokens: 8}}",
]


@pytest.fixture(scope="module", params=tiny_qwen.FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny_qwen.save_folder(tmp_path_factory.mktemp("base") / "model", request.param)
    (path / "evlm.json").write_text(json.dumps({"prompt": "short", "mask_codec": "box-spans-8"}))
    return path


def write_plain(model: Any, folder: Path, into: Path) -> Path:
    """A folder of the 4-bit model's weights, dequantised."""
    import transformers

    plain = transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    four = {n: m for n, m in model.named_modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}
    assert len(four) > 20
    with torch.no_grad():
        for name, module in four.items():
            weight = plain.get_submodule(name.replace(".base_layer", "")).weight
            exact = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            assert not torch.equal(weight, exact)
            weight.copy_(exact)
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("*.safetensors*"))
    plain.save_pretrained(into)
    return into


@pytest.fixture(scope="module")
def four(folder: Path) -> Learner:
    return learner_of(folder, FOUR)


@pytest.fixture(scope="module")
def plain_folder(four: Learner, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_plain(base_of(four.model), folder, tmp_path_factory.mktemp("plain") / "model")


@pytest.mark.parametrize(("kind", "bar"), [("sft", 1e-5), ("kto", 3e-5), ("rkto", 3e-5)])
def test_the_gradient_is_that_of_the_dequantised_weights_in_the_native_forward(
    four: Learner, folder: Path, plain_folder: Path, kind: str, bar: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle is in float64. References and samples run the model without a graph before it learns."""
    rows, phase = examples(four), phases(config_of(folder))[kind]
    four.model.train()
    if kind == "sft":
        sft_step(four, rows, phase)
    elif kind == "kto":
        kto_step(four, ReferencePolicy(four.model), rows, phase, 7)
    else:
        rkto_step(four, ReferencePolicy(four.model), rows, phase, 7, 0)
    got = gradient(four)
    oracle = learner_of(plain_folder)
    known = dict(four.model.named_parameters())
    with torch.no_grad():  # both adapters alike; a fresh reference's A is anyhow
        for name, parameter in oracle.model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(known[name])
    oracle.model.double()
    difference = off(got, native_gradient(oracle, rows, kind, phase, monkeypatch))
    print(f"{kind}: {difference:.2g}")
    assert difference <= bar


def config_for(base: Path, out: Path, *more: str) -> Config:
    settings = [f"model.base={base}", f"out={out}", f"phases=[{', '.join(PHASES)}]", "lora.rank=4", FOUR]
    rest = ["model.device=cpu", "lora.dropout=0.1", "save_every=1", "log_every=1", "data.0.rows=40"]
    return load_config("tiny", [*settings, *rest, *more])


def test_a_run_resumes_in_its_bits_and_its_adapter_loads(
    folder: Path, plain_folder: Path, tmp_path: Path
) -> None:
    assert not [each for each in plan(config_for(folder, tmp_path / "whole")).missing if "quantize" in each]
    path = run(config_for(folder, tmp_path / "whole"), lambda event: None)
    whole = load_adapter(path)[0]

    class Cut(Exception):
        pass

    for stop in (1, 3, 5):  # in sft, kto and rkto

        def report(event: dict[str, Any], stop: int = stop) -> None:
            if event["event"] == "step" and event["step"] == stop:
                raise Cut

        with pytest.raises(Cut):
            run(config_for(folder, tmp_path / "cut"), report)
    again = load_adapter(run(config_for(folder, tmp_path / "cut"), lambda event: None))[0]
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())

    engine = Reasoner.load(folder, adapter=path, dtype="fp32", device="cpu", quantize="4bit")
    chat = build_messages(to_request(question_at(Recipe(seed=9), 4)), style=SHORT)
    inputs = encode(engine.backbone.processor, [chat], ["left"])
    plain = Reasoner.load(plain_folder, dtype="fp32", device="cpu").module
    with torch.no_grad():
        ours = engine.module(**inputs).logits
        before = plain(**inputs).logits
        theirs = Reasoner.load(plain_folder, path, "fp32", "cpu").module(**inputs).logits
    assert (theirs - before).abs().max() > 1e-2, "it has learned something"
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("folder", ["qwen2_5_vl"], indirect=True)
def test_other_loras_and_bfloat16_learn_in_four_bits(folder: Path, tmp_path: Path) -> None:
    for number, more in enumerate((["lora.use_dora=true"], ["model.dtype=bf16", "model.checkpointing=true"])):
        events: list[dict[str, Any]] = []
        tensors, _ = load_adapter(run(config_for(folder, tmp_path / str(number), *more), events.append))
        assert not any(event["event"] == "dropped" for event in events)
        assert all(bool(tensor.any()) for tensor in tensors.values())


def test_the_engine_answers_in_bfloat16(folder: Path) -> None:
    """There bitsandbytes may pack what it can."""
    logits = []
    for dtype in ("fp32", "bf16"):
        engine = Reasoner.load(folder, dtype=dtype, device="cpu", quantize="4bit")
        inputs = encode(engine.backbone.processor, [build_messages(requests()[2], style=SHORT)], ["left"])
        with torch.no_grad():
            logits.append(engine.module(**inputs).logits.float())
        assert engine.generate(requests()[2], Sampling(8, guided="never")).text
    difference = float((logits[1] - logits[0]).norm() / logits[0].norm())
    print(f"bfloat16 against float32: {difference:.2g}")
    assert difference < 0.2  # all that bfloat16 rounds; of other weights it is above 1
