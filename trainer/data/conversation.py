"""A question and its answer as a chat over picture files: what the foreign formats say, in one form.

Rows become conversations with the very words of `evlm.reason.messages`, so that another trainer learns the
same thing; conversations of other origin become rows where the answer can be read as a trace.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from evlm.errors import RecordError, TraceError
from evlm.files.safe_paths import Inside, inside
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import parse, render
from evlm.reason.messages import FULL, Chat, PromptStyle, build_messages, sample_clip
from evlm.records import Row, load_paths, row_problems
from evlm.request import Reference, Request

from .files import parse as parse_json
from .files import unchecked_row, unicode_problems


@dataclass(frozen=True)
class Conversation:
    """Turns up to the answer, the pictures they show, the answer, and whether it is desired.

    messages: Hugging Face's form, items {"type": "text", "text": ...}, {"type": "image"}, {"type": "video"}.
    images, videos: paths in the order of their items; a video is its frames; bytes are a picture inside the
        dataset's own file. evlm: the row behind it, as JSON. rest: columns that the format does not know.
    """

    messages: list[dict[str, Any]]
    images: tuple[str | bytes, ...]
    videos: tuple[tuple[str, ...], ...]
    answer: str
    label: bool = True
    evlm: str | None = None
    rest: dict[str, Any] = field(default_factory=dict)

    def chat(self, folder: str | os.PathLike[str]) -> Chat:
        """The turns with their pictures, as the trainer wants them. Raises RecordError, PictureError."""
        if not all(isinstance(image, str) for image in self.images):
            raise RecordError("a picture lies inside the dataset's file; `data convert --copy` brings it out")
        images = [sample_clip(load_paths(folder, [str(path)]), None).frames[0] for path in self.images]
        videos = [sample_clip(load_paths(folder, frames), None) for frames in self.videos]
        return Chat(self.messages, images, videos)


def from_row(row: Row, style: PromptStyle = FULL, codec: BoxSpans | None = None) -> Conversation:
    """A row as `build_messages` words it, with the frames that it shows and the trace in its exact form."""
    media = _media(row)
    frames = iter(media)
    references = tuple(
        Reference(
            r["kind"],
            None if r["kind"] == "text" else _blank(len(next(frames))),
            r.get("text", ""),
            r.get("note", ""),
            r.get("fps"),
        )
        for r in row.references
    )
    # The words depend on how many frames there are, never on what they show.
    chat = build_messages(Request(_blank(len(row.original)), row.prompt, references, row.fps), codec, style)
    clips, images, videos = iter(chat.videos), [], []
    for paths in (row.original, *media):
        if len(paths) > 1:
            videos.append(tuple(paths[index] for index in next(clips).indices))
        else:
            images.append(paths[0])
    evlm = json.dumps(asdict(row), allow_nan=False)
    return Conversation(chat.messages, tuple(images), tuple(videos), render(row.trace()), row.label, evlm)


def to_row(
    conversation: Conversation, name: str, source: str, folder: Inside, written: Callable[[str], str] = str
) -> Row:
    """The row of a conversation whose paths are relative to `folder`. Raises RecordError with every reason.

    One that `from_row` made gives the same row again; where its answer or label were changed since, as they
    are now. written: what the foreign format makes of an answer.
    One from outside gets `name` as its id, "unknown" for what nobody said, the first picture as the original.
    """
    if conversation.evlm is None:
        return _checked(_from_outside(conversation, name, source), folder)
    row = _checked(parse_json(conversation.evlm), folder)
    if written(render(row.trace())) != conversation.answer:
        row = replace(row, **_trace_fields(conversation.answer))
    return row if row.label == conversation.label else replace(row, label=conversation.label)


def words(messages: list[dict[str, Any]], role: str) -> str:
    """All that a role says, pictures left out."""
    items = [item for message in messages if message["role"] == role for item in message["content"]]
    return " ".join(item["text"] for item in items if item["type"] == "text")


def relative(path: str, media: str | os.PathLike[str]) -> str:
    """A foreign path as one inside the folder `media`. Raises RecordError where it leads elsewhere."""
    if os.path.isabs(path):
        plain = PurePath(os.path.normpath(path))
        roots = [
            root for root in (os.path.abspath(media), os.path.realpath(media)) if plain.is_relative_to(root)
        ]
        if not roots:
            raise RecordError(f"picture {path!r:.120} lies outside of {media}; name its folder with --media")
        path = plain.relative_to(roots[0]).as_posix()
    path = path[2:] if path.startswith("./") else path
    inside(media, path)
    return path


def _media(row: Row) -> list[tuple[str, ...]]:
    """The frames of each reference that has some, in order; of a reference that is no video, the first."""
    return [
        tuple(r["frames"]) if r["kind"] == "video" else tuple(r["frames"])[:1]
        for r in row.references
        if r["kind"] != "text"
    ]


@lru_cache(maxsize=64)
def _blank(frames: int) -> Tensor:
    return torch.zeros(frames, 1, 1, 3)


def _checked(data: Any, folder: Inside) -> Row:
    reasons = row_problems(data, folder) or unicode_problems(data)
    if reasons:
        raise RecordError("; ".join(reasons))
    return unchecked_row(data)


def _from_outside(conversation: Conversation, name: str, source: str) -> dict[str, Any]:
    """The fields of a row, unchecked."""
    users = [message for message in conversation.messages if message["role"] == "user"]
    if len(users) != 1:
        raise RecordError(f"{len(users)} turns of the user; a row is one question and one answer")
    media = list(_shown(conversation, users[0]["content"]))
    if not media:
        raise RecordError("no picture in it; a row needs an original, the first picture of the question")
    prompt = " ".join(words(conversation.messages, "user").split())
    meta: dict[str, Any] = {"columns": conversation.rest} if conversation.rest else {}
    if system := words(conversation.messages, "system").strip():
        meta["system"] = system
    question = blake2b(json.dumps([prompt, media]).encode(), digest_size=8).hexdigest()
    return {
        "id": name,
        "question": f"{source}-{question}",
        "split": "train",
        "source": source,
        "edit_type": "unknown",
        "category": "unknown",
        "original": media[0],
        "prompt": prompt,
        **_trace_fields(conversation.answer),
        "label": conversation.label,
        "meta": meta,
        "references": [{"kind": "video" if len(m) > 1 else "image", "frames": m} for m in media[1:]],
    }


def _shown(conversation: Conversation, content: list[dict[str, Any]]) -> Iterator[list[str]]:
    images, videos = iter(conversation.images), iter(conversation.videos)
    for item in content:
        if item["type"] == "image":
            yield [str(next(images))]
        elif item["type"] == "video":
            yield list(next(videos))


def _trace_fields(answer: str) -> dict[str, Any]:
    try:
        trace = parse(answer)
    except TraceError as error:
        raise RecordError(f"the answer is no trace: {error}") from None
    plan = trace.plan
    return {
        "thinking": trace.thinking,
        "intermediate": trace.intermediate,
        "reflection": trace.reflection,
        "instruction": plan.instruction,
        "targets": plan.targets,
        "scope": plan.scope,
        "mask_text": plan.mask_text,
    }
