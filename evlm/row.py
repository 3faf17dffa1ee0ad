"""A REFLECTIVE-EDIT row: one question, one completion, one label."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from .errors import RecordError, TraceError
from .files.pictures import load_mask, load_picture
from .files.safe_paths import inside
from .plan.trace import Plan, Trace, render
from .request import Reference, Request

REFERENCE_KINDS = ("image", "video", "text", "depth")
# Of a row with a plain answer.
NO_TRACE: dict[str, Any] = {
    "thinking": "", "intermediate": "", "reflection": "", "instruction": "", "targets": (), "scope": "global",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of rows.jsonl.

    id: unique in the dataset. question: shared by the completions of one question.
    split: "train", "validation", "test", ... source: who made it ("world", "raters", ...).
    edit_type, category: what kind of edit, which of the input categories.
    original: picture paths; several are a video. references: {kind, frames: paths, text, note, fps}.
    prompt: what was said. thinking ... mask_text: the completion, as in `trace.Trace`.
    mask: path of the true mask picture. edited: paths of the edited frames. Either may be missing.
    label: desired or not; raters: the single votes behind it. meta: anything else, as JSON.
    answer: a completion that is no trace (other instruction data); thinking ... mask_text are then empty.
    steps: of a plan of several edits: {instruction, targets, scope, mask_text, mask} of each, `mask` the path
        of its true mask picture; instruction, targets and scope then speak of all (`Plan.several`).
    """

    id: str
    question: str
    split: str
    source: str
    edit_type: str
    category: str
    original: tuple[str, ...]
    prompt: str
    thinking: str
    intermediate: str
    reflection: str
    instruction: str
    targets: tuple[str, ...]
    scope: str
    label: bool
    mask_text: str | None = None
    mask: str | None = None
    edited: tuple[str, ...] = ()
    references: tuple[dict[str, Any], ...] = ()
    fps: float | None = None
    raters: tuple[bool, ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    answer: str | None = None
    steps: tuple[dict[str, Any], ...] = ()

    @property
    def completion(self) -> str:
        """What is learned: the trace in its exact form, or the plain answer."""
        return render(self.trace()) if self.answer is None else self.answer

    def trace(self) -> Trace:
        """The completion as a trace. Raises TraceError where it is a plain answer, or the row was never
        checked."""
        if self.answer is not None:
            raise TraceError("trace", 0, "the row's completion is a plain answer")
        return Trace(self.thinking, self.intermediate, self.reflection, plan_of(self.__dict__))

    def request(self, folder: str | os.PathLike[str]) -> Request:
        """The question with its pictures. Raises RecordError, PictureError, RequestError."""
        references = tuple(
            Reference(
                kind=reference["kind"],
                frames=load_paths(folder, reference["frames"]) if reference.get("frames") else None,
                text=reference.get("text", ""),
                note=reference.get("note", ""),
                fps=reference.get("fps"),
            )
            for reference in self.references
        )
        return Request(load_paths(folder, self.original), self.prompt, references, self.fps)

    def true_mask(self, folder: str | os.PathLike[str]) -> Tensor | None:
        """The mask picture [1, H, W], None where the row has none. Raises RecordError, PictureError."""
        return None if self.mask is None else load_mask(inside(folder, self.mask))

    def paths(self) -> list[str]:
        """Every picture path in the row."""
        return paths_of(self.__dict__)


def unchecked_row(data: Mapping[str, Any]) -> Row:
    """A row of fields that `row_problems` found nothing wrong with."""
    lists = ("original", "targets", "edited", "references", "raters", "steps")
    values: dict[str, Any] = {
        name: tuple(value or ()) if name in lists else value for name, value in data.items()
    }
    return Row(**({**NO_TRACE, **values} if values.get("answer") is not None else values))


def row_data(row: Row) -> dict[str, Any]:
    """A row as JSON holds it; without `answer` and `steps` where there are none, as in datasets of earlier
    versions."""
    data = asdict(row)
    if row.answer is None:
        del data["answer"]
    if not row.steps:
        del data["steps"]
    return data


def step_rows(plan: Plan) -> tuple[dict[str, Any], ...]:
    """A plan's steps as `Row.steps`; empty for a plan of one."""
    return tuple(
        {"instruction": step.instruction, "targets": list(step.targets), "scope": step.scope,
         **({} if step.mask_text is None else {"mask_text": step.mask_text})}
        for step in plan.several
    )  # fmt: skip


def plan_of(data: Mapping[str, Any]) -> Plan:
    """The plan in a row's fields. Raises TraceError."""
    plan = Plan(data["instruction"], tuple(data["targets"]), data.get("mask_text"), data["scope"])
    steps = [
        Plan(step["instruction"], tuple(step["targets"]), step.get("mask_text"), step["scope"])
        for step in data.get("steps") or ()
    ]
    return replace(plan, several=tuple(steps)) if steps else plan


def paths_of(data: Mapping[str, Any]) -> list[str]:
    """Every picture path in a row's fields."""
    masks = [each["mask"] for each in (data, *(data.get("steps") or ())) if each.get("mask") is not None]
    references = [path for reference in data.get("references", ()) for path in reference.get("frames") or ()]
    return [*data["original"], *data.get("edited", ()), *masks, *references]


def load_paths(folder: str | os.PathLike[str], paths: Iterable[str]) -> Tensor:
    """The pictures at these paths as frames [F, H, W, 3]. Raises RecordError, PictureError."""
    frames = [load_picture(inside(folder, path)) for path in paths]
    sizes = {tuple(frame.shape[1:3]) for frame in frames}
    if len(sizes) != 1:
        raise RecordError(
            f"frames of sizes {sorted(sizes)[:3]} (height, width): expected at least one, all of one size"
        )
    return torch.cat(frames)
