"""Workflows that edit a scene of Gaussians."""

from __future__ import annotations

from described_parts import RESULT_SIZE, Workflows
from ui_graph import Definitions, Graph


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


WORKFLOWS: Workflows = (edit_scene, edit_scene_4d)
BUNDLED = ("edit_scene", "edit_scene_4d")
