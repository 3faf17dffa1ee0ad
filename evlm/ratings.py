"""An edit that somebody has rated, as a row of a dataset and the row's pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction

from torch import Tensor

from .files.selection import rate_of
from .masks import union_of
from .plan.trace import Plan, Trace
from .records import Row, step_rows
from .request import Reference


def rated_row(
    trace: Trace,
    original: Tensor,
    edited: Tensor,
    prompt: str,
    good: bool,
    note: str = "",
    mask: Tensor | Sequence[Tensor | None] | None = None,
    references: Sequence[Reference] = (),
    times: Sequence[Fraction] = (),
) -> tuple[Row, dict[str, Tensor]]:
    """The row, and its pictures by their paths, as `RowWriter.append` takes both.

    original: [F, H, W, 3] in 0..1.
    edited: [F, H, W, 3] in 0..1.
    mask: [F, H, W] or [H, W] in 0..1; or one for each of the plan's steps, None for the whole frame. The row
        keeps the union of the frames, and of several steps each one's own, too.
    note: why, in the rater's words; kept in `meta`.
    times: of a clip, the second at which each of its frames here begins; kept in `meta`, and the row's rate.

    Pictures are named by their content, and the same rating of the same edit has the same id, so that who
    rates twice writes once (`merged`).
    """
    pictures: dict[str, Tensor] = {}

    def keep(frames: Tensor) -> tuple[str, ...]:
        paths = []
        for frame in frames.detach().cpu().float().clamp(0, 1):
            path = f"pictures/{_hash((frame * 255).round().byte().numpy().tobytes(), frame.shape)}.png"
            pictures[path] = frame
            paths.append(path)
        return tuple(paths)

    sources, results = keep(original), keep(edited)
    plan = trace.plan
    given = [mask] if mask is None or isinstance(mask, Tensor) else list(mask)
    places = [None if each is None else _outline(each) for each in given]
    union = union_of(places)
    outline = None if union is None else keep(union[None])[0]
    steps = step_rows(plan)
    if len(steps) == len(places):
        steps = tuple(
            step if place is None else {**step, "mask": keep(place[None])[0]}
            for step, place in zip(steps, places, strict=True)
        )
    kept = tuple(
        {
            "kind": each.kind,
            **({} if each.frames is None else {"frames": list(keep(each.frames))}),
            **({"text": each.text} if each.text else {}),
            **({"note": each.note} if each.note else {}),
            **({"fps": each.fps} if each.fps else {}),
        }
        for each in references
    )
    question = _hash(repr((sources, prompt, kept)).encode())
    prose = (trace.thinking, trace.intermediate, trace.reflection)
    completion = _hash(repr((*prose, _Said(plan), results, good, note)).encode())
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
        references=kept,
        raters=(good,),
        fps=rate_of(times),
        meta={
            **({"note": note} if note else {}),
            **({"times": [round(float(time), 3) for time in times]} if times else {}),
        },
        steps=steps,
    )
    return row, pictures


def merged(row: Row, rows: Iterable[Row]) -> tuple[Row | None, tuple[str, ...]]:
    """(what is to be written of a rating, ids of the rows in whose place it stands).

    rows: of the dataset. A later verdict on the same edit takes the place of the earlier ones, for one good
    and bad at once teaches nothing; a mask that was given once stays where the later rating has none. None:
    all of that is there already.
    """
    same = [each for each in rows if _edit_of(each) == _edit_of(row)]
    masked = next((each for each in reversed(same) if _has_mask(each)), None)
    if masked is not None and not _has_mask(row):
        row = replace(row, mask=masked.mask, steps=masked.steps)
    return (None if same == [row] else row), tuple(each.id for each in same)


def _has_mask(row: Row) -> bool:
    return row.mask is not None or any(step.get("mask") for step in row.steps)


def _edit_of(row: Row) -> Row:
    """What was rated: a row without what the rater says of it."""
    steps = tuple({name: each for name, each in step.items() if name != "mask"} for step in row.steps)
    return replace(row, id="", label=False, raters=(), mask=None, meta={}, steps=steps, fps=None)


def _outline(mask: Tensor) -> Tensor:
    """[H, W] of 0 and 1: on where it is in one of the frames of [F, H, W] or [H, W]."""
    return (mask.float().amax(0) if mask.ndim == 3 else mask.float()).cpu().ge(0.5).float()


class _Said:
    """A plan as the ids of rows spell it, in every version."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def __repr__(self) -> str:
        names = ("instruction", "targets", "mask_text", "scope", "repairs")
        one = ", ".join(f"{name}={getattr(self.plan, name)!r}" for name in names)
        return f"Plan({one})" + "".join(repr(_Said(step)) for step in self.plan.several)


def _category(video: bool, references: Sequence[Reference]) -> str:
    """The paper's Table 6: what the references are -> what the original is."""
    kinds = {
        "video" if each.kind == "video" else "text" if each.kind == "text" else "image" for each in references
    }
    seen = "video" if "video" in kinds else "image" if "image" in kinds else "text"
    words = "+text" if seen != "text" and "text" in kinds else ""
    return f"{seen}{words}->video" if video else f"{seen}{words}"


def _hash(data: bytes, shape: Sequence[int] = ()) -> str:
    return hashlib.blake2b(repr(tuple(shape)).encode() + data, digest_size=12).hexdigest()
