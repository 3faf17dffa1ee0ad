"""One row of a foreign format: its columns, turns, pictures and label, whatever they are called."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from evlm.errors import RecordError

from .conversation import Conversation
from .files import unicode_problems

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
Messages = list[dict[str, Any]]
Images = tuple[str | bytes, ...]

_MARK = re.compile(r"<(?=/?(?:image|video|audio|img|bbox|ref-object|cot-process|start-image)>)")
_OBJECT = re.compile(r"<(?:bbox|ref-object)>")
_SHOWN = re.compile(r"<(image|video)>")
_ROLES = {"user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}


def guard(text: str) -> str:
    """Text that cannot stand for a picture where a format looks for `<image>` and its like."""
    return _MARK.sub("< ", text)


class ForeignRow:
    """A foreign row: its columns, and those that the format does not know."""

    def __init__(self, data: Any, known: tuple[str, ...]) -> None:
        if not isinstance(data, dict):
            raise RecordError(f"expected a JSON object, got {type(data).__name__}")
        if problems := unicode_problems({name: data.get(name) for name in known}):
            raise RecordError("; ".join(problems))
        self.data = data
        self.inline: list[Any] = []  # pictures that stand in items
        self.rest = {
            str(name): value for name, value in data.items() if name not in known and value is not None
        }

    def get(self, *names: str) -> Any:
        return next((self.data[name] for name in names if self.data.get(name) is not None), None)

    def refuse_grounding(self) -> None:
        """Raises RecordError where `<bbox>` or `<ref-object>` stand for what `objects` says: they would be
        learned as they stand there."""
        text = json.dumps({k: v for k, v in self.data.items() if k != "evlm"}, default=lambda _: "")
        objects = self.data.get("objects")  # ms-swift writes empty ones into rows that have none
        filled = any(objects.values()) if isinstance(objects, dict) else bool(objects)
        if filled or _OBJECT.search(text):
            raise RecordError(
                "objects, <bbox> and <ref-object> of grounding rows are not read; write names and numbers in "
                "words, or take the row out"
            )

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

    def turns(
        self, value: Any, name: str, tags: Mapping[str, str], marks: bool = False
    ) -> list[dict[str, Any]]:
        """Messages in Hugging Face's form; pictures that items name themselves are kept for `pictures`."""
        messages = [_items(message, tags, marks) for message in _list(value, name)]
        for message in messages:
            for item in message["content"]:
                if "picture" in item:
                    self.inline.append(item.pop("picture"))
        return messages

    def alpaca(self, names: Mapping[str, str]) -> list[dict[str, Any]]:
        """The turns of {instruction, input, output, history, system}, or of columns named otherwise."""

        def text(value: Any, what: str) -> str:
            if not isinstance(value, str):
                raise RecordError(f"{what}: expected text, got {value!r:.60}")
            return value

        history = self.get(names["history"]) or []
        if not isinstance(history, list) or not all(isinstance(h, list) and len(h) == 2 for h in history):
            raise RecordError(
                f"{names['history']}: expected pairs of question and answer, got {history!r:.60}"
            )
        asked = [text(self.get(names["prompt"]), names["prompt"])]
        asked += [text(more, names["query"]) for more in (self.get(names["query"]),) if more]
        pairs = [*history, ["\n".join(asked), text(self.get(names["response"]), names["response"])]]
        roles = ("user", "assistant")
        spoken = [(role, each) for pair in pairs for role, each in zip(roles, pair, strict=True)]
        system = self.get(names["system"])
        spoken = [("system", system), *spoken] if system else spoken
        turns = [{"role": role, "content": each} for role, each in spoken]
        return self.turns(turns, names["prompt"], OPENAI_TAGS, marks=True)

    def answered(
        self, messages: Messages, images: Images, videos: tuple[tuple[str, ...], ...], tag: str
    ) -> Conversation:
        """The conversation whose last message is the answer."""
        if not messages or messages[-1]["role"] != "assistant":
            raise RecordError("the last message is not the assistant's: there is no answer")
        return self.conversation(messages[:-1], images, videos, only_text(messages[-1], "answer"), tag)

    def conversation(
        self, messages: Messages, images: Images, videos: tuple[tuple[str, ...], ...], answer: str, tag: str
    ) -> Conversation:
        if self.inline:
            if images:
                raise RecordError("images both in a column and in the messages; expected one of them")
            images = tuple(_picture(each, f"picture {at}") for at, each in enumerate(self.inline))
        kinds = [item["type"] for message in messages for item in message["content"]]
        for kind, there in (("image", images), ("video", videos)):
            if kinds.count(kind) != len(there):
                raise RecordError(f"{kinds.count(kind)} places for {kind}s in the text, {len(there)} given")
        label, evlm = self.get(tag), self.get("evlm")
        if not isinstance(label, (bool, type(None))):
            raise RecordError(f"{tag}: expected true or false, got {label!r:.40}")
        if not isinstance(evlm, (str, type(None))):
            raise RecordError(f"evlm: expected JSON as text, got {evlm!r:.40}")
        if not answer.strip():
            raise RecordError("the answer is empty, which is no trace and nothing to learn from")
        labelled = label is not None
        return Conversation(messages, images, videos, answer, label is not False, evlm, self.rest, labelled)


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
    if not isinstance(content, list):
        raise RecordError(f"message: content {content!r:.60}, expected text or items")
    return {"role": roles[role], "content": [_item(item) for item in content]}


def _item(item: Any) -> dict[str, Any]:
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == "video":
        if any(item.get(name) is not None for name in ("video", "path", "url")):
            raise RecordError(
                f"message: item {item!r:.60}, expected the video's frames in a column of their own"
            )
        return {"type": "video"}
    if kind == "image":
        names = ("image", "path", "url")
        picture = next((item[name] for name in names if item.get(name) is not None), None)
        return {"type": "image"} if picture is None else {"type": "image", "picture": picture}
    if kind == "image_url":
        url = item.get("image_url")
        return {"type": "image", "picture": url.get("url") if isinstance(url, dict) else url}
    if kind == "text" and isinstance(item.get("text"), str):
        return {"type": "text", "text": item["text"]}
    raise RecordError(f"message: item {item!r:.60}, expected {{type: image}} or {{type: text, text}}")


def pictures_first(messages: list[dict[str, Any]], count: int, kind: str = "image") -> None:
    """Pictures that no item stands for come before the first words of the user, as TRL and ms-swift put
    them."""
    if any(item["type"] == kind for message in messages for item in message["content"]):
        return
    for message in messages:
        if message["role"] == "user":
            message["content"] = [*({"type": kind} for _ in range(count)), *message["content"]]
            return


def only_text(message: dict[str, Any], name: str) -> str:
    if any(item["type"] != "text" for item in message["content"]):
        raise RecordError(f"{name}: pictures in it, expected text")
    return "".join(item["text"] for item in message["content"])


def marked(content: list[dict[str, Any]]) -> str:
    return "".join(guard(item["text"]) if item["type"] == "text" else f"<{item['type']}>" for item in content)


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise RecordError(f"{name}: expected a list of messages, got {value!r:.60}")
    return value
