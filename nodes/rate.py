"""Thumbs up or down: an edit becomes a row of a dataset that the trainer reads."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from . import folders, sockets
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
                sockets.Plan.Input("plan"),
                io.Image.Input("original"),
                io.Image.Input("edited"),
                io.String.Input("prompt", default="", tooltip="What was asked."),
                io.Combo.Input("verdict", options=VERDICTS),
                io.String.Input("note", default="", tooltip="Why, in your words."),
                io.String.Input("dataset", default="evlm_ratings", tooltip="A folder in the output folder."),
                io.Mask.Input("mask", optional=True),
                sockets.References.Input("references", optional=True),
            ],
            outputs=[io.String.Output("folder", display_name="folder")],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, dataset: Any) -> bool | str:
        from ..evlm.errors import RecordError

        if dataset is not None:
            try:
                folders.dataset(dataset)
            except RecordError as error:
                return str(error)
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
        from ..evlm.records import RowWriter

        folder = folders.dataset(dataset)
        written = False
        if sockets.choice("verdict", verdict, VERDICTS) != UNRATED:
            row, pictures = _row(
                plan,
                original,
                edited,
                prompt,
                verdict == "good",
                note,
                mask,
                references or (),
            )
            if row.id not in {each.id for each in _rows(folder)}:
                RowWriter(folder).append(row, pictures)
                written = True
        labels = [row.label for row in _rows(folder)]
        shown = {
            "rows": len(labels),
            "good": sum(labels),
            "bad": len(labels) - sum(labels),
            "folder": dataset,
            "written": written,
        }
        return io.NodeOutput(str(folder), ui={"evlm_rating": [shown]})


def _rows(folder: Path) -> list[Any]:
    from ..evlm.records import ROWS_FILE, read_rows

    if not (folder / ROWS_FILE).is_file():
        return []
    return list(read_rows(folder, on_problem=lambda error: None, check_files=False))


def _row(
    trace: Trace,
    original: Tensor,
    edited: Tensor,
    prompt: str,
    good: bool,
    note: str,
    mask: Tensor | None,
    references: tuple[Reference, ...],
) -> tuple[Any, dict[str, Tensor]]:
    """A row and its pictures. Pictures are named by their content and a rating of the same edit has the same
    id, so that asking twice writes once."""
    from ..evlm.records import Row

    pictures: dict[str, Tensor] = {}

    def keep(frames: Tensor) -> tuple[str, ...]:
        paths = []
        for frame in frames.detach().cpu().float().clamp(0, 1):
            path = f"pictures/{_hash((frame * 255).round().byte().numpy().tobytes(), frame.shape)}.png"
            pictures[path] = frame
            paths.append(path)
        return tuple(paths)

    sources, results = keep(original), keep(edited)
    outline = None
    if mask is not None:
        union = (mask.float().amax(0) if mask.ndim == 3 else mask.float()).cpu().ge(0.5).float()
        outline = keep(union[None])[0]
    shown = tuple(
        {
            "kind": each.kind,
            **({} if each.frames is None else {"frames": list(keep(each.frames))}),
            **({"text": each.text} if each.text else {}),
            **({"note": each.note} if each.note else {}),
            **({"fps": each.fps} if each.fps else {}),
        }
        for each in references
    )
    plan = trace.plan
    question = _hash(repr((sources, prompt, shown)).encode())
    completion = _hash(
        repr((trace.thinking, trace.intermediate, trace.reflection, plan, results, good, note)).encode()
    )
    row = Row(
        id=f"rated-{question}-{completion}",
        question=f"rated-{question}",
        split="train",
        source="raters",
        edit_type="unknown",
        category=_category(len(original) > 1, references),
        original=sources,
        prompt=prompt,
        thinking=trace.thinking,
        intermediate=trace.intermediate,
        reflection=trace.reflection,
        instruction=plan.instruction,
        targets=plan.targets,
        scope=plan.scope,
        label=good,
        mask_text=plan.mask_text,
        mask=outline,
        edited=results,
        references=shown,
        raters=(good,),
        meta={"note": note} if note else {},
    )
    return row, pictures


def _category(video: bool, references: tuple[Reference, ...]) -> str:
    """The paper's Table 6: what the references are -> what the original is."""
    kinds = {
        "video" if each.kind == "video" else "text" if each.kind == "text" else "image" for each in references
    }
    seen = "video" if "video" in kinds else "image" if "image" in kinds else "text"
    words = "+text" if seen != "text" and "text" in kinds else ""
    return f"{seen}{words}->video" if video else f"{seen}{words}"


def _hash(data: bytes, shape: Any = ()) -> str:
    return hashlib.blake2b(repr(tuple(shape)).encode() + data, digest_size=12).hexdigest()
