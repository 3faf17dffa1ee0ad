"""llama.cpp's and Ollama's servers, by stand-ins that take and give exactly their forms.

No wheel of either could be installed here (llama-cpp-python has none). The forms are theirs, as of 2026:

llama.cpp  tools/server/server-common.cpp, oaicompat_chat_params_parse: `response_format.json_schema.schema`;
           pictures as `image_url`, and without --mmproj the 500 "image input is not supported ...".
           tools/server/server-task.cpp, to_json_oaicompat_chat_stream: a first delta with the role and a null
           content, deltas of `reasoning_content` and `content`, an empty one with the finish_reason, timings.
           docs/multimodal.md: weights by -m, the vision tower by --mmproj.
Ollama     openai/openai.go: FromChatRequest takes data URLs of png; ToChunk repeats the role, always has a
           content, and thinks in `reasoning`; NewError.
"""

from __future__ import annotations

import base64
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from chat_server import REQUEST, Server, as_json, send

from evlm.errors import EndpointError
from evlm.plan.trace import Plan
from evlm.reason.json_form import SETTING
from evlm.reason.reasoner import Sampling
from evlm.reason.remote import RemoteReasoner

ANSWER = {
    "thinking": "Ein größerer Hut \U0001f642",
    "intermediate": "paint it",
    "reflection": "yes",
    "output": {
        "steps": [
            {
                "instruction": "make the hat red",
                "targets": ["hat"],
                "scope": "local",
                "box": [0, 10, 500, 900],
            }
        ]
    },
}
THOUGHTS = "The user wants <output> red."


def pieces(text: str) -> list[str]:
    return [text[at : at + 5] for at in range(0, len(text), 5)]


def events(chunks: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks) + b"data: [DONE]\n\n"


def refused(asked: dict[str, Any]) -> str:
    """What both servers look for in a question that they cannot take; "" where there is nothing."""
    form = asked.get(SETTING)
    if form is not None and not (form["type"] == "json_schema" and form["json_schema"]["schema"]["type"]):
        return f'response_format type must be one of "text" or "json_object", but got: {form["type"]}'
    for message in asked["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "image_url":
                url = part["image_url"]["url"]
                if not url.startswith("data:image/png;base64,"):
                    return "invalid image input"
                base64.b64decode(url.partition(",")[2], validate=True)
            elif part["type"] != "text":
                return "unsupported content[].type"
    return ""


class LlamaCpp:
    def __init__(self, thoughts: str = "", mmproj: bool = True, finish: str = "stop") -> None:
        self.thoughts, self.mmproj, self.finish = thoughts, mmproj, finish

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.asked  # type: ignore[attr-defined]
        if not self.mmproj:
            hint = "hint: if this is unexpected, you may need to provide the mmproj"
            said = {"code": 500, "message": f"image input is not supported - {hint}", "type": "server_error"}
            return as_json({"error": said}, 500)(handler)
        if wrong := refused(asked):
            return as_json({"error": {"code": 400, "message": wrong, "type": "invalid_request_error"}}, 400)(
                handler
            )
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": None}]
        deltas += [{"reasoning_content": each} for each in pieces(self.thoughts)]
        if self.finish == "stop":
            deltas += [{"content": each} for each in pieces(json.dumps(ANSWER, ensure_ascii=False))]
        ends: list[str | None] = [None] * len(deltas) + [self.finish]
        about = {
            "created": 1764288000,
            "id": "chatcmpl-x",
            "model": asked["model"],
            "system_fingerprint": "b9999-x",
        }
        chunks: list[dict[str, Any]] = [
            {
                "choices": [{"finish_reason": end, "index": 0, "delta": delta}],
                **about,
                "object": "chat.completion.chunk",
            }
            for delta, end in zip([*deltas, {}], ends, strict=True)
        ]
        chunks[-1]["timings"] = {
            "prompt_n": 1200,
            "prompt_ms": 900.0,
            "predicted_n": 80,
            "predicted_ms": 2000.0,
        }
        return send(events(chunks))(handler)


class Ollama:
    def __init__(self, thoughts: str = "", model: str = "qwen2.5vl:7b") -> None:
        self.thoughts, self.model = thoughts, model

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.asked  # type: ignore[attr-defined]
        wrong = refused(asked)
        status, kind = 400, "invalid_request_error"
        if asked["model"] != self.model:
            wrong, status, kind = (
                f'model "{asked["model"]}" not found, try pulling it first',
                404,
                "not_found_error",
            )
        if wrong:
            error = {"message": wrong, "type": kind, "param": None, "code": None}
            return as_json({"error": error}, status)(handler)
        deltas = [{"role": "assistant", "content": "", "reasoning": each} for each in pieces(self.thoughts)]
        deltas += [{"role": "assistant", "content": each} for each in pieces(json.dumps(ANSWER))]
        about = {
            "id": "chatcmpl-7",
            "object": "chat.completion.chunk",
            "created": 1764288000,
            "model": self.model,
        }
        chunks: list[dict[str, Any]] = [
            {
                **about,
                "system_fingerprint": "fp_ollama",
                "choices": [{"index": 0, "delta": delta, "finish_reason": end}],
            }
            for delta, end in [
                *((each, None) for each in deltas),
                ({"role": "assistant", "content": ""}, "stop"),
            ]
        ]
        return send(events(chunks))(handler)


@pytest.mark.parametrize("kind", [LlamaCpp, Ollama])
@pytest.mark.parametrize("thoughts", ["", THOUGHTS])
def test_a_gguf_gives_a_plan_and_streams_it(server: Server, kind: Any, thoughts: str) -> None:
    server.reply = kind(thoughts)
    heard: list[str] = []
    remote = RemoteReasoner(server.url, "qwen2.5vl:7b", boxes="own")
    reasoned = remote.reason(REQUEST, Sampling(max_new_tokens=512), heard.append)
    assert reasoned.trace.plan == Plan("make the hat red", ("hat",), "box 0 10 500 900 full")
    assert reasoned.trace.thinking == ANSWER["thinking"] and reasoned.notes == ()
    assert "".join(heard) == reasoned.text and len(heard) > 20 and reasoned.finished
    assert (THOUGHTS in reasoned.text) == bool(thoughts)
    (asked,) = server.seen
    assert asked["max_tokens"] == 512 and asked["stream"] is True and SETTING in asked


def test_what_goes_wrong_is_said_with_the_servers_remedy(server: Server) -> None:
    server.reply = LlamaCpp(mmproj=False)
    with pytest.raises(EndpointError, match="you may need to provide the mmproj"):
        RemoteReasoner(server.url, "qwen").reason(REQUEST)
    server.reply = Ollama()
    with pytest.raises(EndpointError, match=r"llava.* not found, try pulling it first.*the model's name"):
        RemoteReasoner(server.url, "llava").reason(REQUEST)
    server.reply = LlamaCpp(THOUGHTS, finish="length")
    with pytest.raises(EndpointError, match="raise max_new_tokens"):
        RemoteReasoner(server.url, "qwen").reason(REQUEST)
