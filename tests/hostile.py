"""Hostile workflows: API graphs over this pack's nodes in which one value is what a stranger would try.

`cases` makes them; tests/hostile_server.py sends them to a real ComfyUI, tests/test_hostile.py runs some in
process.
"""

from __future__ import annotations

import copy
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent / "workflows_api")]

import hostile_values as values  # noqa: E402
from ui_graph import Definitions, default, is_widget, specs  # noqa: E402

GraphDict = dict[str, dict[str, Any]]
KINDS = {"model": 30, "path": 50, "number": 40, "type": 40, "dataset": 25, "endpoint": 50, "trace": 25,
         "points": 15, "size": 14, "words": 11}  # fmt: skip

# What is connected to what: each node once, its sockets from the others. The rest are the widgets' defaults.
LINKS: dict[str, tuple[str, dict[str, Any]]] = {
    "example": ("EVLM_Example", {}),
    "plan": ("EVLM_PlanFromText", {"text": "make the red striped cross green",
                                   "targets": "red striped cross"}),
    "reasoner": ("EVLM_LoadModel", {}),
    "remote": ("EVLM_RemoteModel", {"endpoint": "https://10.0.0.1/v1", "model": "m"}),
    "detector": ("EVLM_LoadDetector", {}),
    "segmenter": ("EVLM_LoadSegmenter", {}),
    "editor": ("EVLM_LoadEditor", {}),
    "reference": ("EVLM_Reference", {"kind": "image", "image": ["example", "reference"]}),
    "reason": ("EVLM_Reason", {"model": ["reasoner", "model"], "image": ["example", "image"],
                               "references": ["reference", "references"], "prompt": "like this"}),
    "ground": ("EVLM_Ground", {"image": ["example", "image"], "plan": ["plan", "plan"],
                               "detector": ["detector", "detector"]}),
    "segment": ("EVLM_Segment", {"image": ["example", "image"], "boxes": ["ground", "boxes"],
                                 "segmenter": ["segmenter", "segmenter"]}),
    "edit": ("EVLM_Edit", {"image": ["example", "image"], "editor": ["editor", "editor"],
                           "plan": ["plan", "plan"], "mask": ["segment", "mask"], "steps": 2}),
    "composite": ("EVLM_Composite", {"original": ["example", "image"], "edited": ["edit", "image"],
                                     "mask": ["segment", "mask"]}),
    "rate": ("EVLM_RateEdit", {"plan": ["plan", "plan"], "original": ["example", "image"],
                               "edited": ["example", "image"], "prompt": "like this",
                               "verdict": "good"}),
    "train": ("EVLM_Train", {"dataset": ["rate", "folder"], "steps": 1}),
    "show": ("EVLM_ShowTrace", {"plan": ["plan", "plan"]}),
    "text": ("EVLM_PlanToText", {"plan": ["plan", "plan"]}),
    "pipe": ("EVLM_LoadAll", {}),
    "quick": ("EVLM_QuickEdit", {"pipe": ["pipe", "pipe"], "image": ["example", "image"],
                                 "references": ["reference", "references"], "prompt": "like this",
                                 "steps": 2}),
    "native": ("EVLM_NativeEditor", {"steps": 1, "resolution": 64}),
    "track": ("EVLM_Track", {"clip": ["example", "image"], "segmenter": ["segmenter", "segmenter"],
                             "detector": ["detector", "detector"], "plan": ["plan", "plan"]}),
    "edit_video": ("EVLM_EditVideo", {"editor": ["editor", "editor"], "plan": ["plan", "plan"],
                                      "mask": ["track", "mask"], "steps": 2}),
    "steadiness": ("EVLM_Steadiness", {"flow": "lk"}),
    "keyframes": ("EVLM_Keyframes", {"clip": ["example", "image"]}),
    "propagate": ("EVLM_PropagateKeyframes", {"clip": ["example", "image"], "keys": ["keyframes", "keys"],
                                              "edited": ["keyframes", "image"]}),
    "load_scene": ("EVLM_LoadScene", {"cameras": "orbit:2", "size": 32}),
    "example_scene": ("EVLM_ExampleScene", {"size": 32}),
    "render_scene": ("EVLM_RenderScene", {"scene": ["load_scene", "scene"], "size": 32}),
    "fit_scene": ("EVLM_FitScene", {"scene": ["load_scene", "scene"], "images": ["render_scene", "image"],
                                    "iterations": 1, "size": 32}),
    "save_scene": ("EVLM_SaveScene", {"scene": ["load_scene", "scene"]}),
    "to_splat": ("EVLM_SceneToSplat", {"scene": ["load_scene", "scene"]}),
    "select_in_scene": ("EVLM_SelectInScene", {"scene": ["load_scene", "scene"], "plan": ["plan", "plan"],
                                               "views": 1, "size": 32, "mask": ["segment", "mask"]}),
    "edit_scene": ("EVLM_EditScene", {"pipe": ["pipe", "pipe"], "scene": ["select_in_scene", "scene"],
                                      "plan": ["plan", "plan"], "schedule": "direct", "views": 1,
                                      "size": 32, "steps": 1}),
}  # fmt: skip
# Which node shows the result of which. An output node of core takes pictures and texts.
SHOWN = {
    "example": ("PreviewImage", {"images": ["example", "image"]}),
    "plan": ("EVLM_ShowTrace", {"plan": ["plan", "plan"]}),
    "reasoner": ("EVLM_ShowTrace", {"plan": ["reason", "plan"]}),
    "remote": ("EVLM_ShowTrace", {"plan": ["reason", "plan"]}),
    "reference": ("EVLM_ShowTrace", {"plan": ["reason", "plan"]}),
    "reason": ("EVLM_ShowTrace", {"plan": ["reason", "plan"]}),
    "detector": ("PreviewImage", {"images": ["ground", "preview"]}),
    "ground": ("PreviewImage", {"images": ["ground", "preview"]}),
    "segmenter": ("PreviewImage", {"images": ["segment", "preview"]}),
    "segment": ("PreviewImage", {"images": ["segment", "preview"]}),
    "editor": ("PreviewImage", {"images": ["edit", "image"]}),
    "edit": ("PreviewImage", {"images": ["edit", "image"]}),
    "composite": ("PreviewImage", {"images": ["composite", "image"]}),
    "text": ("PreviewAny", {"source": ["text", "text"]}),
    "pipe": ("PreviewImage", {"images": ["quick", "image"]}),
    "quick": ("PreviewImage", {"images": ["quick", "image"]}),
    "native": ("PreviewImage", {"images": ["edit", "image"]}),
    "track": ("PreviewImage", {"images": ["track", "preview"]}),
    "edit_video": ("PreviewImage", {"images": ["edit_video", "image"]}),
    "keyframes": ("PreviewImage", {"images": ["keyframes", "image"]}),
    "propagate": ("PreviewImage", {"images": ["propagate", "image"]}),
    "steadiness": ("PreviewImage", {"images": ["steadiness", "strip"]}),
    "load_scene": ("PreviewImage", {"images": ["render_scene", "image"]}),
    "example_scene": ("PreviewAny", {"source": ["example_scene", "prompt"]}),
    "render_scene": ("PreviewImage", {"images": ["render_scene", "image"]}),
    "fit_scene": ("PreviewImage", {"images": ["fit_scene", "preview"]}),
    "to_splat": ("PreviewAny", {"source": ["to_splat", "splat"]}),
    "select_in_scene": ("PreviewImage", {"images": ["select_in_scene", "preview"]}),
    "edit_scene": ("PreviewImage", {"images": ["edit_scene", "image"]}),
}


@dataclass(frozen=True)
class Case:
    """One hostile graph: `input` of `node` holds `value`. must_fail: success would be a hole."""

    kind: str
    node: str
    input: str
    value: Any
    graph: GraphDict
    must_fail: bool

    @property
    def title(self) -> str:
        return f"{self.kind}: {self.node}.{self.input} = {self.value!r:.70}"


def cases(definitions: Definitions, canary: Path, port: int, count: int = 300, seed: int = 0) -> list[Case]:
    """`count` of them, spread over KINDS, the same for the same seed. canary, port: see `hostile_values`."""
    rng, chosen = random.Random(seed), []
    for kind, share in KINDS.items():
        pool = list(_pool(kind, definitions, canary, port))
        # Dealt node by node, then input by input: each gets its turn before one gets a second.
        rng.shuffle(pool)
        turns: Counter[str | tuple[str, str]] = Counter()
        order: list[tuple[int, int, int, tuple[str, str, Any]]] = []
        for each in pool:
            turns.update((each[0], each[:2]))
            order.append((turns[each[:2]], min(turns[each[0]], 2), len(order), each))
        wanted = max(1, round(share * count / sum(KINDS.values())))
        chosen += [_case(kind, definitions, *each) for *_, each in sorted(order)[:wanted]]
    return chosen[:count]


def healthy(definitions: Definitions, name: str) -> GraphDict:
    """The graph in which one node is tested, without anything hostile: it runs by the bundled models."""
    graph = {key: _node(definitions, kind, given) for key, (kind, given) in LINKS.items()}
    if name == "remote":
        graph["reason"]["inputs"]["model"] = ["remote", 0]
    if name == "native":  # the node of tests/comfyui/tiny_core.py
        graph["tiny"] = {"class_type": "TinyCoreModels", "inputs": {"which": "instruct-pix2pix"}}
        graph[name]["inputs"] |= {each: ["tiny", slot] for slot, each in enumerate(("model", "clip", "vae"))}
        graph["edit"]["inputs"]["editor"] = [name, 0]
    if name == "edit_video":
        graph["clip"] = {"class_type": "CreateVideo", "inputs": {"images": ["example", 0], "fps": 8.0}}
        graph[name]["inputs"]["video"] = ["clip", 0]
    if name == "steadiness":
        graph["two"] = {"class_type": "RepeatImageBatch", "inputs": {"image": ["example", 0], "amount": 2}}
        graph[name]["inputs"] |= {"original": ["two", 0], "edited": ["two", 0]}
    if name in SHOWN:
        graph["out"] = _node({**definitions, **_CORE}, *SHOWN[name])
    graph["rate"]["inputs"]["dataset"] = "evlm_healthy"  # nothing hostile was rated there
    end = "out" if name in SHOWN else name
    return {key: graph[key] for key in _needed(graph, end)}


def _pool(kind: str, definitions: Definitions, canary: Path, port: int) -> Iterator[tuple[str, str, Any]]:
    """(node, input, value) of one kind."""
    widgets = [
        (name, input, spec)
        for name, (node, _) in LINKS.items()
        for input, spec in specs(definitions[node])
        if is_widget(spec)
    ]
    if kind in ("path", "model"):
        strings = [
            (name, input)
            for name, input, spec in widgets
            if _type(spec) in ("STRING", "COMBO") and (input in ("model", "adapter")) == (kind == "model")
        ]
        yield from ((*at, value) for at, value in product(strings, values.paths(canary)))
    elif kind == "number":
        numbers = [(name, input) for name, input, spec in widgets if _type(spec) in ("INT", "FLOAT")]
        yield from ((*at, value) for at, value in product(numbers, values.NUMBERS))
    elif kind == "type":
        places = [(name, input) for name, (node, _) in LINKS.items() for input, _ in specs(definitions[node])]
        yield from ((*at, value) for at, value in product(places, values.TYPES))
    elif kind == "dataset":
        yield from (
            (name, "dataset", value) for value in values.datasets(canary) for name in ("rate", "train")
        )
    elif kind == "endpoint":
        yield from (("remote", "endpoint", value) for value in values.endpoints(port))
    elif kind == "trace":
        yield from ((name, "plan.text", text) for text in values.traces(canary) for name in ("edit", "rate"))
    elif kind == "points":
        yield from (("segment", "points", value) for value in values.POINTS)
    elif kind == "size":
        yield from ((*at, size) for at, size in product(_SIZED, values.SIZES))
    else:
        yield from ((*at, value) for at, value in product(_WORDED, values.words()))


def _case(kind: str, definitions: Definitions, name: str, input: str, value: Any) -> Case:
    graph = copy.deepcopy(healthy(definitions, name))
    if "rate" in graph:
        graph["rate"]["inputs"]["dataset"] = "evlm_ratings"
    if kind == "size":
        high, wide, frames = value
        picture = "mask" not in input
        graph["other"] = {
            "class_type": "EmptyImage" if picture else "SolidMask",
            "inputs": {"width": wide, "height": high}
            | ({"batch_size": frames, "color": 0x804020} if picture else {"value": 1.0}),
        }
        graph[name]["inputs"][input] = ["other", 0]
        return Case(kind, LINKS[name][0], input, value, graph, False)
    node = name
    if "." in input:
        node, _, input = input.partition(".")
        graph[node]["inputs"]["targets"] = ""
    if (node, input) == ("reference", "text"):
        graph[node]["inputs"]["kind"] = "text"
    graph[node]["inputs"][input] = value
    title = LINKS[node][0]
    spec = dict(specs(definitions[title]))[input]
    return Case(kind, title, input, value, graph, _must_fail(kind, input, spec, value))


def _must_fail(kind: str, input: str, spec: Any, value: Any) -> bool:
    """Where a silent success would mean that a value was taken for something that it is not."""
    if kind in ("dataset", "endpoint"):
        return True
    if _type(spec) == "COMBO" and not isinstance(value, list):
        return value not in (spec[0] if isinstance(spec[0], list) else spec[1]["options"])
    if _type(spec) in ("INT", "FLOAT") and not isinstance(value, (list, dict, bool)):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return True
        return number != number or number in (float("inf"), float("-inf"))
    inner = value["__value__"] if isinstance(value, dict) and "__value__" in value else value
    link = isinstance(value, list) and len(value) == 2
    return not is_widget(spec) and not link and inner is not None and inner != []  # no boxes: nothing found


def _needed(graph: Mapping[str, Any], end: str) -> list[str]:
    """`end` and everything that it needs, in the order of LINKS."""
    seen, todo = set(), [end]
    while todo:
        key = todo.pop()
        if key not in seen:
            seen.add(key)
            todo += [v[0] for v in graph[key]["inputs"].values() if isinstance(v, list)]
    return [key for key in graph if key in seen]


def _node(definitions: Definitions, kind: str, given: dict[str, Any]) -> dict[str, Any]:
    inputs = {}
    for name, spec in specs(definitions[kind]):
        value = given.get(name, default(spec) if is_widget(spec) else None)
        if isinstance(value, list):
            source = definitions[LINKS[value[0]][0]]
            value = [value[0], [each.lower() for each in source["output_name"]].index(value[1])]
        if value is not None:
            inputs[name] = value
    return {"class_type": kind, "inputs": inputs}


def _type(spec: Any) -> str:
    return "COMBO" if isinstance(spec[0], list) else spec[0]


_SIZED = (("segment", "rough_mask"), ("edit", "mask"), ("composite", "mask"), ("composite", "edited"),
          ("rate", "mask"), ("rate", "edited"), ("edit", "image"), ("reason", "image"),
          ("quick", "image"), ("quick", "mask"))  # fmt: skip
_WORDED = (("reason", "prompt"), ("reference", "text"), ("reference", "note"), ("rate", "prompt"),
           ("rate", "note"), ("edit", "instruction"), ("ground", "targets"),
           ("quick", "prompt"), ("quick", "instruction"), ("quick", "targets"))  # fmt: skip
_CORE: dict[str, Any] = {
    "PreviewImage": {"input": {"required": {"images": ["IMAGE"]}}},
    "PreviewAny": {"input": {"required": {"source": ["*"]}}},
}
