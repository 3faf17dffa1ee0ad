"""One training of a regime, kept under a hash of all that it depends on: a study that asks for it again, or
another study, finds it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from evlm.models.zoo import resolve

from ..config.recipe import Config
from ..config.settings import build
from ..evaluation.accuracy import evaluate, load
from ..evaluation.model_marks import sha256_of
from ..evaluation.questions import world_questions
from ..report.events import LOG, json_line, read_history
from ..report.progress import Log


@dataclass(frozen=True)
class Trial:
    """recipe: of one run, without its folder. store: where the runs of all studies lie."""

    recipe: Mapping[str, Any]
    store: str

    @property
    def config(self) -> Config:
        return build(Config, {**self.recipe, "out": str(self.folder)})

    @property
    def folder(self) -> Path:
        return Path(self.store) / self.hash

    @property
    def hash(self) -> str:
        """Of the settings that the numbers depend on, and of what is in the files that they name."""
        config = build(Config, {**self.recipe, "out": "x"})
        whole = json.loads(config.identity)
        whole |= {name: getattr(config, name) for name in ("eval_every", "eval_rows", "keep_best")}
        whole["model"]["base"] = weights_in(resolve(config.model.base, "reasoner"))
        if config.model.adapter:
            whole["model"]["adapter"] = _contents(Path(config.model.adapter))
        for source in whole["data"]:
            if source["path"]:
                source["path"] = _contents(Path(source["path"]) / "rows.jsonl")
        return hashlib.blake2b(json.dumps(whole, sort_keys=True).encode(), digest_size=10).hexdigest()

    @property
    def adapter(self) -> Path:
        """Of the best measurement where there is one, else the last."""
        best = self.folder / "best.safetensors"
        return best if best.is_file() else self.folder / "adapter.safetensors"


def train(trial: Trial) -> dict[str, Any]:
    """Runs what is missing of a trial; {"exact": best on validation, "best_step", "steps", "tokens",
    "cpu_seconds", "curve": [step, exact] of each measurement}."""
    import torch

    from ..learner.state import States
    from ..run.heldout import better
    from ..run.loop import run

    done = trial.folder / "trained.json"
    if done.is_file():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    torch.set_num_threads(1)
    trial.folder.mkdir(parents=True, exist_ok=True)
    log = Log(trial.folder / LOG)
    try:
        run(trial.config, lambda event: log.take(event, json_line(event)))
    finally:
        log.close()
    from ..config.recipe import completed

    history = read_history(trial.folder)
    states = States(trial.folder / "state", json.loads(trial.config.identity), complete=completed)
    saved = states.newest()
    curve = [[each["step"], each["exact"]] for each in history.evals if "exact" in each]
    best: dict[str, Any] | None = None
    for each in history.evals:  # as the run chose whose adapter it kept
        if "exact" in each and better(each, best):
            best = each
    value = {
        "exact": best["exact"] if best else None,
        "best_step": best["step"] if best else 0,
        "steps": max((each["step"] for each in history.steps), default=0),
        "tokens": float(sum(each["tokens"] for each in history.steps)),
        "cpu_seconds": saved.progress.cpu_seconds if saved else 0.0,
        "curve": curve,
    }
    return write(done, value)


@dataclass(frozen=True)
class Exam:
    """Held-out questions that a model is asked."""

    questions: int
    lamp: float
    split: str = "test"


def examine(trial: Trial, exam: Exam) -> dict[str, Any]:
    """{"outcomes", "cpu_seconds"} of a trained trial."""
    file = trial.folder / f"{exam.split}-{exam.questions}-{exam.lamp:g}.json"
    if file.is_file():
        return dict(json.loads(file.read_text(encoding="utf-8")))
    began = time.process_time()
    answer, count, parts = load(trial.config.model.base, trial.adapter)
    questions = world_questions(exam.questions, 0, exam.split, exam.lamp)
    outcomes = evaluate(answer, questions, count, parts=parts)
    spent = time.process_time() - began
    return write(file, {"outcomes": [asdict(each) for each in outcomes], "cpu_seconds": spent})


def write(file: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Whole or not at all."""
    fresh = file.with_suffix(".tmp")
    fresh.write_text(json.dumps(value), encoding="utf-8")
    fresh.replace(file)
    return value


def weights_in(place: Path) -> str:
    """A hash of an adapter's file, or of the weight files of a model's folder."""
    files = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
    marks = [sha256_of(file) for file in files]
    return hashlib.sha256(" ".join(marks).encode()).hexdigest()[:20]


def _contents(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:20]
