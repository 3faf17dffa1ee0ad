"""`python -m trainer start FOLDER`: looks at a dataset of a known form, writes a recipe with a reason beside
each choice, and says which command to run."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import torch

from evlm.errors import ConfigError
from evlm.files.pictures import write_atomically

from ..config.recipe import load_config
from .draft import destination, draft
from .look import Found, look


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declares the command's flags."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a folder of rows, or one file of them")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="the recipe; by default FOLDER's name, .yaml"
    )
    parser.add_argument(
        "--base", metavar="MODEL", help="the model to train, in place of what fits this machine"
    )
    parser.add_argument("--force", action="store_true", help="replace a recipe that is there")


def run(args: argparse.Namespace) -> int:
    """Raises ConfigError, RecordError."""
    file = args.out or destination(args.folder)
    if file.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"{file}: expected a name that ends in .yaml")
    if file.exists() and not args.force:
        raise ConfigError(f"{file} is there already; name another with --out, or use --force")
    if args.base is not None and (not args.base.strip() or not args.base.isprintable()):
        raise ConfigError(f"--base {args.base!r:.80}: expected a model's name or its folder")
    found = look(args.folder)
    made = draft(found, f"runs/{file.stem}", args.base, _card())
    write_atomically(file, lambda out: out.write(made.text.encode()))
    load_config(file)  # what is written can be run
    print(
        "\n".join([*described(found), f"trained is {made.why}", f"wrote {file}, a reason beside each choice"])
    )
    named = f"./{file}" if str(file).startswith("-") else str(file)  # else argparse takes it for a flag
    command = f"python -m trainer run {shlex.quote(named)}"
    print(f"next:\n  {command} --dry-run     # memory, time, and what is missing\n  {command}")
    return 0


def described(found: Found) -> list[str]:
    """What was found, for people."""
    lines = []
    for part in found.parts:
        labels = (
            f"{part.labelled:,} labelled, {part.undesired:,} of them undesired"
            if part.labelled
            else "no labels"
        )
        held = f", {part.validation:,} more of the split validation to measure on" if part.validation else ""
        shown = f", {part.pictures:.1f} pictures a row" if part.pictures else ", no pictures"
        lines.append(f"{part.path}: {part.rows:,} rows of the form {part.form}, {labels}{shown}{held}")
    return lines + [f"left out: {line}" for line in found.refused]


def _card() -> float | None:
    """Bytes of the CUDA card that is here."""
    return float(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else None
