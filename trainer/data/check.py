"""A dataset as training will read it: fields and labels, and unless it is to be fast every picture, every
mask, and how long each row is for a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evlm.errors import EVLMError, RecordError
from evlm.files.pictures import load_picture
from evlm.files.safe_paths import Inside, inside
from evlm.models.loading import read_notes
from evlm.models.zoo import resolve
from evlm.plan.mask_codec import get_codec
from evlm.reason.messages import MAX_FRAMES, Chat, build_messages, get_style
from evlm.records import Row

from .conversation import Conversation, from_row, placed
from .convert import source_file
from .files import OnProblem, Problem, read, read_lines
from .formats import FORMATS
from .heldout import question_key


@dataclass(frozen=True)
class Check:
    """What is checked, and how far.

    path: dataset folder or file. form: of `convert.NAMES`, or "auto". media: folder of a foreign dataset's
    pictures, its own where it is None. files: whether pictures must exist. base: model whose limits hold, a
    name or folder; None opens no picture. max_pixels: of a picture, as `model.max_pixels` of a recipe.
    """

    path: Path
    form: str = "auto"
    media: Path | None = None
    files: bool = True
    base: str | None = "bundled"
    max_pixels: int | None = None


@dataclass
class Tally:
    """Good rows, by label, and their questions; rows without a label count as desired. earlier: rows in which
    the assistant spoke before the answer."""

    form: str
    good: int = 0
    desired: int = 0
    unlabelled: int = 0
    earlier: int = 0
    questions: int = 0


def check(what: Check, on_problem: OnProblem, bar: bool = False) -> Tally:
    """Reads every row; `on_problem` is told of each that training could not take, with every reason.

    bar: show the progress on a terminal. Raises RecordError where the file cannot be read, ModelError where
    the model is not there.
    """
    form = detected(what.path) if what.form == "auto" else what.form
    file = source_file(what.path, form)
    folder = file.parent if what.media is None else what.media
    limits = Limits(what.base, what.max_pixels) if what.base is not None and what.files else None
    tally, questions = Tally(form), set[int]()
    opened = _Opened(folder)
    for line, item in _items(what, form, file, on_problem, bar):
        reasons = [] if limits is None else opened.problems(item, limits)
        if reasons:
            on_problem(Problem(line, reasons))
            continue
        tally.good += 1
        tally.desired += item.label
        if isinstance(item, Conversation):
            tally.unlabelled += not item.labelled
            tally.earlier += any(message["role"] == "assistant" for message in item.messages)
        questions.add(question_key(item))
    tally.questions = len(questions)
    return tally


def detected(path: Path) -> str:
    """The format of a dataset, by the names of the file and of its first row's columns; "evlm" where they say
    nothing. Raises RecordError where there is no file."""
    if path.is_dir():
        for name in FORMATS:
            if not _has_rows(path) and any(
                (path / f"{name}{s}").is_file() for s in (".jsonl", ".json", ".parquet")
            ):
                return name
    file = source_file(path, "evlm")
    first = next((data for _, data in read_lines(file) if isinstance(data, dict)), {})
    names = {name for name, value in first.items() if value is not None}
    if {"original", "question"} & names:
        return "evlm"
    if FORMATS["llamafactory"].layout(file).described or {"conversations", "kto_tag"} & names:
        return "llamafactory"
    if {"prompt", "completion"} <= names:
        return "trl"
    if "messages" in names:
        turns = first["messages"] if isinstance(first["messages"], list) else []
        return (
            "trl"
            if any(isinstance(t, dict) and isinstance(t.get("content"), list) for t in turns)
            else "swift"
        )
    if {"query", "response"} <= names:
        return "swift"
    return "llamafactory" if {"instruction", "output"} <= names else "evlm"


class Limits:
    """How long a row may be for a model, and how it counts. Raises ModelError."""

    def __init__(self, base: str, max_pixels: int | None = None) -> None:
        from evlm.reason.backbone import open_processor

        from ..model.batch import Collator
        from ..model.skeleton import skeleton

        folder = resolve(base, "reasoner")
        notes = read_notes(folder)
        self.base, self.style = base, get_style(notes.get("prompt", "full"))
        self.codec = get_codec(notes.get("mask_codec", "box-spans-8"))
        self.max_frames = int(notes.get("max_frames", MAX_FRAMES))
        self.context = int(skeleton(folder).config.get_text_config().max_position_embeddings)
        self.collate = Collator(open_processor(folder, max_pixels))

    def problem(self, chat: Chat, answer: str) -> str | None:
        """That a row is too long; None where it is not."""
        tokens = self.collate([chat], [answer]).tokens
        if tokens <= self.context:
            return None
        return (
            f"{tokens:,} tokens with its pictures, the model {self.base} holds {self.context:,}; shorten the "
            "row or take it out, lower --max-pixels, or name another --model"
        )


class _Opened:
    """Opens what rows name, each picture beside a question once in a row."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._asked: tuple[Any, Chat | str] = (None, "")  # the last question, its chat or what is wrong

    def problems(self, item: Row | Conversation, limits: Limits) -> list[str]:
        """What training could not take."""
        chat = self._chat(item, limits)
        problems = [chat] if isinstance(chat, str) else []
        if isinstance(item, Row):
            for name, path in ([("mask", item.mask)] if item.mask else []) + [
                ("edited", p) for p in item.edited
            ]:
                try:
                    load_picture(inside(self.folder, path))
                except EVLMError as error:
                    problems.append(f"{name}: {error}")
        if not isinstance(chat, str):
            answer = item.completion if isinstance(item, Row) else item.answer
            problems += [why for why in (limits.problem(chat, answer),) if why]
        return problems

    def _chat(self, item: Row | Conversation, limits: Limits) -> Chat | str:
        row = isinstance(item, Row) and item.answer is None
        key = (
            (item.original, item.references, item.prompt, item.fps) if isinstance(item, Row) and row else None
        )
        if key is not None and key == self._asked[0]:
            return self._asked[1]
        try:
            if isinstance(item, Row) and row:
                chat: Chat | str = build_messages(
                    item.request(self.folder), limits.codec, limits.style, limits.max_frames
                )
            else:
                item = from_row(item) if isinstance(item, Row) else item
                chat = item.chat(self.folder, limits.max_frames)
        except EVLMError as error:
            chat = str(error)
        self._asked = key, chat
        return chat


def _has_rows(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("rows.jsonl", "rows.parquet"))


def _items(
    what: Check, form: str, file: Path, on_problem: OnProblem, bar: bool
) -> Iterator[tuple[int, Row | Conversation]]:
    """(line, row) of what can be read, paths relative to the pictures' folder."""
    if form == "evlm":
        yield from read(file, on_problem, what.files, bar)
        return
    folder = file.parent if what.media is None else what.media
    within, layout = Inside(folder), FORMATS[form].layout(file)
    for line, data in read_lines(file, bar):
        try:
            if isinstance(data, RecordError):
                raise data
            item = placed(FORMATS[form].read(data, layout), folder, within if what.files else None)
        except EVLMError as error:
            on_problem(Problem(line, [str(error)]))
        else:
            yield line, item
