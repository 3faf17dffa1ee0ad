"""What learns beside a plain LoRA: DoRA, rsLoRA, the merger, every weight."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import native_forward as native
import pytest
import tiny_qwen
import torch
from safetensors.torch import load_file

from evlm.adapter.checkpoint import load_adapter
from evlm.errors import CheckpointError, ConfigError
from evlm.reason.messages import SHORT, build_messages, encode
from evlm.reason.reasoner import Reasoner
from trainer.__main__ import main
from trainer.config.recipe import Config, load_config
from trainer.config.settings import write_yaml
from trainer.export.adapter_source import read_learned
from trainer.learner.learner import Learner, load_learner
from trainer.model.reference import ReferencePolicy, frozen_of, using
from trainer.run.dry_run import plan
from trainer.run.loop import run
from trainer.steps.dpo import dpo_step
from trainer.steps.kto import kto_step
from trainer.steps.rkto import rkto_step
from trainer.steps.sft import sft_step
from trainer.world.rows import Recipe, question_at, to_request

SFT = "{kind: sft, steps: 3, batch: 2, lr: 1e-2, warmup: 0}"
KTO = "{kind: kto, steps: 2, batch: 3, lr: 1e-2, warmup: 0}"


def config_of(base: Path, out: Path, *settings: str, phases: str = SFT) -> Config:
    words = [f"model.base={base}", f"out={out}", f"phases=[{phases}]", "model.device=cpu", "save_every=1"]
    words.append("log_every=1")
    return load_config("tiny", [*words, "model.attention=sdpa", "lora.rank=4", "lora.alpha=8", *settings])


def base_of(tmp_path: Path, family: str) -> Path:
    folder = tiny_qwen.save_folder(tmp_path / "base", family)
    (folder / "evlm.json").write_text(json.dumps({"prompt": "short", "mask_codec": "box-spans-8"}))
    return folder


def cut(config: Config, after: int) -> None:
    class Cut(Exception):
        pass

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == after:
            raise Cut

    with pytest.raises(Cut):
        run(config, report)


def inputs_of(processor: Any) -> Any:
    return encode(
        processor, [build_messages(to_request(question_at(Recipe(seed=9), 4)), style=SHORT)], ["left"]
    )


@pytest.mark.parametrize("train", ["merger", "full"])
def test_the_gradient_of_own_weights_is_the_native_one(train: str, tmp_path: Path) -> None:
    """Of a Qwen3-VL: the mergers of its first layers' features learn too."""
    config = config_of(base_of(tmp_path, "qwen3_vl"), tmp_path / "run", f"model.train={train}")
    learner = load_learner(config)
    examples = learner.rows(config, config.phases[0]).batch(0)
    sft_step(learner, examples, config.phases[0])
    got = {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}
    learner.model.zero_grad()
    total, count = torch.zeros(()), 0
    for example in examples:
        inputs = encode(learner.processor, [example.chat], [example.answer + "<|im_end|>"])
        learned = len(learner.processor.tokenizer(example.answer + "<|im_end|>")["input_ids"])
        logits = learner.model(**inputs).logits[0, -learned - 1 : -1]
        labels = inputs["input_ids"][0, -learned:]
        total, count = (
            total + torch.nn.functional.cross_entropy(logits, labels, reduction="sum"),
            count + learned,
        )
    (total / count).backward()
    want = {n: p.grad for n, p in learner.model.named_parameters() if p.grad is not None}
    assert set(got) == set(want)
    assert all(".merger." in n or ".deepstack_merger_list." in n for n in got) == (train == "merger")
    assert any(".deepstack_merger_list." in name for name in got)
    flat = [torch.cat([each[name].flatten() for name in sorted(want)]) for each in (got, want)]
    assert (flat[0] - flat[1]).norm() / flat[1].norm() <= 1e-5


@pytest.mark.parametrize(
    ("train", "family"),
    [
        pytest.param("merger", "qwen2_5_vl", marks=pytest.mark.slow),
        ("full", "qwen2_vl"),
    ],  # a merger is run below
)
def test_a_run_of_own_weights_resumes_in_its_bits_and_ends_in_a_model(
    train: str, family: str, tmp_path: Path
) -> None:
    base = base_of(tmp_path, family)
    folder = run(config_of(base, tmp_path / "whole", f"model.train={train}"), lambda event: None)
    assert folder == tmp_path / "whole" / "model"
    cut(config_of(base, tmp_path / "cut", f"model.train={train}"), 2)
    again = run(config_of(base, tmp_path / "cut", f"model.train={train}"), lambda event: None)
    ours, theirs, before = (
        {name: t for file in each.glob("*.safetensors") for name, t in load_file(file).items()}
        for each in (folder, again, base)
    )
    assert set(ours) == set(before) and all(torch.equal(ours[name], theirs[name]) for name in ours)
    changed = {name for name in ours if not torch.equal(ours[name], before[name])}
    assert (
        changed == {n for n in ours if "merger" in n} if train == "merger" else len(changed) > len(ours) * 0.8
    )
    reasoner = Reasoner.load(folder, dtype="fp32", device="cpu")
    assert reasoner.style.name == "short" and reasoner.backbone.tuned
    (tmp_path / "whole" / "recipe.yaml").write_text(
        write_yaml(config_of(base, folder, f"model.train={train}"))
    )
    with pytest.raises(CheckpointError, match="whole model"):
        read_learned(tmp_path / "whole")


def moved(learner: Learner, share: float) -> Learner:
    """What learns has gone some way from the reference, which is a copy of it as it was loaded."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in learner.trainable():
            parameter += share * torch.randn(parameter.shape, generator=generator)
    return learner


def doubled(learner: Learner) -> Learner:
    learner.model.double()
    frozen = frozen_of(learner.model)
    frozen.update({name: tensor.double() for name, tensor in frozen.items()})
    return learner


@pytest.mark.parametrize(
    ("train", "family", "wide", "kinds"),
    [
        ("full", "qwen3_vl", True, ("kto", "dpo")),  # rkto asks of the reference what kto does
        *(
            pytest.param(*case, wide, ("kto", "dpo", "rkto"), marks=pytest.mark.slow)
            for case in (("full", "qwen3_vl"), ("merger", "qwen2_5_vl"), ("full", "qwen2_vl"))
            for wide in (False, True)
        ),
    ],
)
def test_preference_gradients_of_own_weights_are_the_native_ones(
    train: str,
    family: str,
    wide: bool,
    kinds: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oracle of kto and dpo has a reference of its own, a second model. wide: in float64."""
    base, words = base_of(tmp_path, family), f"model.train={train}"
    frozen = doubled(load_learner(native.config_of(base, words)))
    learner = moved(load_learner(native.config_of(base, words)), 0.02)
    rows = native.examples(learner)
    if wide:
        doubled(learner)
    for kind in kinds:
        phase = native.phases(native.config_of(base))[kind]
        some = native.pairs(rows) if kind == "dpo" else rows
        reference = ReferencePolicy(learner.model)
        if kind == "kto":
            kto_step(learner, reference, some, phase, 7)
        elif kind == "dpo":
            dpo_step(learner, reference, some, phase)
        else:
            rkto_step(learner, reference, some, phase, 7, 0)
        got = native.gradient(learner)
        with monkeypatch.context() as patch:
            want = native.native_gradient(learner, some, kind, phase, patch, frozen)
        difference = native.off(got, want)
        print(f"{train} {family} {kind} {'float64' if wide else 'float32'}: {difference:.2g}")
        assert difference <= (1e-6 if wide else 3e-5)


ALL = [
    "{kind: sft, steps: 1, batch: 2, lr: 1e-2, warmup: 0}",
    "{kind: kto, steps: 2, batch: 3, lr: 1e-3, warmup: 0, micro_batch: 2}",
    "{kind: rkto, steps: 2, batch: 2, lr: 1e-3, warmup: 0, rewards: {samples: 2, max_new_tokens: 8}}",
    "{kind: group, steps: 2, batch: 2, lr: 1e-3, warmup: 0, micro_batch: 1, "
    "group: {reuse: 2, accept: 0, lambda_accepted: 0.5, lambda_kl: 0.1}, "
    "rewards: {samples: 2, max_new_tokens: 8, similarity: slots}}",
]


# Every weight: its gradients against a reference, and a run that is cut, are held above.
@pytest.mark.parametrize(
    ("train", "family"),
    [("merger", "qwen3_vl"), pytest.param("full", "qwen2_5_vl", marks=pytest.mark.slow)],
)
def test_own_weights_learn_from_ratings_and_resume_in_their_bits(
    train: str, family: str, tmp_path: Path
) -> None:
    base, words = base_of(tmp_path, family), (f"model.train={train}", "data.0.rows=40")
    events: list[dict[str, Any]] = []
    folder = run(config_of(base, tmp_path / "whole", *words, phases=", ".join(ALL)), events.append)
    assert not [each for each in events if each["event"] == "dropped"]
    for stop in (2, 6):  # in kto, and between two steps on one draw
        cut(config_of(base, tmp_path / "cut", *words, phases=", ".join(ALL)), stop)
    again = run(config_of(base, tmp_path / "cut", *words, phases=", ".join(ALL)), lambda event: None)
    ours, theirs, before = (
        {name: t for file in each.glob("*.safetensors") for name, t in load_file(file).items()}
        for each in (folder, again, base)
    )
    assert set(ours) == set(before), "the reference is no part of the model"
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    steps = {each["kind"]: each for each in events if each["event"] == "step"}
    assert steps["kto"]["s_desired"] and set(steps) == {"sft", "kto", "rkto", "group"}
    assert Reasoner.load(folder, dtype="fp32", device="cpu").backbone.tuned


def test_the_reference_of_tied_weights_is_known_again(tmp_path: Path) -> None:
    learner = load_learner(load_config("tiny", ["model.train=full", "model.device=cpu"]))
    head = learner.model.get_output_embeddings().weight
    assert head is learner.model.get_input_embeddings().weight
    known, own = ReferencePolicy(learner.model), head.detach().clone()
    moved(learner, 0.1)
    assert ReferencePolicy(learner.model).fingerprint == known.fingerprint
    with using(learner.model, "reference"):
        assert torch.equal(learner.model.get_output_embeddings().weight, own)
    assert not torch.equal(head, own) and learner.model.get_output_embeddings().weight is head


def test_own_weights_are_float32() -> None:
    with pytest.raises(ConfigError, match="fp32"):
        load_config("tiny", ["model.train=full", "model.dtype=bf16"])


# rsLoRA is a number: export/test_export and adapter/test_stacking hold it.
@pytest.mark.parametrize("which", ["use_dora", pytest.param("use_rslora", marks=pytest.mark.slow)])
def test_other_loras_resume_and_load_in_the_engine(which: str, tmp_path: Path) -> None:
    base = base_of(tmp_path, "qwen2_vl")
    phases = f"{SFT}, {KTO}".replace("steps: 3", "steps: 1").replace("batch: 3", "batch: 2")
    config = config_of(base, tmp_path / "whole", f"lora.{which}=true", phases=phases)
    path = run(config, lambda event: None)
    tensors, meta = load_adapter(path)
    assert (meta.lora.dora, meta.lora.rslora) == (which == "use_dora", which == "use_rslora")
    assert any("magnitude" in name for name in tensors) == meta.lora.dora
    other = config_of(base, tmp_path / "cut", f"lora.{which}=true", phases=phases)
    cut(other, 3)
    (tmp_path / "cut" / "recipe.yaml").write_text(write_yaml(other))
    assert (
        main(["export", str(tmp_path / "cut"), str(tmp_path / "early.safetensors"), "--to", "adapter"]) == 0
    )
    again = load_adapter(run(other, lambda event: None))[0]
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    assert main(["export", str(path), str(tmp_path / "peft"), "--to", "peft"]) == 0

    import peft
    import transformers

    plain = transformers.AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32).eval()
    engine = Reasoner.load(base, adapter=path, dtype="fp32", device="cpu").backbone
    with torch.no_grad():
        ours = engine.model(**inputs_of(engine.processor)).logits
        theirs = peft.PeftModel.from_pretrained(plain, tmp_path / "peft")(
            **inputs_of(engine.processor)
        ).logits
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("settings", [["lora.use_dora=true"], ["model.train=merger"], ["model.train=full"]])
def test_what_a_dry_run_counts_is_what_learns(settings: list[str], tmp_path: Path) -> None:
    config = config_of(base_of(tmp_path, "qwen3_vl"), tmp_path / "run", *settings)
    count = sum(p.numel() for p in load_learner(config).trainable())
    text = plan(config).text
    assert f"trained {count:,}, " in text
    assert ("model/, a whole model" in text) == (config.model.train != "lora")
    assert "  reference " not in text


def test_a_dry_run_counts_the_copy_that_is_the_reference(tmp_path: Path) -> None:
    base, words = base_of(tmp_path, "qwen2_vl"), ["model.train=full", "data.0.rows=40"]
    config = config_of(base, tmp_path / "run", *words, phases=f"{SFT}, {KTO}")
    learner = load_learner(config)
    held = sum(tensor.nbytes for tensor in frozen_of(learner.model).values())
    assert held == 4 * sum(p.numel() for p in learner.trainable()) > 100_000
    assert f"  reference {held / 1e6:,.0f} MB" in plan(config).text
