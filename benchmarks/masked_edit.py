"""A masked edit of a small object against diffusers' plain full-frame pipeline, in one run:
python -m benchmarks.masked_edit, from the root.

The same weights, steps, scheduler, guidance and seed on both sides, in turns, the order swapped each time.
The frame is 256 x 256: sixteen 64-px scenes of the tiny world, one with the object to edit (about 24 px);
and, as a second case without a bar, that one scene alone. Prints the median of the ratios of time (bar: 0.6)
and, with the trained editor, the PSNR inside the mask against the exact truth (bar: not worse than the full
frame's). Without it a random one of the same shape is timed: the time does not depend on the weights.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.edit.ip2p import IP2P
from trainer.world.edits import Edit, random_edit
from trainer.world.render import render
from trainer.world.scene import Scene, random_scene

from .diffusers_ip2p import pipeline_of

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "evlm" / "bundled" / "editor"
TILE = 64
BAR = 0.6
OPERATIONS = ("recolour", "replace", "remove", "retexture", "add", "move")


@dataclass(frozen=True)
class Case:
    """source and truth: [1, H, W, 3] in 0..1; mask: [1, H, W] of 0 and 1."""

    edit: Edit
    source: Tensor
    truth: Tensor
    mask: Tensor


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--model", type=Path, default=BUNDLED, help="a diffusers InstructPix2Pix folder")
    options.add_argument("--steps", type=int, help="denoising steps; the model's own by default")
    options.add_argument("--repeats", type=int, default=6, help="edits for each frame size (6: each kind)")
    given = options.parse_args()
    trained = given.model.is_dir()
    with tempfile.TemporaryDirectory() as place:
        editor = IP2P.load(given.model if trained else random_model(Path(place)), device="cpu")
    print(f"{given.model if trained else 'random weights in the shape of the bundled editor'}, CPU, fp32")
    ok = True
    for tiles in (4, 1):
        ok &= compare(editor, tiles, given.repeats, given.steps or editor.defaults.steps, trained)
    return 0 if ok else 1


def compare(editor: IP2P, tiles: int, repeats: int, steps: int, trained: bool) -> bool:
    """Prints one frame size; True when it passes its bars, which are for the large frame."""
    ours, plain = both(editor, steps)
    cases = [
        draw(random.Random(f"masked edit {n}"), OPERATIONS[n % len(OPERATIONS)], tiles)
        for n in range(repeats)
    ]
    ours(cases[0]), plain(cases[0])  # warm-up
    seconds: dict[str, list[float]] = {"masked": [], "full": []}
    errors: dict[str, list[float]] = {"masked": [], "full": []}
    for number, case in enumerate(cases):
        turns = [("masked", ours), ("full", plain)]
        for name, run in turns if number % 2 == 0 else reversed(turns):
            began = time.perf_counter()
            result = run(case)
            seconds[name].append(time.perf_counter() - began)
            errors[name].append(float((result - case.truth)[case.mask > 0].square().mean()))
    ratio = statistics.median(a / b for a, b in zip(seconds["masked"], seconds["full"], strict=True))
    side, inside = tiles * TILE, statistics.median(float(c.mask.sum()) ** 0.5 for c in cases)
    print(f"\n{side} x {side}, mask about {inside:.0f} px a side, {steps} steps, {repeats} edits in turns")
    for name in seconds:
        print(f"  {name:7} median {statistics.median(seconds[name]):7.3f} s", end="")
        print(f"   PSNR inside {psnr(errors[name]):5.2f} dB" if trained else "")
    print(f"  time, masked / full: {ratio:.3f}" + (f" (bar {BAR})" if tiles > 1 else ""))
    good = not trained or psnr(errors["masked"]) >= psnr(errors["full"])
    return tiles == 1 or (ratio <= BAR and good)


def both(editor: IP2P, steps: int) -> tuple[Callable[[Case], Tensor], Callable[[Case], Tensor]]:
    """Our masked edit and diffusers' pipeline, around the same modules."""
    from dataclasses import replace

    settings = replace(editor.defaults, steps=steps)
    pipe = pipeline_of(editor, settings)

    def ours(case: Case) -> Tensor:
        return editor.edit(case.source, case.edit.instruction, case.mask, settings).frames

    def plain(case: Case) -> Tensor:
        made = pipe(
            case.edit.instruction,
            image=case.source.movedim(-1, 1),
            num_inference_steps=steps,
            guidance_scale=settings.guidance,
            image_guidance_scale=settings.image_guidance,
            output_type="pt",
            generator=torch.Generator().manual_seed(settings.seed),
        )
        return made.images.movedim(1, -1).cpu()

    return ours, plain


def draw(rng: random.Random, op: str, tiles: int) -> Case:
    """An edit of one object among tiles x tiles scenes; no other scene has an object of its name."""
    while True:
        edit = random_edit(rng, op, random_scene(rng))
        if edit is not None and edit.split == "test":
            break
    others: list[Scene] = []
    while len(others) < tiles * tiles - 1:
        scene = random_scene(rng)
        if not {thing.label for thing in scene.things} & set(edit.targets):
            others.append(scene)
    middle = len(others) // 2
    before, after = (
        board([*others[:middle], s, *others[middle:]], tiles) for s in (edit.source, edit.result)
    )
    region = edit.region(TILE)
    assert region is not None
    mask = torch.zeros(1, tiles * TILE, tiles * TILE)
    row, column = divmod(middle, tiles)
    mask[0, row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE] = torch.from_numpy(region)
    return Case(edit, before, torch.where(mask[..., None] > 0, after, before), mask)


def board(scenes: list[Scene], tiles: int) -> Tensor:
    """[1, tiles * 64, tiles * 64, 3] in 0..1."""
    pictures = torch.stack([torch.from_numpy(render(scene, TILE)).float() / 255 for scene in scenes])
    rows = pictures.reshape(tiles, tiles, TILE, TILE, 3).permute(0, 2, 1, 3, 4)
    return rows.reshape(1, tiles * TILE, tiles * TILE, 3)


def psnr(errors: list[float]) -> float:
    """dB of the mean squared error over all edits, values in 0..1."""
    return float(-10 * torch.tensor(statistics.mean(errors)).clamp_min(1e-10).log10())


def random_model(folder: Path) -> Path:
    """The bundled editor's shape with random weights, as a diffusers folder."""
    from trainer.bundle.editor.models import build_tokenizer, build_vae
    from trainer.bundle.editor.train import Editor, Recipe, export

    recipe = Recipe()
    tokenizer: Any = build_tokenizer()
    export(folder / "model", build_vae(recipe.vae_width), Editor(recipe, tokenizer), tokenizer)
    return folder / "model"


if __name__ == "__main__":
    sys.exit(main())
