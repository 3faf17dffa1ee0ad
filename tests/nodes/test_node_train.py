"""EVLM Train on the stand-in: a real trainer as its child, resumed, cancelled, failing, and misused."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.utils
import folder_paths
import pytest
import torch
from safetensors.torch import load_file
from standin import call, part

RECIPE = """
model: {base: bundled}
lora: {rank: 4, alpha: 8}
wandb: never
data: [{world: true}]
phases:
  - {kind: sft, steps: 8, batch: 2, lr: 1.0e-3}
  - {kind: sft, steps: 4, batch: 2, lr: 1.0e-4}
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few rows of the world, good and bad."""
    from trainer.world.cli import write_rows
    from trainer.world.rows import Recipe

    folder = tmp_path_factory.mktemp("rows") / "rows"
    write_rows(folder, Recipe(3, "train"), 6)
    return folder


@pytest.fixture()
def base(tmp_path: Path, rows: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """ComfyUI's folders, with the dataset "rows" and the recipe "quick" alone."""
    folder_paths.use(tmp_path)
    folders = part("nodes.folders")
    folders.register()
    shutil.copytree(rows, tmp_path / "output" / "rows")
    recipe = tmp_path / "quick.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    monkeypatch.setattr(folders, "recipes", lambda: {"quick": recipe})
    yield tmp_path
    mm.interrupt_current_processing(False)
    comfy.utils.set_progress_bar_global_hook(None)
    folder_paths.use(tmp_path / "gone")
    folders.register()


@pytest.fixture()
def texts_shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the node shows as text."""
    texts: list[str] = []
    monkeypatch.setattr(part("nodes.host"), "say", texts.append)
    return texts


@pytest.fixture()
def children(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every process that is started."""
    import subprocess

    started: list[Any] = []
    real = subprocess.Popen

    def start(*given: Any, **how: Any) -> Any:
        started.append(real(*given, **how))
        return started[-1]

    monkeypatch.setattr(part("nodes.child").subprocess, "Popen", start)
    return started


def write_adapter(path: Path) -> None:
    """An adapter of rank 3 on one module of the bundled reasoner."""
    from evlm.adapter.checkpoint import AdapterMeta, Expected, save_adapter
    from evlm.adapter.lora import Lora
    from evlm.models.zoo import BUNDLED
    from evlm.reason.reasoner import Reasoner

    reasoner = Reasoner.load(BUNDLED / "reasoner", device="cpu")
    expect = Expected.of(reasoner.module)
    module, (out, into) = next((m, s) for m, s in expect.shapes.items() if m.endswith("q_proj"))
    names = [f"base_model.model.{module}.lora_{half}.weight" for half in "AB"]
    tensors = dict(zip(names, (torch.randn(3, into), torch.randn(out, 3) * 0.01), strict=True))
    meta = AdapterMeta(Lora(3, 6.0), "bundled", expect.config_hash, "short", "box-spans-8")
    save_adapter(path, tensors, meta)


def train(**inputs: Any) -> Any:
    return call("EVLM_Train", **{"dataset": "rows", "recipe": "quick", "name": "t", "steps": 3, **inputs})


def test_it_trains_and_load_evlm_takes_what_it_gives(
    base: Path, texts_shown: list[str], children: list[Any]
) -> None:
    model = call("EVLM_LoadModel").args[0]
    with model.use():
        pass
    begun = base / "models" / "loras" / "begun.safetensors"
    write_adapter(begun)
    pictures: list[Any] = []
    comfy.utils.set_progress_bar_global_hook(
        lambda at, of, picture, node_id: pictures.append((at, of, picture))
    )
    trained = train(adapter="loras/begun.safetensors")
    adapter, loss, log = trained.args
    assert adapter in part("nodes.folders").adapters() and adapter.startswith("evlm/trained/t-")
    assert 0 < loss < 20 and Path(log).parent.parent == base / "output" / "evlm_train"
    assert not any(each.model is model._patcher for each in mm.current_loaded_models)  # it made room
    assert [(at, of) for at, of, _ in pictures if at][-1] == (3, 3)
    assert any(picture is not None for *_, picture in pictures)
    assert trained.ui["images"] and adapter in trained.ui["text"][0]
    assert any("step 2 of 3" in text for text in texts_shown)
    (child,) = children
    assert child.args[:4] == [sys.executable, "-m", "trainer", "run"] and child.returncode == 0
    file = base / "models" / adapter
    assert file.is_file() and not list(file.parent.glob(".*"))
    one, both = load_file(begun), load_file(file)
    (name,) = (name for name in one if "lora_A" in name)
    assert torch.equal(both[name][:3], one[name])  # it holds what it began with
    assert both[name].shape[0] == 3 + 4
    with call("EVLM_LoadModel", adapter=adapter).args[0].use() as reasoner:
        assert reasoner.module is not None
    again = train(adapter="loras/begun.safetensors")
    assert again.args == trained.args and len(children) == 1  # it is there already
    with open(base / "output" / "rows" / "rows.jsonl", "a", encoding="utf-8") as rows:
        rows.write("\n")
    given = ("rows", "bundled", "loras/begun.safetensors", "quick", 3, "t", 0)
    assert (
        part("nodes.train").plan_training(*given).folder != Path(log).parent
    )  # other rows, another training


MANY = 16  # steps, of which some are shown before the last one


@pytest.mark.slow
def test_a_cancel_saves_and_the_same_queue_goes_on(
    base: Path, texts_shown: list[str], children: list[Any]
) -> None:
    def cancel(at: int, of: int, picture: Any, node_id: Any) -> None:
        if 2 <= at < of:  # not every step is shown
            mm.interrupt_current_processing()

    comfy.utils.set_progress_bar_global_hook(cancel)
    with pytest.raises(mm.InterruptProcessingException):
        train(steps=MANY)
    assert children[-1].returncode == 130 and "saves" in texts_shown[-1]  # it was asked, and not killed
    comfy.utils.set_progress_bar_global_hook(None)
    texts_shown.clear()
    again = train(steps=MANY).args
    gone = next(text for text in texts_shown if text.startswith("goes on from step"))
    assert 2 <= int(gone.rpartition(" ")[2]) < MANY
    assert any("resumed at" in text for text in texts_shown)
    log = Path(again[2]).read_text(encoding="utf-8")
    assert [f'"step": {step},' in log for step in range(1, MANY + 2)] == [True] * MANY + [False]


def test_a_failing_child_says_why(base: Path, children: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By a Python that looks nowhere by itself, which finds the trainer all the same."""
    error, child = part("evlm.errors").TrainingError, part("nodes.child")
    isolated = [sys.executable, "-I", "-c", child.ISOLATED, str(child.PACK)]
    monkeypatch.setattr(child, "_python", lambda: isolated)
    (base / "quick.yaml").write_text(RECIPE.replace("lr: 1.0e-3", "lr: 1.0e+3, clipp: 1"), encoding="utf-8")
    with pytest.raises(
        error, match=r"(?s)exit code 2.*clipp is not a setting; did you mean clip.*trainer\.log"
    ) as caught:
        train()
    assert len(str(caught.value)) < 2000 and children[-1].returncode == 2
    assert not list((base / "models").rglob("*.safetensors"))


def test_a_child_that_is_killed_leaves_no_adapter(
    base: Path, children: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    dies = """import os, time; print('{"event": "start", "steps": 9}', flush=True); os.kill(os.getpid(), 9)"""
    monkeypatch.setattr(part("nodes.child"), "_python", lambda: [sys.executable, "-c", dies])
    with pytest.raises(part("evlm.errors").TrainingError, match=r"signal 9|exit code"):
        train(steps=6)
    assert not list((base / "models").rglob("*.safetensors"))


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for a stubborn child is a POSIX one")
def test_a_child_that_does_not_listen_is_killed(
    base: Path, children: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    child = part("nodes.child")
    stubborn = "import signal, time; signal.signal(15, 1); print('{}', flush=True); time.sleep(60)"
    monkeypatch.setattr(child, "_python", lambda: [sys.executable, "-c", stubborn])
    monkeypatch.setattr(child, "GRACE", 0.3)
    with pytest.raises(RuntimeError, match="enough"), child.Trainer((), base / "log") as trainer:
        for event in trainer.events():
            if event is not None:
                raise RuntimeError("enough")
    assert children[-1].returncode == -9


def test_the_child_gets_no_foreign_modules_and_no_network(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = part("nodes.child")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    show = (
        "import os, json; print(json.dumps({k: os.environ.get(k) for k in ('PYTHONPATH', 'HF_HUB_OFFLINE')}))"
    )
    monkeypatch.setattr(child, "_python", lambda: [sys.executable, "-c", show])
    with child.Trainer((), base / "log") as trainer:
        told = [event for event in trainer.events() if event]
    assert told == [{"PYTHONPATH": None, "HF_HUB_OFFLINE": "1"}]


def test_a_dataset_that_teaches_nothing_is_refused_before_anything_starts(
    base: Path, children: list[Any]
) -> None:
    wrong, file = part("evlm.errors").EVLMError, base / "output" / "rows" / "rows.jsonl"
    with pytest.raises(wrong, match=r"'nothing' has no rows yet"):
        train(dataset="nothing")
    good = file.read_text(encoding="utf-8")
    file.write_text(good.replace('"label": true', '"label": false'), encoding="utf-8")
    with pytest.raises(wrong, match=r"none of the 6 rows is rated good"):
        train()
    file.write_text(good.replace('"split": "train"', '"split": "test"'), encoding="utf-8")
    with pytest.raises(wrong, match=r"no row of the split 'train'"):
        train()
    file.write_text(good + '{"id": 7}\n', encoding="utf-8")
    with pytest.raises(wrong, match=r"line 7"):
        train()
    assert not children


def test_the_folder_that_rate_edit_gives_is_a_dataset(base: Path) -> None:
    plan = part("nodes.train").plan_training
    given = ("bundled", "none", "quick", 1, "t", 0)
    assert plan(str(base / "output" / "rows"), *given) == plan("rows", *given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataset", "../rows"), ("dataset", "/etc"), ("dataset", "rows/../../x"), ("dataset", 7),
        ("model", "/etc/passwd"), ("model", "../../x"), ("adapter", "../a.safetensors"),
        ("recipe", "../quick"), ("recipe", "/tmp/evil.yaml"), ("recipe", "quick.yaml"), ("recipe", "run"),
        ("name", "../../a"), ("name", "a/b"), ("name", ""), ("name", "con"), ("name", "-rf"),
        ("steps", -1), ("steps", 10**9), ("steps", "phases.0.lr=1"), ("steps", float("nan")),
        ("seed", -1), ("seed", 2**31), ("seed", True),
    ],
)  # fmt: skip
def test_hostile_values_start_nothing(base: Path, children: list[Any], name: str, value: Any) -> None:
    with pytest.raises(part("evlm.errors").EVLMError, match=name):
        train(**{name: value})
    assert not children and not (base / "output" / "evlm_train").exists()
    if name == "dataset":
        assert isinstance(part("nodes.train").Train.validate_inputs(dataset=value), str)


def test_a_link_out_of_the_output_folder_is_not_followed(base: Path, tmp_path: Path) -> None:
    (base / "output" / "evlm_train").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(part("evlm.errors").RecordError, match="link out of its place"):
        train()


def test_a_trainings_folder_that_holds_a_link_is_not_written(base: Path, tmp_path: Path) -> None:
    """Its log would be somebody else's file (N3)."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    training = part("nodes.train").plan_training("rows", "bundled", "none", "quick", 1, "t", 0)
    training.folder.mkdir(parents=True)
    (training.folder / "trainer.log").symlink_to(victim)
    with pytest.raises(part("evlm.errors").RecordError, match=r"trainer\.log.*is a link"):
        train(steps=1)
    assert victim.read_text() == "mine"


def test_steps_are_shared_as_the_recipe_shares_its_own(base: Path) -> None:
    share, recipe = part("nodes.train")._phase_steps, base / "quick.yaml"
    assert share(recipe, 0) == {}
    assert share(recipe, 12) == {"phases.0.steps": 8, "phases.1.steps": 4}
    assert share(recipe, 3) == {"phases.0.steps": 2, "phases.1.steps": 1}
    assert share(recipe, 1) == {"phases.0.steps": 1, "phases.1.steps": 1}
    recipe.write_text(RECIPE + "cycles: 2\n", encoding="utf-8")
    assert share(recipe, 24) == {"phases.0.steps": 8, "phases.1.steps": 4}


def test_the_fingerprint_follows_rows_model_and_adapter(base: Path) -> None:
    node = part("nodes.train").Train
    given = {"model": "bundled", "adapter": "none", "recipe": "quick", "steps": 1, "name": "t", "seed": 0}
    before = node.fingerprint_inputs(dataset="rows", **given)
    assert node.fingerprint_inputs(dataset="rows", **given) == before
    assert node.fingerprint_inputs(dataset="not yet", **given) != before
    assert node.fingerprint_inputs(dataset=None, **given)  # linked
    with open(base / "output" / "rows" / "rows.jsonl", "a", encoding="utf-8") as rows:
        rows.write("\n")
    assert node.fingerprint_inputs(dataset="rows", **given) != before


def test_the_curve_holds_what_counts_of_a_run_that_was_killed(base: Path) -> None:
    def step(at: int, loss: float | None) -> str:
        return json.dumps({"event": "step", "stage": 0, "kind": "sft", "step": at, "loss": loss})

    start, resume = '{"event": "start", "steps": 9}', '{"event": "resume", "step": 2}'
    train = part("nodes.train")
    training = train.plan_training("rows", "bundled", "none", "quick", 9, "t", 0)
    training.folder.mkdir(parents=True)

    def seen(*lines: str) -> list[tuple[int, float]]:
        training.log.write_text("\n".join(lines), encoding="utf-8")
        return [(point.step, point.loss) for point in train.Watch(training).points]

    first = (start, step(1, 5), step(2, 4), step(3, 3))
    assert seen(*first, '{"half') == [(1, 5), (2, 4), (3, 3)]
    assert seen(*first, start, start, resume) == [(1, 5), (2, 4)]
    assert seen(*first, start, resume, step(3, 7)) == [(1, 5), (2, 4), (3, 7)]
    assert seen(*first, start, step(1, 8)) == [(1, 8)]  # begun anew
    assert seen(*first, start, '{"event": "done", "adapter": "a"}') == [(1, 5), (2, 4), (3, 3)]
    assert math.isnan(seen(start, step(1, None))[0][1])


def test_a_curve_is_drawn_whatever_the_losses_are() -> None:
    curve = part("nodes.curve")
    for losses in ([], [0.5], [1, 1, 1], [1e-9, 2e-9], [float("nan"), 2], [-3, 4, 1e6], [1e300] * 3):
        points = [
            curve.Point(at + 1, at // 2, "kto" if at % 2 else "sft", loss) for at, loss in enumerate(losses)
        ]
        picture = curve.draw(points, 5)
        assert picture.shape == (1, curve.HEIGHT, curve.WIDTH, 3)
        assert float(picture.min()) >= 0 and float(picture.max()) <= 1
