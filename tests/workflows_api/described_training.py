"""Workflows that rate edits and learn from the ratings."""

from __future__ import annotations

from described_parts import REMOVAL, TRACE_SIZE, Workflows, add_quick, add_rate, add_reason
from ui_graph import Definitions, Graph


def rate_and_collect(definitions: Definitions) -> Graph:
    """Ratings become rows that the trainer reads."""
    graph = Graph(
        "rate_and_collect",
        "## Rate edits, collect data\n\nQueue, look, press thumbs up or down in **Rate Edit** and queue "
        "again: the request, the trace, the mask and the result become one row of a dataset in ComfyUI's "
        "`output` folder. While the verdict is *not rated* nothing is written.\n\n"
        "**Train** learns from it, as in the workflow *train_from_ratings*; so does `python -m trainer` in "
        "this pack's folder.\n\n"
        "**Files:** none, it runs as it is.",
        definitions,
    )
    models = graph.add(1, "EVLM_LoadAll")
    example = graph.add(1, "EVLM_Example", which=REMOVAL)
    edit = add_quick(graph, 2, models, example["image"], example["prompt"], example["references"])
    add_rate(graph, 3, example, edit)
    return graph


def train_from_ratings(definitions: Definitions) -> Graph:
    """Rate, train, load, reason: in one graph."""
    graph = Graph(
        "train_from_ratings",
        "## Train on your ratings\n\nThe whole circle in one queue, in a minute or two on a CPU. The bundled "
        "reasoner would *remove* the square. `instruction` and `targets` of **Quick Edit** say what was "
        "wanted instead, that edit is made, and **Rate Edit** keeps it as *good*; **Train** learns from this "
        "dataset, **Load EVLM** takes the new adapter, and **Reason** plans as you wished.\n\n"
        "It learns one answer by heart. For your own taste: collect dozens of ratings with the workflow "
        "*rate_and_collect*, put `evlm_ratings` into `dataset` of **Train** in place of the link, and set "
        "`steps` to 0.\n\nCancel when you like; the same queue goes on from there.\n\n"
        "**Files:** none, it runs as it is.",
        definitions,
        note_height=560,
    )
    models = graph.add(1, "EVLM_LoadAll")
    example = graph.add(1, "EVLM_Example", which=REMOVAL)
    wish = {"instruction": "make the yellow dotted square blue", "targets": "yellow dotted square"}
    edit = add_quick(graph, 2, models, example["image"], example["prompt"], example["references"], **wish)
    rated = add_rate(graph, 3, example, edit, verdict="good", dataset="evlm_first_ratings")
    trained = graph.add(
        4, "EVLM_Train", dataset=rated["folder"], steps=32, name="first_taste", size=(400, 640)
    )
    model = graph.add(5, "EVLM_LoadModel", title="Load EVLM, trained", adapter=trained["adapter"])
    again = add_reason(graph, 6, model, example["image"], example["prompt"], example["references"])
    again.title = "Reason, trained"
    graph.add(7, "EVLM_ShowTrace", plan=again["plan"], size=TRACE_SIZE)
    return graph


WORKFLOWS: Workflows = (rate_and_collect, train_from_ratings)
BUNDLED = ("rate_and_collect", "train_from_ratings")
