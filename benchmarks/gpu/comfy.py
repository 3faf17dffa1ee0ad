"""ComfyUI's memory management with this pack's models: loaded, unloaded, loaded again, freed, cancelled.

The reasoner has Qwen2-VL-2B's size and the editor Stable Diffusion 1.5's, both of random weights on this
machine's disk, so that neither a download nor the bundled models are needed; toys of both on a CPU.
"""

from __future__ import annotations

import json
import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from ..diffusers_ip2p import pipeline_of
from .edit import editor_of, settings_of
from .qwen import backbone, save
from .server import ROOT, Graph, Memory, Ran, Server
from .steps import Bar, Setting, Step
from .turns import empty

CYCLES = 3
REASONER, EDITOR = "random-reasoner", "random-editor"
WITHIN = 0.05
"""Share of what a run took that may still be held when its memory is said to be free."""
PLACES = ("unload", "free", "cancel")


def steps(setting: Setting) -> list[Step]:
    """ComfyUI knows --lowvram and --novram for a card alone."""
    bars: tuple[Bar, ...] = ()
    if setting.device.type == "cuda":
        bars = (*(Bar(f"left after {place}", WITHIN, True) for place in PLACES), Bar("grown", WITHIN, True))
    return [
        Step(f"comfy: {name}", 3.0, partial(cycles, setting, words), bars, ("psutil", "diffusers"),
             cuda=name != "as it starts", lacks=lacks(setting))
        for name, words in {
            "as it starts": [], "--lowvram": ["--lowvram"], "--novram": ["--novram"],
        }.items()
    ]  # fmt: skip


def lacks(setting: Setting) -> str:
    """What there has to be besides packages, or nothing."""
    if setting.comfyui is None:
        return "needs a ComfyUI: --comfyui FOLDER or COMFYUI=FOLDER"
    if not (setting.comfyui / "main.py").is_file():
        return f"needs a ComfyUI with its main.py, which {setting.comfyui} lacks"
    if setting.toy and not (ROOT / "evlm" / "bundled" / "editor").is_dir():
        return "needs evlm/bundled/editor, the toy's editor, which is not here"
    return ""


def cycles(setting: Setting, words: list[str]) -> dict[str, float]:
    """Three times: a run that loads both models, one after they were unloaded, all freed; and a run that is
    cancelled in its middle, all freed. "left after": of what the runs took, at most what torch still holds of
    the card then; "grown": what more of the card is used after the last cycle than after the first."""
    assert setting.comfyui is not None
    words = words if setting.device.type == "cuda" else [*words, "--cpu"]
    with tempfile.TemporaryDirectory() as place:
        write_models(setting, Path(place) / "models" / "evlm")
        empty(setting.device)  # the server is alone on the card but for our own context
        server = Server(setting.comfyui.resolve(), Path(place), words)
        try:
            about = server.ask("/system_stats")["system"]
            print(f"ComfyUI {about.get('comfyui_version')}, {' '.join(words)}", flush=True)
            return measured(setting, server)
        finally:
            server.stop()


def measured(setting: Setting, server: Server) -> dict[str, float]:
    before = server.memory()
    runs: dict[str, list[Ran]] = {"load": [], "again": [], "cancelled": []}
    rest: dict[str, list[Memory]] = {place: [] for place in PLACES}
    for cycle in range(CYCLES):
        runs["load"].append(server.run(graph(setting, 2 * cycle)))
        rest["unload"].append(server.free(False))
        runs["again"].append(server.run(graph(setting, 2 * cycle + 1)))
        rest["free"].append(server.free(True))
        loaded = runs["load"][-1].seconds  # by then, and it has much to do yet
        runs["cancelled"].append(server.run(graph(setting, cycle, longer=50), cancel_after=loaded))
        rest["cancel"].append(server.free(True))
    return figures(before, runs, rest)


def figures(before: Memory, runs: dict[str, list[Ran]], rest: dict[str, list[Memory]]) -> dict[str, float]:
    """The values of the step. "in all": what more of the card (on a CPU of RAM) is used after all cycles than
    before them, CUDA's kernels (the libraries) included, which no program gives back."""
    peak = max(each.peak for each in runs["load"])
    taken = max(1, peak - before.used)
    values = {"taken GB": taken / 1e9}
    values |= {f"{name} s": median(each.seconds for each in runs[name]) for name in ("load", "again")}
    values["cancel s"] = median(each.late for each in runs["cancelled"])
    for place, each in rest.items():
        values[f"left after {place}"] = max(memory.torch for memory in each) / taken
    values["grown"] = (rest["cancel"][-1].used - rest["cancel"][0].used) / taken
    values["in all"] = (rest["cancel"][-1].used - before.used) / taken
    return values


def graph(setting: Setting, seed: int, longer: int = 1) -> Graph:
    """A picture is reasoned about, and painted: independent of each other, as what random weights write is no
    plan to go by. longer: so many times as much work for both."""
    side, new, painted = (64, 60, 2) if setting.toy else (512, 256, 20)
    found = {
        "picture": ("EmptyImage", {"width": side, "height": side, "batch_size": 1, "color": 0x8040FF}),
        "reasoner": ("EVLM_LoadModel", {
            "model": f"evlm/{REASONER}", "adapter": "none", "dtype": "auto", "attention": "auto",
            "quantize": "none", "max_pixels": 0, "download": False, "compile": False,
        }),
        "reason": ("EVLM_Reason", {
            "model": ["reasoner", 0], "image": ["picture", 0], "prompt": "make it blue", "batch": "pictures",
            "max_new_tokens": new * longer, "temperature": 1.0, "top_p": 1.0, "seed": seed, "repair": True,
            "guided": "always", "ask_below": 0.0, "style": "auto",
        }),
        "editor": ("EVLM_LoadEditor", {"model": f"evlm/{EDITOR}", "dtype": "auto", "download": False}),
        "edit": ("EVLM_Edit", {
            "editor": ["editor", 0], "image": ["picture", 0], "instruction": "make it blue",
            "steps": painted * longer, "guidance": 0.0, "image_guidance": 0.0, "strength": 1.0, "seed": seed,
            "scheduler": "model", "context": 1.2, "feather": -1, "chunk": 8, "anyway": True, "step": 0,
        }),
        "text": ("PreviewAny", {"source": ["reason", 4]}),
        "shown": ("PreviewImage", {"images": ["edit", 0]}),
    }  # fmt: skip
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in found.items()}


def write_models(setting: Setting, folder: Path) -> None:
    """Both models as folders that our loaders list."""
    save(backbone("Qwen2-VL-2B", setting), folder / REASONER)
    editor = editor_of(setting)
    pipe: Any = pipeline_of(editor, settings_of(setting))
    pipe.save_pretrained(folder / EDITOR)
    sides = {name: getattr(editor, name) for name in ("best_resolution", "full_frame_resolution")}
    (folder / EDITOR / "evlm.json").write_text(json.dumps(sides), "utf-8")
