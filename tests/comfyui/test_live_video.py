"""Clips in a real ComfyUI: what the video template writes, frame by frame."""

from __future__ import annotations

import copy

import graphs
import live
import numpy as np
from PIL import Image

FRAMES = 16  # of the clip that the pack puts into the input folder


def test_a_clip_is_changed_in_its_mask_alone_and_keeps_its_length(comfy: live.Comfy) -> None:
    graph = copy.deepcopy(graphs.load("edit_video"))
    load, track, edit, save = (
        graphs.node_of(graph, kind) for kind in ("LoadVideo", "EVLM_Track", "EVLM_EditVideo", "SaveVideo")
    )
    # Core reads a file with 8 bits or as floats, and PyAV 15 one of BT.709 as BT.601: we read both.
    for name, clip in (("read", load), ("parts", edit)):
        keys = {"clip": [clip, 0], "count": FRAMES, "mask": [track, 0]}
        graph[name] = {"class_type": "EVLM_Keyframes", "inputs": keys}
    graph["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": [track, 0]}}
    shown = {
        "before": ["read", 0],
        "exact": [edit, 1],
        "after": ["parts", 0],
        "mask": ["mask", 0],
    }
    for name, images in shown.items():
        inputs = {"images": images, "filename_prefix": f"clip-{name}"}
        graph[f"{name}-file"] = {"class_type": "SaveImage", "inputs": inputs}
    run = comfy.run(graph, 600)
    assert run.status == "success", run.error

    def pictures(name: str) -> np.ndarray:
        files = [comfy.base / "output" / each["filename"] for each in run.outputs[f"{name}-file"]["images"]]
        return np.stack([np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files])

    before, exact, after, mask = (pictures(name) for name in ("before", "exact", "after", "mask"))
    off = mask[..., 0] < 128
    assert len(before) == len(exact) == len(after) == FRAMES and not off.all((1, 2)).any()
    assert (exact[off] == before[off]).all(), "outside the mask"
    assert abs(exact[~off] - before[~off]).mean() > 20, "inside it"
    assert abs(after - exact).mean() < 2, "the file is nearly lossless"
    assert run.outputs[save] and len(run.progress(edit)) > 1
