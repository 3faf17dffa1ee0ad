"""`python -m trainer study table4 --seeds 3`: the paper's comparisons in miniature, at equal compute.

Every run begins with the same SFT stage; then each arm spends the same number of tokens, forwarded through
the language model, in its own way. A run is an ordinary `trainer run` in a folder of its own, so a study that
was stopped goes on where it was. What is measured is exact accuracy on held-out compositions.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from threading import Event
from typing import Any

from evlm.errors import ConfigError, TrainingError
from evlm.models.zoo import resolve
from evlm.plan.form import PARTS

from ..config.arguments import check_folder, check_whole
from ..config.recipe import RECIPES, Config, completed
from ..config.settings import build, override, read_yaml
from ..evaluation.accuracy import evaluate, load
from ..evaluation.questions import Question, world_questions
from ..learner.state import States
from ..report.events import LOG, json_line, read_history
from ..report.progress import Log
from .arms import ARMS, SAME_STEPS, STAGES, STUDIES
from .figure import figures
from .forms import STEPS, forms_base, known_forms, model_of, needed
from .forms import page as forms_page
from .page import page
from .regimes import RATES, REGIMES
from .results import RESULT, read, step_seconds
from .stage import folder_of, take_over
from .trials import write

PROBE = 2  # steps of which an arm's price is taken
_ASKED_TO_STOP = Event()  # set in a process of the pool


@dataclass(frozen=True)
class Job:
    """One run of a study: an arm with a seed. steps: of its second stage; 0 has none. questions: asked in the
    end, of that split of the world; lamp: the light that they are seen in."""

    arm: str
    seed: int
    steps: int
    folder: str
    recipe: dict[str, Any]
    questions: int
    lamp: float
    split: str

    @property
    def result(self) -> Path:
        return Path(self.folder) / RESULT

    def config(self) -> Config:
        """The run's recipe: the shared stage, then the arm's own."""
        return _config(self.recipe, self.arm, self.steps, self.seed, self.folder)


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument(
        "study",
        choices=(*sorted(STUDIES), *REGIMES),
        help="which comparison at equal compute; or a regime, each arm to its own convergence: "
        f"{', '.join(REGIMES)}",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings in place of those of the recipe tiny"
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm (3)")
    parser.add_argument(
        "--steps",
        type=int,
        default=None,
        help="of the dearest arm, the others' follow from it (40); in a regime, at most of each (200)",
    )
    parser.add_argument(
        "--base-steps",
        type=int,
        default=STEPS,
        help="of the stage before all others, where arms answer in fewer parts: all weights learn every "
        f"form, and go on by halves of that until they do ({STEPS}; 0: the arms begin from model.base)",
    )
    parser.add_argument("--questions", type=int, default=500, help="held-out questions a run is asked (500)")
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        help="which questions (test; of the study rates, which is for choosing, validation)",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at once (one a core)")
    parser.add_argument("--out", default=None, help="folder of the study (runs/study-NAME)")
    parser.add_argument(
        "--arm", action="append", default=[], metavar="NAME", help="this one and no other; several times"
    )
    parser.add_argument("--runs", default="runs/trials", help="where runs lie by their hash (runs/trials)")
    only = parser.add_argument_group("of the regimes alone")
    only.add_argument(
        "--rates", type=float, nargs="+", default=RATES, metavar="R", help="of every arm (5e-4 1e-3 2e-3)"
    )
    only.add_argument("--eval-every", type=int, default=10, help="steps between measurements (10)")
    only.add_argument("--eval-rows", type=int, default=200, help="validation questions of each (200)")
    only.add_argument("--patience", type=int, default=4, help="of them without a better one (4)")
    only.add_argument("--prompts", type=int, default=353, help="sampled and rated, in a round (353)")
    only.add_argument("--samples", type=int, default=2, help="rated of each prompt (2)")


def run(args: argparse.Namespace) -> int:
    """Runs what is missing of a study and writes its page. Raises ConfigError."""
    args.steps = args.steps if args.steps is not None else (200 if args.study in REGIMES else 40)
    for name, most in (("seeds", 1000), ("steps", 10**6), ("questions", 10**6), ("jobs", 4096)):
        check_whole(f"--{name}", getattr(args, name), 1, most)
    check_whole("--base-steps", args.base_steps, 0, 10**6)
    for name in ("eval_every", "eval_rows", "patience", "prompts", "samples"):
        check_whole(f"--{name.replace('_', '-')}", getattr(args, name), 1, 10**6)
    out = Path(args.out or f"runs/study-{args.study}")
    recipe = override(read_yaml(RECIPES / "tiny.yaml"), args.settings)
    if args.study in REGIMES:
        return _regime(args, recipe, out)
    arms = _arms(args)
    for arm in arms:
        _config(recipe, arm, 1, 0, str(out))
    check_folder("--out", out)
    out.mkdir(parents=True, exist_ok=True)
    before = ""
    if args.base_steps and needed(STUDIES[args.study]):
        from ..run.loop import Stopped

        try:
            recipe, before = _with_base(args, recipe)
        except Stopped as stopped:
            print(stopped, flush=True)
            return 130
    # Of all of the study's arms, so that some of them get what they would get among all.
    some = () if set(arms) <= set(STAGES) else STUDIES[args.study]
    prices = _prices(out / "prices.json", some, recipe, args.jobs)
    budget = max(prices.values(), default=0.0) * args.steps
    split = args.split or ("validation" if args.study == "rates" else "test")
    lamp = _lamp(recipe)
    jobs = []
    for arm in arms:
        steps = args.steps if arm in SAME_STEPS else round(budget / prices[arm]) if arm in prices else 0
        for seed in range(args.seeds):
            folder = str(out / folder_of(arm, seed))
            jobs.append(Job(arm, seed, steps, folder, recipe, args.questions, lamp, split))
    for job in jobs:
        known = read(job.result)["job"] if job.result.is_file() else None
        if known is not None and known != json.loads(json.dumps(asdict(job))):
            raise ConfigError(
                f"{job.folder} holds a run of another study; choose another --out, or delete it"
            )
    waiting = [job for job in jobs if not job.result.is_file()]
    print(f"{len(jobs)} runs, {len(waiting)} to do; {budget:,.0f} tokens for each arm", flush=True)
    with _pool(min(args.jobs, len(waiting))) as pool:
        for number, text in enumerate(pool.map(partial(_unless_stopped, _run), waiting), 1):
            print(f"{number} of {len(waiting)}: {text}", flush=True)
    results = [read(job.result) for job in jobs]
    text = page(args.study, results, budget, recipe) + before
    by_arm: dict[str, list[Path]] = defaultdict(list)
    for job in jobs:
        by_arm[job.arm].append(Path(job.folder) / "log.jsonl")
    figures(out, by_arm)
    (out / "results.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _arms(args: argparse.Namespace) -> tuple[str, ...]:
    """Those that were asked for, in the study's order. Raises ConfigError."""
    every = STUDIES[args.study]
    unknown = [name for name in args.arm if name not in every]
    if unknown:
        raise ConfigError(f"--arm {unknown[0]!r:.60}: expected one of {', '.join(every)}")
    return tuple(arm for arm in every if not args.arm or arm in args.arm)


def _with_base(args: argparse.Namespace, recipe: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """(the recipe on a base that knows every form, what is said of that base)."""
    store, lamp = Path(args.runs).resolve(), _lamp(recipe)
    check_folder("--runs", store)
    pieces = forms_base(recipe, args.base_steps, store, lamp)
    text = forms_page(pieces, known_forms(pieces[-1], lamp))
    print(text, flush=True)
    kept = dict(recipe.get("model", {}))
    kept.pop("adapter", None)  # it is merged there
    return {**recipe, "model": {**kept, "base": str(model_of(pieces[-1]))}}, f"\n{text}"


def _lamp(recipe: Mapping[str, Any]) -> float:
    return float((recipe.get("data") or [{}])[0].get("lamp", 0.0))


def _regime(args: argparse.Namespace, recipe: dict[str, Any], out: Path) -> int:
    """The same for a regime, whose arms end when they get no better."""
    from ..run.loop import Stopped
    from .regime_study import plan_of
    from .regime_study import run as run_regime

    plan = plan_of(args, recipe)
    check_folder("--out", out)
    check_folder("--runs", plan.store)
    out.mkdir(parents=True, exist_ok=True)
    try:
        text = run_regime(plan)
    except Stopped as stopped:
        print(stopped, flush=True)
        return 130
    (out / "results.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that begin anew. Raises TrainingError where one of them is gone."""
    try:
        with ProcessPoolExecutor(max(1, workers), mp_context=get_context("spawn")) as pool:
            yield pool
    except BrokenProcessPool as error:
        raise TrainingError(
            f"a process of the study was killed ({error}); the same command goes on with what is missing, "
            "and needs less memory with fewer --jobs"
        ) from error


def _unless_stopped(work: Callable[..., Any], *given: Any) -> Any:
    """What `work` gives, in a process of the pool. Once it was asked to stop it begins nothing more: Ctrl-C
    ends the work that it is at, and the pool has handed it the next by then. Raises Stopped."""
    from ..run.loop import Stopped

    if _ASKED_TO_STOP.is_set():
        raise Stopped("stopped before it began; the same command goes on from there")
    try:
        return work(*given)
    except (Stopped, KeyboardInterrupt):
        _ASKED_TO_STOP.set()
        raise


def _run(job: Job) -> str:
    """Trains, asks and writes the job's result."""
    import torch

    from ..run.loop import run as train

    torch.set_num_threads(1)
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = job.config()
    for stage in () if job.arm in STAGES else STAGES:
        begun = folder.with_name(folder_of(stage, job.seed))
        if (begun / RESULT).is_file():  # it is done, whole
            take_over(config, _config(job.recipe, stage, 0, job.seed, str(begun)))
    log = Log(folder / LOG)
    try:
        adapter = train(config, lambda event: log.take(event, json_line(event)))
    finally:
        log.close()
    # Of all its pieces, where it was stopped: steps that were done again count once.
    tokens = float(sum(event["tokens"] for event in read_history(folder).steps if event["stage"] == 1))
    state = States(folder / "state", json.loads(config.identity), complete=completed).newest()
    trained, cpu = state.progress.cpu_seconds if state else 0.0, time.process_time()
    answer, count, parts = load(config.model.base, adapter)
    questions = world_questions(job.questions, 0, job.split, job.lamp)
    outcomes = evaluate(answer, questions, count, parts=parts)
    value = {
        "job": asdict(job),
        "outcomes": [asdict(each) for each in outcomes],
        "tokens": tokens,
        "cpu_seconds": trained + time.process_time() - cpu,
        "step_seconds": step_seconds(folder),
        "reflection": _reflection(config, adapter, questions) if tuple(parts) == PARTS else None,
    }
    fresh = job.result.with_suffix(".tmp")
    fresh.write_text(json.dumps(value), encoding="utf-8")
    fresh.replace(job.result)
    exact = sum(each.exact for each in outcomes) / len(outcomes)
    return f"{job.arm}, seed {job.seed}: exact {exact:.3f}"


def _reflection(config: Config, adapter: Path, questions: Sequence[Question]) -> float | None:
    """R_reflect on the questions, after `cpu_seconds` is counted."""
    from evlm.reason.backbone import load_backbone

    from ..evaluation.accuracy import as_learner
    from .reflection import reflection_of

    return reflection_of(
        as_learner(load_backbone(resolve(config.model.base, "reasoner"), adapter)), questions
    )


def _prices(path: Path, arms: tuple[str, ...], recipe: dict[str, Any], jobs: int) -> dict[str, float]:
    """Tokens forwarded in a step of each arm's second stage, by running a few of them. Of a recipe."""
    asked = sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    before = read(path) if path.is_file() else {}
    known: dict[str, float] = before.get("tokens", {}) if before.get("recipe") == asked else {}
    good = isinstance(known, dict) and all(
        isinstance(each, (int, float)) and each > 0 for each in known.values()
    )
    if not good:
        raise ConfigError(f"{path}: expected numbers of tokens above 0; delete it, and it is measured again")
    wanted = [arm for arm in arms if arm not in (*STAGES, *SAME_STEPS) and arm not in known]
    with _pool(min(jobs, len(wanted))) as pool:
        prices = pool.map(partial(_unless_stopped, _price), wanted, [recipe] * len(wanted))
        for arm, price in zip(wanted, prices, strict=True):
            known[arm] = price
    write(path, {"recipe": asked, "tokens": known})
    return {arm: known[arm] for arm in arms if arm in known}


def _price(arm: str, recipe: dict[str, Any]) -> float:
    import tempfile

    import torch

    from ..run.loop import run as train

    torch.set_num_threads(1)
    seen: list[float] = []

    def report(event: dict[str, Any]) -> None:
        if event["event"] == "step":
            seen.append(event["tokens"])

    with tempfile.TemporaryDirectory() as folder:
        config = _config(recipe, arm, PROBE, 0, folder)
        first = replace(config.phases[0], steps=1)
        train(replace(config, phases=(first, config.phases[1])), report)
    return sum(seen[1:]) / PROBE


def _config(recipe: dict[str, Any], arm: str, steps: int, seed: int, folder: str) -> Config:
    whole = build(Config, recipe)
    if len(whole.phases) != 2 or not whole.data[0].world:
        raise ConfigError("a study needs two phases, the first one for all arms, and the world as its data")
    first, second = recipe["phases"]
    changes = dict(ARMS.get(arm, {}))
    data = [_merged(recipe["data"][0], changes.pop("data", {})), *recipe["data"][1:]]
    parts = changes.pop("parts", recipe.get("parts", "own"))
    phases = [] if arm in STAGES else [{**_merged(second, changes), "steps": steps}]
    values = {**recipe, "phases": [first, *phases], "data": data, "parts": parts, "seed": seed, "out": folder}
    return build(Config, {**values, "log_every": 1})


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings with changes applied."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged
