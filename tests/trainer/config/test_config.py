"""Recipes: what is right is read, what is wrong is named with its place and the nearest right name."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from evlm.errors import ConfigError
from trainer.collect.recipe import Recipe
from trainer.config.recipe import RECIPES, Config, completed, load_config
from trainer.config.settings import build, write_yaml
from trainer.learner.state import Progress, States

TINY: dict[str, Any] = yaml.safe_load((RECIPES / "tiny.yaml").read_text())


def test_a_home_in_a_recipe_is_no_folder_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("USERPROFILE", "/home/me")
    words = ["out=~/runs/a", "data=[{path: ~/rows}]", "model.base=~/qwen", "model.adapter=~/a.safetensors"]
    config = load_config("tiny", words)
    assert (config.out, config.data[0].path) == ("/home/me/runs/a", "/home/me/rows")
    assert (config.model.base, config.model.adapter) == ("/home/me/qwen", "/home/me/a.safetensors")
    source = {"kind": "folder", "path": "~/pictures", "license": "CC0-1.0"}
    assert build(Recipe, {"sources": [source], "out": "~/set"}).out == "/home/me/set"
    assert load_config("tiny").model.base == "bundled" and load_config("tiny").out == "runs/tiny"


def test_a_digit_that_is_no_number_is_named() -> None:
    with pytest.raises(ConfigError, match="expected a number from 0 to 1"):
        load_config("tiny", ["phases.\u00b2.steps=5"])


def test_a_shipped_recipe_by_name_with_settings_in_place_of_its_own(tmp_path: Path) -> None:
    config = load_config(
        "tiny",
        ["phases.0.steps=5", "lora.rank=8", "phases.1.kto.gamma=5e-1", "phases.1.kind=kto", "cycles=2"],
    )
    assert [phase.kind for phase in config.stages] == ["sft", "kto"] * 2
    assert (config.phases[0].steps, config.lora.rank, config.phases[1].kto.gamma) == (5, 8, 0.5)
    file = tmp_path / "mine.yaml"
    file.write_text((RECIPES / "tiny.yaml").read_text())
    assert load_config(file) == load_config("tiny")
    assert load_config("tiny", ["out=a", "save_every=3"]).identity == load_config("tiny").identity
    fitted = ["model.shard=true", "model.checkpointing=true"]
    assert load_config("tiny", fitted).identity == load_config("tiny").identity
    assert load_config("tiny", ["seed=1"]).identity != load_config("tiny").identity


def test_a_folder_of_a_shipped_recipes_name_hides_it_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paper").mkdir()
    expected = load_config("paper")
    monkeypatch.chdir(tmp_path)
    assert load_config("paper") == expected
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config("./paper")


def test_what_a_run_wrote_is_a_recipe_whatever_kind_was_assigned(tmp_path: Path) -> None:
    """It names every setting, and those that the file had for the other kind."""
    config = load_config("tiny", ["phases.1.kind=kto"])
    file = tmp_path / "recipe.yaml"
    file.write_text(write_yaml(config))
    assert load_config(file) == config and config.phases[1].rewards.similarity == "slots"


def test_what_an_older_version_wrote_is_a_recipe(tmp_path: Path) -> None:
    """It named every setting of its own, those of other kinds too."""
    written = yaml.safe_load(write_yaml(load_config("tiny")))
    for phase in written["phases"]:
        for name in ("epochs", "schedule", "patience", "patience_by"):
            del phase[name]
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(written))
    assert load_config(file) == load_config("tiny")


def test_no_adapter_holds_another_and_dora() -> None:
    with pytest.raises(ConfigError, match="no adapter holds both; leave out use_dora"):
        load_config("tiny", ["model.adapter=a.safetensors", "lora.use_dora=true"])


def test_a_state_of_an_older_version_has_the_defaults_of_later_settings(tmp_path: Path) -> None:
    now = json.loads(load_config("tiny").identity)
    older = copy.deepcopy(now)
    del older["phases"][1]["rkto"]["lambda_likelihood"], older["lora"]["vision"]
    older["model"] |= {"shard": False}
    assert completed(older) == now
    assert completed({**older, "removed": 1}) == {**older, "removed": 1}
    model = torch.nn.Linear(2, 2)
    States(tmp_path, older).save(model, torch.optim.AdamW(model.parameters()), Progress(step=3))
    with pytest.raises(ConfigError, match="lambda_likelihood was not there"):
        States(tmp_path, now).newest()
    saved = States(tmp_path, now, complete=completed).newest()
    assert saved is not None and saved.progress.step == 3


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.yaml")))
def test_every_shipped_recipe_is_right(name: str) -> None:
    assert isinstance(load_config(name), Config)


GROUP = "phases.1={kind: group, steps: 1, rewards: {similarity: slots}, group: {against: %s}}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((GROUP % "truth", "data=[{path: a}]"), "phases.1.group.against 'truth': of the world's questions"),
        ((GROUP % "truth", "parts=two_step"), "parts 'two_step': a group phase reads the plan"),
        (
            (GROUP % "answer", "data.0.trust=raters"),
            "phases.1: a group phase holds .* leave out data's trust",
        ),
    ],
)
def test_what_a_group_phase_cannot_do_is_said(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", settings)
    load_config("tiny", [GROUP % "truth", "data.0.trust=raters"])  # whose labels nobody reads


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("phases.0.step=5", "did you mean steps"), ("lora.rnk=1", "lora.rnk.*did you mean rank"),
        ("phases.0.kind=sfd", "phases.0.kind.*did you mean sft"), ("lora.rank=0", "lora: rank 0"),
        ("phases.0.lr=abc", "phases.0.lr 'abc': expected a number"), ("x", "key=value"), ("=1", "key=value"),
        ("data.0.path=a", "data.0.*either a path or world"), ("phases.3.lr=1", "0 to 1"),
        ("out=3", "out 3: expected text"), ("phases.1.kto.gama=1", "did you mean gamma"),
        ("phases.1.kto.gamma=-1", r"phases.1.kto: gamma -1\.0"), ("phases.0.batch=1.5", "whole number"),
        ("phases=[]", "at least one"), ("phases.0.micro_batch=99", "micro_batch 99"),
        ("seed=true", "whole number"),
        ("phases.0.lr=.nan", "lr nan"), ("phases.0.lr=.inf", "lr inf"), ("lora=3", "lora: expected settings"),
        ("out.a=1", "is a value"), ("lora.targets=q_proj", "expected a list"), ("cycles=[", "not YAML"),
        ("data.0.world=false", "either"),
        ("phases.0.rkto.tau=1", "phases.0.rkto: a setting of rkto phases, and this one is sft"),
        ("phases.1={kind: kto, steps: 1, rewards: {samples: 2}}", "1.rewards: .* is kto; leave it out"),
        ("phases.1={kind: sft, steps: 1, eta0: {shifts: 2}}", "a setting of kto and rkto phases"),
        ("phases.1.kto.gamma=1", "phases.1.kto: a setting of kto phases"),
        ("phases.1={kind: kto, steps: 1, eta0: {over: onpolicy}}", "onpolicy"),
        ("phases.1={kind: group, steps: 1, rewards: {similarity: slots}, group: {skip: 0.8}}",
         r"chance of 0\.75"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config("tiny", [setting])


@pytest.mark.parametrize("text", ["", "- a\n", "a: [", "!!python/object/apply:os.system [id]", "\x00", "1"])
def test_files_that_are_no_recipes(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_config(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "gone.yaml")


def test_five_hundred_mutated_recipes_are_right_or_explained() -> None:
    rng = random.Random(0)
    values = [
        None,
        True,
        -1,
        0,
        1e30,
        float("nan"),
        "x",
        "",
        [],
        {},
        [1],
        {"a": 1},
        "1e-3",
        10**20,
        ["q_proj"],
    ]
    explained = 0
    for _ in range(500):
        content = copy.deepcopy(TINY)
        for _ in range(rng.randint(1, 2)):
            node: Any = content
            while True:
                keys = list(node) if isinstance(node, dict) else list(range(len(node)))
                key = rng.choice(keys)
                if isinstance(node[key], (dict, list)) and node[key] and rng.random() < 0.7:
                    node = node[key]
                    continue
                if isinstance(node, dict) and rng.random() < 0.3:
                    node[f"{key}x"] = node.pop(key)
                else:
                    node[key] = rng.choice(values)
                break
        try:
            build(Config, content)
        except ConfigError as error:
            explained += 1
            assert len(str(error)) > 10
    assert explained > 350
