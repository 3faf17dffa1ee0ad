"""How sure a model behind an endpoint is: `logprobs` in the forms of vLLM, llama.cpp and Ollama."""

from __future__ import annotations

import json
import math
import re
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from chat_server import REQUEST, TRACE, Server, as_json, send, stream

from evlm.plan.trace import render
from evlm.reason.confidence import Written, confidence
from evlm.reason.reasoner import Sampling
from evlm.reason.remote import RemoteReasoner
from evlm.reason.token_logs import TokenLogs

TEXT = render(TRACE)
TOKENS = re.findall(r"\s?\w+|\s?[^\w\s]|\s", TEXT)
LOGS = [-0.01 * (1 + number % 50) for number in range(len(TOKENS))]
SURE = confidence(TRACE.plan, [Written(token, log) for token, log in zip(TOKENS, LOGS, strict=True)])
OUTPUT = {"instruction": "make the hat red", "targets": ["hat"], "scope": "local", "box": [0, 0, 500, 500]}
SCHEMA = {"thinking": "a\nhat", "intermediate": "b", "reflection": "c", "output": {"steps": [OUTPUT]}}


def vllm(token: str, log: float) -> dict[str, Any]:
    entry = {"token": token, "logprob": log, "bytes": list(token.encode())}
    return {"content": [{**entry, "top_logprobs": [entry]}]}


def llama_cpp(token: str, log: float) -> dict[str, Any]:
    entry = {"id": 7, "token": token, "bytes": list(token.encode()), "logprob": log}
    return {"content": [{**entry, "top_logprobs": [entry]}]}


def ollama(token: str, log: float) -> dict[str, Any]:
    return {"content": [{"token": token, "logprob": log, "top_logprobs": [{"token": token, "logprob": log}]}]}


def chunk(delta: dict[str, Any], **choice: Any) -> bytes:
    content = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, **choice}]}
    return f"data: {json.dumps(content)}\n\n".encode()


def streamed(form: Any, tokens: list[str], logs: list[float], before: bytes = b"", after: bytes = b"") -> Any:
    body = b"".join(
        chunk({"content": token}, logprobs=form(token, log), finish_reason=None)
        for token, log in zip(tokens, logs, strict=True)
    )
    return send(before + body + after + chunk({}, finish_reason="stop", logprobs=None) + b"data: [DONE]\n\n")


def whole(form: Any, tokens: list[str], logs: list[float], **message: Any) -> Any:
    pieces = [form(token, log)["content"][0] for token, log in zip(tokens, logs, strict=True)]
    said = {"role": "assistant", "content": TEXT, **message}
    return as_json({"choices": [{"message": said, "logprobs": {"content": pieces}, "finish_reason": "stop"}]})


@pytest.mark.parametrize("form", [vllm, llama_cpp, ollama])
@pytest.mark.parametrize("made", [streamed, whole])
def test_it_is_what_it_would_be_on_this_machine(server: Server, form: Any, made: Any) -> None:
    server.reply = made(form, TOKENS, LOGS)
    reasoned = RemoteReasoner(server.url, "m").reason(REQUEST, Sampling(guided="never"))
    assert reasoned.trace == TRACE and not reasoned.notes
    assert SURE is not None and 0 < SURE < 1 and reasoned.confidence == pytest.approx(SURE)
    assert (server.seen[0]["logprobs"], server.seen[0]["top_logprobs"]) == (True, 1)


def test_the_end_token_and_a_thought_before_do_not_count(server: Server) -> None:
    """vLLM tells their probabilities too."""
    thought = [" the", " hat", " red"]
    before = b"".join(chunk({"reasoning_content": each}, logprobs=vllm(each, -9.0)) for each in thought)
    after = chunk({"content": ""}, logprobs=vllm("<|im_end|>", -5.0))
    server.reply = streamed(vllm, TOKENS, LOGS, before, after)
    remote = RemoteReasoner(server.url, "m")
    assert remote.reason(REQUEST).confidence == pytest.approx(SURE)
    server.reply = whole(vllm, [*thought, *TOKENS], [-9.0] * 3 + LOGS, reasoning_content="".join(thought))
    assert remote.reason(REQUEST).confidence == pytest.approx(SURE)


@pytest.mark.parametrize("form", [vllm, llama_cpp, ollama])
def test_in_the_form_of_the_schema_words_and_place_count(server: Server, form: Any) -> None:
    tokens = re.findall(r"\\n|\w+|[^\w]", json.dumps(SCHEMA))
    counted = {"hat", "make", "the", "red"}
    box = json.dumps(SCHEMA).index("[0, 0")
    at, logs, expected = 0, [], []
    for number, token in enumerate(tokens):
        log = -0.02 * (1 + number % 40)
        place = box <= at < box + len("[0, 0, 500, 500]")
        expected += [log] if place or (token in counted) else []
        logs.append(log)
        at += len(token)
    server.reply = streamed(form, tokens, logs)
    reasoned = RemoteReasoner(server.url, "m").reason(REQUEST)
    assert reasoned.trace.plan.instruction == "make the hat red"
    assert reasoned.confidence == pytest.approx(math.exp(sum(expected) / len(expected)))


REFUSALS = [
    (400, {"error": {"code": 400, "message": "logprobs is not supported with tools + stream",
                     "type": "invalid_request_error"}}),
    (500, {"error": {"code": 500, "message": "logprobs is not supported with tools + stream",
                     "type": "server_error"}}),
    (400, {"object": "error",
           "message": "Requested sample logprobs of 1, which is greater than max allowed: 0"}),
    (422, {"detail": [{"loc": ["body", "top_logprobs"], "msg": "Extra inputs are not permitted"}]}),
    (400, {"error": {"message": "This model does not support logprobs.", "param": "logprobs"}}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body"), REFUSALS)
def test_a_server_that_refuses_is_asked_once_more_and_remembered(
    server: Server, status: int, body: Any
) -> None:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        asked = server.seen[-1]
        refuses = "logprobs" in asked or "top_logprobs" in asked
        (as_json(body, status) if refuses else stream(TEXT))(handler)

    server.reply = reply
    remote = RemoteReasoner(server.url, "m")
    first, second = remote.reason(REQUEST), remote.reason(REQUEST)
    assert ["logprobs" in each for each in server.seen] == [True, False, False]
    assert all("response_format" in each for each in server.seen), "that was not refused"
    for reasoned in (first, second):
        assert reasoned.confidence is None and any("refuses logprobs" in note for note in reasoned.notes)


@pytest.mark.parametrize(
    "logs", [None, {}, {"content": None}, {"content": "x"}, [1], {"content": [{"token": 3}]}]
)
def test_a_server_that_gives_none_or_odd_ones_says_nothing(server: Server, logs: Any) -> None:
    body = b"".join(chunk({"content": TEXT[at : at + 9]}, logprobs=logs) for at in range(0, len(TEXT), 9))
    server.reply = send(body + chunk({}, finish_reason="stop"))
    reasoned = RemoteReasoner(server.url, "m").reason(REQUEST)
    assert reasoned.trace == TRACE and reasoned.confidence is None


def test_tokens_of_another_text_are_not_the_answers() -> None:
    logs = TokenLogs()
    logs.add(vllm("something else", -0.1))
    assert logs.of("make it red") == () and logs.of("") == ()
    assert [each.text for each in logs.of("else")] == ["something else"]


def test_a_character_cut_into_tokens_is_whole_and_minus_9999_is_no_number() -> None:
    logs, data = TokenLogs(), "ß".encode()
    for part in (data[:1], data[1:]):
        entry = {"token": "\ufffd", "bytes": list(part), "logprob": -0.5}
        logs.add({"content": [entry]})
    logs.add({"content": [{"token": "x", "logprob": -9999.0, "bytes": None}]})
    assert logs.of("ßx") == (Written("ß", -0.5), Written("x", None))
