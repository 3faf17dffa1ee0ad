"""What seamless cloning (`EditSettings.seamless`) is worth: the same paint put back with it and without.

    OMP_NUM_THREADS=1 python -m benchmarks.seamless [--edits 24] [--seed 1]

Held-out edits of the drawn world, the bundled editor, the true instruction and mask. Off: mean difference
from the true result inside the mask, of 255; less: paired, with its 95 % interval. Right: by the exact
reader. Exit code 1 where an edit is right without it and wrong with it, or where the mean of all grows.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .clip_figures import interval


def main(edits: int, seed: int) -> int:
    import evlm
    from trainer.bundle.check_solids import load_editor
    from trainer.bundle.editor.check import FRAME, edit_right, held_out
    from trainer.world.edits import OPERATIONS

    editor: Any = load_editor(Path(evlm.__file__).parent / "bundled" / "editor")
    figures: dict[str, list[tuple[float, float, bool, bool]]] = {}
    seconds = [0.0, 0.0]
    for edit in held_out("test", len(OPERATIONS) * edits, seed):
        kind = edit.op
        if edit.scope == "global" or len(figures.setdefault(kind, [])) == edits:
            continue
        source, truth = (torch.from_numpy(each).float() / 255 for each in edit.pictures(FRAME))
        mask = torch.from_numpy(edit.region(FRAME))[None].float()
        off, right = [], []
        for at, seamless in enumerate((False, True)):
            begun = time.process_time()
            settings = replace(editor.defaults, seamless=seamless)
            found = editor.edit(source, edit.instruction, mask, settings).frames
            seconds[at] += time.process_time() - begun
            off.append(float((found - truth)[mask > 0].abs().mean()) * 255)
            right.append(edit_right(found[0].numpy(), edit))
        figures[kind].append((off[0], off[1], right[0], right[1]))
    return report({kind: found for kind, found in figures.items() if found}, seconds)


def report(figures: dict[str, list[tuple[float, float, bool, bool]]], seconds: list[float]) -> int:
    print(f"{'':12}edits   off without, with   less by              right without, with")
    everything = [each for found in figures.values() for each in found]
    for kind, found in [*figures.items(), ("all", everything)]:
        table = np.array(found, dtype=float)
        less = table[:, 0] - table[:, 1]
        low, high = interval(less)
        print(
            f"{kind:12}{len(found):5}   {table[:, 0].mean():8.1f}, {table[:, 1].mean():4.1f}   "
            f"{less.mean():5.2f} [{low:.2f}, {high:.2f}]   {int(table[:, 2].sum())}, {int(table[:, 3].sum())}"
        )
    spoilt = sum(before and not after for _, _, before, after in everything)
    print(f"right without it and wrong with it: {spoilt}; {seconds[1] / seconds[0]:.3f}x the CPU time")
    grown = np.mean([after - before for before, after, _, _ in everything]) > 0
    return int(spoilt > 0 or bool(grown))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--edits", type=int, default=24, help="of each kind")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    sys.exit(main(given.edits, given.seed))
