"""`python -m evlm scene check`: whether an edit kept what it was not to touch, read from the files."""

from __future__ import annotations

import argparse
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EVLMError
from . import arguments as kinds
from .outputs import expanded

if TYPE_CHECKING:
    from torch import Tensor

    from ..scene.kept import Kept

BROKEN = 1  # exit status where a row that was not selected is not as it was
_MOST = 64 * 2**20  # bytes of a selection: a byte a Gaussian, and more than a CPU can edit
_NAMED = 5  # rows that are named


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    text = "the scene as it was: .ply, .splat, .spz, .ksplat, or the folder of a scene that moves"
    add("before", metavar="BEFORE", type=kinds.path, help=text)
    add("after", metavar="AFTER", type=kinds.path, help="the scene as it was edited (edited.ply, edited)")
    text = "the selection.npz that `scene edit` wrote; without it no row may have changed"
    add("--selection", metavar="FILE", type=kinds.path, help=text)
    add("--json", action="store_true", help="as JSON, for a program")


def run(options: argparse.Namespace) -> int:
    """Read both, compare, print. Returns 1 where something outside the selection is not as it was."""
    from ..scene.kept import compare
    from ..scene.moving import load_scene

    chosen = None if options.selection is None else read_selection(expanded(options.selection))
    before, after = (load_scene(expanded(each)) for each in (options.before, options.after))
    kept = compare(before, after, chosen)
    if options.json:
        notes = [*before.notes, *after.notes]
        print(json.dumps({"whole": kept.whole, **asdict(kept), "new": kept.new, "notes": notes}, indent=2))
    else:
        print(text_of(kept, before.motion is not None))
        for each in dict.fromkeys((*before.notes, *after.notes)):
            print(f"{'note':16}{each}")
    return 0 if kept.whole else BROKEN


def read_selection(path: Path) -> Tensor:
    """bool [N], `rows` of a selection.npz. Raises EVLMError: it is none."""
    import numpy as np
    import torch

    wrong = f"{path}: is no selection; give the selection.npz that `scene edit` or `scene select` wrote"
    try:
        with zipfile.ZipFile(path) as archive:  # looked at first: it may promise more than there is room for
            if archive.getinfo("rows.npy").file_size > _MOST:
                raise EVLMError(wrong)
        with np.load(path, allow_pickle=False) as held:
            rows = held["rows"]
    except OSError as error:
        raise EVLMError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        raise EVLMError(wrong) from None
    if not isinstance(rows, np.ndarray) or rows.dtype != np.bool_ or rows.ndim != 1:
        raise EVLMError(wrong)
    return torch.from_numpy(rows)


def text_of(kept: Kept, moves: bool) -> str:
    """The same as lines to read."""
    rest = kept.before - kept.selected
    there = rest - len(kept.lost)
    lines = [
        ("before", f"{kept.before:,} Gaussians, {kept.selected:,} of them selected"),
        ("after", f"{kept.after:,}, {kept.new:,} of them new or changed"),
        ("not selected", f"{rest:,}: {there:,} are there, in their order, bit for bit"),
    ]
    if kept.same:
        lines.append(("selected", f"{kept.same:,} are there unchanged nevertheless"))
    if moves:
        lines.append(("motion", "as it was" if kept.motion else "not as it was"))
    if kept.lost:
        rows = ", ".join(map(str, kept.lost[:_NAMED])) + (", ..." if len(kept.lost) > _NAMED else "")
        lines.append(
            ("broken", f"{len(kept.lost):,} that were not selected are not as they were: row {rows}")
        )
    return "\n".join(f"{name:16}{value}" for name, value in lines)
