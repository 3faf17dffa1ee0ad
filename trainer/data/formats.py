"""The rows of other trainers: TRL's, LLaMA-Factory's and ms-swift's, with pictures, for SFT and KTO.

TRL: {prompt: [messages], completion: [message], images, label}, or {messages, images}; content is text or a
list of items. It knows no videos: the frames of one are shown as pictures in its place.
LLaMA-Factory: ShareGPT's {conversations: [{from, value}], images, videos, kto_tag}, {messages: [{role,
content}], ...} or Alpaca's {instruction, input, output, ...}, described by a dataset_info.json; `<image>` and
`<video>` stand for pictures in the text.
ms-swift: {messages: [{role, content}], images, videos, label} with the same stand-ins, or {query, response}
or Alpaca's columns.

A column `evlm` carries the row as JSON text; the trainers leave it alone. Sources, as of August 2026: TRL's
docs/source/dataset_formats.md, LLaMA-Factory's data/README.md, ms-swift's Customization/Custom-dataset.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evlm.errors import RecordError

from .conversation import Conversation
from .files import parse
from .foreign_row import DEFAULT_TAGS, OPENAI_TAGS, ForeignRow, guard, marked, only_text, pictures_first

INFO_FILE = "dataset_info.json"
_COLUMNS = {"messages": "conversations", "images": "images", "videos": "videos", "kto_tag": "kto_tag"}
_ALPACA = {
    "prompt": "instruction",
    "query": "input",
    "response": "output",
    "system": "system",
    "history": "history",
}


@dataclass(frozen=True)
class Layout:
    """How a LLaMA-Factory dataset names its columns and roles, as its dataset_info.json says. alpaca: whether
    its rows are in that format. described: whether that file speaks of it at all."""

    columns: Mapping[str, str] = field(default_factory=lambda: dict(_COLUMNS))
    tags: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_TAGS))
    alpaca: bool = False
    described: bool = False


@dataclass(frozen=True)
class Format:
    """One foreign format. columns: as `files.writing` takes them. guard: what it makes of a text. layout: how
    a file of it names its columns, from what lies beside it. describe: says so of a file that was written."""

    name: str
    columns: dict[str, str]
    write: Callable[[Conversation], dict[str, Any]]
    read: Callable[[Any, Layout], Conversation]
    guard: Callable[[str], str]
    layout: Callable[[Path], Layout] = lambda file: Layout()
    describe: Callable[[Path], None] = lambda file: None


# --- TRL ---


def to_trl(conversation: Conversation) -> dict[str, Any]:
    """A row of TRL's conversational unpaired preference format."""
    images, videos = iter(conversation.images), iter(conversation.videos)
    pictures: list[str | bytes] = []
    prompt = []
    for message in conversation.messages:
        content: list[dict[str, str]] = []
        for item in message["content"]:
            if item["type"] == "text":
                content.append(item)
                continue
            frames = next(videos) if item["type"] == "video" else [next(images)]
            pictures += frames
            content += [{"type": "image"}] * len(frames)
        prompt.append({"role": message["role"], "content": content})
    completion = [{"role": "assistant", "content": [{"type": "text", "text": conversation.answer}]}]
    return {
        "prompt": prompt,
        "completion": completion,
        "images": pictures,
        "label": conversation.label,
        "evlm": conversation.evlm,
    }


def from_trl(data: Any, layout: Layout = Layout()) -> Conversation:
    """A conversation of TRL's row: prompt and completion, or messages with the answer last; text or items.
    Raises RecordError."""
    row = ForeignRow(data, ("prompt", "completion", "messages", "images", "image", "label", "evlm"))
    images = row.pictures("images", "image")
    if row.get("prompt") is None and row.get("messages") is not None:
        messages = row.turns(row.get("messages"), "messages", OPENAI_TAGS)
        pictures_first(messages, len(images))
        return row.answered(messages, images, (), "label")
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    messages = row.turns(prompt, "prompt", OPENAI_TAGS)
    pictures_first(messages, len(images))
    if not isinstance(completion, str):
        turns = row.turns(completion, "completion", OPENAI_TAGS)
        if [turn["role"] for turn in turns] != ["assistant"]:
            raise RecordError("completion: expected one message of the assistant")
        completion = only_text(turns[0], "completion")
    return row.conversation(messages, images, (), completion, "label")


# --- LLaMA-Factory ---


def to_llamafactory(conversation: Conversation) -> dict[str, Any]:
    """A row of ShareGPT conversations with a `kto_tag`."""
    roles = {"system": "system", "user": "human", "assistant": "gpt"}
    turns = [{"from": roles[m["role"]], "value": marked(m["content"])} for m in conversation.messages]
    turns.append({"from": "gpt", "value": guard(conversation.answer)})
    return {
        "conversations": turns,
        "images": list(conversation.images),
        "videos": [list(v) for v in conversation.videos],
        "kto_tag": conversation.label,
        "evlm": conversation.evlm,
    }


def from_llamafactory(data: Any, layout: Layout = Layout()) -> Conversation:
    """A conversation of a ShareGPT or an Alpaca row, its columns named by the layout. Raises RecordError."""
    names, tags = dict(layout.columns), layout.tags
    if isinstance(data, dict) and data.get(names["messages"]) is None and names == _COLUMNS:
        # Nothing says how the columns are called, and they are called as in the project's own examples.
        if data.get("messages") is not None:
            names["messages"], tags = "messages", OPENAI_TAGS
        names["kto_tag"] = "kto_tag" if data.get("kto_tag") is not None else "label"
    row = ForeignRow(data, (*names.values(), *_ALPACA, "evlm"))
    if layout.alpaca or (row.get(names["messages"]) is None and row.get("instruction") is not None):
        messages = row.alpaca({**_ALPACA, **names})
    else:
        messages = row.turns(row.get(names["messages"]), names["messages"], tags, marks=True)
        system = row.get(names["system"]) if "system" in names else None
        if isinstance(system, str) and system and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    images = row.pictures(names.get("images", "images"))
    videos = row.videos(names.get("videos", "videos"))
    return row.answered(messages, images, videos, names.get("kto_tag", "kto_tag"))


def layout_of(file: Path) -> Layout:
    """What the dataset_info.json beside a file says of it; LLaMA-Factory's defaults where it says nothing.
    Raises RecordError."""
    info = _read_info(file.with_name(INFO_FILE))
    entries = [
        entry for entry in info.values() if isinstance(entry, dict) and entry.get("file_name") == file.name
    ]
    if not entries:
        return Layout()
    entry = entries[0]
    columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
    form = entry.get("formatting", "alpaca")
    if form not in ("sharegpt", "alpaca"):
        raise RecordError(
            f"{INFO_FILE}: formatting of {file.name} is {form!r:.40}; sharegpt and alpaca are read"
        )
    for name, value in (("columns", columns), ("tags", tags)):
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise RecordError(f"{INFO_FILE}: {name} of {file.name}: expected names, got {value!r:.80}")
    return Layout({"messages": "conversations", **columns}, {**DEFAULT_TAGS, **tags}, form == "alpaca", True)


def describe(file: Path) -> None:
    """Adds a converted file to the dataset_info.json beside it, under the file's stem. Raises RecordError."""
    from evlm.files.pictures import write_atomically

    path = file.with_name(INFO_FILE)
    info = _read_info(path)
    info[file.stem] = {
        "file_name": file.name,
        "formatting": "sharegpt",
        "columns": _COLUMNS,
        "tags": DEFAULT_TAGS,
    }
    text = json.dumps(info, indent=2) + "\n"
    write_atomically(path, lambda out: out.write(text.encode()))


def _read_info(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        info = parse(path.read_bytes())
    except RecordError as error:
        raise RecordError(f"{path}: {error}") from None
    if not isinstance(info, dict):
        raise RecordError(f"{path}: expected an object of datasets, got {type(info).__name__}")
    return info


# --- ms-swift ---


def to_swift(conversation: Conversation) -> dict[str, Any]:
    """A row of ms-swift's standard format with a `label`."""
    messages = [{"role": m["role"], "content": marked(m["content"])} for m in conversation.messages]
    messages.append({"role": "assistant", "content": guard(conversation.answer)})
    return {
        "messages": messages,
        "images": list(conversation.images),
        "videos": [list(v) for v in conversation.videos],
        "label": conversation.label,
        "evlm": conversation.evlm,
    }


def from_swift(data: Any, layout: Layout = Layout()) -> Conversation:
    """A conversation of ms-swift's row. Pictures that no stand-in shows come first, as ms-swift puts them.
    Raises RecordError."""
    known = ("messages", "images", "image", "videos", "video", "label", "evlm", *_SWIFT, *_ALPACA.values())
    row = ForeignRow(data, known)
    row.refuse_grounding()
    if row.get("messages") is not None:
        messages = row.turns(row.get("messages"), "messages", OPENAI_TAGS, marks=True)
    else:
        query = row.get("query") is not None
        messages = row.alpaca({**_ALPACA, "prompt": "query", "response": "response"} if query else _ALPACA)
    images, videos = row.pictures("images", "image"), row.videos("videos", "video")
    pictures_first(messages, len(videos), "video")
    pictures_first(messages, len(images))
    return row.answered(messages, images, videos, "label")


_SWIFT = ("query", "response")
_CARRIED = {"evlm": "text"}
FORMATS = {
    each.name: each
    for each in (
        Format(
            "trl",
            {"prompt": "content", "completion": "content", "images": "texts", "label": "bool", **_CARRIED},
            to_trl,
            from_trl,
            str,
        ),
        Format(
            "llamafactory",
            {
                "conversations": "turns",
                "images": "texts",
                "videos": "frames",
                "kto_tag": "bool",
                **_CARRIED,
            },
            to_llamafactory,
            from_llamafactory,
            guard,
            layout_of,
            describe,
        ),
        Format(
            "swift",
            {"messages": "chat", "images": "texts", "videos": "frames", "label": "bool", **_CARRIED},
            to_swift,
            from_swift,
            guard,
        ),
    )
}
