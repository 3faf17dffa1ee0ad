"""A clip edited inside a mask that follows: VIDEO in, VIDEO out, of any length."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import clips, host, outputs, sockets, unfinished
from .borrowed import Borrowed
from .checks import checked
from .edit import ONE_MASK, REMEDY, own_values, places_of, work_of
from .painting import clip_outputs, guidance_inputs, seamless_input
from .tracking import tracker_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.clips.job import ClipJob
    from ..evlm.clips.masks import MaskStore
    from ..evlm.plan.trace import Plan, Trace
    from ..evlm.reason.reasoner import Reasoned

TOGETHER = ["per-frame", "anchors", "sparse", "tav", "all"]
IMAGES = 1  # the output's place
TOO_LONG = (
    "the `image` output holds all frames at once, and this clip is too long for that: use the `video` "
    "output, whose frames are in a file"
)
HELD = (
    64_000_000  # pixels of all frames, 768 MB: so many are kept for the `image` output though nobody takes it
)
NOT_HELD = (
    "the `image` output holds all frames at once, and nobody took it when this clip was edited: change the "
    "seed or any other input, and queue again"
)


class EditVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_EditVideo",
            display_name="EVLM Edit Video",
            category=sockets.CATEGORY,
            description="Edits a clip inside the mask and nowhere else, its frames together so that nothing "
            "flickers; each frame keeps its time, and the sound goes along. A file is read and written "
            "window by window, however long it is.",
            inputs=[
                sockets.Editor.Input("editor", tooltip="From Load IP2P or EVLM Native Editor."),
                io.Video.Input("video", tooltip="What is edited."),
                io.String.Input(
                    "instruction", default="", multiline=True, tooltip="Empty: the plan's instruction."
                ),
                *guidance_inputs(),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Where chance begins; the same in every frame.",
                ),
                io.Combo.Input(
                    "together",
                    options=TOGETHER,
                    default=TOGETHER[0],
                    tooltip="At whom a frame looks while it is painted: nobody; the window's first and "
                    "middle one (anchors, half as much time again); neighbours (sparse, tav); or all of it.",
                ),
                io.Int.Input(
                    "window",
                    default=8,
                    min=2,
                    max=256,
                    tooltip="Frames that are painted together; where they look at each other, the next "
                    "window begins from the last two.",
                ),
                io.Float.Input(
                    "context",
                    default=1.2,
                    min=1.0,
                    max=16.0,
                    step=0.05,
                    tooltip="How much larger than the mask the crop that follows it is, per side.",
                ),
                io.Int.Input(
                    "feather",
                    default=-1,
                    min=-1,
                    max=4096,
                    tooltip="Pixels over which the edit fades in, inward from the mask's edge; -1: 2 %.",
                ),
                io.Int.Input(
                    "chunk",
                    default=8,
                    min=1,
                    max=4096,
                    tooltip="Frames at once; halved by itself when memory runs out.",
                ),
                io.Boolean.Input(
                    "anyway",
                    default=False,
                    tooltip="Paint by a doubtful plan, too: one of many repairs, or one that would repaint "
                    "the whole clip unasked.",
                ),
                sockets.Plan.Input(
                    "plan", optional=True, tooltip="Its instruction counts where none is written here."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where to edit, from EVLM Track: one for each frame. One mask alone counts for "
                    "all.",
                ),
                sockets.Detector.Input(
                    "detector",
                    optional=True,
                    tooltip="Without a mask: finds the plan's targets, in clips too long for EVLM Track.",
                ),
                sockets.Segmenter.Input(
                    "segmenter", optional=True, tooltip="Without a mask: follows the plan's targets."
                ),
                seamless_input(),
            ],
            hidden=[io.Hidden.prompt],
            outputs=clip_outputs("edited"),
        )

    @classmethod
    @checked
    def execute(
        cls,
        editor: Any,
        video: Any,
        instruction: str,
        steps: int,
        guidance: float,
        image_guidance: float,
        seed: int,
        together: str,
        window: int,
        context: float,
        feather: int,
        chunk: int,
        anyway: bool,
        plan: Trace | None = None,
        mask: Tensor | None = None,
        detector: Any = None,
        segmenter: Any = None,
        seamless: bool = True,
    ) -> io.NodeOutput:
        from ..evlm.segment.region import NO_CHANGE

        own = instruction.strip()
        work = work_of(plan, own, 0)
        sockets.choice("together", together, TOGETHER)
        sockets.within("window", window, 2, 256)
        with clips.opened(video) as source:
            taken = outputs.is_linked(getattr(cls.hidden, "prompt", None), IMAGES)
            if taken:
                source.check(TOO_LONG)
            held = source.fits and (taken or source.pixels <= HELD)
            missing = host.blocked(NOT_HELD if source.fits else TOO_LONG)
            job = _job(source, editor, work, together, window)
            defaults = job.settings
            said = {"steps": steps, "guidance": guidance, "image_guidance": image_guidance}
            job.settings = replace(
                defaults,
                seed=seed,
                context=context,
                feather=None if feather < 0 else feather,
                chunk=chunk,
                seamless=seamless,
                **{name: value for name, value in said.items() if value},
            )
            looks = not (own or anyway)
            models = [unfinished.model(each) for each in (editor, detector, segmenter)]
            key = unfinished.key_of(
                *source.parts(), work, job.settings, job.video, mask, models, looks, held, job.form
            )
            with unfinished.work_folder(
                key, lambda folder: unfinished.worth(folder, mask is None)
            ) as job.work:
                painting = unfinished.Painting(job, held)
                like = source.like(1 if mask is None or mask.ndim < 3 else len(mask))
                store, doubt = _places(job, work, plan, mask, detector, segmenter, like, looks)
                if work.changes_nothing or doubt:
                    host.tell([NO_CHANGE if not doubt else f"nothing was painted: {doubt}. {REMEDY}"])
                    return io.NodeOutput(video, source.together("")[0] if held else missing)
                with painting.of(store):
                    _paint(job, work, store, editor)
                    path = clips.new_file("edited")
                    notes = job.write(store, path, source.work / "mask.mp4", source.sound(store.durations))
            kept, length = painting.frames, float(sum(store.durations))
            host.tell([*dict.fromkeys(job.notes), *notes, f"{store.count} frames, {length:.2f} s"])
        images = missing if kept is None else kept
        ui = {**clips.playing(path), "evlm_own_values": [own_values(defaults)]}
        return io.NodeOutput(clips.video_of(path), images, ui=ui)


def _job(source: clips.Opened, editor: Any, work: Plan, together: str, window: int) -> ClipJob:
    """The edit of a clip, with the editor's own settings. Raises PictureError."""
    from ..evlm.clips.job import ClipJob
    from ..evlm.files.clip_codecs import form_of
    from ..evlm.pipeline import Pipeline
    from ..evlm.request import Request
    from ..evlm.video.settings import VideoSettings

    clip = source.file
    form, notes = form_of("h264", clip.height, clip.width, clip.rate, clip.alpha, clip.bits)
    host.tell(note.partition(";")[0] for note in notes)  # behind it the command line's remedy
    host.tell(clip.notes)
    with editor.use() as engine:
        defaults = engine.defaults
    nothing: Any = None
    video = VideoSettings(together=together, window=window, overlap=min(2, window - 1))
    blank = torch.zeros(1, 8, 8, 3)  # nobody is asked: the plan is there
    job = ClipJob(
        clip,
        Pipeline(nothing, None, None, nothing),
        Request(blank, work.instruction),
        defaults,
        video,
        form,
        source.work,
    )
    watch = clips.Watch()
    several = len(work.steps) > 1

    def stepped(done: int, total: int, preview: Tensor | None) -> None:
        host.check_cancelled()
        if not several:
            watch("painting", done, total)

    def finished(what: str, done: int, total: int) -> None:
        host.check_cancelled()
        if what == "places" or several or not job.on_step:
            watch("looking" if what == "places" else "painting", done, total)

    job.on_step, job.on_progress = stepped, finished
    return job


def _places(
    job: ClipJob,
    work: Plan,
    plan: Trace | None,
    mask: Tensor | None,
    detector: Any,
    segmenter: Any,
    like: Tensor,
    looks: bool,
) -> tuple[MaskStore, str]:
    """(where each step goes in every frame, why nothing should be painted or ""). like: of the clip's size.
    looks: whether a doubt counts. Raises PictureError."""
    from ..evlm.clips.masks import MaskStore
    from ..evlm.place import doubt_steps

    if work.changes_nothing:
        return MaskStore(job.work, 1, job.clip.height, job.clip.width), ""
    if mask is None and (detector is not None or segmenter is not None):
        tracker = tracker_of(segmenter)
        job.pipeline.grounder = None if detector is None else Borrowed(detector, "ground")
        job.pipeline.segmenter = None if segmenter is None else Borrowed(segmenter, "segment")
        job.pipeline.tracker = None if tracker is None else Borrowed(tracker, "track")
        job.anyway = not looks
        store = job.places(_reasoned(work))
        host.tell(dict.fromkeys(note for piece in store.pieces for note in piece.notes))
        return store, store.pieces[0].doubt if looks else ""
    notes: list[str] = []
    masks, connected = places_of(plan, work, 0, mask, like, notes)
    if connected and work.several and mask is not None and len(mask) <= job.clip.count:
        notes.append(ONE_MASK)
    host.tell(notes)
    doubt = doubt_steps(work, [each is None for each in masks], looked=connected) if looks else ""
    if doubt:
        return MaskStore(job.work, len(masks), job.clip.height, job.clip.width), doubt
    return job.given(work, masks), ""


def _paint(job: ClipJob, work: Plan, store: MaskStore, editor: Any) -> None:
    """Paints every window that is not painted yet."""
    from ..evlm.video.clip import opens

    with editor.use() as engine:
        job.pipeline.editor = engine
        if not opens(engine):
            job.on_step = None
        job.paint(_reasoned(work), store)


def _reasoned(work: Plan) -> Reasoned:
    """A plan as if a reasoner had just written it."""
    from ..evlm.plan.trace import Trace
    from ..evlm.reason.reasoner import Reasoned

    return Reasoned("", 0, 0.0, trace=Trace("", "", "", work))
