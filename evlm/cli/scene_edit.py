"""`python -m evlm scene edit`: a scene of Gaussians, from a request to files."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import EVLMError, one_line
from ..files.lock import holding
from . import arguments as kinds
from . import given, request_flags, scene_pictures
from .ask import at_terminal, remedy
from .originals import read_references
from .outputs import Outputs, expanded
from .request_flags import check_request, editor_settings, loaded, sampling

if TYPE_CHECKING:
    from torch import Tensor

    from ..events import Event
    from ..reason.reasoner import Reasoned
    from ..scene import SplatScene
    from ..scene_job import Looks, SceneJob, StepSelection
    from .terminal import Terminal

NAMES = ["edited.ply", "selection.npz", "before_after.mp4", "trace.json", "sheet.png"]
FOLDER = "edited"  # of a scene that moves, in the place of edited.ply
SELECTED = ["selection.npz", "selection.png"]
OLD = 14 * 24 * 3600.0  # seconds; unfinished work that nobody touched for so long is removed


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    add = parser.add_argument
    text = ".ply, .compressed.ply, .splat, .spz or .ksplat to edit; or the folder of a scene that moves"
    add("--scene", required=True, metavar="SCENE", type=kinds.path, help=text)
    text = (
        "what it is seen by: a COLMAP model or its project, transforms.json, poses_bounds.npy, cameras.json, "
        "ComfyUI's camera info, or orbit:24, cone:12 (orbit:24; of a scene that moves its own cameras)"
    )
    add("--cameras", metavar="PATH", type=kinds.path, help=text)
    text = "folder of the cameras' photographs; without it the scene's own renderings are edited"
    add("--images", metavar="DIR", type=kinds.path, help=text)
    text = "what is behind everything: red,green,blue, 0 to 1 or 0 to 255 (0,0,0)"
    add("--background", type=kinds.colour, metavar="R,G,B", help=text)
    text = (
        "consistent: all views, in rounds; in2n: one view at a time, the paper's; direct: all views once; "
        "canonical: one time first, from it the others; iterative: in2n over places and times; pseudo3d: one "
        "camera's clip first, carried to the others (consistent, or pseudo3d where the scene moves)"
    )
    names = ["consistent", "in2n", "direct", "canonical", "iterative", "pseudo3d"]
    add("--schedule", choices=names, help=text)
    text = "of a scene that moves: at how many of its times it is edited (4)"
    add("--at-times", type=kinds.whole(1, 1000), default=4, metavar="N", help=text)
    add(
        "--views", type=kinds.whole(1, 1000), default=24, metavar="N", help="how many are edited, at the most"
    )
    text = "pixels of the longer side of an edited view"
    add("--longest", type=kinds.whole(16, 4096), default=512, metavar="N", help=text)
    text = "write the plan, or plan and selection, and paint nothing"
    add("--until", choices=["plan", "mask"], help=text)
    request_flags.add_flags(parser)
    text = "folder in which models lie, beside the cache; repeatable"
    add("--folder", action="append", default=[], metavar="DIR", type=kinds.folder, help=text)


def run(options: argparse.Namespace) -> int:
    """Edit a scene; write it, its selection, a clip and a sheet of before and after, and the trace.

    Returns 3 where nothing was painted because the plan is doubted, or not sure enough."""
    from .terminal import Terminal, quiet_libraries

    check_request(options)
    read = [
        options.scene,
        str(expanded(options.scene).parent),
        *options.reference,
        *options.reference_video,
        *options.reference_depth,
    ]
    read += [path for path in (options.adapter, options.plan, options.mask) if path]
    outputs = Outputs(options.out, options.overwrite, read)
    quiet_libraries()
    from ..scene.edit import SceneEdit
    from ..scene.moving import holds_a_scene
    from ..scene_job import SceneJob

    terminal = Terminal()
    said = _Said(terminal)
    scene, source = _scene(options)
    outputs.check(_names(scene), holds_a_scene)
    references, notes = read_references(options)
    said.notes(*scene.notes, *notes)
    models, pipeline = loaded(terminal, given.plan_of(options))(options)
    settings = SceneEdit(
        schedule=_schedule(options, scene),
        views=options.views,
        times=options.at_times,
        longest=options.longest,
        seed=options.seed,
    )
    edit = editor_settings(options, pipeline)
    work = _work_folder(outputs.folder, options, models)
    for note in _others(outputs.folder, work):
        terminal.note(note)
    job = SceneJob(
        scene,
        pipeline,
        options.prompt,
        references,
        settings,
        edit,
        sampling(options),
        options.threshold,
        work,
        identity=_identity(models),
        on_event=said.event,
        on_work=_Progress(terminal),
        on_step=lambda done, total, _: terminal.bar("paint", done, total, " steps"),
        notes=[*scene.notes, *notes],
    )
    seconds: dict[str, float] = {}
    begun = time.perf_counter()

    def timed(step: str) -> None:
        nonlocal begun
        now = time.perf_counter()
        seconds[step], begun = now - begun, now

    looks = job.looks()
    if options.mask is not None:
        job.mask = given.mask_of(options.mask, looks.pictures[0][None].float().cpu(), job.notes)
    said.notes(*job.notes)
    timed("render")
    reasoned = job.reason(looks)
    timed("reason")
    record = {**_record(options, models, reasoned), "seconds": seconds}
    if options.until == "plan":
        return _written(outputs, terminal, record, job, None, looks)
    selections = job.select_all(reasoned, looks)
    timed("select")
    record["scene"] = _facts(options, scene, looks, selections)
    record["held_back"] = "" if options.anyway else job.doubt
    if not selections:
        terminal.note("the plan asks for no change: nothing was painted")
        return _written(outputs, terminal, record, job, None, looks)
    said.notes(*job.notes, *(note for each in selections for note in each.notes))
    if options.until == "mask":
        return _written(outputs, terminal, record, job, selections, looks)
    held = at_terminal(options.ask_below, terminal).about(reasoned.trace.plan)
    held = held or ("" if options.anyway else job.doubt)
    record["held_back"] = held
    if held:
        _written(outputs, terminal, record, job, selections, looks)
        terminal.line(f"{'held':8}  nothing was painted: {held}; say it otherwise, or {remedy(held)}")
        return 3
    with holding(work):
        try:
            edited = job.paint(selections, looks)
        except KeyboardInterrupt:
            terminal.line(f"{'stopped':8}  what is done is kept: the same command goes on from there")
            raise
        timed("edit")
        said.notes(*job.notes)
        like = expanded(options.scene)
        _written(outputs, terminal, record, job, selections, looks, edited, source, like, work)
        shutil.rmtree(work, ignore_errors=True)
    return 0


def _scene(options: argparse.Namespace) -> tuple[SplatScene, Any]:
    """(the scene with its cameras, what its file held beside the Gaussians)."""
    from ..scene import SplatScene
    from ..scene.moving import load_scene
    from ..scene.poses import LoadedCameras, load_cameras
    from ..scene.poses.in_time import to_unit
    from ..scene.raster import check_bearable

    found = load_scene(expanded(options.scene))
    moves, cameras = found.motion is not None, options.cameras or "orbit:24"
    if not cameras.startswith(("orbit", "cone")):
        cameras = expanded(cameras)
    images = None if options.images is None else expanded(options.images)
    if moves and options.cameras is None and found.cameras:
        looks = LoadedCameras(found.cameras).within(options.longest)
    else:
        looks = load_cameras(cameras, found.gaussians, images, options.longest)
        looks = (to_unit(looks) if moves else looks).within(options.longest)
    if images is not None and looks.photographs is None:
        raise EVLMError(
            f"--images {options.images}: {cameras} says of no photographs; name the file of their "
            "cameras by --cameras"
        )
    from ..models.loading import pick_device

    scene = SplatScene(
        found.gaussians,
        looks.cameras,
        looks.photographs if images is not None else None,
        background=options.background or found.background,
        motion=found.motion,
    ).to(pick_device(options.device))
    check_bearable(scene.gaussians)
    return scene.noted(*found.notes, *looks.notes), found.source


def _names(scene: SplatScene) -> list[str]:
    """What an edit of it writes."""
    return NAMES if scene.motion is None else [FOLDER, *NAMES[1:]]


def _written(
    outputs: Outputs,
    terminal: Terminal,
    record: dict[str, Any],
    job: SceneJob,
    selections: list[StepSelection] | None,
    looks: Looks,
    edited: SplatScene | None = None,
    source: Any = None,
    like: Path = Path(),
    work: Path | None = None,
) -> int:
    """Writes what there is. work: what is unfinished until then; without it nothing was begun."""
    from ..files.pictures import write_atomically
    from ..scene.moving import holds_a_scene

    names = ["trace.json", *(SELECTED if selections else [])] if edited is None else _names(edited)
    claimed = outputs.claim(names) if work is None else outputs.claim_again(names, work, holds_a_scene)
    outputs.forget_parts(claimed)
    files = dict(zip(names, claimed, strict=True))
    record["notes"] = list(job.notes)
    try:
        if edited is not None and selections is not None:
            from ..scene.files import save_gaussians

            if edited.motion is not None:
                record["notes"] += _save_moving(files[FOLDER], like, job, edited, source)
            else:
                record["notes"] += save_gaussians(files["edited.ply"], edited.gaussians, source, job.home)
            scene_pictures.write_clip(files["before_after.mp4"], job.scene, edited)
            scene_pictures.write_sheet(files["sheet.png"], job, edited, selections, looks)
        elif selections:
            scene_pictures.write_strip(files["selection.png"], job, selections, looks)
        if selections:
            scene_pictures.write_selection(files["selection.npz"], selections)
        text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
        write_atomically(files["trace.json"], lambda file: file.write(text.encode("utf-8")))
    except BaseException:
        outputs.release(list(files.values()))
        raise
    terminal.line(f"{'wrote':8}  {', '.join(map(str, files.values()))}")
    return 0


def _save_moving(folder: Path, like: Path, job: SceneJob, edited: SplatScene, source: Any) -> tuple[str, ...]:
    """Our folder; its cameras, and where no row came or went its motion, in the very bytes of the scene's."""
    import torch

    from ..scene.moving import save_folder

    assert job.home is not None
    kept = torch.equal(job.home.cpu(), torch.arange(len(job.scene)))
    if not folder.is_dir():
        folder.unlink(missing_ok=True)  # what was claimed
    scene = replace(edited.to("cpu"), source=source if kept else None)
    return save_folder(folder, scene, like if like.is_dir() else like.parent, replace=True)


def _record(options: argparse.Namespace, models: dict[str, Path], reasoned: Reasoned) -> dict[str, Any]:
    from .. import __version__
    from ..plan.trace import TRACE_VERSION

    flags = ("reference", "reference_video", "reference_depth", "reference_text")
    return {
        "evlm": __version__,
        "trace_version": TRACE_VERSION,
        "prompt": options.prompt,
        "references": [one_line(each) for flag in flags for each in getattr(options, flag)],
        "models": {role: one_line(str(path)) for role, path in models.items()},
        "trace": asdict(reasoned.trace),
        "text": reasoned.text,
        "held_back": "",
    }


def _schedule(options: argparse.Namespace, scene: SplatScene) -> Any:
    from ..scene.edit.settings import IN_TIME

    return options.schedule or ("consistent" if scene.motion is None else IN_TIME)


def _facts(
    options: argparse.Namespace, scene: SplatScene, looks: Looks, selections: list[StepSelection]
) -> dict[str, Any]:
    return {
        "file": one_line(options.scene),
        "cameras": one_line(options.cameras or ("orbit:24" if scene.motion is None else "its own")),
        "gaussians": len(scene),
        "views": [camera.name for camera in looks.cameras],
        "photographs": looks.photographed,
        "schedule": _schedule(options, scene),
        "times": [camera.time for camera in looks.cameras] if scene.motion is not None else None,
        "steps": [
            {
                "instruction": each.plan.instruction,
                "operation": each.operation,
                "selected": int(each.rows.sum()),
                "views_that_voted": sum(mask is not None for mask in each.masks),
                "notes": list(each.notes),
            }
            for each in selections
        ],
    }


def _identity(models: dict[str, Path]) -> str:
    """The models by their files' names, sizes and times."""
    facts = []
    for role, path in sorted(models.items()):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            found = file.stat()
            facts.append((role, str(file), found.st_size, found.st_mtime_ns))
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _work_folder(folder: Path, options: argparse.Namespace, models: dict[str, Path]) -> Path:
    """Where what is done lies: the same for the same command."""
    said = {
        key: str(value) for key, value in sorted(vars(options).items()) if key not in ("until", "overwrite")
    }
    said["models"] = _identity(models)
    return folder / f".scene-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]}"


def _others(folder: Path, own: Path) -> list[str]:
    """Takes away what other commands left unfinished there long ago; says what lies there still."""
    left, notes = [], []
    for each in sorted(folder.glob(".scene-*")):
        ours = re.fullmatch(r"\.scene-[0-9a-f]{12}", each.name)
        if not ours or each == own or each.is_symlink() or not each.is_dir():
            continue
        files = [path.stat() for path in each.rglob("*") if path.is_file()]
        newest = max((found.st_mtime for found in files), default=each.stat().st_mtime)
        if time.time() - newest > OLD:
            shutil.rmtree(each, ignore_errors=True)
            notes.append(f"{each}: unfinished work of another edit, untouched for two weeks, was removed")
        else:
            left.append(f"{each} ({sum(found.st_size for found in files) / 1e6:.0f} MB)")
    if left:
        notes.append(f"unfinished work of other edits lies in {', '.join(left)}: delete what is not wanted")
    return notes


class _Said:
    """Shows events, and notes that were not shown yet."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self._told: set[str] = set()

    def event(self, event: Event) -> None:
        if event.kind == "note":
            self._told.add(event.text)
        self.terminal.event(event)

    def notes(self, *notes: str) -> None:
        for note in notes:
            if note not in self._told:
                self._told.add(note)
                self.terminal.note(note)


class _Progress:
    """How far it is: a bar where a person watches, else a line now and then."""

    EVERY = 20.0  # seconds

    def __init__(self, terminal: Terminal) -> None:
        self.terminal, self.told = terminal, time.perf_counter()

    def __call__(self, what: str, done: int, total: int, picture: Tensor | None) -> None:
        self.terminal.bar(what, done, total, " views")
        now = time.perf_counter()
        if not self.terminal.live and now - self.told >= self.EVERY:
            self.told = now
            self.terminal.line(f"{what:8}  {done} of {total} views")
