"""Correctness of the bundled chain by dimension, beside the peers that the paper names, in one table.

    OMP_NUM_THREADS=1 python -m benchmarks.four_dimensions [--stills 400] [--clips 250] [--scenes 150]
        [--moving 200] [--reliefs 0] [--moving-reliefs 0] [--seed 0] [--out out/four-dimensions]
        [--jobs N] [--minutes M] [--peers N] [--told] [--tune]

Questions are of the world's test split, by its shares of kinds of edits, of which each dimension has those
that it can tell: stills of the flat world (2D) all nine; its clips of 16 frames (video) all but moves; fitted
scenes of solids that stand still (3D) or move (4D) what is done to one solid (recolour, retexture, replace,
remove, add). In reliefs (3D relief, 4D relief; none unless asked for) it is done to things of the flat world,
which are made solid and seen within 20 degrees: those the bundled models know by look and name.

Each goes through the public engine with the bundled models and their defaults, as a request does: plan,
places, masks, edit. The world's exact readers judge: right is an answer that shows what was ordered in every
frame, in every view held out, or in every view at every time, in which the truth can be told. (A perfect edit
may fail that by the fit alone: the column "by most views" asks the majority of the views, at every time, as
`bundle check --only scenes` does.) No plan, a plan that is held back, and nothing found are wrong.

Peers get the instructions that our reasoner planned and the same editor, so that only the recipe of editing
differs; where ours has no plan they have none either, which counts as wrong.
    2D     plain IP2P: the whole picture, without a mask; and, in a second line, with the raw words of the
           request in the place of the plan
    video  Tune-A-Video's recipe: whole frames that look at the first, the one before and themselves, one
           noise. Left out are the inverted noise, and its tuning on the clip, which --tune adds (100 steps)
    3D     Instruct-NeRF2NeRF's schedule over the whole scene: nothing is selected, everything may change
    4D     Instruct 4D-to-4D's recipe (`pseudo3d`, which is our default, too), over the whole scene
--told adds ours behind the true plan, which tells what the reasoner gets wrong from what comes after it.

Each answer is a line of OUT/answers.jsonl, by dimension, number, arm, seed and a digest of the models'
files: run again, the command goes on, and with other models it begins anew beside the old lines.
--minutes: begins nothing after that time, and prints the table of what there is (an arm of a scene that
has been begun takes its minutes). --peers: they answer the first N questions of each dimension alone,
ours all of them; their differences to ours are of those that both have answered. Intervals: 10,000
resamples of questions. CPU seconds are of one arm; a scene's fit, which its arms share, is not in them,
and those of a peer have no planning in them. The exit code is the number of bars missed.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from trainer.bundle.parallel_map import parallel_map

from . import answers, table
from .answers import Answer, Key, Task

BUNDLED = Path(__file__).resolve().parents[2] / "evlm" / "bundled"
NO_PLAN = "ours has no plan"
ARMS = {
    "2D": ("ours", "ip2p", "ip2p-raw"),
    "video": ("ours", "tune-a-video"),
    "3D": ("ours", "in2n"),
    "4D": ("ours", "instruct-4d"),
}
ARMS |= {"3D relief": ARMS["3D"], "4D relief": ARMS["4D"]}
Ask = Callable[[str, int, int], Any]
"""(dimension, seed, number) -> the question: `kind`, `instruction`, `prepare()` and `answer(bench, arm,
instructions)`."""


def main(
    counts: dict[str, int],
    seed: int = 0,
    out: Path = Path("out/four-dimensions"),
    jobs: int | None = None,
    minutes: float = math.inf,
    told: bool = False,
    tune: bool = False,
    models: Path = BUNDLED,
    make: Callable[[Path], Any] | None = None,
    ask: Ask | None = None,
    peers: int | None = None,
) -> int:
    """make, ask: in place of the models and of the world's questions."""
    until = time.time() + 60 * minutes
    out.mkdir(parents=True, exist_ok=True)
    lines, digest = out / "answers.jsonl", answers.digest(models)
    counts = {name: count for name, count in counts.items() if count > 0}
    arms = arms_of(told, tune)
    left = answers.tasks(counts, arms, answers.read(lines), seed, digest, peers)
    print(
        f"models {digest}, seed {seed}: {len(left)} of {sum(counts.values())} questions are left", flush=True
    )
    if left:
        work = partial(answer, lines, seed, digest, until, ask or question)
        parallel_map(partial(make or _bench, models), work, left, print, jobs)
    text = report(answers.read(lines), counts, arms, seed, digest)
    print(text[0])
    (out / "table.md").write_text(text[0], encoding="utf-8")
    return text[1]


def arms_of(told: bool, tune: bool) -> dict[str, tuple[str, ...]]:
    more = {"video": ("tune-a-video-tuned",)} if tune else {}
    return {name: (*some, *more.get(name, ()), *(("told",) if told else ())) for name, some in ARMS.items()}


def answer(lines: Path, seed: int, digest: str, until: float, ask: Ask, bench: Any, task: Task) -> int:
    """Asks the arms of a task one after another, and writes each answer at once; how many there were."""
    asked, instructions, done = None, task.instructions, 0
    for arm in task.arms:
        if time.time() >= until:
            break
        asked = asked or ask(task.dimension, seed, task.number)
        fit = asked.prepare()
        began = time.process_time()
        if instructions or arm in FREE:
            outcome = asked.answer(bench, arm, instructions or ())
        else:
            from .bench import Outcome

            outcome = Outcome(why=NO_PLAN)
        seconds = time.process_time() - began
        said = tuple(outcome.instructions)
        instructions = said if arm == "ours" else instructions
        got = Answer(
            task.dimension, task.number, arm, seed, digest, asked.kind, outcome.right, outcome.shown,
            outcome.most, outcome.why, said == (asked.instruction,), said, outcome.place, seconds, fit,
        )  # fmt: skip
        answers.write(lines, got)
        done += 1
        verdict = "right" if got.right else f"wrong: {got.why or table.cause(got)}"
        print(
            f"{got.dimension:5} {got.number:3} {arm:13} {got.kind:9} {seconds:6.1f} s {verdict}", flush=True
        )
    return done


FREE = ("ours", "told", "ip2p-raw")  # arms that need no plan of ours


def report(
    known: dict[Key, Answer], counts: dict[str, int], arms: dict[str, tuple[str, ...]], seed: int, digest: str
) -> tuple[str, int]:
    """(the table of what these questions have, how many bars are missed)."""
    some = [
        each
        for each in known.values()
        if (each.seed, each.models) == (seed, digest)
        and each.dimension in counts
        and each.arm in arms[each.dimension]
        and each.number < counts[each.dimension]
    ]
    text, missed = table.tables(table.grouped(some, counts))
    fits = {name: [each.fit for each in some if each.dimension == name and each.fit] for name in counts}
    said = ", ".join(f"{name} {median(values):.0f}" for name, values in fits.items() if values)
    facts = f"Models {digest}, seed {seed}." + (
        f" CPU seconds of a scene's fit, median: {said}." if said else ""
    )
    return f"{facts}\n\n{text}", missed


def question(dimension: str, seed: int, number: int) -> Any:
    """Question `number` of a dimension."""
    from .flat import Clip, Still
    from .reliefs import MovingReliefs, Reliefs
    from .scenes import MovingSolids, Solids

    kinds = {
        "2D": Still, "video": Clip, "3D": Solids, "4D": MovingSolids, "3D relief": Reliefs,
        "4D relief": MovingReliefs,
    }  # fmt: skip
    return kinds[dimension](seed, number)


def _bench(models: Path) -> Any:
    from .bench import Bench

    return Bench(models)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.four_dimensions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sizes = {
        "stills": ("2D", 400), "clips": ("video", 250), "scenes": ("3D", 150), "moving": ("4D", 200),
        "reliefs": ("3D relief", 0), "moving-reliefs": ("4D relief", 0),
    }  # fmt: skip
    for name, (_, count) in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=count, help=f"questions ({count})")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/four-dimensions"))
    parser.add_argument("--jobs", type=int, help="processes (one a core)")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing after so many")
    parser.add_argument("--peers", type=int, help="questions of each dimension for the peers (all)")
    parser.add_argument("--told", action="store_true", help="ours behind the true plan, too")
    parser.add_argument("--tune", action="store_true", help="Tune-A-Video's recipe tuned to each clip, too")
    options = parser.parse_args()
    raise SystemExit(
        main(
            {dimension: getattr(options, name.replace("-", "_")) for name, (dimension, _) in sizes.items()},
            options.seed, options.out, options.jobs, options.minutes, options.told, options.tune,
            peers=options.peers,
        )
    )  # fmt: skip
