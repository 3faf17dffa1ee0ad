"""`python -m trainer bundle check`: every bundled model on held-out compositions, alone and in a row, against
its bar.

Measured numbers lie in evlm/bundled/measured.json (what was measured when; a part measured again replaces its
own), and the tables between the marks of docs/measured.md and of the README are written from them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from evlm.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"docs/measured.md": "bundle-table", "README.md": "bundle-headlines"}  # page -> the name of its marks
HEADLINES = (
    "reasoner: instruction and targets exactly right",
    "segmenter: IoU from detected boxes",
    "the whole chain, request to picture",
)
Part = Literal["reasoner", "detector", "segmenter", "tracker", "editor", "clips", "chain", "solids", "scenes"]
PARTS: tuple[Part, ...] = get_args(Part)
ROLES = ("reasoner", "detector", "segmenter", "editor")  # the tracker lies in its segmenter's folder


SCENE = 40  # questions that a scene is worth: it takes two minutes
STILLS = ("iou", "iou_detected", "iou_points", "iou_masks")


@dataclass(frozen=True)
class Bar:
    """A line of the table: the numbers behind it (the worst counts), and the bar; `most`: it is an upper
    one."""

    title: str
    part: Part
    names: tuple[str, ...]
    bar: float
    most: bool = False

    def known(self, measured: dict[str, dict[str, float]]) -> bool:
        """Whether it was measured: an earlier version's numbers lack the lines that came later."""
        return set(self.names) <= measured.get(self.part, {}).keys()

    def value(self, result: dict[str, float]) -> float:
        values = [result[name] for name in self.names]
        return max(values) if self.most else min(values)

    def met(self, result: dict[str, float]) -> bool:
        value = self.value(result)
        return value <= self.bar if self.most else value >= self.bar


def bars() -> list[Bar]:
    from ..world.edits import OPERATIONS
    from ..world.questions import CATEGORIES
    from ..world.whatif.ask import PLANNED
    from .check_reasoner import FILMS
    from .check_whatif import ALL, NULL, UNSEEN, by_rule

    def exact(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(f"exact, {name}" for name in names)

    return [
        Bar("reasoner: instruction and targets exactly right", "reasoner", ("exact",), 0.95),
        Bar("… in the worst of the six input categories", "reasoner", exact(CATEGORIES), 0.85),
        Bar("… in the worst of the nine edit types", "reasoner", exact(OPERATIONS), 0.85),
        Bar(
            "… two edits of different things in one request, both right", "reasoner", exact(("double",)), 0.90
        ),
        Bar("… where words and picture disagree", "reasoner", exact(("conflict",)), 0.90),
        Bar("… asked by its cause: what if", "reasoner", exact((ALL,)), 0.90),
        Bar(
            "… … by the worst of thirteen rules", "reasoner", exact([by_rule(rule) for rule in PLANNED]), 0.80
        ),
        Bar("… … in a wording that no training had", "reasoner", exact((UNSEEN,)), 0.80),
        Bar("… … where nothing changes", "reasoner", exact((NULL,)), 0.90),
        Bar(
            "… … without a story's earlier panels, above chance (1/k), in standard errors",
            "reasoner",
            ("panels withheld above chance",),
            2.0,
            True,
        ),
        Bar(
            "… … with another story's panels, likewise",
            "reasoner",
            ("panels shuffled above chance",),
            2.0,
            True,
        ),
        Bar("… of the whole picture, asked vaguely", "reasoner", exact(("vague",)), 0.95),
        Bar(
            "… without the reference, above chance (1/k), in standard errors",
            "reasoner",
            ("withheld above chance",),
            2.0,
            True,
        ),
        Bar(
            "… with another question's reference, likewise", "reasoner", ("shuffled above chance",), 2.0, True
        ),
        Bar("… about a clip in which things move", "reasoner", exact((FILMS,)), 0.90),
        Bar("mask in the trace, IoU", "reasoner", ("mask IoU",), 0.80),
        Bar("… in a clip's first frame", "reasoner", (f"mask IoU, {FILMS}",), 0.80),
        Bar("malformed traces", "reasoner", ("malformed",), 0.01, True),
        Bar("detector: recall at IoU 0.5, true labels", "detector", ("recall",), 0.90),
        Bar("segmenter: IoU from true boxes", "segmenter", ("iou",), 0.92),
        Bar("segmenter: IoU from detected boxes", "segmenter", ("iou_detected",), 0.85),
        Bar("… by the worst kind of prompt: box, detected box, point, rough mask", "segmenter", STILLS, 0.96),
        Bar("tracker: IoU over 16 frames from one true box, nothing hides it", "tracker", ("j",), 0.93),
        Bar("… where something does, or it leaves", "tracker", ("j_hidden",), 0.85),
        Bar("… says rightly whether it is there", "tracker", ("present",), 0.95),
        Bar("editor, true plan and mask: recolour", "editor", ("recolour",), 0.95),
        Bar("editor: remove, add (the worse)", "editor", ("remove", "add"), 0.90),
        Bar("editor: retexture", "editor", ("retexture",), 0.85),
        Bar("editor: replace", "editor", ("replace",), 0.70),
        Bar("editor: weather, ground, style", "editor", ("global",), 0.80),
        Bar("greatest difference outside the mask", "editor", ("outside",), 0.0, True),
        Bar("clips, true masks: recolour, right in all 16 frames", "clips", ("recolour",), 0.90),
        Bar("… retexture", "clips", ("retexture",), 0.80),
        Bar("… remove", "clips", ("remove",), 0.85),
        Bar("… warp error x 1e-3 along the motion, above the source's own", "clips", ("excess",), 0.2, True),
        Bar("… flicker, of 255", "clips", ("flicker",), 3.5, True),
        Bar("… greatest difference outside the mask", "clips", ("outside",), 0.0, True),
        Bar("… CPU-seconds of 16 frames of 64 pixels, from the plan on", "clips", ("seconds",), 8.0, True),
        Bar("the whole chain, request to picture", "chain", ("chain",), 0.75),
        Bar("… of two edits in one request", "chain", ("chain, double",), 0.80),
        Bar("… greatest difference outside the mask", "chain", ("chain, outside the mask",), 0.0, True),
        *_solid_bars(),
        Bar("size of the bundle, MB", "chain", ("megabytes",), 40.0, True),
    ]


def _solid_bars() -> list[Bar]:
    from .check_solids import worst_categories

    return [
        Bar("solids, seen in 3D: instruction and targets exactly right", "solids", ("exact",), 0.90),
        Bar("… in the worst of three input categories", "solids", worst_categories(), 0.80),
        Bar("… detector: recall at IoU 0.5, true labels", "solids", ("recall",), 0.90),
        Bar("… segmenter: IoU from true boxes", "solids", ("iou",), 0.92),
        Bar("… segmenter: IoU from detected boxes", "solids", ("iou_detected",), 0.85),
        Bar("… editor, true plan and mask: recolour", "solids", ("editor, recolour",), 0.85),
        Bar("… editor: remove, add (the worse)", "solids", ("editor, remove", "editor, add"), 0.80),
        Bar("… editor: retexture", "solids", ("editor, retexture",), 0.75),
        Bar("… editor: replace", "solids", ("editor, replace",), 0.60),
        Bar("… editor: weather, ground, sky", "solids", ("editor, global",), 0.80),
        Bar("scenes of Gaussians, request to .ply, read on views held out", "scenes", ("scene",), 0.75),
        Bar("… CPU-seconds of it, 24 views of 64 pixels", "scenes", ("scene, seconds",), 90.0, True),
        Bar("… rows that were not selected keep their bits", "scenes", ("scene, frozen",), 1.0),
    ]


def check_all(
    folder: Path,
    rows: int,
    seed: int,
    only: tuple[str, ...] = (),
    root: Path = ROOT,
    log: Callable[[str], None] = print,
) -> int:
    """Measures, writes measured.json and the tables of `root`'s pages, prints the whole one. Returns 1 where
    a measured bar is missed."""
    from evlm.segment.tracker import tracker_source

    torch.set_num_threads(1)
    path = folder / "measured.json"
    measured = _measured(path)
    for part in PARTS:
        if only and part not in only:
            continue
        if part == "tracker" and tracker_source(folder / "segmenter") is None:
            log("tracker: there is none here; `bundle tracker` trains the segmenter on into one")
            continue
        began = time.time()
        result = _measure(part, folder, rows, seed, log)
        measured[part] = {
            **{name: round(value, 4) for name, value in result.items()},
            "questions": rows,
            "seed": seed,
        }
        log(f"{part}: measured in {(time.time() - began) / 60:.1f} minutes")
        path.write_text(json.dumps(measured, indent=1) + "\n")
    text = table(measured)
    log(text)
    write_tables(root, measured)
    return int(any(not b.met(measured[b.part]) for b in bars() if b.known(measured)))


def write_tables(root: Path, measured: dict[str, dict[str, float]]) -> None:
    """Puts what was measured between the marks of each page that is there: all of it, or the headlines."""
    for page, mark in PAGES.items():
        start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        path = root / page
        if path.is_file() and start in (old := path.read_text(encoding="utf-8")):
            head, rest = old.split(start, 1)
            text = table(measured, HEADLINES if mark == "bundle-headlines" else None)
            path.write_text(f"{head}{start}\n{text}\n{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def _measured(path: Path) -> dict[str, dict[str, float]]:
    """What was measured before. Raises ConfigError where the file holds something else."""
    if not path.is_file():
        return {}
    try:
        return {part: dict(numbers) for part, numbers in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{path}: expected what `bundle check` writes; delete it") from None


def table(measured: dict[str, dict[str, float]], titles: Collection[str] | None = None) -> str:
    """Markdown, one line a bar that was measured (and stands in `titles`)."""
    lines = ["| held-out compositions | measured | bar |", "|---|---|---|"]
    for bar in bars():
        if not bar.known(measured) or (titles is not None and bar.title not in titles):
            continue
        result = measured[bar.part]
        sign = "\u2264" if bar.most else "\u2265"
        miss = "" if bar.met(result) else " (missed)"
        lines.append(f"| {bar.title} | {bar.value(result):.3g}{miss} | {sign} {bar.bar:g} |")
    return "\n".join(lines)


def _measure(part: Part, folder: Path, rows: int, seed: int, log: Callable[[str], None]) -> dict[str, float]:
    if part == "reasoner":
        from .check_reasoner import check

        measured = check(folder / part, rows, seed, log)
        for name in ("withheld", "shuffled"):
            above = measured[f"reference {name}"] - measured["chance"]
            measured[f"{name} above chance"] = above / max(
                measured[f"reference {name}, standard error"], 1e-3
            )
        return measured
    if part == "detector":
        from .detector import check as check_detector

        return check_detector(folder / part, rows, seed)
    if part == "segmenter":
        from .segmenter import check as check_segmenter

        return check_segmenter(folder / part, rows, seed, folder / "detector")
    if part == "tracker":
        from evlm.segment.tracker import Tracker, tracker_source

        from .tracker import check as check_tracker

        source = tracker_source(folder / "segmenter")
        assert source is not None
        return check_tracker(Tracker.load(source), max(1, rows // 5), seed)
    if part == "editor":
        from .editor import check as check_editor

        return check_editor(folder / part, max(rows, 540), seed, log)
    if part == "clips":
        from .check_clips import check as check_clips

        return check_clips(folder, rows, seed, log)
    if part == "solids":
        from .check_solids import check as check_solids

        return check_solids(folder, rows, seed, log)
    if part == "scenes":
        from .check_scenes import check as check_scenes

        return check_scenes(folder, max(1, rows // SCENE), seed, log)
    from .check_chain import check as check_chain

    size = sum(f.stat().st_size for role in ROLES for f in (folder / role).rglob("*") if f.is_file())
    return {**check_chain(folder, rows, seed, log), "megabytes": size / 1e6}
