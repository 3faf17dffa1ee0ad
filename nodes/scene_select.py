"""What of a scene of Gaussians an edit may change."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import io

from . import host, scene_views, scene_work, sockets
from .borrowed import Borrowed
from .checks import checked

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.plan.trace import Trace
    from ..evlm.scene import SplatScene

NONE = "the plan asks for no change: nothing is selected"


class SelectInScene(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_SelectInScene",
            display_name="EVLM Select in Scene",
            category=sockets.CATEGORY,
            description="Selects the Gaussians that a plan means: its targets are found in many views, and "
            "each Gaussian is asked in which masks it lies. EVLM Edit Scene and Fit Scene then change these "
            "and no others.",
            inputs=[
                sockets.Scene.Input("scene", tooltip="With cameras, from EVLM Load Scene."),
                sockets.Plan.Input(
                    "plan",
                    tooltip="Of the scene's first view: from EVLM Reason, to whose `image` the scene is "
                    "connected, or from EVLM Plan from Text.",
                ),
                *scene_work.size_inputs(io),
                sockets.Detector.Input(
                    "detector",
                    optional=True,
                    tooltip="Finds the targets in every view; without it the plan's own place in the first "
                    "view is all that is known.",
                ),
                sockets.Segmenter.Input(
                    "segmenter", optional=True, tooltip="Draws the outlines of what is found."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where it is in the first view, instead of what is found there.",
                ),
            ],
            outputs=[
                sockets.Scene.Output(
                    "scene_out", display_name="scene", tooltip="The same Gaussians, with the selection."
                ),
                io.Image.Output(
                    "preview", display_name="preview", tooltip="Some views, with what is selected in blue."
                ),
                io.Mask.Output(
                    "mask_out",
                    display_name="mask",
                    tooltip="For each of them, how much of what is seen is selected.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        scene: SplatScene,
        plan: Trace,
        views: int,
        size: int,
        detector: Any = None,
        segmenter: Any = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        from ..evlm.pipeline import Pipeline
        from ..evlm.scene.edit import SceneEdit
        from ..evlm.scene_job import SceneJob

        scene_work.check_views(views, size)
        scene_work.check_first(plan)
        nothing: Any = None
        pipeline = Pipeline(
            nothing,
            None if detector is None else Borrowed(detector, "ground"),
            None if segmenter is None else Borrowed(segmenter, "segment"),
            nothing,
        )
        watch = scene_work.Work()
        with scene_views.learning():
            here = replace(scene_work.there(scene), selection=None)
            settings = SceneEdit(views=views, longest=size)
            job = SceneJob(here, pipeline, settings=settings, on_event=watch.event, on_work=watch.views)
            looks = scene_work.looks_of(job)
            job.mask = scene_work.mask_for(mask, looks)
            steps = job.select_all(scene_work.reasoned_of(plan), looks)
            rows = scene_work.union(steps) if steps else torch.zeros(len(scene), dtype=torch.bool)
            here = here.with_selection(rows.to(here.gaussians.means.device))
            pictures, masks = scene_work.shown(here, looks)
        notes = [*job.notes, *scene_work.note_of(steps, looks), *([] if steps else [NONE])]
        host.tell([*notes, *([f"doubtful: {job.doubt}"] if job.doubt else [])])
        preview = scene_views.tinted(pictures, masks)
        watch.picture = preview[:1]  # the page goes on showing what was last shown
        watch.bar(1000, 1000)
        made = scene.with_selection(rows.cpu())
        return io.NodeOutput(made, preview, masks, ui=host.preview(preview, cls))
