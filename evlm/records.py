"""A REFLECTIVE-EDIT row: one question, one completion, one label; a dataset is rows.jsonl and pictures.

Raters' nodes and the procedural world write rows, the trainer reads them. Paths in a row are relative to the
dataset folder and stay inside it. Several processes may append to one dataset at once.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .errors import PictureError, RecordError, TraceError
from .files.append import append_lines
from .files.pictures import load_mask, load_picture, to_pil, write_atomically
from .files.safe_paths import Inside, inside
from .plan.trace import Plan, Trace, render
from .request import MAX_PROMPT, Reference, Request

ROWS_FILE = "rows.jsonl"
REFERENCE_KINDS = ("image", "video", "text", "depth")


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

    @property
    def completion(self) -> str:
        """What is learned: the trace in its exact form, or the plain answer."""
        return render(self.trace()) if self.answer is None else self.answer

    def trace(self) -> Trace:
        """The completion as a trace. Raises TraceError where it is a plain answer, or the row was never
        checked."""
        if self.answer is not None:
            raise TraceError("trace", 0, "the row's completion is a plain answer")
        plan = Plan(self.instruction, self.targets, self.mask_text, self.scope)  # type: ignore[arg-type]
        return Trace(self.thinking, self.intermediate, self.reflection, plan)

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
        paths = [*self.original, *self.edited, *([self.mask] if self.mask is not None else [])]
        return paths + [path for reference in self.references for path in reference.get("frames", ())]


class RowWriter:
    """Appends rows to folder/rows.jsonl, safe with several writers: a lock, a write at the file's end, fsync.

    A row is written after its pictures and only if it passes the checks; a failed write leaves no half line.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def append(self, row: Row, pictures: Mapping[str, Tensor] | None = None) -> None:
        """Writes the pictures, then the row.

        pictures: path (.png) -> frame [H, W, 3], [1, H, W, 3] or mask [H, W], [1, H, W] in 0..1. Paths of the
            row that are not among them must exist already. An existing picture is never changed: the same
            bytes are accepted, others refused.
        Raises RecordError, PictureError.
        """
        self.append_all([(row, pictures or {})])

    def append_all(self, rows: Iterable[tuple[Row, Mapping[str, Tensor]]]) -> None:
        """Like `append` for many rows, with one lock and one flush: all lines are written, or none."""
        lines, written = [], []
        for row, pictures in rows:
            data = row_data(row)
            # Everything is checked first: no picture may be written for a row that is refused.
            problems = [*_field_problems(data), *_path_problems(data, Inside(self.folder), set(pictures))]
            unused = set(pictures) - set(row.paths())
            problems += [f"picture {name!r:.80} is not used by the row" for name in sorted(unused)]
            if problems:
                raise RecordError(f"row {row.id!r:.80} is refused: " + "; ".join(problems))
            encoded = {name: _png(picture, name, name == row.mask) for name, picture in pictures.items()}
            written += self._write_pictures(encoded)
            lines.append(json.dumps(data, allow_nan=False) + "\n")
        if not lines:
            return
        path = self.folder / ROWS_FILE
        try:
            _flush(written)
            append_lines(path, "".join(lines).encode())
        except OSError as error:
            raise RecordError(f"{path}: cannot be written ({error}); it is as it was before") from error

    def _write_pictures(self, encoded: dict[str, bytes]) -> list[Path]:
        """Writes those that are not there yet, and gives their paths; not yet flushed to the disk."""
        new = {}
        for name, data in encoded.items():
            path = inside(self.folder, name)
            if not path.exists():
                new[path] = data
            elif path.read_bytes() != data:
                raise RecordError(
                    f"{path} exists with another content; a dataset's pictures are never changed"
                )
        for path, data in new.items():
            try:
                write_atomically(path, lambda file, data=data: file.write(data), flush=False)  # type: ignore[misc]
            except OSError as error:
                raise RecordError(f"{path}: cannot be written ({error})") from error
        return list(new)


def read_rows(
    path: str | os.PathLike[str],
    on_problem: Callable[[RecordError], None] | None = None,
    check_files: bool = True,
) -> Iterator[Row]:
    """The rows of a dataset, one at a time.

    path: the dataset folder, or its .jsonl file (paths are then relative to the file's folder).
    on_problem: called with the error of each bad line, which is left out; without it the first one is raised.
    check_files: whether each picture of a row must exist; that paths stay inside is always checked.
    Raises RecordError naming the line and every reason.
    """
    path = Path(path)
    file = path / ROWS_FILE if path.is_dir() else path
    if not file.is_file():
        raise RecordError(f"{file}: no such file; expected a dataset folder with {ROWS_FILE}")
    seen: dict[str, int] = {}
    folder = Inside(file.parent)
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = _read_line(line, number, folder, check_files)
                if row.id in seen:
                    raise RecordError(f"line {number}: id {row.id!r:.80} was seen on line {seen[row.id]}")
                seen[row.id] = number
            except RecordError as error:
                problem = RecordError(f"{file}, {error}")
                if on_problem is None:
                    raise problem from None
                on_problem(problem)
            else:
                yield row


def check_row(data: Any, line: int, folder: str | os.PathLike[str] | Inside, check_files: bool = True) -> Row:
    """A row from parsed JSON. Raises RecordError with the line and every problem that was found."""
    problems = row_problems(data, folder, check_files)
    if problems:
        raise RecordError(f"line {line}: " + "; ".join(problems))
    return unchecked_row(data)


def unchecked_row(data: Mapping[str, Any]) -> Row:
    """A row of fields that `row_problems` found nothing wrong with."""
    lists = ("original", "targets", "edited", "references", "raters")
    values: dict[str, Any] = {name: tuple(value) if name in lists else value for name, value in data.items()}
    return Row(**({**NO_TRACE, **values} if values.get("answer") is not None else values))


def row_data(row: Row) -> dict[str, Any]:
    """A row as JSON holds it; without `answer` where there is none, as in datasets of earlier versions."""
    data = asdict(row)
    if row.answer is None:
        del data["answer"]
    return data


def row_problems(data: Any, folder: str | os.PathLike[str] | Inside, check_files: bool = True) -> list[str]:
    """What is wrong with a row, in words; an empty list where nothing is.

    folder: the dataset's; as `Inside` where many rows are checked, which is ten times faster.
    """
    known = folder if isinstance(folder, Inside) else Inside(folder)
    problems = _field_problems(data)
    return problems or _path_problems(data, known, None if check_files else set(_paths(data)))


def load_paths(folder: str | os.PathLike[str], paths: Iterable[str]) -> Tensor:
    """The pictures at these paths as frames [F, H, W, 3]. Raises RecordError, PictureError."""
    frames = [load_picture(inside(folder, path)) for path in paths]
    sizes = {tuple(frame.shape[1:3]) for frame in frames}
    if len(sizes) != 1:
        raise RecordError(
            f"frames of sizes {sorted(sizes)[:3]} (height, width): expected at least one, all of one size"
        )
    return torch.cat(frames)


# --- checks ---

_TEXTS = ("id", "question", "split", "source", "edit_type", "category")
_PROSE = ("prompt", "thinking", "intermediate", "reflection", "instruction")
_REQUIRED = frozenset((*_TEXTS, *_PROSE, "original", "targets", "scope", "label"))
# Of a row with a plain answer.
NO_TRACE: dict[str, Any] = {
    "thinking": "", "intermediate": "", "reflection": "", "instruction": "", "targets": (), "scope": "global",
}  # fmt: skip
_FIELDS = frozenset(each.name for each in fields(Row))
_REFERENCE_FIELDS = frozenset(("kind", "frames", "text", "note", "fps"))


def _field_problems(data: Any) -> list[str]:
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
        filled = [name for name in (*NO_TRACE, "mask_text") if name != "scope" and data.get(name)]
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
    if not isinstance(data.get("meta", {}), dict) or not _is_json(data.get("meta", {})):
        problems.append("meta: expected a JSON object with finite numbers")
    if not problems and not plain:
        try:
            Plan(data["instruction"], tuple(data["targets"]), data.get("mask_text"), data["scope"])
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


def _path_problems(data: dict[str, Any], folder: Inside, coming: set[str] | None) -> list[str]:
    """Paths that leave the folder, or lead to nothing and are not among those to come."""
    problems = []
    for path in dict.fromkeys(_paths(data)):
        try:
            if not folder.is_file(path) and path not in (coming or ()):
                problems.append(f"picture {path!r:.80} does not exist")
        except RecordError as error:
            problems.append(str(error))
    return problems


def _paths(data: dict[str, Any]) -> list[str]:
    mask = [data["mask"]] if data.get("mask") is not None else []
    references = [path for reference in data.get("references", ()) for path in reference.get("frames") or ()]
    return [*data["original"], *data.get("edited", ()), *mask, *references]


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


def _read_line(line: bytes, number: int, folder: Inside, check_files: bool) -> Row:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:  # ValueError: bad UTF-8 and bad JSON
        raise RecordError(f"line {number}: not JSON ({error!s:.120})") from None
    return check_row(data, number, folder, check_files)


# --- writing ---


def _png(picture: Tensor, name: str, is_mask: bool) -> bytes:
    """8-bit grey for a mask [H, W] or [1, H, W], RGB for a frame [H, W, 3] or [1, H, W, 3]."""
    if not name.endswith(".png"):
        raise RecordError(f"picture {name!r:.80}: expected a path that ends in .png")
    if not isinstance(picture, Tensor):
        raise RecordError(f"picture {name!r:.80}: expected a tensor, got {type(picture).__name__}")
    if picture.ndim > (2 if is_mask else 3) and picture.shape[0] == 1:
        picture = picture[0]
    expected = "[H, W], or [1, H, W]: it is the row's mask" if is_mask else "[H, W, 3] or [1, H, W, 3]"
    if picture.ndim != (2 if is_mask else 3):
        raise RecordError(f"picture {name!r:.80}: shape {tuple(picture.shape)}, expected {expected}")
    try:
        image = to_pil(picture.float()[..., None].expand(-1, -1, 3) if is_mask else picture)
    except PictureError as error:
        raise RecordError(f"picture {name!r:.80}: {error}") from error
    buffer = BytesIO()
    (image.convert("L") if is_mask else image).save(buffer, "PNG")
    return buffer.getvalue()


def _flush(paths: list[Path]) -> None:
    """Makes sure that files are on the disk before a row speaks of them."""
    if len(paths) > 4 and hasattr(os, "sync"):  # ten times faster than one fsync for each of a hundred files
        os.sync()
        return
    for path in paths:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
