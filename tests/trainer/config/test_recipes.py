"""Every shipped recipe fits a model of the real class; a recipe broken in any way is explained, not run."""

from __future__ import annotations

import copy
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
import yaml

from evlm.adapter.checkpoint import load_adapter
from evlm.errors import ConfigError
from evlm.records import RowWriter
from trainer.bundle.tiny_qwen import make_model, make_processor, make_tokenizer
from trainer.config.recipe import RECIPES, Config, load_config
from trainer.config.settings import build, read_yaml, write_yaml
from trainer.run.dry_run import plan
from trainer.run.loop import run
from trainer.world.rows import Recipe, rows

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
VALUES: list[Any] = [
    None, True, False, -1, 0, 1, 2, 1e30, -1e-30, float("nan"), float("inf"), 10**20, -(10**400), "x", "",
    "\x00", "é" * 99, "1e-3", "nan", "../..", [], {}, [1], [None], [[]], {"a": 1}, {1: 2}, ["q_proj"],
    [{"world": True}], {"kind": "sft"}, "sft", "rkto", "4bit", 0.5, b"bytes", ("a",), {1, 2}, object(),
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub's: the full prompt style, pictures of many sizes."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), make_tokenizer(iter(["<thinking> red circle"] * 8))
    processor = make_processor(tokenizer)
    for part in (processor.image_processor, processor.video_processor):
        part.size = type(part.size)(shortest_edge=256, longest_edge=4096)
    # Narrow: cores without instructions for 16 bits compute them at a fortieth of the speed.
    model = make_model(tokenizer, width=64, layers=1, vision_width=32, vision_depth=1)
    model.config.text_config.max_position_embeddings = 32768  # as the real ones; a letter is a token here
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    writer = RowWriter(folder)
    for row, pictures in rows(Recipe(seed=3), 0, 12):
        writer.append(row, {name: pictures[name] for name in row.paths() if name in pictures})
    return folder


def test_the_recipes_that_the_issue_names_are_there() -> None:
    assert set(NAMES) >= {"tiny", "qwen2vl-2b-lora", "qwen2vl-7b-lora", "qwen2vl-7b-qlora", "paper"}


# Those differ from one that is left in their model's size and in numbers, which test_memory_table counts.
SIZES = ("qwen2vl-7b-lora", "qwen25vl-7b-lora", "qwen3vl-4b-lora", "qwen3vl-8b-lora")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SIZES else ()) for name in NAMES]
)
def test_each_recipe_plans_on_a_model_of_its_class(name: str, base: Path, data: Path, tmp_path: Path) -> None:
    recipe = load_config(name)
    settings = [f"out={tmp_path / 'run'}", "model.device=cpu", "model.quantize=null"]
    if recipe.model.base != "bundled":
        settings += [f"model.base={base}", f"data=[{{path: {data}}}]"]
    else:
        settings += [f"data.{number}.rows=24" for number, source in enumerate(recipe.data) if source.world]
    dry_run = plan(load_config(name, settings))
    assert [line for line in dry_run.missing if not line.startswith("TensorBoard")] == []
    for number, phase in enumerate(recipe.stages):
        assert (
            f"stage {number}: {phase.kind}, {phase.steps:,} steps of {phase.batch} rows from" in dry_run.text
        )
    assert re.search(r"model .*: [\d,]+ parameters; trained [\d,]+, LoRA of rank \d+", dry_run.text)
    assert not (tmp_path / "run").exists(), "nothing is written"


def test_the_papers_numbers() -> None:
    paper = load_config("paper")
    sft, rkto = paper.phases
    assert (sft.kind, sft.lr, sft.batch, rkto.kind, rkto.lr, rkto.batch) == (
        "sft",
        5e-5,
        64,
        "rkto",
        2e-5,
        64,
    )
    assert (paper.lora.rank, paper.lora.alpha, paper.lora.dropout, paper.cycles) == (64, 16, 0.05, 1)
    assert (rkto.rkto.tau, rkto.rkto.w_max, rkto.rkto.alpha, rkto.rkto.lambda_ref) == (0.1, 10, 0.7, 0.2)
    assert (rkto.rewards.samples, rkto.eta0.over, rkto.rkto.reflection_as) == (3, "pairs", "loss")
    assert [source.weight for source in paper.data] == [0.8, 0.2] and paper.data[1].form != "evlm"


def test_a_recipe_survives_being_written_down(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "recipe.yaml").write_text(write_yaml(load_config(name)), encoding="utf-8")
        assert load_config(tmp_path / "recipe.yaml") == load_config(name)


def mutated(rng: random.Random, content: dict[str, Any]) -> dict[str, Any]:
    """The recipe with one to three of its keys or values made into something else."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        node: Any = content
        while node:
            key = rng.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.75:
                node = node[key]
                continue
            kind = rng.random()
            if isinstance(node, dict) and kind < 0.15:
                node[f"{key}x"] = node.pop(key)
            elif isinstance(node, dict) and kind < 0.25:
                node[rng.choice(["", 3, None, "\x00", ("a", 1), "lr", "rank", "kind"])] = rng.choice(VALUES)
            elif isinstance(node, dict) and kind < 0.35:
                del node[key]
            elif isinstance(node, list) and kind < 0.2:
                node.append(copy.deepcopy(node[key]))
            elif type(node[key]) in (int, float) and abs(node[key]) < 1e15 and kind < 0.6:
                node[key] = rng.choice([-node[key], node[key] * 1e12, node[key] + 0.5, str(node[key])])
            else:
                node[key] = rng.choice(VALUES)
            break
    return content


@pytest.mark.parametrize("mutations", [250, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_recipes_are_right_or_explained(mutations: int) -> None:
    rng, contents = random.Random(0), {name: read_yaml(RECIPES / f"{name}.yaml") for name in NAMES}
    for each in contents.values():  # every setting that there is, not only those that the file names
        each.update(yaml.safe_load(write_yaml(build(Config, each))) if rng.random() < 0.5 else {})
    known = set(settings_of(Config))
    right = explained = 0
    for number in range(mutations):
        content = mutated(rng, contents[NAMES[number % len(NAMES)]])
        try:
            config = build(Config, content)
        except ConfigError as error:
            explained += 1
            words = set(re.split(r"\W+", str(error)))
            assert words & known, f"no setting is named: {error}"
            assert len(str(error)) < 1000
        else:
            right += 1
            assert load_again(config) == config
    assert right > mutations / 20 and explained > 0.6 * mutations, (right, explained)


BOMB = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 40))]
)


@pytest.mark.parametrize(
    "text",
    [
        f"{BOMB}\nphases: *a39", f"{BOMB}\nout: *a39", f"lora: 0x{'f' * 5000}", f"seed: 0x{'f' * 5000}",
        f"lora: [0x{'f' * 5000}]", f"0x{'f' * 5000}: 1", f"phases: {'[' * 900}", "&a [*a]", "phases: &a [*a]",
        f"phases: [{{kind: sft, steps: 1, lr: 0x{'f' * 400}}}]", "? [a, b]\n: 1", "out: 2026-11-21",
        "out: !!binary eA==",
    ],
)  # fmt: skip
def test_files_made_to_hurt_are_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "bad.yaml")
    assert time.monotonic() - began < 5 and len(str(caught.value)) < 1000


def load_again(config: Config) -> Config:
    return build(Config, yaml.safe_load(write_yaml(config)))


@pytest.mark.parametrize("mutations", [200, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_assignments_are_right_or_explained(mutations: int) -> None:
    rng = random.Random(1)
    keys = list(paths(yaml.safe_load(write_yaml(load_config("paper")))))
    words = [
        "1",
        "-1",
        "x",
        "[",
        "{a: b",
        "",
        "null",
        "!!python/name:os.system",
        "1e400",
        "'",
        ".nan",
        "{}",
        "[]",
        "&a [*a]",
    ]
    for number in range(mutations):
        key = rng.choice(keys)
        if rng.random() < 0.3:
            at = rng.randrange(len(key))
            key = key[:at] + rng.choice(["", ".", "=", "9", "x", " "]) + key[at + 1 :]
        text = f"{key}={rng.choice(words)}" if rng.random() < 0.95 else key
        try:
            load_config(NAMES[number % len(NAMES)], [text])
        except ConfigError as error:
            assert len(str(error)) > 10


def paths(content: Any, where: str = "") -> Iterator[str]:
    """The dotted name of every setting."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        yield f"{where}{key}"
        if isinstance(value, (dict, list)):
            yield from paths(value, f"{where}{key}.")


def settings_of(kind: Any) -> Iterator[str]:
    """The name of every setting of a dataclass and of those within it."""
    hints = get_type_hints(kind)
    for each in fields(kind):
        yield each.name
        for inner in (hints[each.name], *get_args(hints[each.name])):
            if is_dataclass(inner):
                yield from settings_of(inner)


@pytest.mark.parametrize("name", [pytest.param("qwen2vl-2b-lora", marks=pytest.mark.slow), "paper"])
def test_a_step_of_each_phase_in_sixteen_bits(name: str, base: Path, data: Path, tmp_path: Path) -> None:
    """As the recipe says, but for what makes it long."""
    phases = load_config(name).phases
    settings = [f"model.base={base}", "model.device=cpu", f"data=[{{path: {data}}}]", f"out={tmp_path}"]
    for number, phase in enumerate(phases):
        settings += [f"phases.{number}.{each}" for each in ("steps=1", "batch=2", "warmup=0")]
        if phase.kind == "rkto":
            settings.append(f"phases.{number}.rewards={{samples: 3, max_new_tokens: 6}}")
    config = load_config(name, settings)
    assert config.model.dtype == "bf16" and [phase.kind for phase in config.phases] == ["sft", "rkto"]
    events: list[dict[str, Any]] = []
    path = run(config, events.append)
    steps = [event for event in events if event["event"] == "step"]
    assert len(steps) == 2 and all(math.isfinite(event["loss"]) for event in steps)
    assert not [event for event in events if event["event"] == "dropped"]
    tensors, meta = load_adapter(path)
    assert meta.lora.rank == config.lora.rank and {t.dtype for t in tensors.values()} == {torch.float32}
