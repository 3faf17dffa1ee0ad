"""A run and its folder: one run in it at a time, rows that are changed behind its back, questions that are
held out, and the reference that its phases share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from data_rows import draw_pictures, many, write_rows
from test_survive import Cut, cheap, of, ran, small  # noqa: F401 (cheap is a fixture)

import trainer.run.heldout
import trainer.run.loop
from evlm.adapter.checkpoint import load_adapter
from evlm.plan.mask_codec import get_codec
from evlm.reason.messages import get_style
from trainer.__main__ import main
from trainer.config.recipe import load_config
from trainer.run.heldout import open_held_out, open_samples
from trainer.run.loop import run

ROOT = Path(__file__).resolve().parents[3]


HOLD = """
import sys
from pathlib import Path
from trainer.run.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
ASK = """
import sys
from pathlib import Path
from trainer.run.lock import check_free
check_free(Path(sys.argv[1]))
"""


def test_a_folder_belongs_to_one_run_until_it_ends_or_is_killed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs in one `out` would mix their states. The other process holds the folder as a run does, without
    torch and a model, which the slow test below has."""
    short = ["run", "tiny", f"out={tmp_path}", "phases=[{kind: sft, steps: 1, batch: 2}]", "lora.rank=2"]
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None and first.stdout.readline().strip() == b"held"
        assert main([*short, "--fresh"]) == 2
        error = capsys.readouterr().err
        assert "another run is training there" in error and f"process {first.pid}" in error
        assert "set out= to another folder" in error and "Traceback" not in error
        assert main([*short, "--dry-run"]) == 1 and "another run is training" in capsys.readouterr().out
        first.kill()
        first.wait()

    step, others = trainer.run.loop._step, list[str]()

    def asked_meanwhile(*given: Any) -> Any:
        other = subprocess.run(
            [sys.executable, "-c", ASK, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
        )
        others.append(other.stderr)
        return step(*given)

    monkeypatch.setattr(trainer.run.loop, "_step", asked_meanwhile)
    assert main([*short, "--fresh"]) == 0
    assert (tmp_path / "adapter.safetensors").is_file()
    (told,) = others
    assert "another run is training there" in told and f"process {os.getpid()}" in told


@pytest.mark.slow
def test_a_training_that_is_killed_leaves_its_folder_to_the_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs in one `out` would mix their states."""
    words = ["run", "tiny", f"out={tmp_path}", "phases=[{kind: sft, steps: 9999, batch: 2}]", "lora.rank=2"]
    with subprocess.Popen(
        [sys.executable, "-m", "trainer", *words, "--progress", "jsonl"], cwd=ROOT, stdout=subprocess.PIPE
    ) as first:
        assert first.stdout is not None
        assert json.loads(first.stdout.readline())["event"] == "start"
        short = ["run", "tiny", f"out={tmp_path}", "phases=[{kind: sft, steps: 1, batch: 2}]", "lora.rank=2"]
        assert main([*short, "--fresh"]) == 2
        error = capsys.readouterr().err
        assert "another run is training there" in error and f"process {first.pid}" in error
        assert "set out= to another folder" in error and "Traceback" not in error
        assert main([*short, "--dry-run"]) == 1 and "another run is training" in capsys.readouterr().out
        first.kill()
        first.wait()
    assert main([*short, "--fresh"]) == 0
    assert (tmp_path / "adapter.safetensors").is_file()


def dataset(folder: Path, count: int = 12, **fields: Any) -> Path:
    write_rows(draw_pictures(folder) / "rows.jsonl", many(count, **fields))
    return folder


@pytest.mark.parametrize("change", [pytest.param("added", marks=pytest.mark.slow), "edited", "none"])
def test_rows_that_were_changed_since_are_noticed_and_said(
    tmp_path: Path,
    cheap: Any,  # noqa: F811
    change: str,
) -> None:
    """A state knows the content of the files that it learned from."""
    folder = dataset(tmp_path / "data")
    config = small(tmp_path / "run", f"data=[{{path: {folder}}}]")

    def until_second(event: dict[str, Any]) -> None:
        if event["event"] == "saved" and event["step"] == 2:
            raise Cut

    with pytest.raises(Cut):
        run(config, until_second)
    lines = (folder / "rows.jsonl").read_text().splitlines()
    if change == "added":
        lines.append(json.dumps({**json.loads(lines[0]), "id": "one more"}))
    elif change == "edited":
        lines[5] = json.dumps({**json.loads(lines[5]), "thinking": "something else"})
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    _, events = ran(config)
    told = [(event["step"], event["path"]) for event in of(events, "rows")]
    assert told == ([] if change == "none" else [(2, str(folder))])
    assert all("not those that this run has learned from" in event["why"] for event in of(events, "rows"))
    assert of(ran(config)[1], "rows") == [], "said once, then known"


def test_a_share_of_a_source_is_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`heldout: 0.25`: whole questions, measured and never learned."""
    folder = dataset(tmp_path / "data", 40)  # twenty questions
    data = f"data=[{{path: {folder}, heldout: 0.25}}]"
    words = ["run", "tiny", f"out={tmp_path / 'run'}", data, "eval_every=2"]
    code = main(
        [*words, "--dry-run", "phases=[{kind: sft, steps: 4, batch: 2}, {kind: kto, steps: 1, batch: 4}]"]
    )
    out, err = capsys.readouterr()
    assert "measures 5 questions and the loss of" in out + err and "every 2 steps" in out, out + err
    assert code == 0 or "TensorBoard" in out

    from trainer.learner.rows import open_rows, rows_for

    config = load_config("tiny", [data, "phases=[{kind: kto, steps: 1, batch: 6}]"])
    style, codec = None, None
    learned = rows_for(config, config.phases[0], style, codec)  # type: ignore[arg-type]
    measured = open_rows(config.data, 10, 0, True, style, codec, held=True)  # type: ignore[arg-type]
    names = [
        {rows.stream.draw(at).item.question for at in range(rows.count)}  # type: ignore[attr-defined]
        for rows in (learned, measured)
    ]
    assert len(names[0]) == 15 and len(names[1]) == 5 and not names[0] & names[1]
    assert learned.count == 30 and measured.count == sum(r.label for r in many(40) if r.question in names[1])


def test_what_is_held_out_is_measured_once_each_however_the_sources_weigh(tmp_path: Path) -> None:
    """Foreign rows have no id, and some have the same answer."""
    few, more = dataset(tmp_path / "few", 4, prompt="this, please"), dataset(tmp_path / "more", 40)
    asked = [[{"role": "user", "content": f"is {at} even?"}] for at in range(8)]
    said = [{"role": "assistant", "content": "yes"}]
    foreign = tmp_path / "plain.jsonl"
    foreign.write_text("".join(json.dumps({"messages": each + said}) + "\n" for each in asked))
    data = [
        f"{{path: {few}, weight: 8, heldout: 0.5}}",
        f"{{path: {more}, heldout: 0.5}}",
        f"{{path: {foreign}, weight: 8, form: swift, heldout: 0.5}}",
    ]
    settings = [f"data=[{', '.join(data)}]", "eval_every=1", "eval_rows=16", "sample_every=1"]
    config = load_config("tiny", [*settings, "sample_rows=12"])
    style, codec = get_style("short"), get_codec("box-spans-8")
    for found in (open_held_out(config, style, codec).examples, open_samples(config, style, codec)):
        asked_of = [(each.name, each.answer, repr(each.chat.messages)) for each in found]
        assert len(asked_of) == len(set(asked_of))
    assert len(open_held_out(config, style, codec).examples) == 16, "the others take the place of the few"
    assert len(open_samples(config, style, codec)) == 12


def test_a_dry_run_says_when_there_is_nothing_to_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = dataset(tmp_path / "data")
    words = ["run", "tiny", "--dry-run", f"out={tmp_path / 'run'}", f"data=[{{path: {folder}}}]"]
    assert main([*words, "eval_every=5"]) == 1
    out = capsys.readouterr().out
    assert "- eval_every: eval_every 5: nothing to measure" in out and "data.0.heldout=0.05" in out
    main([*words, "eval_every=500", "data.0.heldout=0.5"])
    assert "every 500 steps, and at each phase's end" in capsys.readouterr().out


@pytest.mark.slow
def test_the_best_adapter_gets_better_where_no_answer_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`exact` stays 0: the held-out loss decides which adapter is kept."""
    monkeypatch.setattr(trainer.run.heldout, "MAX_NEW_TOKENS", 4)
    config = small(tmp_path, "phases.0.lr=0.004", "phases.0.warmup=0", "eval_every=1", "eval_rows=6")
    _, events = ran(config)
    measured = [(event.get("loss"), event["step"]) for event in of(events, "eval")]
    assert [event["exact"] for event in of(events, "eval")] == [0.0] * 4
    _, meta = load_adapter(tmp_path / "best.safetensors")
    assert all(loss is not None for loss, _ in measured) and meta.training["steps"] == min(measured)[1] > 1


def test_the_reference_is_refreshed_at_the_end_of_sft_alone(
    tmp_path: Path,
    cheap: Any,  # noqa: F811
) -> None:
    """Algorithm 1: rho_ref is the model that SFT left, until SFT comes again."""
    kinds = ", ".join(f"{{kind: {kind}, steps: 1, batch: 2}}" for kind in ("sft", "kto", "rkto"))
    phases = f"phases=[{kinds}]"
    ran(small(tmp_path, phases, "cycles=2", "keep_last=9"))
    states = [
        json.loads((tmp_path / "state" / f"step-{step:08d}" / "state.json").read_text())["reference"]
        for step in range(1, 7)
    ]
    assert states[0] is None and states[3] is None
    assert states[1] == states[2] and states[4] == states[5] and states[1] != states[4]


def test_a_key_that_comes_twice_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YAML takes the last of equal keys without a word."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seed: 1\ndata: [{world: true}]\nphases: [{kind: sft, steps: 1}]\nseed: 2\n")
    assert main(["run", str(recipe), "--dry-run", f"out={tmp_path / 'run'}"]) == 2
    assert "'seed' comes twice, on lines 1 and 4" in capsys.readouterr().err
    recipe.write_text("data: [{world: true}]\nphases: [{kind: sft, steps: 1, steps: 2}]\n")
    assert main(["run", str(recipe), "--dry-run", f"out={tmp_path / 'run'}"]) == 2
    assert "'steps' comes twice" in capsys.readouterr().err
    base = "base: &base {lr: 0.1, steps: 1}\n"
    recipe.write_text(
        "phases:\n- &base {kind: sft, steps: 1}\n- {<<: *base, steps: 2}\ndata: [{world: true}]\n"
    )
    assert main(["run", str(recipe), "--dry-run", f"out={tmp_path / 'run'}"]) != 2, f"a merge is none: {base}"


def test_rows_of_the_past_are_written_as_before(tmp_path: Path) -> None:
    """A row without a plain answer, and of one edit, has the fields that it always had."""
    from evlm.records import RowWriter

    rows = many(1)
    RowWriter(draw_pictures(tmp_path)).append(rows[0])
    written = json.loads((tmp_path / "rows.jsonl").read_text())
    fields = json.loads(json.dumps(asdict(rows[0]))).items()
    assert written == {name: value for name, value in fields if name not in ("answer", "steps")}
