"""The first stage is the same for all arms of a seed that learn of the same: it is run once, as the arm that
has no other, and theirs begin where it ended, in the bits that they would have had."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from ..config.recipe import Config, completed
from ..learner.state import States
from ..report.events import LOG


def folder_of(arm: str, seed: int) -> str:
    """The name of a run's folder in its study's."""
    return f"{arm.replace(' ', '-').replace('/', '-')}-{seed}"


def take_over(config: Config, stage: Config) -> bool:
    """Gives a run that has not begun the state in which its first phase ended as a run of its own, `stage`,
    with its log. Whether it could: not where that was another run, or where what is measured on the way would
    be another run's."""
    first = replace(config, phases=config.phases[:1])
    lora = config.model.train == "lora"
    if first.identity != stage.identity or not lora or config.cycles > 1 or config.eval_every:
        return False
    states, done = _states(config), _states(stage).newest()
    if states.steps() or done is None or done.progress.lengths != [done.progress.step]:
        return False
    states.adopt(done, any(phase.frozen for phase in config.phases))
    shutil.copyfile(Path(stage.out) / LOG, Path(config.out) / LOG)
    return True


def _states(config: Config) -> States:
    return States(Path(config.out) / "state", json.loads(config.identity), complete=completed)
