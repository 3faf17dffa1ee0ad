"""`python -m trainer run RECIPE [key=value ...]`: trains an adapter, and goes on where it stopped."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .config import RECIPES, Config, load_config


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    names = ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    parser.add_argument("recipe", help=f"a YAML file, or one that is shipped: {names}")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings in place of the recipe's")
    parser.add_argument("--dry-run", action="store_true", help="check the recipe and say what it would do")
    parser.add_argument(
        "--progress", choices=("lines", "jsonl"), default="lines", help="for people, or one JSON a line"
    )


def run(args: argparse.Namespace) -> int:
    config = load_config(args.recipe, args.settings)
    if args.dry_run:
        return _plan(config)
    from .loop import Stopped
    from .loop import run as train

    log = Path(config.out) / "log.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as file:

        def report(event: dict[str, Any]) -> None:
            line = json.dumps(event)
            file.write(line + "\n")
            file.flush()
            print(line if args.progress == "jsonl" else _said(event), flush=True)

        try:
            train(config, report)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return 130
    return 0


def _plan(config: Config) -> int:
    """Loads the model and the rows' names, trains nothing."""
    from .learner import load_learner

    learner = load_learner(config)
    every, learns = (
        sum(p.numel() for p in learner.model.parameters()),
        sum(p.numel() for p in learner.trainable()),
    )
    print(f"model {config.model.base}: {every:,} parameters, {learns:,} of them are trained")
    size = sum(p.nbytes for p in learner.model.parameters())
    memory = f"{(size + 12 * learns) / 1e6:,.0f} MB"
    print(f"memory: {memory} for weights, gradients and AdamW; activations come on top")
    for number, phase in enumerate(config.stages):
        count = learner.rows(config, phase).count
        shown = "the endless world" if count is None else f"{count:,} rows"
        what = f"{phase.kind}, {phase.steps} steps of {phase.batch} rows from {shown}, lr {phase.lr:g}"
        print(f"stage {number}: {what}")
    print(f"writes {config.out}/adapter.safetensors")
    return 0


def _said(event: dict[str, Any]) -> str:
    kind = event["event"]
    rest = {k: v for k, v in event.items() if k not in ("event", "stage", "kind", "step")}
    words = " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rest.items())
    where = (
        f"{event['kind']} step {event['step']}"
        if kind == "step"
        else f"{kind} {event.get('step', '')}".strip()
    )
    return f"{where} {words}".strip()
