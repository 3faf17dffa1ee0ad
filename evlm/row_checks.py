"""Whether a row of a dataset is one: types, values, and the pictures that it names."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from typing import Any

from .errors import RecordError, TraceError
from .files.safe_paths import Inside
from .request import MAX_PROMPT
from .row import NO_TRACE, REFERENCE_KINDS, Row, paths_of, plan_of

_TEXTS = ("id", "question", "split", "source", "edit_type", "category")
_PROSE = ("prompt", "thinking", "intermediate", "reflection", "instruction")
_REQUIRED = frozenset((*_TEXTS, *_PROSE, "original", "targets", "scope", "label"))
_FIELDS = frozenset(each.name for each in fields(Row))
_STEP_FIELDS = frozenset(("instruction", "targets", "scope", "mask_text", "mask"))
_REFERENCE_FIELDS = frozenset(("kind", "frames", "text", "note", "fps"))


def row_problems(data: Any, folder: str | os.PathLike[str] | Inside, check_files: bool = True) -> list[str]:
    """What is wrong with a row, in words; an empty list where nothing is.

    folder: the dataset's; as `Inside` where many rows are checked, which is ten times faster.
    """
    known = folder if isinstance(folder, Inside) else Inside(folder)
    problems = field_problems(data)
    return problems or path_problems(data, known, None if check_files else set(paths_of(data)))


def field_problems(data: Any) -> list[str]:
    """Types and values of all fields; nothing on the disk."""
    if not isinstance(data, dict):
        return [f"expected a JSON object, got {type(data).__name__}"]
    problems = [f"field {name!r:.40} is not known" for name in sorted(map(str, data.keys() - _FIELDS))]
    plain = data.get("answer") is not None
    required = _REQUIRED - NO_TRACE.keys() if plain else _REQUIRED
    problems += [f"field '{name}' is missing" for name in sorted(required - data.keys())]
    if problems:
        return problems
    if plain:
        if not isinstance(data["answer"], str) or not data["answer"].strip():
            problems.append(f"answer: expected text or null, got {data['answer']!r:.40}")
        filled = [name for name in (*NO_TRACE, "mask_text", "steps") if name != "scope" and data.get(name)]
        problems += [f"{name}: a row with an answer has no trace beside it" for name in filled]
        data = {**NO_TRACE, **data}
    for name in (*_TEXTS, *_PROSE):
        if not isinstance(data[name], str):
            problems.append(f"{name}: expected text, got {data[name]!r:.40}")
        elif name in _TEXTS and not data[name].strip():
            problems.append(f"{name}: it is empty")
    if isinstance(data["prompt"], str) and len(data["prompt"]) > MAX_PROMPT:
        problems.append(f"prompt: {len(data['prompt']):,} characters, at most {MAX_PROMPT:,} are taken")
    for name in ("original", "edited", "targets"):
        if not _is_list(data.get(name, ()), str):
            problems.append(f"{name}: expected a list of texts, got {data[name]!r:.40}")
    if data["original"] in ([], ()):
        problems.append("original: it is empty; a row needs a picture")
    for name in ("mask", "mask_text"):
        if not isinstance(data.get(name), (str, type(None))):
            problems.append(f"{name}: expected text or null, got {data[name]!r:.40}")
    if not isinstance(data["label"], bool):
        problems.append(f"label: expected true or false, got {data['label']!r:.40}")
    if not _is_list(data.get("raters", ()), bool):
        problems.append(f"raters: expected a list of true or false, got {data['raters']!r:.40}")
    problems += _fps_problems(data.get("fps"), "fps")
    references = data.get("references", ())
    if not isinstance(references, (list, tuple)):
        problems.append(f"references: expected a list, got {references!r:.40}")
    else:
        for index, reference in enumerate(references):
            problems += [f"references[{index}]: {problem}" for problem in _reference_problems(reference)]
        if not problems and not data["prompt"].strip() and not references:
            problems.append("neither a prompt nor a reference: nothing is asked")
    steps = () if data.get("steps") is None else data["steps"]
    if not isinstance(steps, (list, tuple)):
        problems.append(f"steps: expected a list, got {steps!r:.40}")
    else:
        for index, step in enumerate(steps):
            problems += [f"steps[{index}]: {problem}" for problem in _step_problems(step)]
    if not isinstance(data.get("meta", {}), dict) or not _is_json(data.get("meta", {})):
        problems.append("meta: expected a JSON object with finite numbers")
    if not problems and not plain:
        try:
            plan_of(data)
        except TraceError as error:
            problems.append(f"{error.part}: {error.reason}")
    return problems


def _reference_problems(reference: Any) -> list[str]:
    if not isinstance(reference, dict):
        return [f"expected an object, got {reference!r:.40}"]
    problems = [
        f"field {name!r:.40} is not known" for name in sorted(map(str, reference.keys() - _REFERENCE_FIELDS))
    ]
    kind, frames = reference.get("kind"), reference.get("frames") or ()
    if kind not in REFERENCE_KINDS:
        return [*problems, f"kind {kind!r:.40}: expected one of {', '.join(REFERENCE_KINDS)}"]
    for name in ("text", "note"):
        if not isinstance(reference.get(name, ""), str):
            problems.append(f"{name}: expected text, got {reference[name]!r:.40}")
    if not _is_list(frames, str):
        return [*problems, f"frames: expected a list of paths, got {frames!r:.40}"]
    if kind == "text" and (frames or not str(reference.get("text", "")).strip()):
        problems.append("a text reference has words in 'text' and no frames")
    if kind != "text" and (not frames or reference.get("text")):
        problems.append(f"a reference of kind {kind!r} has frames and no 'text'")
    if kind in ("image", "depth") and len(frames) > 1:
        problems.append(f"a reference of kind {kind!r} has 1 frame, got {len(frames)}")
    return problems + _fps_problems(reference.get("fps"), "fps")


def _step_problems(step: Any) -> list[str]:
    if not isinstance(step, dict):
        return [f"expected an object, got {step!r:.40}"]
    problems = [f"field {name!r:.40} is not known" for name in sorted(map(str, step.keys() - _STEP_FIELDS))]
    needed = ("instruction", "targets", "scope")
    problems += [f"field '{name}' is missing" for name in needed if name not in step]
    problems += [
        f"{name}: expected text, got {step[name]!r:.40}"
        for name in ("instruction", "scope", "mask_text", "mask")
        if step.get(name, "") is not None or name in needed
        if not isinstance(step.get(name, ""), str)
    ]
    if not _is_list(step.get("targets", ()), str):
        problems.append(f"targets: expected a list of texts, got {step['targets']!r:.40}")
    return problems


def path_problems(data: dict[str, Any], folder: Inside, coming: set[str] | None) -> list[str]:
    """Paths that leave the folder, or lead to nothing and are not among those to come."""
    problems = []
    for path in dict.fromkeys(paths_of(data)):
        try:
            if not folder.is_file(path) and path not in (coming or ()):
                problems.append(f"picture {path!r:.80} does not exist")
        except RecordError as error:
            problems.append(str(error))
    return problems


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(each, kind) for each in value)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _fps_problems(fps: Any, name: str) -> list[str]:
    good = fps is None or (isinstance(fps, (int, float)) and not isinstance(fps, bool) and 0 < fps <= 1000)
    return [] if good else [f"{name} {fps!r:.40}: expected a number above 0 and at most 1000, or null"]
