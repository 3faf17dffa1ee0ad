"""`python -m trainer.bundle.bridge`: trains one bridge to the bundle, or the arms of a study, and measures
it. Stopped, the same command goes on.

    python -m trainer.bundle.bridge --seed 0                                # all parts: runs/bridge/all-0
    python -m trainer.bundle.bridge --seed 0 --parts patch region           # an arm of the study
    python -m trainer.bundle.bridge --seed 0 --parts none                   # words alone, at equal steps
    python -m trainer.bundle.bridge --seed 0 --rival                        # the reference pasted beside
    python -m trainer.bundle.bridge --seed 0 --measure 300                  # ... and what is right, of both
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from evlm.edit.bridge import PARTS
from evlm.edit.bridge_editor import BridgedIP2P
from evlm.edit.ip2p import IP2P
from evlm.errors import EVLMError
from evlm.files.pictures import write_atomically
from evlm.models.zoo import BUNDLED

from .data import Sample
from .measure import cue_losses, measure
from .rival import Pasted, train_rival
from .train import Recipe, begin, pool_of, train


def main(words: list[str] | None = None) -> int:
    """Returns 0, or 2 with the reason on stderr."""
    recipe = Recipe()
    parser = argparse.ArgumentParser(prog="python -m trainer.bundle.bridge", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--parts", nargs="+", choices=(*PARTS, "none"), default=list(PARTS))
    parser.add_argument("--steps", type=int, nargs=3, default=list(recipe.steps), metavar="N")
    parser.add_argument("--pool", type=int, default=recipe.pool, metavar="N", help="samples (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/bridge"), help="states and files")
    parser.add_argument("--float32", action="store_true", help="where the processor has no bfloat16")
    parser.add_argument("--rival", action="store_true", help="train the rival, not a bridge")
    parser.add_argument("--measure", type=int, default=0, metavar="ROWS", help="of each kind, held out")
    args = parser.parse_args(words)
    torch.set_num_threads(1)
    parts = tuple(part for part in PARTS if part in args.parts)
    recipe = replace(recipe, parts=parts, steps=tuple(args.steps), pool=args.pool, half=not args.float32)
    rival = args.work / f"rival-{args.seed}" / "rival.safetensors"
    name = f"{'all' if parts == PARTS else '-'.join(parts) or 'none'}-{args.seed}"
    work = args.work / name
    try:
        began = time.process_time()
        file = work / "bridge.safetensors"
        if args.rival:
            pool = pool_of(BUNDLED, args.work, recipe, args.seed, begin(BUNDLED, recipe, args.seed), _log)
            train_rival(BUNDLED, rival, rival.parent, pool, args.seed, _log, recipe)
        else:
            train(BUNDLED, file, work, args.seed, _log, recipe)
        _log(f"bridge: {(time.process_time() - began) / 60:.1f} CPU-minutes")
        if args.measure and not args.rival:
            _measure(file, work / "measured.json", args.measure, rival, recipe.shape.rank)
    except EVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _measure(file: Path, out: Path, rows: int, rival: Path, rank: int) -> None:
    editor = BridgedIP2P.load(file, device="cpu")
    plain = IP2P.load(BUNDLED / "editor", device="cpu")
    others: dict[str, Callable[[Sample], IP2P]] = {"alone": lambda sample: plain}
    if rival.is_file():
        others["pasted"] = Pasted.begin(BUNDLED, rank).put(rival).of
    found = {**measure(BUNDLED, editor, rows, log=_log, others=others), "rows": rows}
    found |= cue_losses(BUNDLED, editor)
    text = json.dumps({key: round(value, 4) for key, value in found.items()}, indent=1) + "\n"
    write_atomically(out, lambda into: into.write(text.encode()))
    print(text, end="")


def _log(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
