"""Thumbs up or down: an edit becomes a row of a dataset that the trainer reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from . import folders, host, sockets
from .checks import checked

if TYPE_CHECKING:
    from torch import Tensor

    from ..evlm.plan.trace import Trace
    from ..evlm.request import Reference

UNRATED = "not rated"
VERDICTS = [UNRATED, "good", "bad"]


class RateEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EVLM_RateEdit",
            display_name="EVLM Rate Edit",
            category=sockets.CATEGORY,
            description="Keeps an edit with your verdict as a row of a dataset in ComfyUI's output folder, "
            "to train from. Unrated, nothing is written.",
            inputs=[
                sockets.Plan.Input("plan", tooltip="The plan that is rated."),
                io.Image.Input("original", tooltip="The picture before."),
                io.Image.Input("edited", tooltip="The picture after."),
                io.String.Input("prompt", default="", tooltip="What was asked."),
                io.Combo.Input(
                    "verdict",
                    options=VERDICTS,
                    tooltip="good: desired; bad: non-desired. The thumbs below set it.",
                ),
                io.String.Input("note", default="", tooltip="Why, in your words."),
                io.String.Input("dataset", default="evlm_ratings", tooltip="A folder in the output folder."),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where it was edited; of a plan of several edits the step_masks, so that each "
                    "keeps its own.",
                ),
                sockets.References.Input("references", optional=True, tooltip="What the reasoner saw."),
            ],
            outputs=[
                io.String.Output(
                    "folder", display_name="folder", tooltip="The dataset's folder, for EVLM Train."
                )
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, dataset: Any) -> bool | str:
        from ..evlm.errors import RecordError

        if dataset is not None:
            try:
                folders.dataset(dataset)
            except RecordError as error:
                return folders.shortened(str(error))
        return True

    @classmethod
    @checked
    def execute(
        cls,
        plan: Trace,
        original: Tensor,
        edited: Tensor,
        prompt: str,
        verdict: str,
        note: str,
        dataset: str,
        mask: Tensor | None = None,
        references: tuple[Reference, ...] | None = None,
    ) -> io.NodeOutput:
        from ..evlm.masks import fit_step_masks
        from ..evlm.ratings import rated_row
        from ..evlm.records import RowWriter

        folder = folders.dataset(dataset)
        notes: list[str] = []
        count = len(plan.plan.steps)
        places = [None] if mask is None else fit_step_masks(mask, original, count, notes=notes)
        host.tell(notes)
        # One mask for all steps is none of them's own.
        each_its_own = mask is not None and len(mask) > len(original)
        written = False
        if sockets.choice("verdict", verdict, VERDICTS) != UNRATED:
            row, pictures = rated_row(
                plan,
                original,
                edited,
                prompt,
                verdict == "good",
                note,
                places if each_its_own else places[0],
                references or (),
            )
            if row.id not in {each.id for each in _rows(folder)}:
                RowWriter(folder).append(row, pictures)
                written = True
        labels = [row.label for row in _rows(folder)]
        counts = {
            "rows": len(labels),
            "good": sum(labels),
            "bad": len(labels) - sum(labels),
            "folder": dataset,
            "written": written,
        }
        return io.NodeOutput(str(folder), ui={"evlm_rating": [counts]})


def _rows(folder: Path) -> list[Any]:
    from ..evlm.records import ROWS_FILE, read_rows

    if not (folder / ROWS_FILE).is_file():
        return []
    return list(read_rows(folder, on_problem=lambda error: None, check_files=False))
