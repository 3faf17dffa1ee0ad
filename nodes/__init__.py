"""The nodes, one topic a file. This package is never put on `sys.path`: ComfyUI owns a module `nodes`."""

from __future__ import annotations

from comfy_api.latest import io

from . import (
    discover,
    edit,
    edit_video,
    example,
    ground,
    keyframes,
    load,
    load_all,
    native,
    plan,
    quick,
    rate,
    reason,
    scene_fit,
    scene_load,
    scene_render,
    segment,
    steady,
    track,
    train,
)

NODES: list[type[io.ComfyNode]] = [
    load.LoadModel,
    load.RemoteModel,
    reason.Reference,
    reason.Reason,
    reason.ShowTrace,
    plan.PlanFromText,
    plan.PlanToText,
    load.LoadDetector,
    ground.Ground,
    load.LoadSegmenter,
    segment.Segment,
    load.LoadEditor,
    edit.Edit,
    edit.Composite,
    example.Example,
    rate.RateEdit,
    train.Train,
    load_all.LoadAll,
    quick.QuickEdit,
    native.Native,
    track.Track,
    edit_video.EditVideo,
    steady.Steadiness,
    keyframes.Keyframes,
    keyframes.Propagate,
    scene_load.LoadScene,
    scene_render.RenderScene,
    scene_fit.FitScene,
    scene_load.SaveScene,
    scene_load.SceneToSplat,
]
NODES = [discover.discoverable(node) for node in NODES]
