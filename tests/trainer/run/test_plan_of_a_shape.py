"""What a dry run says of a model of which nothing but its config.json is there, or not even that."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from evlm.models.zoo import CATALOGUE, find
from trainer.config.recipe import RECIPES, load_config
from trainer.learner.learner import load_learner
from trainer.model import lean
from trainer.model.logprobs import base_of
from trainer.model.shapes import SHAPES
from trainer.model.skeleton import skeleton
from trainer.run.dry_run import plan
from trainer.run.memory import Length
from trainer.run.work import work
from trainer.steps.sft import sft_step

REAL = [path.stem for path in RECIPES.glob("*.yaml") if load_config(path).model.base != "bundled"]


def of_recipe(name: str) -> dict[str, Any]:
    base = load_config(name).model.base
    model = find(base)
    return SHAPES[model.repo if model else base]


def test_there_is_a_recipe_for_each_size_of_each_family() -> None:
    assert set(REAL) >= {
        "qwen2vl-2b-lora", "qwen2vl-7b-lora", "qwen25vl-3b-lora", "qwen25vl-7b-lora", "qwen3vl-2b-lora",
        "qwen3vl-4b-lora", "qwen3vl-8b-lora",
    }  # fmt: skip


# The smallest of each family; test_recipes plans the others on a small model, but for their sizes.
FEW = ("qwen2vl-2b-lora", "qwen25vl-3b-lora", "qwen3vl-2b-lora")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FEW else pytest.mark.slow) for n in sorted(REAL)]
)
def test_a_recipe_is_planned_from_config_json_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(of_recipe(name)))
    settings = [f"model.base={tmp_path}", "model.device=cpu", f"out={tmp_path / 'run'}"]
    dry_run = plan(load_config(name, [*settings, "model.quantize=null"]))
    assert any(line.startswith("model.base: ") and "lacks" in line for line in dry_run.missing)
    assert re.search(r"model .*: \d,[\d,]{9,} parameters; trained [\d,]+, LoRA of rank \d+", dry_run.text)
    assert re.search(r"memory on cpu, estimated: [\d.]+ GB of ", dry_run.text)
    assert "rows are not read; assumed of each: " in dry_run.text


def test_a_known_model_is_planned_before_anything_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    dry_run = plan(load_config("qwen3vl-4b-lora", [f"out={tmp_path / 'run'}", "model.device=cuda"]))
    assert any("--download qwen3-vl-4b" in line for line in dry_run.missing)
    assert "model qwen3-vl-4b: 4,437,815,808 parameters" in dry_run.text
    assert re.search(r"memory on cuda, estimated: \d+\.\d GB", dry_run.text)
    assert re.search(r"time, estimated: [\d.]+ (min|h|days) for [\d.e+,]+ TFLOP on ", dry_run.text)


def test_the_known_shapes_weigh_what_their_downloads_do() -> None:
    """A gigabyte less of weights than the catalogue's download says would be another model."""
    known = {model.repo: model.size for model in CATALOGUE if model.repo in SHAPES}
    assert len(known) == 5
    for repo, size in known.items():
        weights = sum(p.numel() for p in skeleton(SHAPES[repo]).parameters()) * 2
        assert abs(weights / size - 1) < 0.01, (repo, weights, size)


@pytest.mark.parametrize("family", ["qwen3_vl_moe", "llava", None])
def test_another_family_is_refused_in_a_sentence(family: str | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    lines = plan(
        load_config("qwen3vl-4b-lora", [f"model.base={tmp_path}", f"out={tmp_path / 'run'}"])
    ).missing
    assert (
        f"model.base: {tmp_path} is a {family}; trained are dense Qwen2-VL, Qwen2.5-VL and Qwen3-VL models"
        in lines
    )


class Counter(TorchDispatchMode):
    """Sums the FLOP of products, as torch's own counter does; that one's hooks on modules do not stand a head
    inside an autograd function."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.total += count(*args, **(kwargs or {}), out_val=out) if count else 0
        return out


@pytest.mark.parametrize(
    "settings", [[], ["model.train=full"], pytest.param(["model.checkpointing=true"], marks=pytest.mark.slow)]
)
def test_the_work_of_a_step_is_what_it_computes(
    settings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a quarter, by the model's own layers: norms, rotations and what is computed of no use are not
    counted. Where ours stand in for them (lean.py), on a CPU, no more is computed."""
    phases = "phases=[{kind: sft, steps: 1, batch: 8}]"
    small = ["model.device=cpu", "data=[{world: true}]", "model.attention=sdpa", phases]
    config = load_config("tiny", [*small, *settings])
    learner = load_learner(config)
    learner.model.train()
    rows = learner.rows(config, config.phases[0])
    examples = rows.batch(0)
    batches = [learner.collate([e.chat], [e.answer]) for e in examples]
    answer = sum(int((b.labels != -100).sum()) for b in batches) / 8
    whole, seen = sum(b.tokens for b in batches) / 8, sum(int(b.vision_mask.sum()) for b in batches) / 8

    def computed() -> int:
        with Counter() as counter:
            sft_step(learner, examples, config.phases[0])
        return counter.total

    length = Length(whole - answer, answer, whole, seen)
    estimate = work(config, config.phases[0], base_of(learner.model), 1, length, None)
    assert estimate / computed() > 0.75
    monkeypatch.setattr(lean, "usable", lambda core: False)
    assert 0.75 < estimate / computed() < 1.25
