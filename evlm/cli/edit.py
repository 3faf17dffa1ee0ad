"""`python -m evlm edit`: one picture or video, from a request to files."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import one_line
from . import arguments as kinds
from . import given, request_flags
from .ask import at_terminal, remedy
from .clip_flags import add_flags, check_flags
from .edit_clip import run_clip
from .originals import (
    Original,
    clip_record,
    clip_summary,
    edited_names,
    read_original,
    read_references,
    write_edited,
)
from .outputs import Outputs
from .request_flags import check_request, editor_settings, loaded, sampling

if TYPE_CHECKING:
    from ..boxes import Box
    from ..pipeline import Result
    from ..request import Request
    from .terminal import Terminal

LARGE = 4_000_000  # pixels of all frames


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    text = "picture, animation or video to edit; - reads a picture from standard input"
    original = parser.add_mutually_exclusive_group(required=True)
    original.add_argument("--image", metavar="FILE", type=kinds.path, help=text)
    text = "video to edit, of any length, with its sound; an animation or a folder of pictures, too"
    original.add_argument("--video", metavar="FILE", type=kinds.path, help=text)
    add(
        "--frames",
        metavar="FIRST:END",
        help="of a clip, only these frames, from 0; FIRST:END:STEP skips some",
    )
    add("--fps", metavar="N", help="of a clip, only so many frames a second; of a folder, its rate")
    add_flags(parser)
    request_flags.add_flags(parser)


def run(options: argparse.Namespace) -> int:
    """Edit one picture or video; write the picture, the mask, the trace and a contact sheet.

    Returns 3 where nothing was painted because the plan is doubted, or not sure enough."""
    from .terminal import Terminal, quiet_libraries

    _check(options)
    inputs = [
        options.image or options.video,
        *options.reference,
        *options.reference_video,
        *options.reference_depth,
        *(path for path in (options.adapter, options.plan, options.mask) if path),
    ]
    outputs = Outputs(options.out, options.overwrite, inputs)
    quiet_libraries()
    from ..models.loading import pick_device
    from ..request import Request

    device = pick_device(options.device)
    if options.quantize:
        from ..models.quantized import check_four_bit

        check_four_bit(device)
    plan = given.plan_of(options)
    if options.video is not None:
        terminal = Terminal()
        load = loaded(terminal, plan)
        return run_clip(options, outputs, terminal, load, sampling(options), editor_settings)
    original = read_original(options.image, options.frames, options.fps)
    references, notes = read_references(options)
    notes[:0] = original.notes
    mask = None if options.mask is None else given.mask_of(options.mask, original.frames, notes)
    request = Request(original.frames, options.prompt, references, original.fps)
    names = [*edited_names(original), "trace.json", "sheet.png"]
    outputs.check(names)
    terminal = Terminal()
    models, pipeline = loaded(terminal, plan)(options)
    for note in notes:
        terminal.note(note)
    result = pipeline.run(
        request,
        sampling=sampling(options),
        edit=editor_settings(options, pipeline),
        threshold=options.threshold,
        on_event=terminal.event,
        anyway=options.anyway,
        confirm=at_terminal(options.ask_below, terminal),
        mask=mask,
    )
    terminal.summary(result)
    record = _record(options, models, request, result)
    record["notes"] = [*notes, *record["notes"]]
    files = outputs.claim(names)
    try:
        _write(files, terminal, request, result, original, record)
    finally:
        outputs.release(files)
    terminal.line(f"{'wrote':8}  {', '.join(map(str, files))}")
    if result.held_back:
        why = result.held_back
        terminal.line(f"{'held':8}  nothing was painted: {why}; say it otherwise, or {remedy(why)}")
    return 3 if result.held_back else 0


def _write(
    files: list[Path],
    terminal: Terminal,
    request: Request,
    result: Result,
    original: Original,
    record: dict[str, Any],
) -> None:
    from ..viz.sheet import SheetRow, draw_sheet

    frames, height, width = result.edited.shape[:3]
    if frames * height * width >= LARGE:  # encoding and the sheet then take seconds and more
        count = f"{frames} frames of " if frames > 1 else ""
        terminal.line(f"{'writing':8}  {files[0]}: {count}{width} x {height} pixels ...")
    lost = write_edited(files[:2], result.edited, result.mask, original)
    for note in lost:
        terminal.note(note)
    record["notes"] += lost
    if original.durations is not None:
        record["clip"] = clip_record(original)
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    _write_text(files[2], text)
    _write_image(files[3], draw_sheet([SheetRow(request, result)]))
    if len(original.frames) > 1:
        terminal.line(f"{'':10}{clip_summary(files[0], original)}")


def _check(options: argparse.Namespace) -> None:
    """What can be seen to be wrong from the flags alone."""
    check_flags(options)
    check_request(options)


def _record(
    options: argparse.Namespace, models: dict[str, Path], request: Request, result: Result
) -> dict[str, Any]:
    from .. import __version__
    from ..plan.trace import TRACE_VERSION

    flags = ("reference", "reference_video", "reference_depth", "reference_text")
    return {
        "evlm": __version__,
        "trace_version": TRACE_VERSION,
        "image": one_line(options.image),
        "size": list(request.original.shape[:3]),
        "prompt": options.prompt,
        "references": [one_line(each) for flag in flags for each in getattr(options, flag)],
        "models": {role: one_line(str(path)) for role, path in models.items()},
        "trace": asdict(result.trace),
        "text": result.text,
        "boxes": [_box(box) for box in result.boxes],
        "held_back": result.held_back,
        "mask_share": None if result.mask is None else float((result.mask > 0).float().mean()),
        "seconds": {step: round(seconds, 3) for step, seconds in result.seconds.items()},
        "notes": list(result.notes),
    }


def _box(box: Box) -> dict[str, Any]:
    """A box as JSON; the plan's own has no score."""
    fields = asdict(box)
    if box.by_plan:
        fields["score"] = None
    return fields


def _write_text(path: Path, text: str) -> None:
    from ..files.pictures import write_atomically

    write_atomically(path, lambda file: file.write(text.encode("utf-8")))


def _write_image(path: Path, image: Any) -> None:
    from ..files.pictures import write_atomically

    write_atomically(path, lambda file: image.save(file, format="PNG"))
