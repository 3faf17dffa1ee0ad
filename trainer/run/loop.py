"""A training run: SFT, KTO and RKTO phases on a LoRA adapter, one after the other, from one recipe.

A step is a function of (seed, stage, step), so a run that was stopped anywhere goes on from its last whole
state and ends in the same bits.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from evlm.adapter.stacking import check_stackable
from evlm.errors import ConfigError, TrainingError

from ..config.recipe import Config, Phase, completed
from ..learner.adapter import REFERENCE, freeze_reference, remove_learned, save_learned
from ..learner.guard import check_in_a_row, skip_reason, within_memory
from ..learner.learner import Learner, load_learner
from ..learner.rows import Example, Rows
from ..learner.state import Progress, Saved, States
from ..model.optim import decayed
from ..model.ranks import joined
from ..model.reference import LogProbCache, ReferencePolicy
from ..model.token_count import pop_count
from ..steps.dpo import dpo_step
from ..steps.draws import Draws
from ..steps.group import group_step
from ..steps.kto import kto_step
from ..steps.rkto import rkto_step
from ..steps.sft import sft_step
from .allocator import keep_memory
from .heldout import HeldOut, better
from .lock import locked

Report = Callable[[dict[str, Any]], None]


class Stopped(Exception):
    """The run was asked to stop; its state is saved."""


def run(config: Config, report: Report, fresh: bool = False) -> Path:
    """Trains what the recipe says and returns the adapter's file, or the model's folder where its own weights
    learn; Load EVLM takes both.

    Goes on from the newest whole state in the recipe's folder. Under `accelerate launch` or torchrun the
    processes share each batch; the first one reports, and writes. fresh: delete what an earlier run left.
    report: called with one JSON-able dict an event: "start", "resume", "broken" (a state that was passed
    over), "rows" (a file of rows that was changed since), "step", "dropped", "memory" (the micro-batch was
    halved), "eval", "early" (a phase ends before its time), "sample", "saved", "phase", "done".
    Raises Stopped after SIGTERM or Ctrl-C on any rank, with the state saved; ConfigError, ModelError,
    RecordError; TrainingError where it cannot go on, or another process trains in the folder.
    """
    with ExitStack() as stack:
        ranks, device = stack.enter_context(joined(config.model.device))
        stop = stack.enter_context(_asked_to_stop())
        if ranks.rank == 0:  # who speaks for all its peers
            stack.enter_context(locked(Path(config.out)))
        for number, phase in enumerate(config.phases):
            if phase.batch < ranks.count:
                raise ConfigError(
                    f"phases.{number}.batch {phase.batch}: expected a row for each of {ranks.count} processes"
                )
        if config.model.adapter:
            check_stackable(config.model.adapter)  # what is written in the end holds both
        learner = load_learner(replace(config, model=replace(config.model, device=device)), ranks)
        if learner.device.type == "cpu":
            keep_memory()
        return _Run(config, learner, report if ranks.rank == 0 else _silent, stop).go(fresh)


def _silent(event: dict[str, Any]) -> None:
    pass


@dataclass
class _Run:
    config: Config
    learner: Learner
    report: Report
    stop: threading.Event

    def __post_init__(self) -> None:
        self.out = Path(self.config.out)
        identity = json.loads(self.config.identity)
        self.states = States(self.out / "state", identity, self.config.keep_last, completed)
        self.progress = Progress()
        # What the phases learn from, opened once each: counting rows reads them.
        self.rows = {phase: self.learner.rows(self.config, phase) for phase in self.config.phases}
        self.planned = [phase.length(self.rows[phase].count) for phase in self.config.stages]
        self.held_out = HeldOut(self.config, self.learner)
        self.draws = Draws(self.out / "draws", self.learner.ranks)

    @property
    def total(self) -> int:
        return sum(self.progress.lengths)

    def go(self, fresh: bool) -> Path:
        count = sum(p.numel() for p in self.learner.trainable())
        self.report({"event": "start", "steps": sum(self.planned), "trainable": count})
        saved, before = self._newest(fresh), 0
        self.progress.lengths = self.progress.lengths or self.planned
        for stage, phase in enumerate(self.config.stages):
            step = before + self.progress.lengths[stage]
            if self.progress.step < step or (self.progress.step == step and self._unseen()):
                self._stage(stage, before, saved)
                step = before + self.progress.lengths[stage]  # fewer, where it ended before its time
                self.report({"event": "phase", "stage": stage, "kind": phase.kind, "step": step})
            before += self.progress.lengths[stage]
        path = self.out / self.learner.names[0]
        self._keep(path)
        self.report({"event": "done", "adapter": str(path)})
        return path

    def _newest(self, fresh: bool) -> Saved | None:
        """The state to go on from, its weights in place."""
        ranks, device = self.learner.ranks, self.learner.device
        if fresh and ranks.rank == 0:
            self.states.clear()
            self.draws.clear()
            for name in self.learner.names:
                remove_learned(self.out / name)
        ranks.any(fresh, device)  # nobody looks before that
        saved = self.states.newest()
        for name in self.states.broken:
            self.report({"event": "broken", "state": name})
        step = 0 if saved is None else saved.progress.step
        if ranks.any(ranks.total(step, device) != step * ranks.count, device):
            raise TrainingError(f"the processes see different states; {self.out} must be one folder for all")
        if saved is not None:
            saved.load_weights(self.learner.model)
            self.progress = saved.progress
            self.report({"event": "resume", "step": step})
        return saved

    def _stage(self, stage: int, before: int, saved: Saved | None) -> None:
        """The steps that are left of a stage whose first step is the run's `before`."""
        config, learner, progress = self.config, self.learner, self.progress
        phase, first, steps = config.stages[stage], progress.step - before, progress.lengths[stage]
        rows = self.rows[phase]
        self._compare_rows(rows)
        lengths = zip(config.stages[:stage], progress.lengths[:stage], strict=True)
        earlier = sum(-(-length // each.draws) for each, length in lengths if each.kind == phase.kind)
        optimizer = torch.optim.AdamW(learner.trainable(), lr=phase.lr, weight_decay=phase.weight_decay)
        if first and saved is not None:
            saved.load_optimizer(optimizer)
        else:
            progress.stage, progress.cycle = stage, stage // len(config.phases)
            progress.micro_batch, progress.losses, progress.norms = None, [], []
            progress.waited, progress.lowest = 0, None
        reference = self._reference(phase, stage, first, rows)
        learner.model.train()
        due = first == steps or (config.eval_every and progress.step % config.eval_every == 0)
        killed = first and due and self._unseen()  # while it measured
        if killed and self._end_step(optimizer, before, stage, first == steps):
            raise Stopped(f"stopped at step {progress.step}; the same command goes on from there")
        fed, began, worst = 0, time.monotonic(), ""
        for step in range(first, progress.lengths[stage]):
            at, last = before + step + 1, step + 1 == steps
            for group in optimizer.param_groups:
                group["lr"] = phase.lr * decayed(step, steps, phase.warmup, phase.schedule, phase.cooldown)
            number, inner = earlier + step // phase.draws, step % phase.draws
            cpu = time.process_time()  # of the step alone, not of what is measured and saved behind it
            parts, tokens = self._gradients(reference, rows, number, phase, at, inner)
            fed, progress.tokens, progress.step = fed + tokens, progress.tokens + tokens, at
            norm = float(torch.nn.utils.clip_grad_norm_(learner.trainable(), phase.clip))
            why = skip_reason(progress, parts["loss"], norm, phase.explode, phase.clip)
            if why is None and norm:  # with nothing to learn momentum does not move on alone, on any rank
                optimizer.step()
            elif why is not None:
                self.report(
                    {
                        "event": "dropped",
                        "stage": stage,
                        "step": at,
                        "loss": repr(parts["loss"]),
                        "why": why,
                        "dropped": progress.dropped,
                    }
                )
                worst = f"{worst}; step {at}: {why}" if worst else f"step {at}: {why}"
                remedy = f"lower phases.{stage % len(config.phases)}.lr, which was {phase.lr:g}"
                check_in_a_row(progress, worst, remedy)
            progress.cpu_seconds += time.process_time() - cpu
            if at % config.log_every == 0 or last:
                seconds = time.monotonic() - began
                self.report(
                    {
                        "event": "step",
                        "stage": stage,
                        "kind": phase.kind,
                        "step": at,
                        "steps": self.total,
                        **parts,
                        "norm": norm,
                        "lr": optimizer.param_groups[0]["lr"],
                        "seconds": seconds / (step + 1 - first),
                        "tokens": tokens,
                        "tokens_total": progress.tokens,
                        "tokens_per_second": fed / seconds,
                    }
                )
            stopping = self._end_step(optimizer, before, stage, last)
            if stopping:
                raise Stopped(f"stopped at step {at}; the same command goes on from there")
            if step + 1 == progress.lengths[stage]:
                break

    def _unseen(self) -> bool:
        """Whether what is measured was not measured where the run stands."""
        return bool(self.config.eval_every) and self.progress.looked != self.progress.step

    def _compare_rows(self, rows: Rows) -> None:
        """Says which files of rows are not those that the run has learned from so far."""
        known = self.progress.contents
        for path, content in rows.contents.items():
            if known.get(path, content) != content:
                why = (
                    "its rows are not those that this run has learned from so far; it goes on with them, and "
                    "ends elsewhere than a run without the change would have"
                )
                self.report({"event": "rows", "step": self.progress.step, "path": path, "why": why})
        self.progress.contents = {**known, **rows.contents}

    def _reference(self, phase: Phase, stage: int, first: int, rows: Rows) -> ReferencePolicy | None:
        anew = not first and (not stage or self.config.stages[stage - 1].kind == "sft")
        if phase.kind != "sft" and anew and any(each.frozen for each in self.config.phases):
            freeze_reference(self.learner.model)  # else the one of the last SFT phase stays (Algorithm 1)
        if not phase.frozen:
            self.progress.reference = None
            return None
        again = rows.count is not None  # an endless world's rows never come back
        cache = LogProbCache(self.out / _cache_name()) if again else None
        reference = ReferencePolicy(self.learner.model, REFERENCE, cache)
        if first and reference.fingerprint != self.progress.reference:
            raise TrainingError(
                f"the weights of {self.config.model.base} are not those that {self.states.folder} was made "
                "with; bring them back, or start anew with --fresh"
            )
        self.progress.reference = reference.fingerprint
        return reference

    def _gradients(
        self, reference: ReferencePolicy | None, rows: Rows, number: int, phase: Phase, at: int, inner: int
    ) -> tuple[dict[str, float], int]:
        """One step's gradients, left in the parameters; (the whole batch's numbers, tokens fed). inner: which
        step on the same draw it is."""
        learner, ranks = self.learner, self.learner.ranks
        examples = rows.batch(number, ranks)
        self.draws.seen = (
            {} if rows.count is None else self.progress.seen
        )  # an endless world's never come back

        def attempt(micro_batch: int | None) -> tuple[dict[str, float], int]:
            for parameter in learner.trainable():
                parameter.grad = None
            # Dropout's chance.
            torch.manual_seed(self.config.seed * 1_000_003 + at + (ranks.rank << 48))
            pop_count()
            some = replace(phase, micro_batch=micro_batch)
            parts = _step(learner, reference, examples, some, at, self.config.seed, self.draws, inner)
            ranks.sum_gradients(learner.trainable())
            return parts, int(ranks.total(pop_count(), learner.device))

        def halved(micro_batch: int) -> None:
            self.report({"event": "memory", "step": at, "micro_batch": micro_batch})

        most = -(-phase.batch // ranks.count)
        known = self.progress.micro_batch or phase.micro_batch
        result, used = within_memory(attempt, most, known, ranks, learner.device, halved)
        self.progress.micro_batch = None if used == phase.micro_batch else used
        if phase.kind == "group":
            self.draws.commit(self.states.steps())
        return result

    def _end_step(self, optimizer: torch.optim.Optimizer, before: int, stage: int, last: bool) -> bool:
        """Saves and looks, where it is time to; whether the run was asked to stop. Saves first: looking takes
        long, and may fail. before: steps of earlier stages."""
        learner, at = self.learner, self.progress.step
        saved = at % self.config.save_every == 0 or last or self._stopping()
        if saved:  # the states before it stay until it is clear which one is best
            self._save(optimizer, prune=False)
        try:
            changed = self._look(at, stage, last) | self._end_early(before, stage, last)
        except Exception:
            if not saved:
                self._save(optimizer)
            raise
        stopping, looked = self._stopping(), self.progress.looked == at
        if changed or (looked if saved else stopping):  # else it would be measured again when it goes on
            self._save(optimizer)
        elif saved and learner.ranks.rank == 0:
            self.states.prune(self.progress)
        return stopping

    def _end_early(self, before: int, stage: int, last: bool) -> bool:
        """Whether the stage ends here because its measurements get no better; its length is then this one."""
        phase, progress = self.config.stages[stage], self.progress
        if last or not phase.patience or progress.waited < phase.patience:
            return False
        done = progress.step - before
        progress.lengths = [*progress.lengths[:stage], done, *progress.lengths[stage + 1 :]]
        self.report({"event": "early", "stage": stage, "step": progress.step, "waited": progress.waited})
        return True

    def _stopping(self) -> bool:
        return self.learner.ranks.any(self.stop.is_set(), self.learner.device)

    def _look(self, at: int, stage: int, last: bool) -> bool:
        """Measures and draws where it is time to, and at each phase's end; whether the state must be saved
        again: what was learned is the best yet, and kept, or the phase counts its measurements."""
        config, phase = self.config, self.config.stages[stage]
        if config.sample_every and at % config.sample_every == 0:
            self.report(self.held_out.sample(at))
        if not config.eval_every or (at % config.eval_every and not last):
            return False
        measured = {**self.held_out.measure(), **self.held_out.loss()}
        self.report({"event": "eval", "step": at, "stage": stage, "kind": phase.kind, **measured})
        if self.progress.asked not in (None, self.held_out.hash):
            self.progress.best = None  # it was measured on other questions
            self.progress.lowest, self.progress.waited = None, 0
        self.progress.asked = self.held_out.hash
        self._wait(phase, measured)
        if not config.keep_best or not better(measured, self.progress.best):
            return bool(phase.patience)
        self._keep(self.out / self.learner.names[1])
        self.progress.best = {"step": at, **measured}
        return True

    def _wait(self, phase: Phase, measured: dict[str, float]) -> None:
        """Counts the measurements since the phase's best one."""
        progress = self.progress
        progress.looked = progress.step
        if not phase.patience:
            return
        value = measured[phase.patience_by] * (1 if phase.patience_by == "loss" else -1)
        if progress.lowest is None or value < progress.lowest:
            progress.waited, progress.lowest = 0, value
        else:
            progress.waited += 1

    def _save(self, optimizer: torch.optim.Optimizer, prune: bool = True) -> None:
        if self.learner.ranks.rank == 0:
            folder = self.states.save(self.learner.model, optimizer, self.progress, prune)
            self.report(
                {
                    "event": "saved",
                    "step": self.progress.step,
                    "state": folder.relative_to(self.out).as_posix(),
                }
            )

    def _keep(self, path: Path) -> None:
        if self.learner.ranks.rank == 0:
            notes = {"steps": self.progress.step, "recipe": self.config.identity[:2000]}
            try:
                save_learned(self.learner, path, notes, self.config.model.adapter)
            except OSError as error:
                raise TrainingError(
                    f"{path} cannot be written ({error.strerror}). The states are whole: free some space and "
                    "run the same command again"
                ) from error


def _cache_name() -> str:
    """Of several machines each has its own: locks of SQLite do not hold over a network's file system."""
    here, everywhere = (int(os.environ.get(name, "1")) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    host = re.sub(r"[^\w.-]", "_", platform.node())
    return f"reference-{host}.sqlite" if here < everywhere else "reference.sqlite"


def _step(
    learner: Learner,
    reference: ReferencePolicy | None,
    examples: list[Example],
    phase: Phase,
    at: int,
    seed: int,
    draws: Draws,
    inner: int,
) -> dict[str, float]:
    """One step's gradients, left in the parameters, and the whole batch's numbers."""
    if phase.kind == "group":
        return group_step(learner, reference, examples, phase, at, seed, draws, inner)
    if reference is None:
        return sft_step(learner, examples, phase)
    if phase.kind == "dpo":
        return dpo_step(learner, reference, examples, phase)
    if phase.kind == "kto":
        return kto_step(learner, reference, examples, phase, at)
    return rkto_step(learner, reference, examples, phase, at, seed)


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set by SIGTERM and Ctrl-C, so that the step is finished and saved; elsewhere than in the main thread
    signals stay whose they are."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    names = ("SIGTERM", "SIGINT", "SIGBREAK")  # the last is Windows': the one that a node can send its child
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    old = {each: signal.signal(each, lambda *_: stop.set()) for each in known}
    try:
        yield stop
    finally:
        for each, handler in old.items():
            signal.signal(each, handler)
