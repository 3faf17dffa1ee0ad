"""Clips of the world edited as at 1c55b69 (one noise, one box, frame by frame) and with each part of what
holds a clip together, with true masks.

    OMP_NUM_THREADS=1 python -m benchmarks.clip_edit [--clips 20] [--frames 16] [--results FILE]

Of every three clips each is drawn and painted with a seed of its own. Each clip's line is printed and written
to FILE (JSON lines) at once; what stands there is not computed again, so a run that was stopped goes on, and
further arms can be added later.

Arms: before; diffusers (its own loop on the crops that follow); nothing (another noise in every frame, one
box); and each part added to nothing ("only-...") or to the others; everything: all parts; now: the defaults.
flow: keyframes and their motion; over 128 frames (--frames 128 --arms noise+follow,flow) it has a bar of its
own. apart: the same with keyframes as they were painted. tuned: by 100 steps on the clip itself, whose time
is counted. What each part buys is printed as a table of its own, over the clips that both of its arms have;
--arms parts are the arms it needs.

Right: frames, and whole clips, that show what was ordered, by the exact reader. Excess: warp error along the
true motion, times 1000, less the source's own. Flicker: standard deviation over time of the mean of (edited
less truth) in the mask, of 255. Seam: warp error at borders of windows of 8 that share 2 by that elsewhere,
over all clips, also of arms without windows, for comparison. Time: CPU seconds of the edit alone. The
intervals are a paired bootstrap's over clips, 95 %. Exit code 1 where the defaults miss a bar.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from .clip_figures import interval, mean, measured, questions
from .diffusers_ip2p import pipeline_of

SEEDS = 3
WINDOW, OVERLAP = 8, 2
TUNINGS = 100
BARS = {"every": 0.15, "seconds": 1.1, "seam": 1.1}


def main(clips: int, frames: int, seed: int, arms: tuple[str, ...], results: Path | None) -> int:
    import evlm
    from evlm.edit.load import load_editor
    from evlm.video.windows import spans

    editor: Any = load_editor(Path(evlm.__file__).parent / "bundled" / "editor")
    borders = [span.new for span in spans(frames, WINDOW, OVERLAP)[1:]]
    known = read_results(results, frames)
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    drawn = {seed + at: list(questions(-(-clips // SEEDS), frames, seed + at)) for at in range(SEEDS)}
    for number in range(clips):
        its_seed = seed + number % SEEDS
        clip = drawn[its_seed][number // SEEDS]
        source = torch.from_numpy(clip.pictures()[0]).float() / 255
        regions = clip.regions()
        assert regions is not None
        for turn in range(len(arms)):
            arm = arms[(number + turn) % len(arms)]  # none is always the one that finds warm caches
            line = known.get((its_seed, number, arm))
            if line is None:
                settings = replace(editor.defaults, seed=its_seed)
                began = time.process_time()
                edited = ARMS[arm](editor, source, clip.edit.instruction, torch.from_numpy(regions), settings)
                took = time.process_time() - began
                line = {"seed": its_seed, "clip": number, "frames": frames, "arm": arm, "seconds": took}
                line |= measured(clip, edited, borders)
                if results is not None:
                    with results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
            found[arm].append(line)
            print(
                f"clip {number:2} {arm:15} right {line['right']:.2f} excess {line['excess']:6.2f} flicker "
                f"{line['flicker']:5.1f} {line['seconds']:6.2f} s, wrong {line['wrong']}",
                flush=True,
            )
    return tables(found)


def read_results(path: Path | None, frames: int) -> dict[tuple[int, int, str], dict[str, Any]]:
    if path is None or not path.is_file():
        return {}
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(each["seed"], each["clip"], each["arm"]): each for each in lines if each["frames"] == frames}


def tables(found: dict[str, list[dict[str, Any]]]) -> int:
    """Prints the figures of each arm and what it has over `before`; 1 where `now` misses a bar."""
    print("\narm              right  all right (by seed)         excess  flicker  error   seam  CPU-s")
    for arm, lines in found.items():
        columns = {name: mean([line[name] for line in lines]) for name in lines[0] if name in _COLUMNS}
        seeds = sorted({line["seed"] for line in lines})
        apart = [mean([line["every"] for line in lines if line["seed"] == each]) for each in seeds]
        by_seed = " ".join(f"{each:.2f}" for each in apart)
        right, every, excess, unsteady, error, seconds = (columns[name] for name in _COLUMNS)
        print(
            f"{arm:15} {right:6.3f}  {every:6.3f} ({by_seed:20}) {excess:7.3f}  {unsteady:7.2f} {error:6.4f} "
            f"{seam(lines):6.3f} {seconds:6.2f}"
        )
    missed = 0
    if "before" in found:
        base = {line["clip"]: line for line in found["before"]}
        for arm, lines in found.items():
            pairs = [(line, base[line["clip"]]) for line in lines]
            said = [f"{arm} - before:"]
            for name in ("every", "excess", "flicker"):
                more = np.array([one[name] - other[name] for one, other in pairs])
                low, high = interval(more)
                said.append(f"{name} {more.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
            ratio = mean([one["seconds"] for one, _ in pairs]) / mean([o["seconds"] for _, o in pairs])
            print(", ".join(said) + f", time {ratio:.2f}x")
            if arm == "now":
                gain, excess, unsteady = (
                    mean([one[name] - other[name] for one, other in pairs])
                    for name in ("every", "excess", "flicker")
                )
                missed = int(gain < BARS["every"] or excess > 0 or unsteady > 0 or ratio > BARS["seconds"])
                missed |= int(seam(lines) > BARS["seam"])
                print(f"bars of the defaults: {'MISSED' if missed else 'kept'}")
    for line in bought(found):
        print(line)
    return missed


def bought(found: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """What each part buys, alone and beside the others, in the rows of a table: the mean of the paired
    differences, in brackets 95 % of a bootstrap over clips."""
    rows = [row for row in BOUGHT if row[2] in found and row[3] in found]
    if rows:
        yield "\n| part | added to | clips | frames right | all right (by seed) | excess | flicker | time |"
        yield "|---|---|---|---|---|---|---|---|"
    for part, to, arm, other in rows:
        base = {line["clip"]: line for line in found[other]}
        pairs = [(line, base[line["clip"]]) for line in found[arm] if line["clip"] in base]
        said = []
        for name in ("right", "every", "excess", "flicker"):
            more = np.array([one[name] - two[name] for one, two in pairs])
            low, high = interval(more)
            said.append(f"{more.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
        seeds = sorted({one["seed"] for one, _ in pairs})
        apart = [mean([a["every"] - b["every"] for a, b in pairs if a["seed"] == each]) for each in seeds]
        said[1] += f" ({', '.join(f'{each:+.2f}' for each in apart)})"
        ratio = mean([one["seconds"] for one, _ in pairs]) / mean([two["seconds"] for _, two in pairs])
        yield f"| {part} | {to} | {len(pairs)} | {' | '.join(said)} | {ratio:.2f}x |"


_COLUMNS = ("right", "every", "excess", "flicker", "error", "seconds")


def seam(lines: list[dict[str, Any]]) -> float:
    """Warp error at borders of windows by that elsewhere; nan where there are none."""
    at, elsewhere = (
        [each for line in lines for each in line[name]] for name in ("border_pairs", "other_pairs")
    )
    return mean(at) / mean(elsewhere) if at and mean(elsewhere) > 0 else float("nan")


Arm = Callable[[Any, Tensor, str, Tensor, Any], Tensor]
"""(editor, frames [F, H, W, 3], instruction, mask bool [F, H, W], settings) -> the edited frames."""


def arm_of(
    noise: bool = True, follow: bool = True, tunings: int = 0, seamless: bool = False, **video: Any
) -> Arm:
    """noise: one for all frames. follow: the crop goes with the thing. tunings: steps in which the editor is
    tuned to the crops. seamless: the editor's setting. video: settings, in the place of frames painted each
    by itself."""

    def edit(editor: Any, frames: Tensor, words: str, mask: Tensor, settings: Any) -> Tensor:
        from evlm.video.clip import edit_clip
        from evlm.video.settings import VideoSettings
        from evlm.video.tune import tuned

        how: dict[str, Any] = {"together": "per-frame", "propagate": "none"} | video
        settings = replace(settings, seamless=seamless)
        with ExitStack() as patches:
            if not noise:
                patches.enter_context(other_noise())
            if not follow:
                patches.enter_context(one_box())
            if tunings:
                weights = learned(editor, frames, mask, settings, tunings, VideoSettings(**how))
                patches.enter_context(tuned(editor.unet, weights))
            return edit_clip(editor, frames, words, mask.float(), settings, video=VideoSettings(**how)).frames

    return edit


def learned(
    editor: Any, frames: Tensor, mask: Tensor | None, settings: Any, tunings: int, video: Any
) -> dict[str, Tensor]:
    """The editor's weights tuned to the crops of the clip's largest place, as `edit --tune` has it; without a
    mask to its whole frames."""
    from evlm.edit.crop import extract
    from evlm.video.clip import largest, route
    from evlm.video.tune import tune

    places = None if mask is None else mask.float()
    boxes = largest(route(frames[:1], len(frames), places, editor, settings, [])).boxes
    crops = torch.cat([extract(frames[frame : frame + 1], boxes[frame]) for frame in sorted(boxes)])
    return tune(editor, [crops], tunings, video, settings.seed)


def now(editor: Any, frames: Tensor, words: str, mask: Tensor, settings: Any) -> Tensor:
    from evlm.video.clip import edit_clip

    return edit_clip(editor, frames, words, mask.float(), settings).frames


def before(editor: Any, frames: Tensor, words: str, mask: Tensor, settings: Any) -> Tensor:
    with one_box():
        plain = replace(settings, seamless=False)
        result: Tensor = editor.edit(frames, words, mask.float(), plain).frames
    return result


def diffusers(editor: Any, frames: Tensor, words: str, mask: Tensor, settings: Any) -> Tensor:
    """Each crop as a picture of diffusers' pipeline with the same noise, put back by the mask."""
    from evlm.edit.masked import begin, put_all_back

    pipe = pipeline_of(editor, settings)
    sizes = editor.best_resolution, editor.full_frame_resolution, editor.multiple
    frames, works = begin(frames, mask.float(), *sizes, settings.context, [], editor.factor)
    painted = []
    for work in works:
        parts = []
        for crops in work.crop.split(settings.chunk):
            made = pipe(
                [words] * len(crops),
                image=crops.movedim(-1, 1),
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                image_guidance_scale=settings.image_guidance,
                output_type="pt",
                generator=[torch.Generator().manual_seed(settings.seed) for _ in crops],
            )
            parts.append(made.images.movedim(1, -1).cpu())
        painted.append(torch.cat(parts))
    return put_all_back(frames, works, painted, settings.feather)[0]


ARMS: dict[str, Arm] = {
    "before": before,
    "diffusers": diffusers,
    "now": now,
    "nothing": arm_of(noise=False, follow=False),
    "only-noise": arm_of(follow=False),
    "only-follow": arm_of(noise=False),
    "only-anchors": arm_of(noise=False, follow=False, together="anchors"),
    "only-flow": arm_of(noise=False, follow=False, propagate="flow"),
    "only-tuned": arm_of(noise=False, follow=False, tunings=TUNINGS),
    "noise+follow": arm_of(),
    "sparse": arm_of(together="sparse"),
    "anchors": arm_of(together="anchors"),
    "all": arm_of(together="all"),
    "flow": arm_of(propagate="flow"),
    "apart": arm_of(propagate="flow", agree=False),
    "seamless": arm_of(propagate="flow", seamless=True),
    "tokens": arm_of(together="anchors", propagate="tokens"),
    "anchors+flow": arm_of(together="anchors", propagate="flow"),
    "tuned": arm_of(tunings=TUNINGS),
    "everything": arm_of(together="anchors", propagate="flow", tunings=TUNINGS),
}
BOUGHT = (
    ("one noise", "nothing", "only-noise", "nothing"),
    ("one noise", "the crop that follows", "noise+follow", "only-follow"),
    ("the crop that follows", "nothing", "only-follow", "nothing"),
    ("the crop that follows", "one noise", "noise+follow", "only-noise"),
    ("both", "nothing", "noise+follow", "nothing"),
    ("anchors", "nothing", "only-anchors", "nothing"),
    ("anchors", "both", "anchors", "noise+follow"),
    ("propagation", "nothing", "only-flow", "nothing"),
    ("propagation", "both", "flow", "noise+follow"),
    ("keyframes of one look", "all before", "flow", "apart"),
    ("the shade at the rim", "all before", "seamless", "flow"),
    ("tuning", "nothing", "only-tuned", "nothing"),
    ("tuning", "both", "tuned", "noise+follow"),
    ("anchors, propagation, tuning", "both", "everything", "noise+follow"),
    ("everything", "nothing", "everything", "nothing"),
)
"""(part, what it is added to, the arm with it, the arm without it)."""
PARTS = tuple(dict.fromkeys(arm for row in BOUGHT for arm in row[2:]))


def one_box() -> Any:
    """As at 1c55b69: one box holds the masks of all frames, and the rim is each frame's own."""
    from evlm.edit import masked
    from evlm.edit.crop import crop_box
    from evlm.edit.regions import Place
    from evlm.video import clip

    def places(on: Tensor, context: float, best: int, multiple: int, _cell: int = 1) -> list[Place]:
        box = crop_box(on, context, best, multiple)
        count = int(on.flatten(1).any(1).sum())
        return [] if box is None else [Place(on, (box,) * count)]

    def each_its_own(masks: Tensor, _which: Tensor) -> Tensor:
        return masks

    stack = ExitStack()
    for room in (masked, clip):
        stack.enter_context(mock.patch.multiple(room, places=places, smoothed=each_its_own))
    return stack


def other_noise() -> Any:
    """Another noise for every frame that is painted."""
    from evlm.edit import ip2p

    numbers = count(100)

    def generators(seed: int, many: int) -> list[torch.Generator]:
        return [torch.Generator("cpu").manual_seed(seed + 1000 * next(numbers)) for _ in range(many)]

    return mock.patch.object(ip2p, "generators", generators)


def arms_of(text: str) -> Iterator[str]:
    for arm in (arm for each in text.split(",") for arm in (PARTS if each == "parts" else [each])):
        if arm not in ARMS:
            raise SystemExit(f"arm {arm}: expected parts, or some of {', '.join(ARMS)}")
        yield arm


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    raise SystemExit(main(given.clips, given.frames, given.seed, tuple(arms_of(given.arms)), given.results))
