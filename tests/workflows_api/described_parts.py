"""What several of the described workflows have in common: names, files to fetch, pieces of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model_files import GROUNDING_DINO, IP2P, QWEN2_VL_7B, SAM2
from ui_graph import Definitions, Graph, Link, Node

Chain = dict[str, dict[str, Any]]
Workflows = tuple[Callable[[Definitions], Graph], ...]

SAMPLE, SAMPLE_PROMPT = "evlm_moving.mp4", "pink heart"  # in ComfyUI's input folder
REFERENCE, WORDS, REMOVAL, CAUSE = "1-reference", "2-words", "3-removal", "5-what-if"  # bundled
TOY: Chain = {"detector": {}, "segmenter": {}, "editor": {}}
REAL: Chain = {
    "detector": {"model": "grounding-dino-tiny", "models": GROUNDING_DINO},
    "segmenter": {"model": "sam2.1-small", "models": SAM2},
    "editor": {"model": "instruct-pix2pix", "models": IP2P},
}
TRACE_SIZE, RESULT_SIZE, QUICK_SIZE = (420, 440), (380, 400), (420, 900)
OUR_FILES = (
    "- Qwen/Qwen2-VL-7B-Instruct \u2192 `models/evlm/qwen2-vl-7b`\n"
    "- IDEA-Research/grounding-dino-tiny \u2192 `models/evlm/grounding-dino-tiny`\n"
    "- sam2.1_hiera_small.safetensors \u2192 `models/sam2`\n"
)
IP2P_FILE = "instruct-pix2pix-00-22000.safetensors \u2192 `models/checkpoints`"
ABSENT = "Where one is missing, its loader says what goes where; its `download` switch fetches it instead."


def add_quick(
    graph: Graph,
    column: int,
    models: Node,
    image: Link,
    prompt: Link | str,
    references: Link | None = None,
    **more: str,
) -> Node:
    """Quick Edit, and what it made beside it."""
    if references is not None:
        more["references"] = references
    edit = graph.add(
        column, "EVLM_QuickEdit", pipe=models["pipe"], image=image, prompt=prompt, size=QUICK_SIZE, **more
    )
    graph.add(column + 1, "PreviewImage", title="Edited", images=edit["image"], size=RESULT_SIZE)
    return edit


def add_rate(graph: Graph, column: int, example: Node, edit: Node, **more: str) -> Node:
    asked: dict[str, Any] = {"references": example["references"], "prompt": example["prompt"], **more}
    made: dict[str, Any] = {"plan": edit["plan"], "edited": edit["image"], "mask": edit["step_masks"]}
    return graph.add(column, "EVLM_RateEdit", original=example["image"], **made, **asked)


def add_reason(
    graph: Graph,
    column: int,
    model: Node,
    image: Link,
    prompt: Link | str,
    references: Link | None = None,
) -> Node:
    given: dict[str, Any] = {} if references is None else {"references": references}
    return graph.add(column, "EVLM_Reason", model=model["model"], image=image, prompt=prompt, **given)


def add_segment(graph: Graph, column: int, image: Link, plan: Link, chain: Chain) -> Node:
    """Segment behind Ground. Each one's loader stands below the node before it."""
    given: dict[str, Any] = {"image": image, "plan": plan}
    detector = graph.add(column - 1, "EVLM_LoadDetector", **chain["detector"])
    ground = graph.add(column, "EVLM_Ground", detector=detector["detector"], **given)
    segmenter = graph.add(column, "EVLM_LoadSegmenter", **chain["segmenter"])
    given |= {"boxes": ground["boxes"], "segmenter": segmenter["segmenter"]}
    return graph.add(column + 1, "EVLM_Segment", **given)


def add_track(graph: Graph, column: int, clip: Link, plan: Link, chain: Chain) -> Node:
    """Track; its loaders stand below the node before it."""
    detector = graph.add(column - 1, "EVLM_LoadDetector", **chain["detector"])
    segmenter = graph.add(column - 1, "EVLM_LoadSegmenter", **chain["segmenter"])
    given: dict[str, Any] = {"detector": detector["detector"], "segmenter": segmenter["segmenter"]}
    return graph.add(column, "EVLM_Track", clip=clip, plan=plan, **given)


def add_edit(graph: Graph, column: int, image: Link, plan: Link, chain: Chain = TOY) -> None:
    """The mask, Edit, and the edited picture, shown large."""
    mask = add_segment(graph, column, image, plan, chain)["step_masks"]
    editor = graph.add(column + 1, "EVLM_LoadEditor", **chain["editor"])
    given: dict[str, Any] = {"image": image, "plan": plan, "mask": mask, "editor": editor["editor"]}
    edited = graph.add(column + 2, "EVLM_Edit", **given)["image"]
    graph.add(column + 3, "PreviewImage", title="Edited", images=edited, size=RESULT_SIZE)


def add_plan_and_mask(graph: Graph, column: int, image: Link) -> tuple[Node, Link]:
    """(Reason, mask) by real models, for an editor that is not ours."""
    model = graph.add(column, "EVLM_LoadModel", model="qwen2-vl-7b", models=QWEN2_VL_7B)
    reason = add_reason(graph, column + 1, model, image, "autumn")
    return reason, add_segment(graph, column + 2, reason["image"], reason["plan"], REAL)["mask"]


def add_sampler(
    graph: Graph, column: int, model: Link, positive: Link, negative: Link, latent: Link, **how: Any
) -> Link:
    given: dict[str, Any] = {"positive": positive, "negative": negative, "latent_image": latent}
    return graph.add(column, "KSampler", model=model, **given, **how)["latent"]


def add_composite(graph: Graph, column: int, sampled: Link, vae: Link, original: Link, mask: Link) -> None:
    decoded = graph.add(column - 1, "VAEDecode", samples=sampled, vae=vae)
    made = graph.add(column, "EVLM_Composite", original=original, edited=decoded["image"], mask=mask)
    graph.add(column + 1, "PreviewImage", title="Edited", images=made["image"], size=RESULT_SIZE)
