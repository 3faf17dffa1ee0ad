"""Pictures of questions are encoded once, and a chat is written as JSON once."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import torch

from evlm.reason.messages import Chat
from evlm.reason.openai_form import Encoded, Messages, openai_messages, payload_json


def picture(name: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": name * 10}}


def test_what_several_threads_want_is_encoded_once() -> None:
    encoded, calls, got = Encoded(), [], list[dict[str, Any]]()

    def encode() -> dict[str, Any]:
        calls.append(1)
        time.sleep(0.05)
        return picture("a")

    threads = [threading.Thread(target=lambda: got.append(encoded.get(b"a", encode))) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(calls) == 1 and got == [picture("a")] * 8


def test_what_was_asked_for_longest_ago_goes_first() -> None:
    encoded, made = Encoded(most=20), list[str]()

    def get(name: str) -> None:
        assert encoded.get(name.encode(), lambda: made.append(name) or picture(name)) == picture(name)  # type: ignore[func-returns-value]

    for name in "abacab":
        get(name)
    assert "".join(made) == "abcb"


def test_what_could_not_be_encoded_is_tried_again() -> None:
    encoded = Encoded()
    for _ in range(2):
        try:
            encoded.get(b"a", lambda: 1 // 0)  # type: ignore[arg-type,return-value]
        except ZeroDivisionError:
            continue
        raise AssertionError
    assert encoded.get(b"a", lambda: picture("a")) == picture("a")


def test_a_question_is_sent_as_it_is_and_its_messages_are_written_once() -> None:
    grey = torch.full((3, 4, 6), 128, dtype=torch.uint8)
    content = [{"type": "text", "text": 'a "quote", \u00fc\n'}, {"type": "image"}]
    messages = openai_messages(Chat([{"role": "user", "content": content}], [grey], []))
    payload = {"model": 'm"1', "messages": messages, "stream": True, "temperature": 0.5, "stop": None}
    sent = payload_json(payload)
    assert json.loads(sent) == payload and messages.text.encode() in sent
    assert json.loads(payload_json({})) == {}
    assert messages.text == json.dumps(messages, sort_keys=True) == Messages(messages).text
