"""Whole runs on each family of bases: cut and resumed in the same bits, and adapters that load elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny_qwen
import torch
import transformers

from evlm.adapter.checkpoint import load_adapter
from evlm.reason.messages import SHORT, build_messages, encode
from evlm.reason.reasoner import Reasoner
from trainer.__main__ import main
from trainer.config.recipe import Config, load_config
from trainer.run.loop import run
from trainer.world.rows import Recipe, question_at, to_request

PHASES = [
    "{kind: sft, steps: 2, batch: 2, lr: 1e-2, warmup: 0}",
    "{kind: kto, steps: 2, batch: 3, lr: 1e-2, warmup: 0, micro_batch: 2}",
    "{kind: rkto, steps: 2, batch: 2, lr: 1e-2, warmup: 0, rkto: {reinforce: all, lambda_ref: 0.2}, "
    "rewards: {samples: 2, max_new_tokens: 8, similarity: slots}}",
    "{kind: dpo, steps: 2, batch: 2, lr: 1e-2, warmup: 0, micro_batch: 1, dpo: {lambda_sft: 0.1}}",
    # Samples of random weights are all wrong, so it is the accepted ones that learn.
    "{kind: group, steps: 4, batch: 2, lr: 1e-2, warmup: 0, micro_batch: 1, "
    "group: {reuse: 2, accept: 0, lambda_accepted: 0.5, lambda_kl: 0.1, skip: 0.1, lambda_sft: 0.1}, "
    "rewards: {samples: 2, max_new_tokens: 8, similarity: slots}}",
]


# How a phase resumes knows no family. So one is cut in rkto and between the steps on one draw (sft and kto
# are cut in test_run); the others have a step of each kind, and two on one draw.
CUTS = {"qwen2_vl": (5, 10)}
SHORT_PHASES = [each.replace("steps: 2", "steps: 1").replace("steps: 4", "steps: 2") for each in PHASES]


def config_of(base: Path, out: Path, family: str) -> Config:
    phases = ", ".join(PHASES if family in CUTS else SHORT_PHASES)
    settings = [f"model.base={base}", f"out={out}", f"phases=[{phases}]", "lora.rank=4"]
    more = ["model.device=cpu", "model.attention=sdpa", "lora.dropout=0.1", "save_every=1", "log_every=1"]
    return load_config("tiny", [*settings, *more, "data.0.rows=40"])


# What is the others' own is held by their gradients (model/test_families); a run of Qwen3-VL that is cut is
# in test_own_weights.
RUNS = [pytest.param(f, marks=() if f in CUTS else pytest.mark.slow) for f in tiny_qwen.FAMILIES]


@pytest.mark.parametrize("family", RUNS)
def test_a_run_of_all_kinds_resumes_in_its_bits_and_loads_everywhere(family: str, tmp_path: Path) -> None:
    base = tiny_qwen.save_folder(tmp_path / "base", family)
    (base / "evlm.json").write_text(json.dumps({"prompt": "short", "mask_codec": "box-spans-8"}))
    path = run(config_of(base, tmp_path / "whole", family), lambda event: None)
    whole = load_adapter(path)[0]
    assert len(whole) > 8 and all(bool(tensor.any()) for tensor in whole.values())

    class Cut(Exception):
        pass

    for stop in CUTS.get(family, (3, 6)):  # in rkto's step, and between the two on one draw

        def report(event: dict[str, Any], stop: int = stop) -> None:
            if event["event"] == "step" and event["step"] == stop:
                raise Cut

        with pytest.raises(Cut):
            run(config_of(base, tmp_path / "cut", family), report)
    again = load_adapter(run(config_of(base, tmp_path / "cut", family), lambda event: None))[0]
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())

    assert main(["export", str(path), str(tmp_path / "peft"), "--to", "peft"]) == 0
    plain = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    untrained = plain.eval()
    engine = Reasoner.load(base, adapter=path, dtype="fp32", device="cpu")
    chat = build_messages(to_request(question_at(Recipe(seed=9), 4)), style=SHORT)
    inputs = encode(engine.backbone.processor, [chat], ["left"])
    with torch.no_grad():
        before = untrained(**inputs).logits
        theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "peft")(**inputs).logits
        ours = engine.backbone.model(**inputs).logits
    assert (theirs - before).abs().max() > 1e-2, "it has learned something"
    assert torch.allclose(ours, theirs, atol=1e-4)
