"""A scene of Gaussians from a request to an edited scene, in one node."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from . import host, quick, scene_views, scene_work, sockets
from .asking import asks, below_input
from .checks import checked
from .edit import own_values
from .painting import guidance_inputs
from .quick import STOP, Watch
from .reason import PROMPT, as_json

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.plan.trace import Trace
    from ..evlm.request import Reference as EngineReference
    from ..evlm.scene import SplatScene
    from ..evlm.scene_job import Looks, SceneJob
    from .load_all import Pipe

SCHEDULES = ["consistent", "in2n", "direct", "canonical", "iterative", "pseudo3d"]
ROUNDS = 3  # of "consistent"
REMEDY = (
    "to paint all the same, select first (EVLM Select in Scene), draw a mask in the first view, or choose "
    "'paint anyway' in `stop`"
)
NONE = "the plan asks for no change: nothing was painted"


class EditScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_EditScene",
            display_name="EVLM Edit Scene",
            category=sockets.CATEGORY,
            description="Scene, references and a few words in, edited scene out: the first view is reasoned "
            "about, what is meant is selected in many views, and they are painted and fitted until they "
            "agree. Every Gaussian that is not selected keeps its bits. Cancelled, it goes on when the same "
            "is queued again.",
            inputs=[
                sockets.Pipe.Input("pipe", tooltip="From EVLM Load All."),
                sockets.Scene.Input(
                    "scene",
                    tooltip="With cameras, from EVLM Load Scene. Where something is selected in it, that is "
                    "what may change.",
                ),
                io.String.Input("prompt", default="", multiline=True, tooltip=PROMPT),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**63 - 1,
                    control_after_generate=True,
                    tooltip="Of the painting. The plan does not depend on it.",
                ),
                io.Combo.Input(
                    "stop",
                    options=STOP,
                    tooltip="'stop at the plan' selects and paints nothing yet; 'paint anyway' follows a "
                    "doubtful plan, too.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=SCHEDULES,
                    tooltip="consistent: all views, in rounds, fitted to their mean; in2n: one view at a "
                    "time, as Instruct-NeRF2NeRF; direct: all views once, the fastest. Of a scene "
                    "that moves: pseudo3d (consistent is the same there), one camera's clip first, carried "
                    "to the others; canonical: one time first, and from it the others; iterative: as in2n, "
                    "over places and times.",
                ),
                *scene_work.size_inputs(io),
                io.Int.Input(
                    "rounds",
                    default=ROUNDS,
                    min=1,
                    max=ROUNDS,
                    tooltip="Of 'consistent', at most: each paints all views once more. Of a scene that "
                    "moves 3 paints it twice, 1 and 2 once.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 the painting starts from the noised views.",
                ),
                *guidance_inputs(),
                sockets.References.Input("references", optional=True, tooltip="Things to look at."),
                sockets.Plan.Input(
                    "plan",
                    optional=True,
                    tooltip="Instead of reasoning: of the scene's first view, from EVLM Reason, to whose "
                    "`image` the scene is connected, or from EVLM Plan from Text.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where to edit in the first view, instead of the plan's place.",
                ),
                below_input(),
            ],
            outputs=[
                sockets.Scene.Output(
                    "scene_out",
                    display_name="scene",
                    tooltip="The edited Gaussians, what was changed selected; unchanged where it stopped.",
                ),
                io.Image.Output(
                    "before_after",
                    display_name="image",
                    tooltip="Some of the views: before on the left, after on the right.",
                ),
                io.Image.Output(
                    "preview", display_name="preview", tooltip="These views with what is selected in blue."
                ),
                sockets.Plan.Output("plan_out", display_name="plan", tooltip="What was done."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        pipe: Pipe,
        scene: SplatScene,
        prompt: str,
        seed: int,
        stop: str,
        schedule: str,
        views: int,
        size: int,
        rounds: int,
        strength: float,
        steps: int,
        guidance: float,
        image_guidance: float,
        references: tuple[EngineReference, ...] | None = None,
        plan: Trace | None = None,
        mask: Tensor | None = None,
        ask_below: float = 0.0,
    ) -> io.NodeOutput:
        from ..evlm.scene.edit import IN_TIME, SceneEdit
        from ..evlm.scene_job import SceneJob

        sockets.choice("stop", stop, STOP)
        sockets.choice("schedule", schedule, SCHEDULES)
        scene_work.check_views(views, size)
        sockets.within("rounds", rounds, 1, ROUNDS)
        sockets.within("strength", strength, 0.01, 1)
        sockets.within("ask_below", ask_below, 0, 1)
        scene_work.check_first(plan)
        pipeline, watch = pipe.pipeline(), scene_work.Work()
        own = pipeline.editor.defaults
        said = {"steps": steps, "guidance": guidance, "image_guidance": image_guidance}
        edit = replace(
            own, seed=seed, strength=strength, **{name: value for name, value in said.items() if value}
        )
        if scene.motion is not None and schedule == SCHEDULES[0]:
            schedule = IN_TIME
        settings = SceneEdit(schedule=schedule, views=views, longest=size, seed=seed)
        settings = replace(settings, strengths=settings.strengths[:rounds])
        with scene_views.learning():
            job = SceneJob(
                scene_work.there(scene),
                pipeline,
                prompt,
                references or (),
                settings,
                edit,
                on_event=watch.event,
                on_work=watch.views,
                on_step=watch.steps,
            )
            looks = scene_work.looks_of(job)
            job.mask = scene_work.mask_for(mask, looks)
            trace = plan or _asked(pipe, job, looks)
            unsure, stops = asks(
                [] if plan is not None or trace.plan.changes_nothing else [trace.plan], ask_below
            )
            if stops and stop == STOP[0]:
                unsure = f"stopped: {unsure}. {quick.ASK}"
                host.tell([unsure])
                return io.NodeOutput(ui={"evlm_trace": [as_json(trace)]}, block_execution=unsure)
            chosen = scene_work.chosen_steps(job, trace, looks)
            rows = scene_work.union(chosen) if chosen else torch.zeros(len(scene), dtype=torch.bool)
            source = job.scene.with_selection(rows.to(job.scene.gaussians.means.device))
            before, masks = scene_work.shown(source, looks)
            host.tell([*([unsure] if unsure else []), *scene_work.note_of(chosen, looks)])
            held = "" if stop == STOP[2] else job.doubt
            if stop == STOP[1] or held or not chosen:
                why = f"nothing was painted: {held}; {REMEDY}" if held and stop != STOP[1] else ""
                host.tell([*job.notes, *([why] if why else []), *([] if chosen else [NONE])])
                made, after = scene.with_selection(rows.cpu()) if chosen else scene, before
            else:
                with scene_work.work_folder(scene, pipe.editor, trace, settings, edit, mask) as work:
                    job.work, job.identity = work
                    edited = job.paint(chosen, looks)
                host.tell([*job.notes, f"painted: {len(looks.cameras)} views"])
                after, _ = scene_work.shown(edited, looks)
                made = scene_work.finished(edited, scene)
        tinted = scene_views.tinted(before, masks)
        pairs = torch.cat([before, after], 2)
        drawing = tinted if stop == STOP[1] else pairs
        watch.picture = drawing[:1]  # the page goes on showing what was last shown
        watch.bar(1000, 1000)
        ui = {
            **host.preview(drawing, cls).as_dict(),
            "evlm_trace": [as_json(trace)],
            "evlm_own_values": [own_values(own)],
        }
        return io.NodeOutput(made, pairs, tinted, trace, ui=ui)


def _asked(pipe: Pipe, job: SceneJob, looks: Looks) -> Trace:
    """The plan of the first view, as it was answered before or is answered now."""
    request = job.request(looks)
    watch = Watch(1)
    ask = partial(watch.reasoned, job.pipeline, [request])
    answers = pipe.answered([quick.key_of(request)], ask)
    watch.recalled(answers)
    trace: Trace = answers[0].trace
    return trace
