"""The rows of other trainers: TRL's, LLaMA-Factory's (ShareGPT) and ms-swift's, for KTO with pictures.

TRL: {prompt: [messages], completion: [message], images, label}; content is a list of items. It knows no
videos: the frames of one are shown as pictures in its place.
LLaMA-Factory: {conversations: [{from, value}], images, videos, kto_tag}, described by a dataset_info.json;
`<image>` and `<video>` stand for pictures in the text.
ms-swift: {messages: [{role, content}], images, videos, label}; the same stand-ins.

A column `evlm` carries the row as JSON text; the trainers leave it alone. Sources, as of August 2026: TRL's
docs/source/dataset_formats.md, LLaMA-Factory's data/README.md, ms-swift's Customization/Custom-dataset.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evlm.errors import RecordError

from .conversation import Conversation
from .files import parse

INFO_FILE = "dataset_info.json"
DEFAULT_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
}
OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
_Messages = list[dict[str, Any]]
_Images = tuple[str | bytes, ...]
_COLUMNS = {"messages": "conversations", "images": "images", "videos": "videos", "kto_tag": "kto_tag"}


@dataclass(frozen=True)
class Layout:
    """How a LLaMA-Factory dataset names its columns and roles, as its dataset_info.json says."""

    columns: Mapping[str, str] = field(default_factory=lambda: dict(_COLUMNS))
    tags: Mapping[str, str] = field(default_factory=lambda: dict(DEFAULT_TAGS))


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


def guard(text: str) -> str:
    """Text that cannot stand for a picture where a format looks for `<image>` and its like."""
    return _MARK.sub("< ", text)


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
    """A conversation of TRL's row, conversational or plain text. Raises RecordError."""
    row = _Row(data, ("prompt", "completion", "images", "image", "label", "evlm"))
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    images = row.pictures("images", "image")
    messages = [_items(message, OPENAI_TAGS) for message in _list(prompt, "prompt")]
    _pictures_first(messages, len(images))
    if not isinstance(completion, str):
        turns = [_items(message, OPENAI_TAGS) for message in _list(completion, "completion")]
        if [turn["role"] for turn in turns] != ["assistant"]:
            raise RecordError("completion: expected one message of the assistant")
        completion = _only_text(turns[0], "completion")
    return row.conversation(messages, images, (), completion, "label")


# --- LLaMA-Factory ---


def to_llamafactory(conversation: Conversation) -> dict[str, Any]:
    """A row of ShareGPT conversations with a `kto_tag`."""
    roles = {"system": "system", "user": "human"}
    turns = [{"from": roles[m["role"]], "value": _marked(m["content"])} for m in conversation.messages]
    turns.append({"from": "gpt", "value": guard(conversation.answer)})
    return {
        "conversations": turns,
        "images": list(conversation.images),
        "videos": [list(v) for v in conversation.videos],
        "kto_tag": conversation.label,
        "evlm": conversation.evlm,
    }


def from_llamafactory(data: Any, layout: Layout = Layout()) -> Conversation:
    """A conversation of a ShareGPT row, its columns named by the layout. Raises RecordError."""
    names = layout.columns
    row = _Row(data, (*names.values(), "evlm"))
    turns = _list(row.get(names["messages"]), names["messages"])
    messages = [_items(turn, layout.tags, marks=True) for turn in turns]
    system = row.get(names["system"]) if "system" in names else None
    if isinstance(system, str) and system and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": [{"type": "text", "text": system}]})
    images = row.pictures(names.get("images", "images"))
    return row.answered(
        messages, images, row.videos(names.get("videos", "videos")), names.get("kto_tag", "kto_tag")
    )


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
    if entry.get("formatting", "alpaca") != "sharegpt":
        raise RecordError(f"{INFO_FILE}: {file.name} is in the format alpaca; sharegpt is read")
    for name, value in (("columns", columns), ("tags", tags)):
        if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
            raise RecordError(f"{INFO_FILE}: {name} of {file.name}: expected names, got {value!r:.80}")
    return Layout({"messages": "conversations", **columns}, {**DEFAULT_TAGS, **tags})


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
    info = parse(path.read_bytes())
    if not isinstance(info, dict):
        raise RecordError(f"{path}: expected an object of datasets, got {type(info).__name__}")
    return info


# --- ms-swift ---


def to_swift(conversation: Conversation) -> dict[str, Any]:
    """A row of ms-swift's standard format with a `label`."""
    messages = [{"role": m["role"], "content": _marked(m["content"])} for m in conversation.messages]
    messages.append({"role": "assistant", "content": guard(conversation.answer)})
    return {
        "messages": messages,
        "images": list(conversation.images),
        "videos": [list(v) for v in conversation.videos],
        "label": conversation.label,
        "evlm": conversation.evlm,
    }


def from_swift(data: Any, layout: Layout = Layout()) -> Conversation:
    """A conversation of ms-swift's row. Raises RecordError."""
    row = _Row(data, ("messages", "images", "image", "videos", "video", "label", "evlm"))
    messages = [_items(turn, OPENAI_TAGS, marks=True) for turn in _list(row.get("messages"), "messages")]
    return row.answered(messages, row.pictures("images", "image"), row.videos("videos", "video"), "label")


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


# --- pieces ---

_MARK = re.compile(r"<(?=/?(?:image|video|audio|img|bbox|ref-object|cot-process|start-image)>)")
_SHOWN = re.compile(r"<(image|video)>")
_ROLES = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}


class _Row:
    """A foreign row: its columns, and those that the format does not know."""

    def __init__(self, data: Any, known: tuple[str, ...]) -> None:
        if not isinstance(data, dict):
            raise RecordError(f"expected a JSON object, got {type(data).__name__}")
        self.data = data
        self.rest = {
            str(name): value for name, value in data.items() if name not in known and value is not None
        }

    def get(self, *names: str) -> Any:
        return next((self.data[name] for name in names if self.data.get(name) is not None), None)

    def pictures(self, *names: str) -> tuple[str | bytes, ...]:
        """Paths, or bytes of pictures that lie in the file itself, as `datasets` writes them."""
        values = self.get(*names)
        values = [] if values is None else values if isinstance(values, list) else [values]
        return tuple(_picture(each, f"{names[0]}[{at}]") for at, each in enumerate(values))

    def videos(self, *names: str) -> tuple[tuple[str, ...], ...]:
        values = self.get(*names)
        values = [] if values is None else values
        if not isinstance(values, list) or not all(isinstance(frames, list) and frames for frames in values):
            raise RecordError(
                f"{names[0]}: expected a list of frames (paths) for each video, got {values!r:.80}"
            )
        if not all(isinstance(path, str) for frames in values for path in frames):
            raise RecordError(f"{names[0]}: expected paths, got {values!r:.80}")
        return tuple(map(tuple, values))

    def answered(
        self, messages: _Messages, images: _Images, videos: tuple[tuple[str, ...], ...], tag: str
    ) -> Conversation:
        """The conversation whose last message is the answer."""
        if not messages or messages[-1]["role"] != "assistant":
            raise RecordError("the last message is not the assistant's: there is no answer")
        return self.conversation(messages[:-1], images, videos, _only_text(messages[-1], "answer"), tag)

    def conversation(
        self, messages: _Messages, images: _Images, videos: tuple[tuple[str, ...], ...], answer: str, tag: str
    ) -> Conversation:
        kinds = [item["type"] for message in messages for item in message["content"]]
        for kind, there in (("image", images), ("video", videos)):
            if kinds.count(kind) != len(there):
                raise RecordError(f"{kinds.count(kind)} places for {kind}s in the text, {len(there)} given")
        label, evlm = self.data.get(tag, True), self.get("evlm")
        if not isinstance(label, bool):
            raise RecordError(f"{tag}: expected true or false, got {label!r:.40}")
        if not isinstance(evlm, (str, type(None))):
            raise RecordError(f"evlm: expected JSON as text, got {evlm!r:.40}")
        return Conversation(messages, images, videos, answer, label, evlm, self.rest)


def _picture(value: Any, name: str) -> str | bytes:
    if isinstance(value, dict):
        value = value["bytes"] if value.get("bytes") is not None else value.get("path")
    if not isinstance(value, (str, bytes)):
        raise RecordError(f"{name}: expected a path, or {{bytes, path}}, got {value!r:.60}")
    if isinstance(value, str) and re.match(r"[a-z]+:", value):
        raise RecordError(f"{name}: {value!r:.60} is not a path; download it first")
    return value


def _items(message: Any, tags: Mapping[str, str], marks: bool = False) -> dict[str, Any]:
    """A message in Hugging Face's form. marks: `<image>` and `<video>` in a text stand for pictures."""
    if not isinstance(message, dict):
        raise RecordError(f"message: expected an object, got {message!r:.60}")
    roles = {tags[tag]: role for tag, role in _ROLES.items()}
    role, content = message.get(tags["role_tag"]), message.get(tags["content_tag"])
    if not isinstance(role, str) or role not in roles:
        raise RecordError(f"message: role {role!r:.40}, expected one of {', '.join(roles)}")
    if isinstance(content, str):
        pieces = _SHOWN.split(content) if marks else [content]
        items = [{"type": "text", "text": p} if at % 2 == 0 else {"type": p} for at, p in enumerate(pieces)]
        return {"role": roles[role], "content": [item for item in items if item.get("text") != ""]}
    if marks or not isinstance(content, list):
        raise RecordError(f"message: content {content!r:.60}, expected text{'' if marks else ' or items'}")
    return {"role": roles[role], "content": [_item(item) for item in content]}


def _item(item: Any) -> dict[str, str]:
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == "image":
        return {"type": "image"}
    if kind == "text" and isinstance(item.get("text"), str):
        return {"type": "text", "text": item["text"]}
    raise RecordError(f"message: item {item!r:.60}, expected {{type: image}} or {{type: text, text}}")


def _pictures_first(messages: list[dict[str, Any]], count: int) -> None:
    """As TRL does: pictures that no item stands for come before the first words of the user."""
    if any(item["type"] == "image" for message in messages for item in message["content"]):
        return
    for message in messages:
        if message["role"] == "user":
            message["content"] = [*({"type": "image"} for _ in range(count)), *message["content"]]
            return


def _only_text(message: dict[str, Any], name: str) -> str:
    if any(item["type"] != "text" for item in message["content"]):
        raise RecordError(f"{name}: pictures in it, expected text")
    return "".join(item["text"] for item in message["content"])


def _marked(content: list[dict[str, Any]]) -> str:
    return "".join(guard(item["text"]) if item["type"] == "text" else f"<{item['type']}>" for item in content)


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise RecordError(f"{name}: expected a list of messages, got {value!r:.60}")
    return value
