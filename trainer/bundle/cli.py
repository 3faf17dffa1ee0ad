"""`python -m trainer bundle`: train the bundled models from nothing, measure them, draw the demo's
requests."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from evlm.errors import ConfigError

from ..config.arguments import SEEDS, check_folder, check_whole

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("reasoner", "detector", "segmenter", "tracker", "editor")


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("what", choices=("all", *MODELS, "check", "examples"))
    parser.add_argument(
        "--out", type=Path, default=ROOT / "evlm" / "bundled", help="where the model folders lie"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "runs" / "bundle", help="training states, to resume from"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--begin",
        type=Path,
        metavar="FOLDER",
        help="reasoner: train this one on, with the words of every wing, doubles, conflicts and what-ifs "
        "(default: from nothing); tracker: the segmenter that it begins with (default: the one in --out, "
        "into whose folder it goes); detector, segmenter, editor: train this one on with stills of solids",
    )
    parser.add_argument(
        "--solids",
        type=float,
        metavar="SHARE",
        help="with --begin: share of traced stills of solids, 0 to 1 (default: the reasoner's none, the "
        "others' by their recipes)",
    )
    parser.add_argument(
        "--films",
        type=float,
        metavar="SHARE",
        help="reasoner, with --begin and --solids: share of questions about clips in which things move, 0 to "
        "1 (default: by its recipe)",
    )
    parser.add_argument(
        "--float32",
        action="store_true",
        help="with --begin: compute in 32 bits; faster on a CPU without instructions for bfloat16",
    )
    parser.add_argument(
        "--rows",
        type=int,
        default=500,
        help="check: questions for each measurement",
    )
    parser.add_argument(
        "--only",
        choices=(*MODELS, "clips", "chain", "solids", "scenes"),
        action="append",
        help="check: measure this alone (may be repeated)",
    )


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError, before a training begins, where its model could not be written."""
    check_whole("--rows", args.rows)
    check_whole("--seed", args.seed, *SEEDS)
    check_folder("--out", args.out)
    if args.what in MODELS or args.what == "all":
        check_folder("--work", args.work)
    if args.begin is not None and args.what not in MODELS:
        raise ConfigError(f"--begin is for one of {', '.join(MODELS)}, not for {args.what}: leave it out")
    on = args.begin is not None and args.what != "tracker"
    for flag, given in (("--float32", args.float32), ("--solids", args.solids is not None)):
        if given and not on:
            what = "reasoner, detector, segmenter and editor"
            raise ConfigError(f"{flag} is for {what} with --begin: add that, or leave it out")
    if args.films is not None and not (on and args.what == "reasoner" and args.solids):
        raise ConfigError("--films is for reasoner with --begin and --solids: add those, or leave it out")
    for flag, share in (("--solids", args.solids), ("--films", args.films)):
        if share is not None and not 0 <= share <= 1:
            raise ConfigError(f"{flag} {share:g}: expected a share from 0 to 1")
    if (args.solids or 0.0) + (args.films or 0.0) > 1:
        raise ConfigError(f"--solids {args.solids:g} and --films {args.films:g}: more than 1 together")
    if args.what == "check":
        from .check import check_all

        return check_all(args.out, args.rows, args.seed + 1, tuple(args.only or ()))
    if args.what == "examples":
        from .example_relief import write_moving, write_relief
        from .example_scene import write_scene
        from .examples import write_examples

        print(*write_examples(args.out / "examples"), write_scene(args.out / "examples"), sep="\n")
        print(write_relief(args.out / "scenes"), write_moving(args.out / "scenes"), sep="\n")
        return 0
    if args.what == "all":
        return _train_all(args)
    import torch

    torch.set_num_threads(1)  # small layers: two recipes side by side beat one on two cores
    began, cpu = time.time(), time.process_time()
    folder = "segmenter/tracker" if args.what == "tracker" else args.what  # where its segmenter finds it
    if on:
        shares = args.solids, args.films
        _train_on(args.what, args.begin, args.out / folder, args.work, args.seed, shares, args.float32)
    else:
        _train(args.what, args.out / folder, args.work, args.seed, args.begin)
    minutes, cpu = (time.time() - began) / 60, (time.process_time() - cpu) / 60
    print(f"{args.what}: {minutes:.1f} minutes, {cpu:.1f} CPU-minutes")
    return 0


def log(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def _train_on(
    model: str,
    begin: Path,
    out: Path,
    work: Path,
    seed: int,
    shares: tuple[float | None, float | None],
    float32: bool,
) -> None:
    """Trains a model on from the folder `begin`. shares: of solids and films; None for its recipe's."""
    solids, films = shares
    if model == "reasoner":
        from . import warm

        if not solids:
            warm.train_on(begin, out, work, seed, log, replace(warm.RECIPE, autocast=not float32))
            return
        config, mix, eyes = warm.SOLID_RECIPE, warm.SOLID_MIX, warm.SOLID_EYES
        config = replace(config, autocast=not float32)
        films = warm.SOLID_FILMS if films is None else films
        warm.train_on(begin, out, work, seed, log, config, mix=mix, solids=solids, eyes=eyes, films=films)
    elif model == "editor":
        from .editor import warm as editor

        recipe = replace(editor.RECIPE, half=not float32)
        recipe = recipe if solids is None else replace(recipe, solids=solids)
        work_in = work / f"editor-again-{recipe.solids:g}-{recipe.clips:g}"
        editor.train_editor_on(begin, out, work_in, seed, log, recipe)
    else:
        from . import warm_parts as parts

        part = parts.DETECTOR if model == "detector" else parts.SEGMENTER
        part = replace(part, seed=seed, half=not float32)
        part = part if solids is None else replace(part, solids=solids)
        train = parts.train_detector_on if model == "detector" else parts.train_segmenter_on
        train(begin, out, work, part, log)


def _train(model: str, out: Path, work: Path, seed: int, begin: Path | None = None) -> None:
    if model == "reasoner":
        from .reasoner import train

        train(out, work, seed, log)
    elif model == "detector":
        from .detector import train as train_detector

        train_detector(out, seed=seed, log=log)
    elif model == "segmenter":
        from .segmenter import train as train_segmenter

        train_segmenter(out, seed=seed, log=log)
    elif model == "tracker":
        from .tracker import train as train_tracker

        train_tracker(out, work / "tracker", begin or out.parent, seed, log)
    else:
        from .editor import train as train_editor

        train_editor(out, seed=seed, log=log, work=work / "editor")


def _train_all(args: argparse.Namespace) -> int:
    """Two processes of one thread each: the editor's recipe is as long as the others together."""
    began = time.time()
    command = [sys.executable, "-m", "trainer", "bundle"]
    options = ["--out", str(args.out), "--work", str(args.work), "--seed", str(args.seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    editor = subprocess.Popen([*command, "editor", *options], cwd=ROOT, env=environment)
    try:
        codes = [
            subprocess.run([*command, m, *options], cwd=ROOT, env=environment).returncode
            for m in MODELS
            if m != "editor"
        ]
        codes.append(editor.wait())
    finally:
        if editor.poll() is None:
            editor.terminate()
    print(f"all five models: {(time.time() - began) / 60:.1f} minutes")
    return max(codes)
