"""What is asked: the frames to edit, things to look at, and a few words, or none."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor

from .errors import PictureError, RequestError
from .files.clips import load_frames
from .files.depth import load_depth
from .files.pictures import check_frames, load_picture

EXAMPLES = Path(__file__).resolve().parent / "bundled" / "examples"
ReferenceKind = Literal["image", "video", "text", "depth"]
MAX_PROMPT = 20_000  # characters; far above any real prompt, far below what would drown a context window


@dataclass(frozen=True)
class Reference:
    """One thing to look at: a picture (a grid of pictures is one too), a video, a depth map, or words.

    frames: float [F, H, W, 3] in 0..1, for image and depth F = 1, for video F >= 1; None for text.
    text: the words of a text reference; empty otherwise.
    note: what the picture is for, shown to the reasoner beside it ("use this colour").
    fps: frames per second of a video, None where unknown.
    notes: what was done to the values, in words.
    Raises RequestError.
    """

    kind: ReferenceKind
    frames: Tensor | None = None
    text: str = ""
    note: str = ""
    fps: float | None = None
    notes: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        kinds = get_args(ReferenceKind)
        if self.kind not in kinds:
            raise RequestError(f"reference kind {self.kind!r}: expected one of {', '.join(kinds)}")
        _check_text(self.text, "reference text")
        _check_text(self.note, "reference note")
        _check_fps(self.fps)
        if self.kind == "text":
            if self.frames is not None or not self.text.strip():
                raise RequestError("a text reference has words in `text` and no frames")
            return
        if self.frames is None:
            raise RequestError(f"a reference of kind {self.kind!r} needs frames [F, H, W, 3]")
        if self.text:
            raise RequestError(
                f"a reference of kind {self.kind!r} has no `text`; say what it is for in `note`"
            )
        notes: list[str] = []
        object.__setattr__(self, "frames", _frames(self.frames, f"{self.kind} reference", notes))
        object.__setattr__(self, "notes", tuple(notes))
        count = self.frames.shape[0]
        if self.kind != "video" and count != 1:
            raise RequestError(
                f"a reference of kind {self.kind!r} has 1 frame, got {count}; use kind 'video', or one each"
            )


@dataclass(frozen=True)
class Request:
    """An edit that somebody asks for.

    original: float [F, H, W, 3] in 0..1; F = 1 for a picture.
    prompt: what was said, vague or empty. At least a prompt or a reference is needed.
    references: in the order in which the reasoner sees them; of any size.
    fps: frames per second of the original, None for a picture or where unknown.
    notes: what was done to the values of the original and the references, in words.
    Raises RequestError.
    """

    original: Tensor
    prompt: str = ""
    references: tuple[Reference, ...] = ()
    fps: float | None = None
    notes: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        notes: list[str] = []
        object.__setattr__(self, "original", _frames(self.original, "original", notes))
        _check_text(self.prompt, "prompt")
        references = self.references
        if not isinstance(references, (tuple, list)) or not all(
            isinstance(each, Reference) for each in references
        ):
            raise RequestError("references: expected a sequence of Reference objects")
        object.__setattr__(self, "references", tuple(references))
        notes += [note for each in references for note in each.notes]
        object.__setattr__(self, "notes", tuple(notes))
        _check_fps(self.fps)
        if not self.prompt.strip() and not self.references:
            raise RequestError("nothing is asked: give a prompt, a reference, or both")


def _frames(frames: Tensor, name: str, notes: list[str]) -> Tensor:
    try:
        return check_frames(frames, name, notes)
    except PictureError as error:
        raise RequestError(str(error)) from None


def _check_text(text: str, name: str) -> None:
    if not isinstance(text, str):
        raise RequestError(f"{name}: expected text, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"{name}: character {error.start} is half of a pair (a lone surrogate)") from None
    if len(text) > MAX_PROMPT:
        raise RequestError(f"{name}: {len(text):,} characters, at most {MAX_PROMPT:,} are taken; shorten it")


def _check_fps(fps: float | None) -> None:
    if fps is not None and (
        isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= 1000
    ):
        raise RequestError(f"fps {fps!r}: expected a number above 0 and at most 1000, or None")


def load_example(path: Path) -> tuple[str, Request]:
    """(title, Request) of a request in JSON: title, image, prompt, references [{kind, path | text, note}].

    Paths are relative to the file. Raises RequestError for anything else.
    """

    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        references = []
        for each in row.get("references", []):
            kind, note = each["kind"], each.get("note", "")
            if kind == "text":
                references.append(Reference("text", text=each["text"], note=note))
                continue
            if kind == "depth":
                depth, _ = load_depth(path.parent / each["path"])
                references.append(Reference(kind, depth, note=note))
                continue
            frames, fps = load_frames(path.parent / each["path"])
            references.append(Reference(kind, frames, note=note, fps=fps if kind == "video" else None))
        return row["title"], Request(
            load_picture(path.parent / row["image"]), row["prompt"], tuple(references)
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"{path} is not an example request: {type(error).__name__} {error}") from error
