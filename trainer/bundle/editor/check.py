"""Measures the editor alone: true instruction, true mask, the engine's public path, the exact reader as
judge."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from evlm.edit import Editor, EditSettings
from evlm.edit.crop import crop_box, extract, restore
from trainer.world.edits import OPERATIONS, Edit
from trainer.world.reader import edit_right
from trainer.world.scene import Split

from .data import FRAME, draw_edit

if TYPE_CHECKING:
    from evlm.edit.ip2p import IP2P

BARRED = tuple(op for op in OPERATIONS if op != "move")  # what the bundle has bars for
GUIDANCES = (1.5, 2.0, 3.0)


def check(
    folder: Path, rows: int = 540, seed: int = 1, log: Callable[[str], None] = print, split: Split = "test"
) -> dict[str, float]:
    """Shares of edits that come out right, over `rows` held-out edits, as many of each kind.

    Returns the share by operation, `global` (weather, ground and restyle together), the greatest difference
    outside a mask (`outside`) and the median `seconds` an edit; and of a ninth as many moves to a named cell
    that is two away, which are not among the others, the share that is right (`move, far`), and of their true
    results through the crop and the autoencoder alone (`move, far, true`): more than that no UNet can reach.
    """
    from evlm.edit.ip2p import IP2P

    editor = IP2P.load(folder, device="cpu")
    far = far_moves(split, max(1, rows // len(OPERATIONS)), seed)
    return {
        **measure(editor, held_out(split, rows, seed), log=log),
        "move, far": measure(editor, far, log=lambda _: None)["move"],
        "move, far, true": _share([survives(editor, edit) for edit in far]),
    }


def choose_guidance(
    folder: Path, rows: int, seed: int = 9, log: Callable[[str], None] = print
) -> dict[float, float]:
    """Try GUIDANCES on the validation split and write the best to the folder's evlm.json.

    Returns the mean over the operations that have a bar of the share right, by guidance.
    """
    from evlm.edit.ip2p import IP2P

    editor = IP2P.load(folder, device="cpu")
    edits = held_out("validation", rows, seed)
    scores = {}
    for guidance in GUIDANCES:
        result = measure(editor, edits, replace(editor.defaults, guidance=guidance), lambda _: None)
        scores[guidance] = sum(result[op] for op in BARRED) / len(BARRED)
        log(f"guidance {guidance}: {scores[guidance]:.3f} of the validation edits right")
    path = folder / "evlm.json"
    notes = json.loads(path.read_text(encoding="utf-8"))
    notes["guidance"] = max(scores, key=lambda g: (scores[g], -g))
    path.write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
    return scores


def held_out(split: Split, rows: int, seed: int) -> list[Edit]:
    """Edits of one split, the operations in turn."""
    rng = random.Random(f"check {split} {seed}")
    return [draw_edit(rng, OPERATIONS[n % len(OPERATIONS)], split, moving=0)[0] for n in range(rows)]


def far_moves(split: Split, rows: int, seed: int) -> list[Edit]:
    """Moves of one split to a named cell two columns or rows away."""
    rng = random.Random(f"check far {split} {seed}")
    found: list[Edit] = []
    while len(found) < rows:
        edit, _ = draw_edit(rng, "move", split, moving=0, far=1.0)
        assert edit.target is not None and edit.outcome is not None
        (y0, x0), (y1, x1) = (divmod(thing.cell, 3) for thing in (edit.target, edit.outcome))
        if max(abs(x0 - x1), abs(y0 - y1)) == 2:
            found.append(edit)
    return found


@torch.no_grad()
def survives(editor: IP2P, edit: Edit) -> bool:
    """Whether the true result of a masked edit is still right after the crop in which the editor works and
    its autoencoder."""
    source, result = (torch.from_numpy(each).float() / 255 for each in edit.pictures(FRAME))
    mask = torch.from_numpy(edit.region(FRAME))[None].float()
    box = crop_box(mask, best_resolution=editor.best_resolution, multiple=editor.multiple)
    assert box is not None  # a region is never empty
    crop = extract(result, box).movedim(-1, 1) * 2 - 1
    seen = editor.vae.decode(editor.vae.encode(crop).latent_dist.mode()).sample
    back = source.clone()
    back[:, box.y0 : box.y1, box.x0 : box.x1] = restore((seen.movedim(1, -1) / 2 + 0.5).clamp(0, 1), box)
    return edit_right(torch.where(mask[..., None] > 0, back, source)[0].numpy(), edit)


def measure(
    editor: Editor,
    edits: Sequence[Edit],
    settings: EditSettings | None = None,
    log: Callable[[str], None] = print,
) -> dict[str, float]:
    """Edit every source as ordered and read the results. Keys as in `check`."""
    right: dict[str, list[bool]] = defaultdict(list)
    outside, seconds, done = 0.0, [], 0
    for number, edit in enumerate(edits, 1):
        source = torch.from_numpy(edit.pictures(FRAME)[0]).float() / 255
        region = edit.region(FRAME)
        mask = None if region is None else torch.from_numpy(region)[None].float()
        began = time.perf_counter()
        result = editor.edit(source, edit.instruction, mask, settings).frames
        seconds.append(time.perf_counter() - began)
        if mask is not None:
            outside = max(outside, float(((result - source).abs().amax(-1) * (mask == 0)).max()))
        good = edit_right(result[0].numpy(), edit)
        right[edit.op].append(good)
        done += good
        if edit.scope == "global":
            right["global"].append(good)
        if number % 90 == 0:
            log(f"editor: {number} of {len(edits)} edits, {done / number:.3f} right")
    shares = {name: _share(values) for name, values in right.items()}
    return {**shares, "outside": outside, "seconds": sorted(seconds)[len(seconds) // 2]}


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
