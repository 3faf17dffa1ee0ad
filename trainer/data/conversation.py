"""A question and its answer as a chat over picture files: what the foreign formats say, in one form.

Rows become conversations with the very words of `evlm.reason.messages`, so that another trainer learns the
same thing; conversations of other origin become rows where the answer can be read as a trace.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from io import BytesIO
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from evlm.errors import PictureError, RecordError, TraceError
from evlm.files.pictures import from_pil
from evlm.files.safe_paths import Inside, inside
from evlm.plan.mask_codec import BoxSpans
from evlm.plan.trace import parse
from evlm.reason.messages import FULL, MAX_FRAMES, Chat, PromptStyle, build_messages, sample_clip
from evlm.records import NO_TRACE, Row, load_paths, row_data, row_problems, step_rows, unchecked_row
from evlm.request import Reference, Request

from .files import parse as parse_json
from .files import unicode_problems


@dataclass(frozen=True)
class Conversation:
    """Turns up to the answer, the pictures they show, the answer, and whether it is desired.

    messages: Hugging Face's form, items {"type": "text", "text": ...}, {"type": "image"}, {"type": "video"}.
    images, videos: paths in the order of their items; a video is its frames; bytes are a picture inside the
        dataset's own file. evlm: the row behind it, as JSON. rest: columns that the format does not know.
    label: whether the answer is a desired one; labelled: whether the row says so, or it was taken for one.
    """

    messages: list[dict[str, Any]]
    images: tuple[str | bytes, ...]
    videos: tuple[tuple[str, ...], ...]
    answer: str
    label: bool = True
    evlm: str | None = None
    rest: dict[str, Any] = field(default_factory=dict)
    labelled: bool = True

    def paths(self) -> list[str]:
        """Every picture that it shows and that lies in a file of its own."""
        images = [image for image in self.images if isinstance(image, str)]
        return images + [path for frames in self.videos for path in frames]

    def chat(self, folder: str | os.PathLike[str], max_frames: int = MAX_FRAMES) -> Chat:
        """The turns with their pictures, as the trainer wants them; of a video at most so many frames. Raises
        RecordError, PictureError."""
        opened = [
            _picture(image) if isinstance(image, bytes) else load_paths(folder, [image])
            for image in self.images
        ]
        images = [sample_clip(frames, None).frames[0] for frames in opened]
        videos = [sample_clip(load_paths(folder, frames), None, max_frames) for frames in self.videos]
        return Chat([_without_special_tokens(message) for message in self.messages], images, videos)


def from_row(row: Row, style: PromptStyle = FULL, codec: BoxSpans | None = None) -> Conversation:
    """A row as `build_messages` words it, with the frames that it shows and the trace in its exact form."""
    if row.answer is not None:
        return _plain(row)
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
    evlm = json.dumps(row_data(row), allow_nan=False)
    return Conversation(chat.messages, tuple(images), tuple(videos), row.completion, row.label, evlm)


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
    if written(row.completion) != conversation.answer:
        row = replace(row, **_completion(conversation.answer))
    return row if row.label == conversation.label else replace(row, label=conversation.label)


def _without_special_tokens(message: dict[str, Any]) -> dict[str, Any]:
    """A turn whose words spell none, as those of a request do not."""
    content = [
        {**item, "text": item["text"].replace("<|", "< |")} if item["type"] == "text" else item
        for item in message["content"]
    ]
    return {**message, "content": content}


def is_plain(answer: str) -> bool:
    """Whether an answer cannot be read as a trace."""
    try:
        parse(answer)
    except TraceError:
        return True
    return False


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


def placed(conversation: Conversation, folder: Path, within: Inside | None) -> Conversation:
    """A foreign row with its paths relative to a folder, which they must stay in. within: that folder, where
    the pictures must exist. Raises RecordError with every reason."""
    images = tuple(i if isinstance(i, bytes) else relative(i, folder) for i in conversation.images)
    videos = tuple(tuple(relative(path, folder) for path in frames) for frames in conversation.videos)
    item = replace(conversation, images=images, videos=videos)
    missing = [p for p in item.paths() if within is not None and not within.is_file(p)]
    if missing:
        raise RecordError("; ".join(f"picture {path!r:.80} does not exist" for path in missing))
    return item


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
    completion = _completion(conversation.answer)
    users = [message for message in conversation.messages if message["role"] == "user"]
    plain = completion["answer"] is not None
    if len(users) != 1 and not plain:
        raise RecordError(f"{len(users)} turns of the user; a row is one question and one answer")
    content = [item for message in conversation.messages for item in message["content"]]
    media = list(_frames(conversation, content))
    if not media:
        raise RecordError("no picture in it; a row needs an original, the first picture of the question")
    prompt = " ".join(words(conversation.messages, "user").split())
    meta: dict[str, Any] = {"columns": conversation.rest} if conversation.rest else {}
    if plain:  # its question is put as it was, not in our own words
        meta["messages"] = conversation.messages
    elif system := words(conversation.messages, "system").strip():
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
        **completion,
        "label": conversation.label,
        "meta": meta,
        "references": [{"kind": "video" if len(m) > 1 else "image", "frames": m} for m in media[1:]],
    }


def _plain(row: Row) -> Conversation:
    """The conversation of a row with a plain answer: the turns in its meta.messages; without them the
    pictures, then the prompt. Raises RecordError."""
    media = [tuple(row.original), *_media(row)]
    kinds = ["video" if len(frames) > 1 else "image" for frames in media]
    messages = row.meta.get("messages")
    if messages is None:
        items = [{"type": kind} for kind in kinds] + [{"type": "text", "text": row.prompt}]
        messages = [{"role": "user", "content": items}]
    elif [item["type"] for item in _items(messages) if item["type"] != "text"] != kinds:
        raise RecordError(f"meta.messages: expected items for {', '.join(kinds)}, the row's pictures")
    images = tuple(frames[0] for frames in media if len(frames) == 1)
    videos = tuple(frames for frames in media if len(frames) > 1)
    evlm = json.dumps(row_data(row), allow_nan=False)
    return Conversation(messages, images, videos, row.completion, row.label, evlm)


def _items(messages: Any) -> list[dict[str, Any]]:
    """The items of turns that stand in a row. Raises RecordError where they are none."""
    try:
        items = [item for turn in messages for item in turn["content"]]
        known = all(
            item["type"] in ("image", "video") or (item["type"] == "text" and isinstance(item["text"], str))
            for item in items
        )
        if known and all(turn["role"] in ("system", "user", "assistant") for turn in messages):
            return items
    except (TypeError, KeyError):
        pass
    raise RecordError(f"meta.messages: expected turns of {{role, content: [items]}}, got {messages!r:.80}")


def _frames(conversation: Conversation, content: list[dict[str, Any]]) -> Iterator[list[str]]:
    images, videos = iter(conversation.images), iter(conversation.videos)
    for item in content:
        if item["type"] == "image":
            yield [str(next(images))]
        elif item["type"] == "video":
            yield list(next(videos))


def _completion(answer: str) -> dict[str, Any]:
    """The fields of a row that say what was answered: those of a trace, or `answer` where it is none."""
    try:
        trace = parse(answer)
    except TraceError:
        return {**NO_TRACE, "mask_text": None, "answer": answer}
    plan = trace.plan
    return {
        "answer": None,
        "thinking": trace.thinking,
        "intermediate": trace.intermediate,
        "reflection": trace.reflection,
        "instruction": plan.instruction,
        "targets": plan.targets,
        "scope": plan.scope,
        "mask_text": plan.mask_text,
        **({"steps": step_rows(plan)} if plan.several else {}),
    }


def _picture(data: bytes) -> Tensor:
    """A picture that lies in the dataset's own file, as [1, H, W, 3] in 0..1. Raises PictureError."""
    with opened_bytes(data) as image:
        return from_pil(image)


@contextmanager
def opened_bytes(data: bytes) -> Iterator[Any]:
    """A picture that came as bytes, open. Raises PictureError where it cannot be read."""
    from PIL import Image

    try:
        image = Image.open(BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"))
    except Exception as error:  # decoders raise a zoo of errors on damaged bytes
        raise PictureError(f"a picture of {len(data):,} bytes cannot be read ({error!s:.80})") from None
    with image:
        yield image
