"""A dataset in one format to the same dataset in another: rows, and the pictures that they show."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from evlm.errors import EVLMError, RecordError
from evlm.files.pictures import write_atomically
from evlm.files.safe_paths import Inside, inside
from evlm.plan.mask_codec import BoxSpans
from evlm.reason.messages import FULL, PromptStyle
from evlm.records import ROWS_FILE, Row

from .conversation import Conversation, from_row, is_plain, opened_bytes, relative, to_row
from .files import EVLM_COLUMNS, OnProblem, Problem, read, read_lines, row_columns, rows_file, writing
from .formats import FORMATS

NAMES = ("evlm", *FORMATS)


@dataclass(frozen=True)
class Conversion:
    """What is converted, and how.

    source, target: formats, of `NAMES`. path: dataset folder or file. out: the file to write (.jsonl,
        .parquet), or a folder that gets one. copy: bring the pictures along; without it they must lie in the
        target's folder.
    media: the folder that foreign paths start from, and must stay in; the rows' own where it is None.
    style, codec: how the question is put, as in the model's evlm.json.
    """

    source: str
    target: str
    path: Path
    out: Path
    copy: bool = False
    media: Path | None = None
    style: PromptStyle = FULL
    codec: BoxSpans | None = None


def convert(what: Conversion, on_problem: OnProblem, bar: bool = False) -> Counter[str]:
    """Writes every row that can be read; `on_problem` is told of each other one.

    Returns how many rows were written ("rows"), left out ("bad"), how many pictures were "copied".
    Raises RecordError where a file as a whole cannot be read or written; the target is then not there.
    """
    file, count = source_file(what.path, what.source), Counter[str]()
    out = target_file(what.out, what.target)
    pictures = Pictures(what.media or file.parent, out.parent, what.copy, count)
    columns = EVLM_COLUMNS if what.target == "evlm" else FORMATS[what.target].columns

    def bad(problem: Problem) -> None:
        count["bad"] += 1
        on_problem(problem)

    with writing(out, columns) as write:
        for line, item in _read(what, file, pictures, bad, bar):
            try:
                write(_columns(what, pictures.place(item)))
            except (EVLMError, OSError) as error:
                bad(Problem(line, [str(error)]))
            else:
                count["rows"] += 1
        if what.target != "evlm":
            FORMATS[what.target].describe(out)
    return count


def source_file(path: Path, name: str) -> Path:
    """The file to read: the path, or the one in a folder. Raises RecordError."""
    if name == "evlm" or not path.is_dir():
        return rows_file(path)
    there = [path / f"{name}{suffix}" for suffix in (".jsonl", ".json", ".parquet")]
    present = [file for file in there if file.is_file()]
    if not present:
        raise RecordError(f"{path}: none of {', '.join(f.name for f in there)} in it; name the file")
    return present[0]


def target_file(out: Path, name: str) -> Path:
    """The file to write; in a folder rows.jsonl, or the format's name."""
    if out.suffix in (".jsonl", ".parquet"):
        return out
    return out / (ROWS_FILE if name == "evlm" else f"{name}.jsonl")


class Pictures:
    """Brings the pictures of rows into the target's folder, or finds them there; writes nowhere else."""

    def __init__(self, media: Path, target: Path, copy: bool, count: Counter[str]) -> None:
        self.media, self.target, self.copy, self.count = media, target, copy, count
        if not media.is_dir():
            raise RecordError(
                f"{media}: no such folder; expected the one that the pictures' paths start from"
            )
        self._there = Inside(media)
        prefix = os.path.relpath(os.path.realpath(media), os.path.realpath(target)).replace(os.sep, "/")
        if not copy and prefix.split("/")[0] == "..":
            raise RecordError(
                f"the pictures lie in {media}, outside of the target's folder {target}; give --copy, or "
                "write the target where they are"
            )
        self._prefix = "" if copy or prefix == "." else f"{prefix}/"
        self._placed: set[str] = set()

    def place(self, item: Row | Conversation) -> Row | Conversation:
        """The item with paths from the target's folder, its pictures there. Raises RecordError, OSError."""
        for path in dict.fromkeys(item.paths()):
            if path not in self._placed:
                self._bring(path)
                self._placed.add(path)
        if not self._prefix:
            return item
        moved = {path: self._prefix + path for path in item.paths()}
        if isinstance(item, Conversation):
            images = tuple(moved[str(path)] for path in item.images)
            videos = tuple(tuple(moved[path] for path in frames) for frames in item.videos)
            return replace(item, images=images, videos=videos)
        row = item
        references = tuple(
            {**r, "frames": [moved[path] for path in r["frames"]]} if r.get("frames") else r
            for r in row.references
        )
        mask = None if row.mask is None else moved[row.mask]
        original, edited = (tuple(moved[path] for path in paths) for paths in (row.original, row.edited))
        steps = tuple(
            {**step, "mask": moved[step["mask"]]} if step.get("mask") is not None else step
            for step in row.steps
        )
        return replace(row, original=original, edited=edited, mask=mask, references=references, steps=steps)

    def resolved(self, conversation: Conversation) -> tuple[Conversation, Inside]:
        """A foreign conversation with relative paths, and the folder that they start from.

        One that carries its row is left as it is: the row names all pictures, also those not shown.
        Raises RecordError, OSError.
        """
        if conversation.evlm is not None:
            return conversation, self._there
        if any(isinstance(image, bytes) for image in conversation.images):
            if not self.copy:
                raise RecordError("a picture lies inside the dataset's file; --copy brings it out")
            images = tuple(self._store(image) for image in conversation.images)
            return replace(conversation, images=images), Inside(self.target)
        images = tuple(relative(str(image), self.media) for image in conversation.images)
        videos = tuple(tuple(relative(path, self.media) for path in frames) for frames in conversation.videos)
        return replace(conversation, images=images, videos=videos), self._there

    def _bring(self, path: str) -> None:
        if path.startswith(STORED) and inside(self.target, path).is_file() and not self._there.is_file(path):
            return
        if not self._there.is_file(path):
            raise RecordError(f"picture {path!r:.80} does not exist")
        if not self.copy:
            return
        source, target = inside(self.media, path), inside(self.target, path)
        if target.exists():
            if not target.samefile(source) and target.read_bytes() != source.read_bytes():
                raise RecordError(f"{target} exists with another content; copy into another folder")
            return
        data = source.read_bytes()
        write_atomically(target, lambda out: out.write(data), flush=False)
        self.count["copied"] += 1

    def _store(self, picture: str | bytes) -> str:
        """The path of a picture that came as bytes, written into the target's folder."""
        if isinstance(picture, str):
            raise RecordError("some pictures are paths and others bytes; expected one kind in a row")
        with opened_bytes(picture) as image:
            suffix = str(image.format).lower()
        path = f"{STORED}{blake2b(picture, digest_size=10).hexdigest()}.{suffix}"
        target = inside(self.target, path)
        if not target.exists():
            write_atomically(target, lambda out: out.write(picture), flush=False)
            self.count["copied"] += 1
        return path


STORED = "pictures/stored-"  # names of pictures that came inside a file


def _read(
    what: Conversion, file: Path, pictures: Pictures, bad: Callable[[Problem], None], bar: bool
) -> Iterator[tuple[int, Row | Conversation]]:
    """(line, row) of the source's good rows, paths relative to the folder of its pictures. A foreign row with
    a plain answer stays as it is for a foreign target."""
    if what.source == "evlm":
        if what.media is not None:
            raise RecordError(
                "--media is for foreign formats; the paths of evlm rows start at their own folder"
            )
        yield from read(file, bad, check_files=True, bar=bar)
        return
    form, seen = FORMATS[what.source], dict[str, int]()
    layout = form.layout(file)
    for line, data in read_lines(file, bar):
        try:
            if isinstance(data, RecordError):
                raise data
            conversation, folder = pictures.resolved(form.read(data, layout))
            if what.target != "evlm" and conversation.evlm is None and is_plain(conversation.answer):
                yield line, conversation
                continue
            row = to_row(conversation, f"{file.stem}-{line:06d}", form.name, folder, form.guard)
            if row.id in seen:
                raise RecordError(f"id {row.id!r:.80} was seen on line {seen[row.id]}")
        except (EVLMError, OSError) as error:
            bad(Problem(line, [str(error)]))
        else:
            seen[row.id] = line
            yield line, row


def _columns(what: Conversion, item: Row | Conversation) -> dict[str, Any]:
    if isinstance(item, Conversation):
        return FORMATS[what.target].write(item)
    if what.target == "evlm":
        return row_columns(item)
    return FORMATS[what.target].write(from_row(item, what.style, what.codec))
