"""Other instruction data among the rows: its share, who learns from it, and that a run takes it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from evlm.errors import ConfigError, RecordError
from evlm.files.pictures import save_picture
from evlm.records import RowWriter
from trainer.config.recipe import Config, load_config
from trainer.data.check import Check, check
from trainer.data.files import Problem
from trainer.learner.learner import load_learner
from trainer.learner.rows import rows_for
from trainer.model.batch import Collator
from trainer.run.dry_run import plan
from trainer.run.loop import run
from trainer.world.rows import Recipe, rows

ANSWERS = ("a red square", "Paris", "4")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Our rows, and ShareGPT rows in LLaMA-Factory's form: one about a picture, two of words alone."""
    ours, others = tmp_path_factory.mktemp("ours"), tmp_path_factory.mktemp("others")
    writer = RowWriter(ours)
    for row, pictures in rows(Recipe(seed=3), 0, 16):
        writer.append(row, {name: pictures[name] for name in row.paths() if name in pictures})
    save_picture(others / "square.png", torch.rand(1, 40, 56, 3))
    asked = ("<image>what is this?", "the capital of France?", "2 + 2")
    conversations: list[dict[str, Any]] = [
        {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]}
        for question, answer in zip(asked, ANSWERS, strict=True)
    ]
    conversations[0]["images"] = ["square.png"]
    (others / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in conversations))
    return ours, others / "conversations.jsonl"


def mixed(folders: tuple[Path, Path], out: Path, *more: str) -> Config:
    ours, others = folders
    data = f"data=[{{path: {ours}, weight: 0.8}}, {{path: {others}, form: llamafactory, weight: 0.2}}]"
    phases = "phases=[{kind: sft, steps: 3, batch: 5, micro_batch: 1}, {kind: kto, steps: 1, batch: 4}]"
    return load_config("tiny", [data, phases, "lora.rank=4", f"out={out}", *more])


def test_a_fifth_is_other_data_and_sft_alone_sees_it(folders: tuple[Path, Path], tmp_path: Path) -> None:
    config = mixed(folders, tmp_path)
    learner = load_learner(config)
    opened = rows_for(config, config.phases[0], learner.style, learner.codec)
    foreign: Counter[str] = Counter()
    for step in range(10):
        for example in opened.batch(step):
            if example.answer in ANSWERS:
                foreign[example.answer] += 1
                assert example.desired and example.mask is None
    assert abs(sum(foreign.values()) - 10) <= 2 and len(foreign) == 3
    kto = rows_for(config, config.phases[1], learner.style, learner.codec)
    assert not [e for step in range(5) for e in kto.batch(step) if e.answer in ANSWERS]
    for example in opened.batch(0):
        batch = Collator(learner.processor)([example.chat], [example.answer])
        assert learner.processor.tokenizer.decode(batch.labels[batch.labels != -100]).startswith(
            example.answer
        )


def test_a_run_learns_from_the_mixture(folders: tuple[Path, Path], tmp_path: Path) -> None:
    events: list[dict[str, Any]] = []
    assert run(mixed(folders, tmp_path / "run"), events.append).is_file()
    assert [event["kind"] for event in events if event["event"] == "phase"] == ["sft", "kto"]
    dry_run = plan(mixed(folders, tmp_path / "run"))
    assert "stage 0: sft, 3 steps of 5 rows" in dry_run.text and not [
        m for m in dry_run.missing if "data" in m
    ]


def test_half_a_character_is_named_before_a_tokenizer_meets_it(tmp_path: Path) -> None:
    file = tmp_path / "swift.jsonl"
    turns = [{"role": "user", "content": "hello \ud83d"}, {"role": "assistant", "content": "yes"}]
    file.write_text(json.dumps({"messages": turns}) + "\n")
    config = load_config("tiny", [f"data=[{{path: {file}, form: swift}}]"])
    with pytest.raises(RecordError, match=r"line 1: .*messages.*surrogate"):
        rows_for(config, config.phases[0], None, None)  # type: ignore[arg-type]
    problems: list[Problem] = []
    check(Check(file, "swift", base=None), problems.append)
    assert len(problems) == 1 and "messages" in problems[0].reasons[0]


def test_what_does_not_fit_is_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    unlabelled = mixed(folders, tmp_path, f"data=[{{path: {folders[1]}, form: llamafactory}}]")
    assert rows_for(unlabelled, unlabelled.phases[0], None, None).count == 3  # type: ignore[arg-type]
    with pytest.raises(RecordError, match=r"no row fits .*with a label"):
        rows_for(unlabelled, unlabelled.phases[1], None, None)  # type: ignore[arg-type]
    alone = [f"data=[{{path: {folders[1]}, form: llamafactory}}]", "phases=[{kind: sft, steps: 1, batch: 2}]"]
    measured = mixed(folders, tmp_path, *alone, "eval_every=1")
    (line,) = [line for line in plan(measured).missing if line.startswith("eval_every")]
    assert "nothing to measure" in line and "data.0.heldout" in line
    with pytest.raises(ConfigError, match="nothing to measure"):
        run(measured, lambda event: None)
    with pytest.raises(ConfigError, match="the world has its own"):
        mixed(folders, tmp_path, "data=[{world: true, form: trl}]")
    with pytest.raises(ConfigError, match="did you mean llamafactory"):
        mixed(folders, tmp_path, "data.1.form=llama_factory")
    wrong = mixed(folders, tmp_path, "data.1.form=trl")
    assert any(line.startswith("data.1: ") and "line 1" in line for line in plan(wrong).missing)
    with pytest.raises(RecordError, match="line 1"):
        rows_for(wrong, wrong.phases[0], None, None)
