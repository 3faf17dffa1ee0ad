"""Training from ratings: the trainer runs as a child process, and what it makes is listed by Load EVLM."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from . import curve, folders, host, sockets
from .checks import checked
from .child import Trainer

if TYPE_CHECKING:
    from torch import Tensor

ROWS_FILE = "rows.jsonl"
SPLIT = "train"  # of the rows that are learned
RECIPE = "tiny"
MOST_STEPS, MOST_SEED = 1_000_000, 2**31 - 1
DRAWN = 0.5  # seconds between two pictures of the curve


class Train(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_Train",
            display_name="EVLM Train",
            category=sockets.CATEGORY,
            description="Trains an adapter for the reasoner from what was rated. Every model leaves the "
            "memory first. Cancelled, it keeps its state, and the same queue again goes on from there.",
            inputs=[
                io.String.Input(
                    "dataset",
                    default="evlm_ratings",
                    tooltip="A folder in the output folder, as EVLM Rate Edit writes it; or connect that.",
                ),
                io.Combo.Input(
                    "model",
                    options=folders.models("reasoner"),
                    default="bundled",
                    tooltip="The reasoner that learns: the same one that Load EVLM will load.",
                ),
                io.Combo.Input(
                    "adapter",
                    options=folders.adapters(),
                    default=folders.NO_ADAPTER,
                    tooltip="Where it starts from. The new adapter has this one in it.",
                ),
                io.Combo.Input(
                    "recipe",
                    options=list(folders.recipes()),
                    default=RECIPE,
                    tooltip="How it learns: phases, batch and rates, from trainer/recipes in this pack.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=MOST_STEPS,
                    tooltip="0: as many as the recipe says. Else so many in all, shared among its phases.",
                ),
                io.String.Input("name", default="my_taste", tooltip="What the adapter's name begins with."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MOST_SEED,
                    control_after_generate=True,
                    tooltip="Another one is another training.",
                ),
            ],
            outputs=[
                sockets.Choice.Output(
                    "trained_adapter",
                    display_name="adapter",
                    tooltip="Connect it to the adapter of Load EVLM.",
                ),
                io.Float.Output("loss", display_name="loss", tooltip="Of the last step."),
                io.String.Output("log", display_name="log", tooltip="The log's path, one JSON a line."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, dataset: Any) -> bool | str:
        from ..evlm.errors import EVLMError

        # ComfyUI repeats what is said here at each input that is named: the others are looked at first of all
        # in a run. An input that is linked comes later: it is None here.
        try:
            return dataset is None or bool(folders.dataset(dataset))
        except EVLMError as error:
            return folders.shortened(str(error))

    @classmethod
    def fingerprint_inputs(cls, dataset: Any, model: Any, adapter: Any, **rest: Any) -> str:
        parts = []
        if dataset is not None:
            rows = folders.dataset(dataset) / ROWS_FILE
            parts.append(folders.fingerprint(rows if rows.is_file() else None))
        if model is not None:
            parts.append(folders.fingerprint(folders.find("reasoner", model)))
        if adapter is not None:
            parts.append(folders.fingerprint(folders.find_adapter(adapter)))
        return " ".join(parts)

    @classmethod
    @checked
    def execute(
        cls, dataset: str, model: str, adapter: str, recipe: str, steps: int, name: str, seed: int
    ) -> io.NodeOutput:
        training = plan_training(dataset, model, adapter, recipe, steps, name, seed)
        listed, file = folders.trained(training.folder.name)
        watch = Watch(training)
        if not (file.is_file() and watch.points):
            _publish(_run(training, watch), file)
        text = f"loss {watch.loss:.4g} after {watch.step} steps\n{listed}"
        host.say(text)
        picture = host.preview(watch.picture(), cls).as_dict()
        return io.NodeOutput(listed, watch.loss, str(training.log), ui={**picture, "text": [text]})


@dataclass(frozen=True)
class Training:
    """arguments: of `python -m trainer`. folder: where it keeps its state and its log; another dataset,
    model, recipe or number is another folder. start: the adapter that it begins with."""

    arguments: tuple[str, ...]
    folder: Path
    start: Path | None

    @property
    def log(self) -> Path:
        return self.folder / "log.jsonl"


def plan_training(
    dataset: str, model: str, adapter: str, recipe: str, steps: int, name: str, seed: int
) -> Training:
    """What is to be run, with everything checked. Raises RecordError, RequestError, ModelError."""
    from ..evlm.adapter.stacking import check_stackable
    from ..evlm.errors import ModelError

    known = folders.recipes()
    file = known[sockets.choice("recipe", recipe, list(known))]
    sockets.within("steps", steps, 0, MOST_STEPS)
    sockets.within("seed", seed, 0, MOST_SEED)
    rows, start = folders.dataset(dataset), folders.find_adapter(adapter)
    base = folders.find("reasoner", model)
    if base is None:
        raise ModelError(f"model {model} is not on this machine: fetch it with Load EVLM's `download` first")
    _check_rows(rows)
    if start is not None:
        check_stackable(start)
    settings: dict[str, Any] = {
        "seed": seed,
        "data": [{"path": str(rows)}],
        "model.base": model if model == "bundled" else str(base),
        "model.adapter": None if start is None else str(start),
        "model.device": host.device_name(),
        "wandb": None,  # nothing leaves this machine
        **_phase_steps(file, steps),
    }
    parts = [folders.fingerprint(each) for each in (rows / ROWS_FILE, file, base, start)]
    key = hashlib.blake2b(json.dumps([parts, settings]).encode(), digest_size=4).hexdigest()
    folder = folders.run(name, key)
    settings |= {"out": str(folder), "log_every": 1}
    # JSON is YAML, which the trainer reads after the sign.
    given = (f"{each}={json.dumps(value, ensure_ascii=False)}" for each, value in settings.items())
    return Training(("run", str(file), *given, "--progress", "jsonl"), folder, start)


class Watch:
    """What a training has said so far, in this run and in those that it goes on from."""

    def __init__(self, training: Training) -> None:
        self._by_step: dict[int, curve.Point] = {}
        self._earlier = self._by_step
        self.steps, self.resumed, self.adapter, self._begun = 0, 0, "", False
        if training.log.is_file():
            for line in training.log.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    self.heed(json.loads(line))
                except ValueError:
                    continue  # a line that was cut off
        self.resumed, self.adapter, self._begun = 0, "", False

    @property
    def points(self) -> list[curve.Point]:
        return [self._by_step[step] for step in sorted(self._by_step)]

    @property
    def step(self) -> int:
        return max(self._by_step, default=0)

    @property
    def loss(self) -> float:
        return self._by_step[self.step].loss if self._by_step else math.nan

    def heed(self, event: dict[str, Any]) -> str:
        """Takes one event in, and says it in a few words; "" for what nobody needs to read."""
        kind = event.get("event")
        if kind == "start":
            self.steps, self._begun = int(event["steps"]), False
            self._earlier, self._by_step = self._by_step or self._earlier, {}
            return f"begins: {self.steps} steps"
        if kind == "resume" and not self._begun:  # later it is said at the beginning of each phase
            self.resumed = int(event["step"])
            self._by_step = {step: p for step, p in self._earlier.items() if step <= self.resumed}
            return f"goes on from step {self.resumed}"
        if kind == "step":
            step, self._begun = int(event["step"]), True
            loss = math.nan if event["loss"] is None else float(event["loss"])
            self._by_step[step] = curve.Point(step, int(event["stage"]), str(event["kind"]), loss)
            left = _duration((self.steps - step) * float(event.get("seconds", 0)))
            begun = f", resumed at {self.resumed}" if self.resumed else ""
            return f"{event['kind']}: step {step} of {self.steps}{begun}\nloss {loss:.4g}, {left} left"
        if kind == "done":
            self.adapter = str(event["adapter"])
            self._by_step = self._by_step or self._earlier  # there was nothing left to do
        if kind == "dropped":
            return f"step {event['step']} is left out: its loss is not finite"
        return ""

    def picture(self) -> Tensor:
        return curve.draw(self.points, self.steps)


def _run(training: Training, watch: Watch) -> Path:
    """Trains, and gives the file that was made. Raises TrainingError; ComfyUI's own exception on a cancel."""
    from ..evlm.errors import TrainingError

    training.folder.mkdir(parents=True, exist_ok=True)
    progress, drawn = host.Progress(1), 0.0
    host.free_memory()
    host.say("the trainer loads the model")
    with Trainer(training.arguments, training.folder / "trainer.log") as child:
        try:
            for event in child.events():
                host.check_cancelled()
                if event is None or not (text := watch.heed(event)):
                    continue
                host.say(text)
                if watch.resumed and event["event"] == "resume":
                    host.tell([f"{training.folder.name} {text}"])
                now = time.monotonic()
                picture = watch.picture() if now - drawn >= DRAWN and watch.points else None
                drawn = drawn if picture is None else now
                progress(watch.step, max(1, watch.steps), picture)
        except BaseException:
            host.say("stops and saves its state")
            raise
    if not watch.adapter:
        raise TrainingError(f"the training ended without an adapter; see {training.folder / 'trainer.log'}")
    return Path(watch.adapter)


def _publish(adapter: Path, file: Path) -> None:
    """Puts the adapter where Load EVLM lists it, whole or not at all. What it started from is in it."""
    from ..evlm.errors import TrainingError
    from ..evlm.files.pictures import write_atomically

    try:
        with open(adapter, "rb") as source:
            write_atomically(file, lambda out: shutil.copyfileobj(source, out))
    except OSError as error:
        raise TrainingError(f"{file} cannot be written ({error}); the adapter lies in {adapter}") from error


def _check_rows(folder: Path) -> None:
    from ..evlm.errors import RecordError
    from ..evlm.records import read_rows

    if not (folder / ROWS_FILE).is_file():
        raise RecordError(
            f"dataset {folder.name!r} has no rows yet ({folder / ROWS_FILE}): rate edits with EVLM Rate Edit"
        )
    rows, good = 0, 0
    for row in read_rows(folder):
        if row.split == SPLIT:
            rows, good = rows + 1, good + row.label
    if not good:
        what = f"none of the {rows} rows" if rows else f"no row of the split {SPLIT!r}"
        raise RecordError(f"dataset {folder.name!r}: {what} is rated good, and that is what is learned first")


def _phase_steps(recipe: Path, wanted: int) -> dict[str, int]:
    """Settings that share `wanted` steps among a recipe's phases as the recipe shares its own; none for 0."""
    import yaml

    if not wanted:
        return {}
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    recipe_steps = [int(phase["steps"]) for phase in content["phases"]]
    share = wanted / content.get("cycles", 1) / sum(recipe_steps)
    ends = [round(sum(recipe_steps[: at + 1]) * share) for at in range(len(recipe_steps))]
    return {
        f"phases.{at}.steps": max(1, end - begin)
        for at, (begin, end) in enumerate(zip([0, *ends], ends, strict=False))
    }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
