"""What chat servers send besides the answer: thoughts, refusals, settings refused, errors (A17 to A20)."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from chat_server import REQUEST, TRACE, Server, as_json, event, send, stream

from evlm.errors import Cancelled, EndpointError, TraceError
from evlm.plan.trace import parse, render
from evlm.reason.json_form import SETTING
from evlm.reason.reasoner import Reasoned, Sampling
from evlm.reason.remote import RemoteReasoner
from evlm.reason.token_logs import ASKED

TEXT = render(TRACE)
STOP = event(finish_reason="stop")
DONE = b"data: [DONE]\n\n"
PROSE = "<thinking>a</thinking><intermediate>b</intermediate><reflection>c</reflection>"


def delta(end: str = "\n\n", **fields: Any) -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": fields}]}).encode() + end.encode()


def whole(message: dict[str, Any], **choice: Any) -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": "stop", **choice}]}).encode()


def error_of(server: Server, sampling: Sampling | None = None) -> str:
    """What the error says; "" where there is none."""
    try:
        RemoteReasoner(server.url, "m").reason(REQUEST, sampling)
    except (EndpointError, TraceError) as error:
        return str(error)
    return ""


def answered(server: Server, remote: RemoteReasoner | None = None, **how: Any) -> Reasoned:
    """The answer of a server that gives one."""
    try:
        return (remote or RemoteReasoner(server.url, "m")).reason(REQUEST, **how)
    except (EndpointError, TraceError) as error:
        raise AssertionError(f"no answer: {error}") from None


# --- thoughts ---


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_the_callback_hears_the_thoughts_and_can_stop_them(server: Server, name: str) -> None:
    """(A17)"""
    sent = 0

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        with contextlib.suppress(OSError):  # nobody listens any more
            for _ in range(40):
                handler.wfile.write(delta(**{name: "hm "}))
                handler.wfile.flush()
                sent += 1
                time.sleep(0.05)

    def stop(piece: str) -> None:
        heard.append(piece)
        if len(heard) == 3:
            raise Cancelled

    heard: list[str] = []
    server.reply = slowly
    began = time.perf_counter()
    stopped = False
    try:
        RemoteReasoner(server.url, "m").reason(REQUEST, on_token=stop)
    except Cancelled:
        stopped = True
    except EndpointError:  # it heard all of them out
        pass
    assert stopped
    assert time.perf_counter() - began < 1.5 and sent < 40
    assert "hm" in "".join(heard)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_stand_before_the_answer_and_do_not_disturb_it(server: Server, name: str) -> None:
    """(A17)"""
    thought = "I must write <thinking> and <output>\ninstruction: draft\n</output>."
    pieces = [delta(**{name: thought[at : at + 7]}) for at in range(0, len(thought), 7)]
    server.reply = send(b"".join(pieces) + event(TEXT) + STOP + DONE)
    heard: list[str] = []
    remote = RemoteReasoner(server.url, "m")
    reasoned = answered(server, remote, on_token=heard.append)
    assert reasoned.trace == TRACE
    assert reasoned.text == "".join(heard) == f"<think>\n{thought}\n</think>\n{TEXT}"
    assert remote.ask(remote_chat()).text == TEXT  # a judge's answer is its answer alone


def remote_chat() -> Any:
    from evlm.reason.messages import build_messages

    return build_messages(REQUEST)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("content", [None, ""])
def test_an_answer_that_the_server_takes_for_a_thought_is_used(
    server: Server, name: str, content: str | None
) -> None:
    """(A18)"""
    pieces = [delta(**{name: TEXT[at : at + 9]}) for at in range(0, len(TEXT), 9)]
    server.reply = send(b"".join(pieces) + STOP + DONE)
    heard: list[str] = []
    reasoned = answered(server, on_token=heard.append)
    assert reasoned.trace == TRACE and "".join(heard) == reasoned.text
    server.reply = send(whole({"content": content, name: TEXT}), kind="application/json")
    remote = RemoteReasoner(server.url, "m")
    assert answered(server, remote).trace == TRACE
    assert remote.ask(remote_chat()).text == TEXT


def test_parts_of_content_are_read(server: Server) -> None:
    """(A20)"""
    half = len(TEXT) // 2
    parts = [{"type": "text", "text": TEXT[:half]}, {"type": "text", "text": TEXT[half:]}]
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    server.reply = send(whole({"content": parts}), kind="application/json")
    assert answered(server).text == TEXT
    server.reply = send(delta(content=[thought]) + delta(content=parts) + STOP + DONE)
    reasoned = answered(server)
    assert reasoned.trace == TRACE and reasoned.text == f"<think>\nhm\n</think>\n{TEXT}"


def test_halves_of_a_character_are_joined_or_replaced(server: Server) -> None:
    """JSON spells them; no file and no tokenizer takes one alone."""
    first, _, rest = TEXT.partition("</thinking>")
    parts = (f"{first} \ud83d", f"\ude00 \udfff</thinking>{rest}")
    server.reply = send(
        delta(reasoning="hm \ud800") + b"".join(delta(content=each) for each in parts) + STOP + DONE
    )
    found = answered(server)
    found.text.encode()
    assert found.trace.thinking.endswith("\U0001f600 \ufffd") and found.text.startswith(
        "<think>\nhm \ufffd\n"
    )
    assert found.trace.plan == TRACE.plan


def test_a_whole_message_at_the_end_of_a_stream_is_not_a_second_answer(server: Server) -> None:
    last = {"choices": [{"delta": {}, "message": {"content": TEXT}, "finish_reason": "stop"}]}
    other = {"choices": [{"index": 1, "delta": {"content": "another"}}]}
    events = [b"data: " + json.dumps(each).encode() + b"\n\n" for each in (other, last)]
    server.reply = send(event(TEXT) + b"".join(events))
    assert answered(server).text == TEXT


# --- refusals and other ends ---


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (delta(refusal="I can't ") + delta(refusal="edit faces.") + STOP, "I can't edit faces."),
        (event("<thinking>") + event(finish_reason="content_filter"), "content filter"),
        (event(finish_reason="content_filter") + DONE, "content filter"),
        (event(finish_reason="PROHIBITED_CONTENT"), "content filter"),
        (event("<thinking>") + event(finish_reason="abort"), "abort"),
        (event(finish_reason="length") + DONE, "max_new_tokens"),
        (delta(tool_calls=[{"index": 0}]) + event(finish_reason="tool_calls"), "tool"),
        (delta(content="I'm sorry, but I can't assist") + STOP, "I'm sorry, but I can't assist"),
        (delta(reasoning="hm") + delta(reasoning=" so") + event(finish_reason="length"), "max_new_tokens"),
        (event(f"{PROSE}<output>\ninstruction: replace the red car with a") + event(finish_reason="length"),
         "max_new_tokens"),
    ],
)  # fmt: skip
def test_an_answer_that_is_none_is_said_in_the_servers_words(server: Server, body: bytes, words: str) -> None:
    """(A18)"""
    server.reply = send(body)
    assert words in error_of(server)


def test_a_refusal_in_a_whole_answer(server: Server) -> None:
    """(A18)"""
    server.reply = send(whole({"content": None, "refusal": "I can't edit faces."}), kind="application/json")
    assert "I can't edit faces." in error_of(server)


# --- settings that a server does not take ---

MAX_TOKENS = {
    "error": {
        "message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead.",
        "type": "invalid_request_error", "param": "max_tokens", "code": "unsupported_parameter",
    }
}  # fmt: skip
TEMPERATURE = {
    "error": {
        "message": "Unsupported value: 'temperature' does not support 0 with this model. Only the default "
        "(1) value is supported.",
        "type": "invalid_request_error", "param": "temperature", "code": "unsupported_value",
    }
}  # fmt: skip
EXTRA = {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}
SEED = {"detail": [EXTRA]}
TOP_P = {"error": "Input validation error: `top_p` must be > 0.0 and < 1.0", "error_type": "validation"}


def picky(*refused: tuple[str, int, Any]) -> Any:
    """Refuses each of the named settings while it is there."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        sent = server_of(handler).seen[-1]
        for name, status, body in refused:
            if name in sent:
                return as_json(body, status)(handler)
        return stream(TEXT)(handler)

    return reply


def server_of(handler: BaseHTTPRequestHandler) -> Any:
    return handler.server.owner  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def owned(server: Server) -> Iterator[None]:
    server.http.owner = server  # type: ignore[attr-defined]
    yield


@pytest.mark.parametrize(
    ("name", "status", "body"),
    [
        ("max_tokens", 400, MAX_TOKENS),
        ("temperature", 400, TEMPERATURE),
        ("seed", 422, SEED),
        ("top_p", 422, TOP_P),
        (
            "seed",
            400,
            {"object": "error", "message": "[{'loc': ('seed',), 'msg': 'extra fields not permitted'}]"},
        ),
        ("seed", 400, {"message": "property 'seed' is unsupported"}),
        ("seed", 400, {"error": {"message": "Unknown name: body.generation_config.seed"}}),
        (
            "stream",
            400,
            {"error": {"message": "Your organization must be verified to stream.", "param": "stream"}},
        ),
    ],
)
def test_a_setting_that_the_server_refuses_is_left_out_and_said(
    server: Server, name: str, status: int, body: Any
) -> None:
    """(A19)"""
    server.reply = picky((name, status, body))
    remote = RemoteReasoner(server.url, "m")
    reasoned = answered(server, remote, sampling=Sampling(77, 0.5, seed=3))
    assert reasoned.trace == TRACE
    assert len(server.seen) == 2 and name not in server.seen[1]
    lost = set(server.seen[0]) - set(server.seen[1])
    assert lost == {name}
    assert server.seen[1].get("max_completion_tokens") == (77 if name == "max_tokens" else None)
    assert [name in note for note in reasoned.notes] == [True]
    again = answered(server, remote, sampling=Sampling(77, 0.5, seed=3))
    assert again.notes == reasoned.notes and len(server.seen) == 3  # known from now on


def test_several_refused_settings_are_left_out_one_after_the_other(server: Server) -> None:
    """(A19)"""
    refused = ("max_tokens", 400, MAX_TOKENS), ("temperature", 400, TEMPERATURE), ("seed", 422, SEED)
    server.reply = picky(*refused)
    reasoned = answered(server, sampling=Sampling(temperature=0.5))
    assert reasoned.trace == TRACE and len(reasoned.notes) == 3 and len(server.seen) == 4
    kept = {"model", "messages", "stream", "top_p", "max_completion_tokens", SETTING, *ASKED}
    assert set(server.seen[-1]) == kept


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "max_tokens is too large: 768. At most 512 are", "param": "max_tokens"}},
        {"error": {"message": "the image is too large", "param": "messages"}},
        "temperatures are high today",
    ],
)
def test_other_refusals_are_not_asked_again(server: Server, body: Any) -> None:
    """(A19)"""
    server.reply = as_json(body, 400)
    said = error_of(server, Sampling(guided="never"))
    words = body if isinstance(body, str) else body["error"]["message"]
    assert words in said and len(server.seen) == 1


def test_a_server_that_refuses_whatever_is_sent_is_asked_a_few_times(server: Server) -> None:
    """(A19)"""
    server.reply = as_json({"error": {"message": "Unsupported: seed, temperature, top_p, max_tokens"}}, 400)
    assert "400" in error_of(server)
    assert len(server.seen) <= 7


# --- errors in good answers ---


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'error: {"code": 500, "message": "out of slots"}\n\n', "text/event-stream"),
        (event("<thinking>") + b'error: {"message": "out of slots"}\n\n', "text/event-stream"),
        (b'data: {"object": "error", "message": "out of slots", "code": 400}\n\n', "text/event-stream"),
        (b'data: {"error": {"message": "out of slots", "code": 502}}\n\n', "text/event-stream"),
        (b'event: error\ndata: {"type": "overloaded", "message": "out of slots"}\n\n', "text/event-stream"),
        (b'event: error\r\ndata: {"error": "out of slots"}\r\n\r\n', "text/event-stream"),
        (b'{"detail": "out of slots"}', "application/json"),
        (b'{"detail": [{"loc": ["body"], "msg": "out of slots"}]}', "application/json"),
        (b'{"error": {"message": "out of slots"}}', "application/json"),
        (b'{"detail": "out of slots"}', "text/plain"),
        (b'{"error": "out of slots"}', "text/event-stream"),
        (b"data: " + b'{"detail": "out of slots"}', "text/event-stream"),
        (b"<!DOCTYPE html><html><head><title>Sign in</title><style>p {}</style></head><body><p>out of "
         b"slots</p></body></html>", "text/html; charset=utf-8"),
        (b"out of slots\n", "text/plain"),
    ],
)  # fmt: skip
def test_the_servers_words_come_out(server: Server, body: bytes, kind: str) -> None:
    """(A20)"""
    server.reply = send(body, kind=kind)
    said = error_of(server)
    assert "out of slots" in said and "ask again" not in said.replace("(out of slots); ask again", "")
    assert "<p>" not in said


def test_the_key_is_hidden_in_words_that_come_late(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLM_API_KEY", "sk-secret-123")
    for body in (
        b'data: {"error": "key sk-secret-123 is spent"}\n\n',
        b"error: key sk-secret-123 is spent\n\n",
    ):
        server.reply = send(event("<thinking>") + body)
        assert "key <key> is spent" in error_of(server)


@pytest.mark.parametrize(
    "body",
    [
        event(TEXT) + STOP.rstrip(b"\n"),
        event(TEXT) + DONE.rstrip(b"\n"),
        (b": ping\n\nevent: message\nid: 1\nretry: 5\n" + event(TEXT) + b": ping\n\n" + STOP + DONE).replace(
            b"\n", b"\r\n"
        ),
        (event(TEXT) + STOP).replace(b"\n", b"\r"),
        b"\xef\xbb\xbf" + event(TEXT) + STOP,
        event(TEXT) + b'data: {"choices": [],\ndata: "usage": {"completion_tokens": 9}}\n\n' + STOP,
    ],
)
def test_events_are_read_however_their_lines_end(server: Server, body: bytes) -> None:
    """(A20)"""

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for at in range(0, len(body), 61):
            handler.wfile.write(body[at : at + 61])
            handler.wfile.flush()

    for reply in (send(body), drip):
        server.reply = reply
        reasoned = answered(server)
        assert reasoned.trace == TRACE and reasoned.tokens == (9 if b"usage" in body else 1)


def test_json_lines_are_an_answer(server: Server) -> None:
    """(A20)"""
    lines = [{"choices": [{"delta": {"content": piece}}]} for piece in (TEXT[:30], TEXT[30:])]
    lines.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    body = "\n".join(map(json.dumps, lines)).encode()
    for kind in ("application/x-ndjson", "application/json", "text/plain"):
        server.reply = send(body, kind=kind)
        assert answered(server).trace == TRACE


def test_the_time_that_a_busy_server_asks_for_is_said(server: Server) -> None:
    server.reply = as_json({"error": "slow down"}, 429, **{"Retry-After": "20"})
    assert "after 20 seconds" in error_of(server)
    server.reply = send(b"<html><body><h1>503 Service Unavailable</h1></body></html>", 503, "text/html")
    said = error_of(server)
    assert "Service Unavailable" in said and "<h1>" not in said


# --- the language of the answer ---


def test_a_model_that_was_never_tuned_is_asked_for_english(server: Server) -> None:
    """(A9)"""
    RemoteReasoner(server.url, "m").generate(REQUEST)
    system = server.seen[0]["messages"][0]["content"]
    assert "in English whatever the language of the prompt" in system


def test_what_is_heard_can_be_parsed_again(server: Server) -> None:
    server.reply = send(delta(reasoning="so <output>") + event(TEXT) + STOP)
    assert parse(RemoteReasoner(server.url, "m").generate(REQUEST).text) == TRACE
