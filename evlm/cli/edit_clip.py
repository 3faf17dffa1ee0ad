"""`python -m evlm edit --video`: a clip of any length, which goes on where an earlier run was stopped."""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import time
from contextlib import ExitStack
from dataclasses import asdict
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import one_line
from ..files.disk import refused, unwritten
from ..files.lock import holding
from ..files.states import state_of
from .ask import at_terminal, remedy
from .clip_flags import check_mask_frame, handed_keys, video_settings
from .clip_progress import Progress
from .outputs import CLAIMED, Outputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..clips.job import ClipJob
    from ..clips.masks import MaskStore
    from ..files.clip_reader import ClipFile
    from ..reason.reasoner import Reasoned
    from ..request import Request
    from .terminal import Terminal

_SUFFIX = {"h264": ".mp4", "vp9": ".webm", "ffv1": ".mkv", "png": ".frames"}
_AGAIN = "the same command goes on from there"
_STOPPED = f"{'stopped':8}  what is done is kept: {_AGAIN}"


def run_clip(
    options: argparse.Namespace,
    outputs: Outputs,
    terminal: Terminal,
    load: Any,
    sampling: Any,
    settings_of: Any,
) -> int:
    """Edit a clip; write the clip, its mask, the trace and a strip. Returns as `edit.run`.

    load: makes (models, Pipeline). settings_of: the editor's settings of a pipeline. Raises HeldError where
    the same command is at work.
    """
    with ExitStack() as stack:
        return _run(options, outputs, terminal, load, sampling, settings_of, stack)


def _run(
    options: argparse.Namespace,
    outputs: Outputs,
    terminal: Terminal,
    load: Any,
    sampling: Any,
    settings_of: Any,
    stack: ExitStack,
) -> int:
    """stack: closed behind it."""
    from dataclasses import replace

    from ..clips.given_mask import GivenMask
    from ..clips.job import ClipJob
    from ..files.clip_codecs import form_of
    from ..files.clip_reader import open_clip
    from ..files.selection import Selection
    from ..video.settings import VideoSettings
    from .originals import read_references

    handed = handed_keys(options)
    selection = replace(Selection.parse(options.frames, options.fps), limit=options.max_frames)
    clip = open_clip(options.video, selection)
    mask = None if options.mask is None else GivenMask.open(options.mask, clip)
    check_mask_frame(options, mask, clip)
    codec = options.codec or "h264"
    names = [f"edited{_SUFFIX[codec]}", f"mask{_SUFFIX[codec]}", "trace.json", "sheet.png"]
    outputs.check(names)
    if options.until == "keyframes":
        outputs.check(["keyframes"])
    form, notes = form_of(codec, clip.height, clip.width, _rate(clip), clip.alpha, clip.bits)
    references, more = read_references(options)
    video = VideoSettings(**video_settings(options, clip))
    models, pipeline = load(options)
    if options.tune and handed is None:
        from ..video.tune import check_tunable

        check_tunable(pipeline.editor)  # on a card it is in fp16 unless somebody asks
    settings = settings_of(options, pipeline)
    work = _work_folder(outputs.folder, options, clip, models, settings, sampling, video)
    progress = Progress(terminal)
    notes[:0] = [*clip.notes, *more]
    told = _tell(terminal, notes, set())
    job = ClipJob(
        clip=clip,
        pipeline=pipeline,
        request=_request(options, clip, references),
        settings=settings,
        video=video,
        form=form,
        work=work,
        sampling=sampling,
        threshold=options.threshold,
        anyway=options.anyway,
        on_event=terminal.event,
        on_progress=progress,
        on_step=progress.step,
        notes=notes,
        mask=mask,
        handed=handed,
        tune=options.tune or 0,
        mask_frame=options.mask_frame,
    )
    seconds: dict[str, float] = {}
    try:
        stack.enter_context(holding(work))
        begun = time.perf_counter()
        reasoned = job.reason()
        seconds["reason"] = time.perf_counter() - begun
        if options.until == "plan":
            return _stop(options, outputs, terminal, models, job, reasoned, None, seconds)
        begun = time.perf_counter()
        store = job.places(reasoned)
        seconds["places"] = time.perf_counter() - begun
        told = _tell(terminal, [*(note for piece in store.pieces for note in piece.notes), *notes], told)
        if options.until == "mask":
            return _stop(options, outputs, terminal, models, job, reasoned, store, seconds)
        doubt = store.pieces[0].doubt
        plan = reasoned.trace.plan
        held = at_terminal(options.ask_below, terminal).about(plan)
        if doubt and not options.anyway and not plan.changes_nothing:
            held = held or doubt
        begun = time.perf_counter()
        if not held and options.until == "keyframes":
            folder = job.hand_out(reasoned, store, options.keyframes)
            seconds["edit"] = time.perf_counter() - begun
            return _stop(options, outputs, terminal, models, job, reasoned, store, seconds, folder)
        if handed is not None:  # what is painted of them is none of the work that goes on without them
            job.work = work / f"handed-{handed.digest}"
            job.work.mkdir(exist_ok=True)
        if not held:
            job.paint(reasoned, store)
            _tell(terminal, clip.notes, told)
        seconds["edit"] = time.perf_counter() - begun
    except KeyboardInterrupt:
        terminal.line(_STOPPED)
        raise
    except OSError as error:
        raise refused(outputs.folder, work, error, _AGAIN) from error
    record = _record(options, models, job, reasoned, store, held, seconds)
    if held:
        names = names[2:3]
    try:
        files = outputs.claim_again(names, job.work)
    except OSError as error:
        raise unwritten(outputs.folder, error, _AGAIN) from error
    outputs.forget_parts(files)
    try:
        if not held:
            terminal.line(f"{'writing':8}  {files[0]}: {store.count} frames of {clip.width} x {clip.height}")
            sound = job.sound(store) if options.audio is not False else None
            lost = job.write(store, files[0], files[1], sound)
            for note in lost:
                terminal.note(note)
            record["notes"] += lost
            record["clip"]["sound_kept"] = sound is not None
            _write_strip(files[3], job, reasoned, store, options.prompt)
        _write_text(files[0] if held else files[2], json.dumps(record, ensure_ascii=False, indent=2) + "\n")
    except (Exception, KeyboardInterrupt) as error:
        _give_up(outputs, files, job.work / CLAIMED)
        if isinstance(error, KeyboardInterrupt):
            terminal.line(_STOPPED)
        if isinstance(error, OSError):
            raise refused(outputs.folder, files[-1], error, _AGAIN) from error
        raise
    shutil.rmtree(
        job.work, ignore_errors=True
    )  # of handed keyframes their own: the rest is another command's
    terminal.line(f"{'wrote':8}  {', '.join(map(str, files))}")
    if held:
        terminal.line(f"{'held':8}  nothing was painted: {held}; say it otherwise, or {remedy(held)}")
    return 3 if held else 0


def _tell(terminal: Terminal, notes: Sequence[str], told: set[str]) -> set[str]:
    """Notes that are not among those that were told; all of them then."""
    for note in dict.fromkeys(note for note in notes if note not in told):
        terminal.note(note)
    return told | set(notes)


def _stop(
    options: argparse.Namespace,
    outputs: Outputs,
    terminal: Terminal,
    models: dict[str, Path],
    job: ClipJob,
    reasoned: Reasoned,
    store: MaskStore | None,
    seconds: dict[str, float],
    keyframes: Path | None = None,
) -> int:
    """Writes what there is for `--until`, all of it or nothing, and leaves the work where it is.

    store: None behind the plan. keyframes: the folder with them, None before they are painted.
    """
    record = _record(options, models, job, reasoned, store, "", seconds)
    names = ["trace.json", f"mask{_SUFFIX[job.form.codec.name]}", "keyframes"]
    names = names[: 1 + (store is not None) + (keyframes is not None)]
    made = [job.work / "given" / name for name in names[:2]]
    if keyframes is not None:
        made.append(keyframes)
    if store is not None:
        job.write_mask(reasoned, store, made[1])
    _write_text(made[0], json.dumps(record, ensure_ascii=False, indent=2) + "\n")
    files = outputs.claim(names)
    try:
        outputs.publish(list(zip(made, files, strict=True))[::-1])  # the trace is the last
    except BaseException:
        outputs.release([path for path in files if path.is_file()])
        raise
    terminal.line(f"{'wrote':8}  {', '.join(map(str, files))}")
    terminal.line(f"{'stopped':8}  the same command without --until goes on from there")
    if keyframes is not None:
        terminal.line(
            f"{'':8}  with --keyframes {files[2]} in its place it carries these, edited by whomever"
        )
    return 0


def _give_up(outputs: Outputs, files: list[Path], note: Path) -> None:
    """Takes the results' names back, and what has one of them already: it is made again. Pictures are not:
    they were moved there, and a later run of the same command goes on with the same names."""
    if any(path.is_dir() for path in files):
        return
    if not outputs.overwrite:
        for path in files:
            path.unlink(missing_ok=True)
    note.unlink(missing_ok=True)


def _rate(clip: ClipFile) -> Fraction | None:
    if clip.selection.fps is not None:
        return clip.selection.fps
    return None if clip.rate is None else clip.rate / clip.selection.step


def _request(options: argparse.Namespace, clip: ClipFile, references: Any) -> Request:
    """What the reasoner is asked."""
    from ..reason.messages import MAX_FRAMES
    from ..request import Request

    frames, rate = _looked_at(clip, MAX_FRAMES)
    return Request(frames, options.prompt, references, None if rate is None else min(float(rate), 1000.0))


def _looked_at(clip: ClipFile, most: int) -> tuple[Any, Fraction | None]:
    """(the frames that the reasoner sees, their rate). Of a whole video only those are decoded."""
    from ..files.clips import read_clip
    from ..files.selection import Selection

    if clip.selection == Selection() and not clip.path.is_dir():
        seen = read_clip(clip.path, Selection(at_most=most))
        return seen.frames, seen.rate
    return clip.some(most)


def _work_folder(
    folder: Path,
    options: argparse.Namespace,
    clip: ClipFile,
    models: dict[str, Path],
    settings: Any,
    sampling: Any,
    video: Any,
) -> Path:
    """Where what is done lies: the same for the same command on the same files, and for no other."""
    from .. import __version__

    read = [str(clip.path), *options.reference, *options.reference_video, *options.reference_depth]
    read += [str(path) for path in models.values()]
    read += [path for path in (options.adapter, options.plan, options.mask) if path]
    said = {
        "evlm": __version__,
        "files": [state_of(path, folder) for path in read],
        "options": {
            name: value
            for name, value in sorted(vars(options).items())
            if name not in ("out", "overwrite", "audio", "folder", "until")
        },
        "settings": [repr(settings), repr(sampling), repr(video)],
    }
    key = hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]
    return folder / f".evlm-{key}"


def _record(
    options: argparse.Namespace,
    models: dict[str, Path],
    job: ClipJob,
    reasoned: Reasoned,
    store: MaskStore | None,
    held: str,
    seconds: dict[str, float],
) -> dict[str, Any]:
    from .. import __version__
    from ..plan.trace import TRACE_VERSION

    flags = ("reference", "reference_video", "reference_depth", "reference_text")
    pieces, durations = ([], []) if store is None else (store.pieces, store.durations)
    times = accumulate(durations[:-1], initial=Fraction(0)) if durations else ()
    notes = [*job.notes, *(note for piece in pieces for note in piece.notes)]
    return {
        "evlm": __version__,
        "trace_version": TRACE_VERSION,
        "video": one_line(options.video),
        "size": [len(durations) or job.clip.count, job.clip.height, job.clip.width],
        "prompt": options.prompt,
        "references": [one_line(each) for flag in flags for each in getattr(options, flag)],
        "models": {role: one_line(str(path)) for role, path in models.items()},
        "trace": asdict(reasoned.trace),
        "text": reasoned.text,
        "boxes": [_box(box) for piece in pieces for box in piece.boxes],
        "held_back": held,
        "seconds": {step: round(value, 3) for step, value in seconds.items()},
        "notes": list(dict.fromkeys(notes)),
        "clip": {
            "times": [str(time) for time in times],
            "seconds": str(sum(durations, Fraction(0))),
            "codec": job.form.codec.name,
            "sound": job.clip.sound,
        },
    }


def _box(box: dict[str, Any]) -> dict[str, Any]:
    return {**box, "score": None} if box.get("by_plan") else box


def _write_strip(path: Path, job: ClipJob, reasoned: Reasoned, store: MaskStore, prompt: str) -> None:
    from ..files.pictures import load_mask, load_picture, write_atomically
    from ..viz.clip_sheet import StripFrame, draw_clip_sheet

    starts = list(accumulate(store.durations[:-1], initial=Fraction(0)))
    frames = [
        StripFrame(
            load_picture(pictures["original"])[0],
            load_mask(pictures["mask"])[0],
            load_picture(pictures["edited"])[0],
            f"frame {number} · {float(starts[number]):.2f} s",
        )
        for number, pictures in job.keyframes()
    ]
    asked = f"asked: “{prompt}”" if prompt.strip() else "asked: no words, only the reference"
    image = draw_clip_sheet(frames, reasoned.trace.plan.instruction, asked)
    write_atomically(path, lambda file: image.save(file, format="PNG"))


def _write_text(path: Path, text: str) -> None:
    from ..files.pictures import write_atomically

    write_atomically(path, lambda file: file.write(text.encode("utf-8")))
