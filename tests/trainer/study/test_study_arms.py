"""One arm of each study learns a step on a small model, and is asked what it was trained to answer."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch

from evlm.adapter.checkpoint import load_adapter
from evlm.errors import ConfigError
from evlm.plan.form import LEARNED, PARTS, parse_exact, render
from evlm.plan.mask_codec import get_codec
from evlm.reason.messages import FULL, SHORT, build_messages, chosen_style, get_style, tuned_on
from evlm.reason.system_text import tuned_text
from evlm.request import Request
from trainer.bundle.tiny_qwen import make_model, make_processor, make_tokenizer
from trainer.config.recipe import RECIPES, Config, Source, load_config
from trainer.config.settings import read_yaml
from trainer.learner.rows import learned, open_rows
from trainer.report.events import read_history
from trainer.study import cli as study_cli
from trainer.study.arms import ARMS, STUDIES
from trainer.study.cli import Job, _run
from trainer.study.stage import folder_of, take_over

ONE_OF_EACH = ("lambda 0.5", "w_max 5", "K = 2", "alpha ratio 2", "gamma 0.5", "SFT, unreflected",
               "SFT, two_step", "KTO, direct", "RKTO, without R_eff", "RKTO, without R_reflect")  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is tuned on the short style, as the bundled one, and knows nothing."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = make_tokenizer(iter(["<thinking> red circle <output> instruction: make the blue"] * 8))
    model = make_model(tokenizer, width=64, layers=2, vision_width=32, vision_depth=2)
    model.config.text_config.max_position_embeddings = 4096
    model.save_pretrained(folder)
    make_processor(tokenizer).save_pretrained(folder)
    (folder / "evlm.json").write_text(json.dumps({"prompt": "short", "mask_codec": "box-spans-8"}))
    return folder


def test_the_papers_grids_are_studies() -> None:
    def numbers(study: str) -> list[float]:
        return [float(arm.split()[-1]) for arm in STUDIES[study][1:]]

    assert numbers("lambda") == [0, 0.05, 0.1, 0.2, 0.5] and numbers("wmax") == [5, 10, 20]
    assert numbers("mc") == [1, 2, 3, 4, 8] and numbers("gamma") == [0.05, 0.1, 0.2, 0.3, 0.5]
    assert numbers("alpha") == [0.5, 0.75, 1, 1.5, 2]
    assert {"SFT, two_step", "KTO, two_step", "KTO, direct", "SFT, direct"} <= set(STUDIES["parts"])
    assert set(STUDIES["table13"]) <= {*ARMS, "SFT stage"}


def small(base: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The recipe tiny on a few rows and that base."""
    # A model that knows nothing never ends its answer.
    monkeypatch.setattr(study_cli, "load", partial(study_cli.load, max_new_tokens=24))
    recipe = read_yaml(RECIPES / "tiny.yaml")
    first, second = recipe["phases"]
    rewards = {"max_new_tokens": 8, "similarity": "slots"}
    return recipe | {
        "model": {"base": str(base), "attention": "eager"},
        "data": [{"world": True, "rows": 12, "seed": 905}],
        "phases": [
            {**first, "steps": 1, "batch": 2},
            {**second, "batch": 2, "micro_batch": 2, "rewards": rewards},
        ],
    }


# The others are another number or switch of these, which test_regimes reads.
FEW = ("K = 2", "gamma 0.5", "SFT, two_step", "RKTO, without R_reflect")


@pytest.mark.parametrize(
    "arm", [pytest.param(a, marks=() if a in FEW else pytest.mark.slow) for a in ONE_OF_EACH]
)
def test_an_arm_learns_a_step_and_answers(
    arm: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(base, monkeypatch)
    assert _run(Job(arm, 0, 1, str(tmp_path / "arm"), recipe, 1, 0.0, "test")).startswith(f"{arm}, seed 0")
    _, meta = load_adapter(tmp_path / "arm" / "adapter.safetensors")
    parts = ARMS[arm].get("parts", "full")
    assert meta.prompt == ("short" if parts == "full" else f"short-{parts}")
    assert get_style(meta.prompt).parts == LEARNED[parts]


@pytest.mark.parametrize(
    "arm", ["KTO, direct", *(pytest.param(a, marks=pytest.mark.slow) for a in ("SFT", "KTO"))]
)
def test_an_arm_goes_on_from_the_stage_that_was_run_and_ends_in_the_same_bits(
    arm: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(base, monkeypatch)
    stages = ["SFT stage", "SFT stage, direct"]
    runs = [(name, "beside", 0) for name in stages] + [(arm, "beside", 2), (arm, "alone", 2)]
    for name, study, steps in runs:
        _run(Job(name, 0, steps, str(tmp_path / study / folder_of(name, 0)), recipe, 1, 0.0, "test"))
    beside, alone = (tmp_path / study / folder_of(arm, 0) for study in ("beside", "alone"))
    resumed = [each["step"] for each in events(beside) if each["event"] == "resume"]
    assert resumed == [1] and not any(each["event"] == "resume" for each in events(alone))
    (ours, _), (theirs, _) = (load_adapter(each / "adapter.safetensors") for each in (beside, alone))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    one, two = (json.loads((each / "result.json").read_text()) for each in (beside, alone))
    assert one["outcomes"] == two["outcomes"] and one["tokens"] == two["tokens"] > 0
    assert [s["step"] for s in read_history(beside).steps] == [s["step"] for s in read_history(alone).steps]


def test_a_stage_of_another_run_is_not_taken_over(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = small(base, monkeypatch)
    _run(Job("SFT stage", 0, 0, str(tmp_path / "SFT-stage-0"), recipe, 1, 0.0, "test"))
    stage = study_cli._config(recipe, "SFT stage", 0, 0, str(tmp_path / "SFT-stage-0"))

    def taken(arm: str, seed: int = 0, **rest: Any) -> bool:
        return take_over(study_cli._config({**recipe, **rest}, arm, 1, seed, str(tmp_path / "arm")), stage)

    assert not taken("SFT", 1) and not taken("SFT, direct") and not taken("SFT, 100 rows")
    assert not taken("SFT", eval_every=1) and not taken("SFT", cycles=2)
    assert not (tmp_path / "arm").exists()
    (tmp_path / "arm").mkdir()
    assert taken("SFT") and not taken("SFT"), "a run that has begun goes on by itself"


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("parts", sorted(LEARNED))
def test_rows_lose_parts_when_they_are_learned_and_not_on_the_disk(parts: str) -> None:
    style = tuned_on(SHORT, parts)
    rows = open_rows([Source(world=True, rows=8)], 4, 0, True, style, get_codec("box-spans-8"))
    whole = open_rows([Source(world=True, rows=8)], 4, 0, True, SHORT, get_codec("box-spans-8"))
    for some, every in zip(rows.batch(0), whole.batch(0), strict=True):
        trace, all_of_it = parse_exact(some.answer, LEARNED[parts]), parse_exact(every.answer)
        assert trace.plan == all_of_it.plan and render(trace, LEARNED[parts]) == some.answer
        assert trace.thinking == (all_of_it.thinking if parts != "direct" else "")
        assert bool(trace.reflection) is (parts == "full")
    assert learned("a plain answer", LEARNED[parts]) == "a plain answer"


def test_a_model_of_fewer_parts_is_told_those_and_no_other() -> None:
    request = Request(torch.zeros(1, 8, 8, 3), "make it blue")
    for parts, names in LEARNED.items():
        style = tuned_on(FULL, parts)
        text = tuned_text(8, style.parts)
        assert [f"<{name}>\n" in text for name in ("thinking", "think", "reflection")] == [
            name in names for name in ("thinking", "think", "reflection")
        ]
        assert chosen_style(style, "auto") is style
        assert tuned_on(style, "full") == FULL and get_style(style.name) == style
        assert build_messages(request, style=style).messages[0]["content"][0]["text"] == text
    assert tuned_text(8) == tuned_text(8, PARTS)


def test_the_first_version_of_the_paper() -> None:
    paper = load_config("paper-v1")
    sft, kto = paper.phases
    assert (sft.kind, kto.kind, kto.kto.gamma, kto.kto.alpha_desired, kto.kto.alpha_undesired) == (
        "sft", "kto", 0.2, 1.0, 1.0,
    )  # fmt: skip
    assert load_config("paper-v1", ["parts=direct"]).parts == "direct"
    assert set(get_args(get_type_hints(Config)["parts"])) == {"own", "mixed", *LEARNED}
    with pytest.raises(ConfigError, match="an rkto phase weighs whole traces"):
        load_config("paper", ["parts=two_step"])
    with pytest.raises(ConfigError, match="parts 'mixed' is of sft phases"):
        load_config("paper-v1", ["parts=mixed"])
