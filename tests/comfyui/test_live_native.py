"""Core's own models as the editor, in a real ComfyUI: its classes of three kinds with few, random weights.

What they paint means nothing; that core's conditioning, sampling and memory management take what EVLM Native
Editor asks of them, and that nothing changes outside the mask, is what is held here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import live
import numpy as np
import pytest
from graphs import changed, load, node_of
from PIL import Image

TINY = live.PACK / "tests" / "comfyui" / "tiny_core.py"
STEPS = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[live.Comfy]:
    """A ComfyUI of its own, with a node that makes the models."""
    made = live.from_environment(tmp_path_factory.mktemp("native"))
    (made.base / "custom_nodes" / TINY.name).symlink_to(TINY)
    made.start()
    yield made
    made.stop()


def graph(server: live.Comfy, which: str, **settings: Any) -> live.Graph:
    """The models -> EVLM Native Editor -> Load All -> Quick Edit, and -> Edit in the same mask."""
    info = server.get("/object_info")
    made: live.Graph = {}

    def node(name: str, node_kind: str, **inputs: Any) -> None:
        required = info[node_kind]["input"]["required"]
        own = {key: spec[1]["default"] for key, spec in required.items() if "default" in dict(*spec[1:])}
        first = {key: spec[1]["options"][0] for key, spec in required.items() if "options" in dict(*spec[1:])}
        made[name] = {"class_type": node_kind, "inputs": {**first, **own, **inputs}}

    made["tiny"] = {"class_type": "TinyCoreModels", "inputs": {"which": which}}
    node("native", "EVLM_NativeEditor", model=["tiny", 0], clip=["tiny", 1], vae=["tiny", 2],
         **{"resolution": 128, "steps": STEPS, **settings})  # fmt: skip
    node("example", "EVLM_Example", which="1-reference")
    node("all", "EVLM_LoadAll", custom_editor=["native", 0])
    node("quick", "EVLM_QuickEdit", pipe=["all", 0], image=["example", 0], references=["example", 1],
         prompt=["example", 2])  # fmt: skip
    node("edit", "EVLM_Edit", editor=["native", 0], image=["example", 0], mask=["quick", 1],
         instruction="make it green")  # fmt: skip
    made["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": ["quick", 1]}}
    for name, picture in (("original", "example"), ("quick", "quick"), ("edit", "edit"), ("mask", "mask")):
        inputs = {"images": [picture, 0], "filename_prefix": name}
        made[f"{name}-file"] = {"class_type": "SaveImage", "inputs": inputs}
    return made


def pictures(server: live.Comfy, run: live.Run, name: str) -> np.ndarray:
    """[N, H, W, 3] in 0..255 of what a node saved: the bundled example has 8 bits, so nothing is lost."""
    files = [server.base / "output" / each["filename"] for each in run.outputs[f"{name}-file"]["images"]]
    return np.stack([np.asarray(Image.open(file).convert("RGB")).astype(int) for file in files])


def held(server: live.Comfy, made: live.Graph) -> tuple[live.Run, np.ndarray, np.ndarray]:
    """(run, what Quick Edit painted, what Edit painted); outside the mask nothing has changed."""
    run = server.run(made)
    assert run.status == "success", run.error
    original, off = pictures(server, run, "original"), pictures(server, run, "mask")[0, ..., 0] < 128
    assert 0 < off.mean() < 1
    painted = pictures(server, run, "quick"), pictures(server, run, "edit")
    for each in painted:
        assert (each[:, off] == original[:, off]).all(), "outside the mask"
        assert abs(each[:, ~off] - original[:, ~off]).mean() > 2, "inside it"
    return run, *painted


@pytest.mark.parametrize("which", ["instruct-pix2pix", "flux-kontext"])
def test_it_edits_by_both_nodes_and_the_seed_decides(server: live.Comfy, which: str) -> None:
    made = graph(server, which)

    def seeded(seed: int) -> tuple[live.Run, np.ndarray, np.ndarray]:
        return held(server, changed(changed(made, "EVLM_QuickEdit", seed=seed), "EVLM_Edit", seed=seed))

    run, quick, edited = seeded(5)
    assert run.previews > 0 and len(run.progress("edit")) > 1
    assert run.outputs["edit"]["evlm_own_values"][0]["steps"] == STEPS
    _, other_quick, other_edited = seeded(6)
    assert (quick != other_quick).any() and (edited != other_edited).any()
    _, again_quick, again_edited = seeded(5)
    assert (quick == again_quick).all() and (edited == again_edited).all()


def test_qwen_image_edit_paints_variations(server: live.Comfy) -> None:
    """Both of core's ways to tell it; its VAE's latents have a place for frames."""
    for kind in ("auto", "qwen-image-edit"):
        made = graph(server, "qwen-image-edit", kind=kind, steps=1)
        _, quick, _ = held(server, changed(made, "EVLM_QuickEdit", variations=2))
        assert len(quick) == 2 and (quick[0] != quick[1]).any()


def test_keyframes_of_a_clip_are_edited_by_it_and_carried(server: live.Comfy) -> None:
    """The template, with the bundled models for the plan and a tiny one for the picture."""
    made = load("video_native_keyframes")
    for kind in ("EVLM_LoadModel", "EVLM_LoadDetector", "EVLM_LoadSegmenter"):
        made = changed(made, kind, model="bundled")
    made = changed(made, "EVLM_Reason", prompt="pink heart")
    native, save = node_of(made, "EVLM_NativeEditor"), node_of(made, "SaveVideo")
    for kind in ("UNETLoader", "CLIPLoader", "VAELoader"):
        del made[node_of(made, kind)]
    made["tiny"] = {"class_type": "TinyCoreModels", "inputs": {"which": "instruct-pix2pix"}}
    wires = {"model": ["tiny", 0], "clip": ["tiny", 1], "vae": ["tiny", 2]}
    made[native]["inputs"].update({**wires, "resolution": 128, "steps": STEPS})
    keys, carried = node_of(made, "EVLM_Keyframes"), node_of(made, "EVLM_PropagateKeyframes")
    for name, images in (("clip", [carried, 1]), ("keys", [keys, 0])):
        inputs = {"images": images, "filename_prefix": name}
        made[f"{name}-file"] = {"class_type": "SaveImage", "inputs": inputs}
    run = server.run(made, 600)
    assert run.status == "success", run.error
    assert run.outputs[save]
    assert 2 <= len(run.outputs["keys-file"]["images"]) < len(run.outputs["clip-file"]["images"]) == 16


def test_a_clip_is_painted_by_a_video_model_in_its_mask_and_keeps_the_rest(server: live.Comfy) -> None:
    """The template, with the bundled models for the plan and a tiny one for the frames."""
    made = load("video_native_inpaint")
    for kind in ("EVLM_LoadModel", "EVLM_LoadDetector", "EVLM_LoadSegmenter"):
        made = changed(made, kind, model="bundled")
    made = changed(changed(made, "EVLM_Reason", prompt="pink heart"), "KSampler", steps=STEPS)
    tiny = {"UNETLoader": 0, "CLIPLoader": 1, "VAELoader": 2}
    loaders = {node_of(made, kind): ["tiny", slot] for kind, slot in tiny.items()}
    made = {name: node for name, node in made.items() if name not in loaders}
    for node in made.values():
        links = {key: value for key, value in node["inputs"].items() if isinstance(value, list)}
        node["inputs"] |= {key: loaders[link[0]] for key, link in links.items() if link[0] in loaders}
        if node["class_type"] == "ImageScale" and not isinstance(node["inputs"]["width"], list):
            node["inputs"] |= {"width": 128, "height": 112}  # of another shape than the clip
    made["tiny"] = {"class_type": "TinyCoreModels", "inputs": {"which": "wan-vace"}}
    composite, track, save = (node_of(made, kind) for kind in ("EVLM_Composite", "EVLM_Track", "SaveVideo"))
    made["masks"] = {"class_type": "MaskToImage", "inputs": {"mask": [track, 0]}}
    shown = {"before": made[composite]["inputs"]["original"], "after": [composite, 0], "mask": ["masks", 0]}
    for name, images in shown.items():
        inputs = {"images": images, "filename_prefix": f"vace-{name}"}
        made[f"{name}-file"] = {"class_type": "SaveImage", "inputs": inputs}
    run = server.run(made, 600)
    assert run.status == "success", run.error
    before, after, mask = (pictures(server, run, name) for name in ("before", "after", "mask"))
    off = mask[..., 0] < 128
    assert len(before) == len(after) == len(mask) == 16 and run.outputs[save]
    assert (after[off] == before[off]).all(), "outside the mask"
    assert abs(after[~off] - before[~off]).mean() > 5, "inside it"


def test_a_model_that_does_not_edit_is_refused_by_its_name(server: live.Comfy) -> None:
    run = server.run(graph(server, "plain"))
    assert run.status == "error" and run.error["node_type"] == "EVLM_NativeEditor"
    assert "core's class BaseModel is not known here" in run.error["exception_message"]


def test_a_cancel_stops_the_sampling(server: live.Comfy) -> None:
    """Within a step, and the editor works on afterwards."""
    asked: list[float] = []

    def cancel(run: live.Run, kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and str(data.get("node")) == "edit" and not asked:
            asked.append(data["value"])
            server.post("/interrupt", {})

    made = graph(server, "flux-kontext")
    run = server.run(changed(made, "EVLM_Edit", steps=1000, seed=9), watch=cancel)
    assert run.status == "interrupted" and asked
    held(server, made)
