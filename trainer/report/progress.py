"""Where a run's events go: to the screen (a bar, lines, or JSON for programs), into log.jsonl, to TensorBoard
and, if the recipe names a project, to Weights & Biases."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from evlm.errors import ConfigError, TrainingError

from ..config.recipe import Config
from .events import LOG, json_line, numbers

STYLES = ("auto", "bar", "lines", "jsonl")
TENSORBOARD = "tensorboard"  # in the run's folder
WANDB_TIMES = "wandb-times"  # there, too: how often it was begun anew

Report = Callable[[Mapping[str, Any]], None]


class Sink(Protocol):
    """Takes one event after the other; `line` is the event as JSON."""

    def take(self, event: Mapping[str, Any], line: str) -> None: ...

    def close(self) -> None: ...


@contextmanager
def reporting(config: Config, style: str = "auto", fresh: bool = False) -> Iterator[Report]:
    """What a training's events are handed to, one JSON-able dict each.

    style: "bar", "lines", "jsonl" (each event as one line of JSON, as in log.jsonl), or "auto": a bar in a
    terminal, else lines. fresh: the run begins anew, at W&B too. Raises TrainingError where a package is
    missing or the folder cannot be written, ConfigError where the recipe asks for W&B and it is not there.
    """
    out = Path(config.out)
    if style == "auto":
        # A terminal that does not know its own size (some containers') would show no bar at all.
        sized = all(shutil.get_terminal_size((0, 0)))
        style = "bar" if sys.stdout.isatty() and sized else "lines"
    with ExitStack() as stack:
        sinks: list[Sink] = []
        for make in (
            lambda: Log(out / LOG),
            lambda: TensorBoard(out / TENSORBOARD),
            lambda: None if config.wandb is None else WandB(config, fresh),
            lambda: Bar() if style == "bar" else Lines(style == "jsonl"),
        ):
            sink = make()
            if sink is not None:
                sinks.append(sink)
                stack.callback(sink.close)

        def report(event: Mapping[str, Any]) -> None:
            line = json_line(event)
            for sink in sinks:
                sink.take(event, line)

        yield report


class Log:
    """log.jsonl, appended to. What a killed run left of a line is ended first."""

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.path, self.file = path, path.open("a+b")
            if self.file.tell():
                self.file.seek(-1, 2)
                if self.file.read(1) != b"\n":
                    self.file.write(b"\n")
        except OSError as error:
            raise TrainingError(
                f"{path} cannot be written ({error.strerror}); choose another `out`"
            ) from error

    def take(self, event: Mapping[str, Any], line: str) -> None:
        try:
            self.file.write(line.encode("utf-8", "replace") + b"\n")
            self.file.flush()
        except OSError as error:
            raise TrainingError(
                f"{self.path} cannot be written ({error.strerror}); free some space"
            ) from error

    def close(self) -> None:
        with suppress(OSError):  # the disk is full, and was said to be
            self.file.close()


class Lines:
    """A line for each event, for people or (`json`) for programs."""

    def __init__(self, json: bool = False) -> None:
        self.json = json

    def take(self, event: Mapping[str, Any], line: str) -> None:
        print(line if self.json else said(event), flush=True)

    def close(self) -> None:
        pass


class Bar:
    """A bar over the run's steps with the loss parts, tokens a second and the time that is left; other events
    are lines above it."""

    def __init__(self) -> None:
        self.bar: Any = None

    def take(self, event: Mapping[str, Any], line: str) -> None:
        from tqdm import tqdm

        kind = event["event"]
        if kind == "start":
            self.bar = tqdm(
                total=event["steps"], file=sys.stdout, unit="step", dynamic_ncols=True, mininterval=0
            )
        elif self.bar is not None and kind == "resume":
            self.bar.reset()
            self.bar.initial = self.bar.n = event["step"]  # not done now, so they say nothing of the pace
        if self.bar is None or kind not in ("step", "start"):
            (self.bar.write if self.bar is not None else print)(said(event))
            return
        if kind == "step":
            self.bar.set_description(str(event.get("kind", "")), refresh=False)
            self.bar.set_postfix_str(_parts(event), refresh=False)
            self.bar.update(event["step"] - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


class TensorBoard:
    """Event files of every number, by kind of phase. A run that goes on hides what it does again."""

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                "a run's curves are written for TensorBoard by tensorboardX, which is not installed: "
                "pip install tensorboardX"
            ) from error
        self.folder, self.kind, self.from_step = folder, SummaryWriter, 0
        self.writer: Any = None

    def take(self, event: Mapping[str, Any], line: str) -> None:
        if event["event"] == "resume":
            self.from_step = event["step"] + 1
        group, step = _group(event), event.get("step")
        if group is None or type(step) is not int:
            return
        if self.writer is None:
            unique = f".{time.time_ns()}"  # a file is named after the second alone, and would be replaced
            self.writer = self.kind(str(self.folder), purge_step=self.from_step, filename_suffix=unique)
        for name, value in numbers(event).items():
            self.writer.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


class WandB:
    """The same numbers in a project of Weights & Biases; one run there for one folder here, until it begins
    anew (`fresh`): a run there takes no step twice."""

    def __init__(self, config: Config, fresh: bool = False) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                f"wandb {config.wandb!r:.60}: the package wandb is not installed: pip install wandb, or "
                "leave `wandb` out of the recipe"
            ) from error
        out = Path(config.out).resolve()
        said = f"{out} {config.identity}".encode("utf-8", "surrogatepass")
        name = hashlib.blake2b(said, digest_size=8).hexdigest()
        began, times = out / WANDB_TIMES, 0
        try:
            times = int(began.read_text()) if began.is_file() else 0
            if fresh:
                times += 1
                began.parent.mkdir(parents=True, exist_ok=True)
                began.write_text(f"{times}\n")
        except (OSError, ValueError) as error:
            raise TrainingError(f"{began} cannot be used ({error}); delete it") from error
        name += f"-{times}" if times else ""
        try:
            self.run: Any = wandb.init(
                project=config.wandb,
                name=out.name,
                dir=str(out),
                id=name,
                resume="allow",
                config=asdict(config),
            )
        except Exception as error:  # of any kind: the network's, the account's
            raise TrainingError(
                f"W&B does not begin ({' '.join(str(error).split()):.300}); `wandb login`, or "
                "WANDB_MODE=offline, or leave `wandb` out of the recipe"
            ) from error

    def take(self, event: Mapping[str, Any], line: str) -> None:
        group = _group(event)
        if group is not None and type(event.get("step")) is int:
            self.run.log({f"{group}/{n}": v for n, v in numbers(event).items()}, step=event["step"])

    def close(self) -> None:
        self.run.finish()


def said(event: Mapping[str, Any]) -> str:
    """An event in one line for people."""
    kind = str(event["event"])
    at = f" {event['step']}" if "step" in event else ""
    if kind == "step":
        return f"{event.get('kind', '')} step{at} {_words(event)}".strip()
    if kind == "sample":
        items = event["items"]
        ious = [item["iou"] for item in items if item["iou"] is not None]
        mean = f", mask IoU {sum(ious) / len(ious):.2f}" if ious else ""
        return f"samples at step{at}: {sum(item['right'] for item in items)} of {len(items)} right{mean}"
    return f"{kind}{at} {_words(event)}".strip()


def _words(event: Mapping[str, Any]) -> str:
    places = ("event", "stage", "kind", "step", *(("steps",) if event["event"] == "step" else ()))
    rest = {k: v for k, v in event.items() if k not in places}
    return " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rest.items())


def _parts(event: Mapping[str, Any]) -> str:
    """The loss, its parts, and the pace, as short as a bar needs them."""
    values = numbers(event)
    first = {name: values[name] for name in values if name.startswith(("loss", "eta0", "reward", "iou"))}
    pace = f"{values['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in values else ""
    return " ".join([*(f"{name} {value:.3g}" for name, value in first.items()), pace]).strip()


def _group(event: Mapping[str, Any]) -> str | None:
    """What an event's numbers are named after; None for one that measures nothing."""
    if event["event"] == "step":
        return str(event.get("kind", "step"))
    return str(event["event"]) if event["event"] in ("eval", "dropped") else None
