"""Workflows that edit a scene of Gaussians."""

from __future__ import annotations

from typing import Any

from described_parts import RESULT_SIZE, Workflows, add_reason
from ui_graph import Definitions, Graph

SIDE, SMALL = 96, (380, 460)  # pixels of a painted view; of a node that shows a result


def edit_scene(definitions: Definitions) -> Graph:
    """A bundled scene, edited by two words with bundled models."""
    graph = Graph(
        "edit_scene",
        "## Edit a 3D scene\n\nPress *Run*: one thing of a small scene of Gaussians gets another colour, "
        "seen from every side, and nothing else changes.\n\n"
        "**Edit Scene** looks at the first view and plans, selects what is meant in many views, and paints "
        "and fits them until they agree. Cancelled, it goes on when the same is queued again.\n\n"
        "To look first: set `stop` to *stop at the plan*; `preview` shows what is selected.\n\n"
        "**Your own scene:** **EVLM Load Scene** in the place of **Example Scene**, with a .ply, .splat, "
        ".spz or .ksplat of the input folder, and real models in **Load All**. Take `views` 24 and "
        "`size` 512.\n\n"
        "**Files:** none.",
        definitions,
        note_height=600,
    )
    models = graph.add(1, "EVLM_LoadAll")
    example = graph.add(1, "EVLM_ExampleScene")
    edit = graph.add(
        2,
        "EVLM_EditScene",
        pipe=models["pipe"],
        scene=example["scene"],
        prompt=example["prompt"],
        views=8,
        rounds=2,
    )
    edit.inputs["size"] = 96  # `add` takes a node's own size by that name
    shown = graph.add(3, "EVLM_RenderScene", scene=edit["scene"])
    graph.add(3, "EVLM_SaveScene", scene=edit["scene"], format="spz")
    graph.add(4, "SaveVideo", video=shown["video"], filename_prefix="video/evlm_scene", size=(380, 460))
    graph.add(4, "PreviewImage", title="Before and after", images=edit["image"], size=RESULT_SIZE)
    return graph


def edit_scene_4d(definitions: Definitions) -> Graph:
    """A bundled scene that moves, edited by two words with bundled models, once for all times."""
    graph = Graph(
        "edit_scene_4d",
        "## Edit a moving scene\n\nPress *Run*: one thing of a small scene that moves gets another colour. "
        "It keeps it at every time, from every side, and nothing else changes; its motion stays as it is.\n\n"
        "**Edit Scene** looks at the first view and plans, selects what is meant in views of several times, "
        "paints those of the first time, and from what the scene then shows the others. **Render Scene** "
        "plays it: *times* says at how many.\n\n"
        "**Your own scene:** `python -m evlm scene fit PICTURES walk` makes the folder of a moving scene "
        "from pictures that know their time. Put it into the input folder, choose its `canonical.ply` in "
        "**EVLM Load Scene** and write *own* into `cameras`.\n\n"
        "**Files:** none.",
        definitions,
        note_height=640,
    )
    models = graph.add(1, "EVLM_LoadAll")
    example = graph.add(1, "EVLM_ExampleScene", which="relief_moving")
    edit = graph.add(
        2,
        "EVLM_EditScene",
        pipe=models["pipe"],
        scene=example["scene"],
        prompt=example["prompt"],
        schedule="canonical",
        views=8,
        rounds=2,
    )
    edit.inputs["size"] = 96  # `add` takes a node's own size by that name
    shown = graph.add(3, "EVLM_RenderScene", scene=edit["scene"], times="24")
    graph.add(3, "EVLM_SaveScene", scene=edit["scene"], filename_prefix="evlm/moving_scene")
    graph.add(4, "SaveVideo", video=shown["video"], filename_prefix="video/evlm_scene_4d", size=(380, 460))
    graph.add(4, "PreviewImage", title="Before and after", images=edit["image"], size=RESULT_SIZE)
    return graph


def four_dimensions(definitions: Definitions) -> Graph:
    """One plan for a still, a clip, a scene and a scene that moves, all of the same thing."""
    graph = Graph(
        "four_dimensions",
        "## One plan, four dimensions\n\nPress *Run*: two words become one plan, and the same thing gets the "
        "same new colour in a picture, in a clip, in a scene of Gaussians and in one that moves.\n\n"
        "**Reason** looks at the scene's first view. Its plan goes to **Edit** (2D), to **Edit Video** and "
        "to **Edit Scene** twice (3D, 4D). In the scene that moves **Select in Scene** finds the thing once "
        "for all times: the clip is drawn from it, and so is the mask that follows.\n\n"
        "The two scenes are one relief; in the second one the thing moves.\n\n**Files:** none.",
        definitions,
        note_height=520,
    )
    models = graph.add(1, "EVLM_LoadAll")
    still = graph.add(1, "EVLM_ExampleScene")
    moving = graph.add(1, "EVLM_ExampleScene", which="relief_moving")
    reason = add_reason(graph, 2, graph.add(1, "EVLM_LoadModel"), still["scene"], still["prompt"])
    picture: dict[str, Any] = {"image": reason["image"], "plan": reason["plan"]}
    finder: dict[str, Any] = {"detector": graph.add(2, "EVLM_LoadDetector")["detector"]}
    finder["segmenter"] = graph.add(2, "EVLM_LoadSegmenter")["segmenter"]
    ground = graph.add(3, "EVLM_Ground", detector=finder["detector"], **picture)
    chosen = graph.add(3, "EVLM_SelectInScene", scene=moving["scene"], plan=reason["plan"], **finder)
    outline = graph.add(4, "EVLM_Segment", segmenter=finder["segmenter"], boxes=ground["boxes"], **picture)
    drawn = graph.add(4, "EVLM_RenderScene", scene=chosen["scene"], times="24")
    drawn.inputs["size"] = SIDE  # `add` takes a node's own size by that name
    editor = graph.add(4, "EVLM_LoadEditor")["editor"]
    edited = graph.add(5, "EVLM_Edit", mask=outline["step_masks"], editor=editor, **picture)
    clip: dict[str, Any] = {"video": drawn["video"], "mask": drawn["mask"], "plan": reason["plan"]}
    video = graph.add(5, "EVLM_EditVideo", editor=editor, **clip)
    made = []
    for scene in (still, chosen):
        given: dict[str, Any] = {"pipe": models["pipe"], "scene": scene["scene"], "plan": reason["plan"]}
        made.append(graph.add(6, "EVLM_EditScene", views=8, rounds=2, **given))
        made[-1].inputs["size"] = SIDE
    walk = graph.add(7, "EVLM_RenderScene", scene=made[1]["scene"], times="24")
    graph.add(7, "PreviewImage", title="2D", images=edited["image"], size=SMALL)
    graph.add(7, "SaveVideo", title="Clip", video=video["video"], filename_prefix="video/evlm_2d", size=SMALL)
    graph.add(8, "PreviewImage", title="3D", images=made[0]["image"], size=SMALL)
    graph.add(8, "SaveVideo", title="4D", video=walk["video"], filename_prefix="video/evlm_4d", size=SMALL)
    return graph


WORKFLOWS: Workflows = (edit_scene, edit_scene_4d, four_dimensions)
BUNDLED = ("edit_scene", "edit_scene_4d", "four_dimensions")
