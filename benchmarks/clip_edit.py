"""Clips of the world edited as at 1c55b69 (one noise, one box, frame by frame) and together, with true masks.

    OMP_NUM_THREADS=1 python -m benchmarks.clip_edit [--clips 20] [--frames 16] [--seed 5] [--arms now]

A thing crosses cells, turns, is hidden or leaves for a while (trainer/world/clips.py); it gets a new colour
or texture. Right: frames, and whole clips, that show what was ordered, by the exact reader. Warp error: mean
squared difference of neighbouring frames along the true motion, times 1000; excess: less the source's own.
Flicker: standard deviation over time of the mean of (edited - truth) in the mask, of 255. Seam: warp error at
the windows' borders by that elsewhere. Time: of the edit alone. The interval is a paired bootstrap's over
clips, 95 %.

Arms: before; follow (the crop goes with the thing); noise (another seed in every frame); sparse, anchors, all
(attention, with follow, no propagation); now (the defaults); carried (keyframes and their motion).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

ARMS = ("before", "follow", "noise", "sparse", "anchors", "all", "now", "carried")


@dataclass
class Figures:
    """By clip."""

    right: list[float] = field(default_factory=list)
    every: list[float] = field(default_factory=list)
    excess: list[float] = field(default_factory=list)
    flicker: list[float] = field(default_factory=list)
    seam: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def main(clips: int, frames: int, seed: int, arms: tuple[str, ...]) -> int:
    import evlm
    from evlm.edit.load import load_editor
    from trainer.world.clip_reader import frames_right

    editor: Any = load_editor(Path(evlm.__file__).parent / "bundled" / "editor")
    figures = {arm: Figures() for arm in arms}
    for number, clip in enumerate(questions(clips, frames, seed)):
        source, truth = (torch.from_numpy(each).float() / 255 for each in clip.pictures())
        mask = torch.from_numpy(clip.regions()).float()
        for arm in arms:
            began = time.process_time()
            edited = edit(arm, editor, source, clip.edit.instruction, mask)
            took = time.process_time() - began
            assert torch.equal(edited[mask < 0.5], source[mask < 0.5])
            verdicts = [each for each in frames_right(edited.numpy(), clip) if each is not None]
            figure = figures[arm]
            figure.right.append(sum(verdicts) / max(len(verdicts), 1))
            figure.every.append(float(all(verdicts)))
            warps, own = warp_errors(clip, edited, mask), warp_errors(clip, source, mask)
            figure.excess.append(1000 * (mean(list(warps.values())) - mean(list(own.values()))))
            figure.flicker.append(255 * flicker(edited - truth, mask))
            borders = [error for frame, error in warps.items() if frame % 6 == 2 and frame > 2]
            others = [error for frame, error in warps.items() if not (frame % 6 == 2 and frame > 2)]
            if borders and mean(others) > 0:
                figure.seam.append(mean(borders) / mean(others))
            figure.seconds.append(took)
        if number % 5 == 4:
            print(f"{number + 1} clips", flush=True)
    print("arm       right  all-right  excess warp x1e-3  flicker/255  seam  CPU-s a clip")
    for arm, figure in figures.items():
        columns = (figure.right, figure.every, figure.excess, figure.flicker, figure.seam, figure.seconds)
        print(f"{arm:8s} " + " ".join(f"{mean(column):9.3f}" for column in columns))
    if "before" in figures:
        for arm in arms[1:]:
            gain = np.array(figures[arm].every) - np.array(figures["before"].every)
            low, high = interval(gain, seed)
            ratio = mean(figures[arm].seconds) / mean(figures["before"].seconds)
            print(
                f"{arm} - before: all right {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}], time {ratio:.2f}x"
            )
    return 0


def questions(count: int, frames: int, seed: int) -> Iterator[Any]:
    """Clips in whose middle a thing moves over at least three cells, turns, or is hidden or away."""
    from trainer.world.clips import ClipEdit, random_film
    from trainer.world.edits import recolour, retexture
    from trainer.world.scene import CENTRES, COLOURS, TEXTURES, random_scene

    rng = random.Random(seed)
    while count:
        scene = random_scene(rng, weather="clear")
        film = random_film(rng, scene, 0, frames)
        thing = rng.choice(scene.things)
        if rng.random() < 0.5:
            edit = recolour(scene, thing, rng.choice([c for c in COLOURS if c != thing.colour]))
        else:
            edit = retexture(scene, thing, rng.choice([t for t in TEXTURES if t != thing.texture]))
        clip = ClipEdit(film, edit)
        index = scene.things.index(thing)
        poses = [film.pose(index, frame) for frame in range(frames)]
        seen, whole = film.masks(thing)
        area, all_of = seen.sum((1, 2)), whole.sum((1, 2))
        way = max(abs(a.x - b.x) + abs(a.y - b.y) for a in poses for b in poses[:1])
        turned = abs(poses[-1].angle - poses[0].angle) > 0.5
        hidden = bool((area < 0.5 * max(all_of.max(), 1)).any())
        if area.max() >= 24 and (way >= 2 * (CENTRES[1] - CENTRES[0]) or turned or hidden):
            count -= 1
            yield clip


def edit(arm: str, editor: Any, frames: Tensor, words: str, mask: Tensor) -> Tensor:
    from evlm.video.clip import edit_clip
    from evlm.video.settings import VideoSettings

    def together(**how: Any) -> Tensor:
        return edit_clip(editor, frames, words, mask, video=VideoSettings(**how)).frames

    if arm == "before":
        with one_box():
            return editor.edit(frames, words, mask).frames
    if arm == "follow":
        return editor.edit(frames, words, mask).frames
    if arm == "noise":
        settings = editor.defaults
        single = [
            editor.edit(frame[None], words, here[None], settings.with_kwargs(seed=100 + at)).frames
            for at, (frame, here) in enumerate(zip(frames, mask, strict=True))
        ]
        return torch.cat(single)
    if arm == "now":
        return together()
    if arm == "carried":
        return together(propagate="flow")
    return together(together=arm, propagate="none")


def one_box() -> Any:
    """As at 1c55b69: one box holds the masks of all frames, and the rim is each frame's own."""
    from evlm.edit import masked
    from evlm.edit.crop import crop_box
    from evlm.edit.regions import Place

    def places(on: Tensor, context: float, best: int, multiple: int, _cell: int = 1) -> list[Place]:
        box = crop_box(on, context, best, multiple)
        count = int(on.flatten(1).any(1).sum())
        return [] if box is None else [Place(on, (box,) * count)]

    return mock.patch.multiple(masked, places=places, smoothed=lambda masks, _which: masks)


def warp_errors(clip: Any, frames: Tensor, mask: Tensor) -> dict[int, float]:
    """By frame: how far it is from the one after it along the true motion, where that is seen in both."""
    from evlm.motion.flow import warp

    errors = {}
    for frame in range(len(frames) - 1):
        flow, hidden = clip.film.flow(frame, frame + 1)
        moved = warp(frames[frame + 1 : frame + 2], torch.from_numpy(flow)[None])[0]
        both = (mask[frame] > 0.5) & ~torch.from_numpy(hidden)
        both &= warp(mask[frame + 1 : frame + 2, ..., None], torch.from_numpy(flow)[None])[0, ..., 0] > 0.99
        if bool(both.any()):
            errors[frame] = float((moved - frames[frame]).square()[both].mean())
    return errors


def flicker(error: Tensor, mask: Tensor) -> float:
    means = [each[here > 0.5].mean(0) for each, here in zip(error, mask, strict=True) if bool(here.any())]
    return float(torch.stack(means).std(0).mean()) if len(means) > 1 else 0.0


def interval(values: Any, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    means = values[rng.integers(0, len(values), (10_000, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--arms", default="before,follow,noise,anchors,now,carried")
    given = parser.parse_args()
    chosen = tuple(given.arms.split(","))
    if unknown := set(chosen) - set(ARMS):
        parser.error(f"arms {', '.join(sorted(unknown))}: expected {', '.join(ARMS)}")
    raise SystemExit(main(given.clips, given.frames, given.seed, chosen))
