"""RemoteReasoner against a real server on this machine."""

from __future__ import annotations

import base64
import io
import json
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import torch
from chat_server import REQUEST, TRACE, Server, event, send, stream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from evlm.errors import Cancelled, EndpointError, ModelError, RequestError, TraceError
from evlm.plan.trace import render
from evlm.reason.endpoint import is_public
from evlm.reason.messages import build_messages, get_style
from evlm.reason.reasoner import Sampling
from evlm.reason.remote import RemoteReasoner, openai_messages
from evlm.reason.system_text import untuned_text
from evlm.request import Reference, Request


def test_a_streamed_trace(server: Server) -> None:
    pieces: list[str] = []
    remote = RemoteReasoner(server.url, "qwen")
    reasoned = remote.reason(REQUEST, Sampling(99, 0.5, 0.9, 7), pieces.append, repair=False)
    assert reasoned.trace == TRACE
    assert "".join(pieces) == reasoned.text == render(TRACE)
    assert reasoned.finished and reasoned.tokens == len(pieces) > 10
    sent = server.seen[0]
    assert server.paths == ["/v1/chat/completions"]
    assert {key: sent[key] for key in ("model", "max_tokens", "temperature", "top_p", "seed", "stream")} == {
        "model": "qwen",
        "max_tokens": 99,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stream": True,
    }
    assert "Authorization" not in server.headers[0]


def test_a_seed_is_sent_where_it_means_something_and_in_32_bits(server: Server) -> None:
    """(D23) Servers refuse a larger one, and some any."""
    remote = RemoteReasoner(server.url, "qwen")
    remote.generate(REQUEST, Sampling(seed=7))
    remote.generate(REQUEST, Sampling(temperature=0.5, seed=2**40 + 7))
    assert "seed" not in server.seen[0] and server.seen[1]["seed"] == 7


def test_the_prompt_is_that_of_the_local_model(server: Server) -> None:
    remote = RemoteReasoner(server.url, "qwen")
    remote.generate(REQUEST, Sampling(guided="never"))
    system, user = server.seen[0]["messages"]
    chat = build_messages(REQUEST, style=remote.style)
    assert system == {"role": "system", "content": chat.messages[0]["content"][0]["text"]}
    texts = [part["text"] for part in user["content"] if part["type"] == "text"]
    assert texts == [item["text"] for item in chat.messages[1]["content"] if item["type"] == "text"]
    picture = next(part for part in user["content"] if part["type"] == "image_url")["image_url"]["url"]
    assert torch.equal(decoded(picture), chat.images[0])


@pytest.mark.parametrize("style", ["few-shot", "two_step", "direct"])
def test_a_style_chosen_for_one_request(server: Server, style: str) -> None:
    parts = get_style(style, baselines=True).parts
    text = "".join(f"<{part}>\nIt is red.\n</{part}>\n" for part in parts[:-1])
    written = f"{text}<output>\ninstruction: make it red\ntargets: car\nscope: local\n</output>"
    server.reply = stream(written)
    remote = RemoteReasoner(server.url, "qwen")
    reasoned = remote.reason(REQUEST, Sampling(style=style))
    assert reasoned.trace.plan.instruction == "make it red" and reasoned.trace.plan.repairs == ()
    assert server.seen[0]["messages"][0]["content"].startswith(untuned_text(style))
    assert ("response_format" in server.seen[0]) is (style == "few-shot"), "the schema has the four parts"
    with pytest.raises(RequestError, match="tuned on 'full'"):
        RemoteReasoner(server.url, "qwen", trust="tuned").reason(REQUEST, Sampling(style=style))


def test_videos_go_as_frames_with_times_and_pictures_within_the_budget() -> None:
    video = Reference("video", torch.rand(9, 60, 40, 3), fps=4.0)
    chat = build_messages(Request(torch.rand(1, 50, 50, 3), "", (video,)), max_frames=3)
    user = openai_messages(chat, max_pixels=600)[1]["content"]
    text = "".join(part.get("text", "<image>") for part in user)
    assert "0 s: <image>1 s: <image>2 s: <image>" in text
    sizes = [decoded(part["image_url"]["url"]).shape[1:] for part in user if part["type"] == "image_url"]
    assert len(sizes) == 4
    assert all(height * width <= 600 for height, width in sizes)


def decoded(url: str) -> torch.Tensor:
    """uint8 [3, H, W] of a PNG data URL."""
    picture = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))
    flat = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, 3).permute(2, 0, 1)


@pytest.mark.parametrize("tail", ["", "/", "/chat/completions"])
def test_addresses_with_and_without_the_path(server: Server, tail: str) -> None:
    assert RemoteReasoner(server.url + tail, "m").reason(REQUEST).trace == TRACE


def test_a_server_that_does_not_stream(server: Server) -> None:
    content = {
        "choices": [{"message": {"content": render(TRACE)}, "finish_reason": "length"}],
        "usage": {"completion_tokens": 55},
    }
    server.reply = send(json.dumps(content).encode(), kind="application/json; charset=utf-8")
    reasoned = RemoteReasoner(server.url, "m").reason(REQUEST)
    assert reasoned.trace == TRACE
    assert (reasoned.tokens, reasoned.finished) == (55, False)


def test_characters_cut_between_chunks_arrive_whole(server: Server) -> None:
    body = stream(render(TRACE)).__closure__[0].cell_contents  # type: ignore[attr-defined,index]

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for at in range(0, len(body), 701):
            handler.wfile.write(body[at : at + 701])
            handler.wfile.flush()
            time.sleep(0.001)

    server.reply = drip
    assert RemoteReasoner(server.url, "m").reason(REQUEST).trace == TRACE


def test_a_finish_reason_without_done_is_an_end(server: Server) -> None:
    server.reply = stream(render(TRACE), end=b"")
    assert RemoteReasoner(server.url, "m").reason(REQUEST).trace == TRACE


def test_an_answer_that_breaks_off_is_an_error(server: Server) -> None:
    server.reply = send(event("<thinking>"))
    with pytest.raises(EndpointError, match="middle"):
        RemoteReasoner(server.url, "m").generate(REQUEST)


def test_cancel_comes_through_and_the_next_request_works(server: Server) -> None:
    seen: list[str] = []

    def stop(piece: str) -> None:
        seen.append(piece)
        raise Cancelled

    remote = RemoteReasoner(server.url, "m")
    with pytest.raises(Cancelled):
        remote.reason(REQUEST, on_token=stop)
    assert len(seen) == 1
    assert remote.reason(REQUEST).trace == TRACE


def test_no_plan_is_a_trace_error(server: Server) -> None:
    server.reply = stream("I cannot help with that.")
    with pytest.raises(TraceError):
        RemoteReasoner(server.url, "m").reason(REQUEST)


def test_what_a_remote_model_says_of_places_is_trusted_as_it_is_told(server: Server) -> None:
    assert RemoteReasoner(server.url, "m").reason(REQUEST).trace.plan.trust == "base"
    assert RemoteReasoner(server.url, "m", trust="tuned").reason(REQUEST).trace.plan.trust == "tuned"
    with pytest.raises(EndpointError, match="expected tuned or base"):
        RemoteReasoner(server.url, "m", trust="yes")


def test_a_qwen_behind_an_endpoint_writes_boxes_in_its_own_form(server: Server) -> None:
    """Its pixels are those that the server's processor makes of what is sent."""
    request = Request(torch.rand(1, 300, 601, 3), "like this")
    mask = '{"bbox_2d": [61, 30, 305, 151], "label": "hat"}'
    text = render(replace(TRACE, plan=replace(TRACE.plan, mask_text=None)))
    server.reply = stream(text.replace("scope: local", f"scope: local\nmask: {mask}"))
    reasoned = RemoteReasoner(server.url, "Qwen/Qwen2.5-VL-7B-Instruct").reason(request)
    assert reasoned.seen == (308, 588) and reasoned.trace.plan.mask_text == "box 104 97 519 490 full"
    assert mask in reasoned.text, "what is shown is what it wrote"
    assert '"bbox_2d": [120, 80, 310, 240]' in json.dumps(server.seen[-1]["messages"][0]).replace("\\", "")
    small = RemoteReasoner(server.url, "qwen2.5vl:7b", max_pixels=100 * 200).reason(request)
    assert small.seen == (112, 196)
    other = RemoteReasoner(server.url, "mine", boxes="qwen3-vl").reason(request)
    assert other.seen is None and other.trace.plan.mask_text == "box 61 30 305 151 full"
    assert RemoteReasoner(server.url, "mine").style.boxes.name == "own"
    with pytest.raises(ModelError, match="expected one of own"):
        RemoteReasoner(server.url, "mine", boxes="pixels")
    plan = {"instruction": "x", "targets": ["hat"], "scope": "local", "box": [61, 30, 305, 151]}
    prose = {"thinking": "", "intermediate": "", "reflection": ""}
    server.reply = stream(json.dumps({**prose, "output": {"steps": [plan]}}))
    held = RemoteReasoner(server.url, "qwen2.5-vl").reason(request)
    assert held.trace.plan.mask_text == "box 104 97 519 490 full" and held.trace.plan.mask_text in held.text
    output = server.seen[-1]["response_format"]["json_schema"]["schema"]["properties"]["output"]
    limit = output["properties"]["steps"]["items"]["properties"]
    assert limit["box"]["anyOf"][0]["items"]["maximum"] == 588


# --- keys ---


def test_the_key_is_sent_from_the_environment_and_never_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVLM_API_KEY", " sk-secret-123 \n")
    remote = RemoteReasoner(server.url, "m")
    remote.reason(REQUEST)
    assert server.headers[0]["Authorization"] == "Bearer sk-secret-123"
    server.reply = send(b'{"error": "Incorrect API key provided: sk-secret-123"}', 401, "application/json")
    with pytest.raises(EndpointError) as caught:
        remote.reason(REQUEST)
    assert "401" in str(caught.value) and "EVLM_API_KEY" in str(caught.value)
    assert "sk-secret" not in str(caught.value) + repr(vars(remote))


def test_a_key_goes_only_to_hosts_that_are_named(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLM_API_KEY", "sk-secret")
    with pytest.raises(EndpointError, match=r"EVLM_API_HOSTS=127\.0\.0\.1"):
        RemoteReasoner(server.url, "m", key_hosts=["api.example.com", ""]).reason(REQUEST)
    assert not server.seen
    assert RemoteReasoner(server.url, "m", key_hosts=[" 127.0.0.1 "]).reason(REQUEST).trace == TRACE
    monkeypatch.delenv("EVLM_API_KEY")
    assert RemoteReasoner(server.url, "m", key_hosts=[]).reason(REQUEST).trace == TRACE


def test_a_key_that_would_break_the_header(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLM_API_KEY", "a\r\nHost: b")
    with pytest.raises(EndpointError, match="characters"):
        RemoteReasoner(server.url, "m").reason(REQUEST)
    assert not server.seen


def test_a_key_does_not_leave_the_house_unencrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLM_API_KEY", "sk-secret")
    with pytest.raises(EndpointError, match="unencrypted"):
        RemoteReasoner("http://1.1.1.1/v1", "m").reason(REQUEST)


# --- where it goes ---


def test_private_addresses_are_refused_unless_allowed(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVLM_ALLOW_PRIVATE_ENDPOINTS")
    port = server.http.server_port
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "127.1", "2130706433"):
        with pytest.raises(EndpointError, match="EVLM_ALLOW_PRIVATE_ENDPOINTS=1"):
            RemoteReasoner(f"http://{host}:{port}/v1", "m").reason(REQUEST)
    assert not server.seen
    assert RemoteReasoner(server.url, "m", allow_private=True).reason(REQUEST).trace == TRACE
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    with pytest.raises(EndpointError, match="inside"):
        RemoteReasoner(server.url, "m", allow_private=False).reason(REQUEST)


@pytest.mark.parametrize(
    ("number", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1111", True), ("10.1.2.3", False), ("192.168.0.1", False),
        ("172.16.0.1", False), ("169.254.169.254", False), ("100.64.0.1", False), ("224.0.0.1", False),
        ("fe80::1%eth0", False), ("fc00::1", False), ("::ffff:10.0.0.1", False), ("::", False),
        ("64:ff9b::a00:1", False), ("64:ff9b::808:808", True), ("2002:a00:1::", False), ("fec0::1", False),
        ("::127.0.0.1", False), ("192.0.0.8", False), ("64:ff9b:1::1", False),
    ],
)  # fmt: skip
def test_which_addresses_are_public(number: str, public: bool) -> None:
    assert is_public(number) is public


@pytest.mark.parametrize(
    "number",
    [
        "192.88.99.1", "192.31.196.1", "192.52.193.1", "192.175.48.42", "192.0.2.7", "198.18.0.1",
        "198.51.100.9", "203.0.113.5", "0.1.2.3", "240.0.0.1", "255.255.255.255", "100::1", "100:0:0:1::1",
        "2001::1", "2001:2::1", "2001:3::1", "2001:4:112::1", "2001:20::1", "2001:db8::1", "2001:30::1",
        "2620:4f:8000::1", "3fff::1", "5f00::1", "::ffff:192.88.99.1", "2002:c058:6301::",
        "64:ff9b::c058:6301",
    ],
)  # fmt: skip
def test_no_special_purpose_address_is_public(number: str) -> None:
    """All of IANA's registries, whatever this Python's `is_global` says; and inside an IPv6 one (N15)."""
    assert not is_public(number)


@pytest.mark.parametrize(
    "number", ["192.88.98.255", "192.88.100.1", "2001:200::1", "2001:4860::8888", "2600::1"]
)
def test_neighbours_of_special_addresses_are_public(number: str) -> None:
    assert is_public(number)


def test_the_connection_goes_to_the_checked_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers differently the second time cannot move us."""
    import socket

    real, answers = socket.getaddrinfo, iter(["127.0.0.1", "8.8.8.8", "8.8.8.8"])

    def lookup(host: str, *args: Any, **options: Any) -> Any:
        return real(next(answers) if host == "model.test" else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    remote = RemoteReasoner(f"http://model.test:{server.http.server_port}/v1", "m")
    assert remote.reason(REQUEST).trace == TRACE
    assert server.headers[0]["Host"] == f"model.test:{server.http.server_port}"
    assert next(answers) == "8.8.8.8"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(server: Server, status: int) -> None:
    server.reply = send(b"", status, Location="http://169.254.169.254/latest")
    with pytest.raises(EndpointError, match=r"169\.254\.169\.254.*not followed"):
        RemoteReasoner(server.url, "m").reason(REQUEST)
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "endpoint",
    [
        "", "host", "ftp://host/v1", "file:///etc/passwd", "http://", "http://u:p@host/v1",
        "http://host/v1?key=1", "http://host:99999/v1", "http://[::1/v1", "http://host/a b",
        "http://host/v1#x", "http://host/\r\nX: y",
    ],
)  # fmt: skip
def test_addresses_that_are_none(endpoint: str) -> None:
    with pytest.raises(EndpointError):
        RemoteReasoner(endpoint, "m").reason(REQUEST)


def test_nobody_there(server: Server) -> None:
    with pytest.raises(EndpointError, match="is the server running"):
        RemoteReasoner("http://127.0.0.1:9/v1", "m").reason(REQUEST)


# --- bad answers ---


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (400, "max_pixels"),
        (401, "EVLM_API_KEY"),
        (404, "model's name"),
        (429, "wait"),
        (500, "log"),
        (418, "check"),
    ],
)
def test_refusals_say_status_body_and_remedy(server: Server, status: int, remedy: str) -> None:
    server.reply = send(b"the body " * 200, status, "text/plain")
    with pytest.raises(EndpointError) as caught:
        RemoteReasoner(server.url, "m").reason(REQUEST)
    message = str(caught.value)
    assert str(status) in message and "the body" in message and remedy in message and len(message) < 700


def test_silence_ends_by_the_timeout_and_a_drip_by_the_deadline(server: Server) -> None:
    def silence(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.6)

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        for _ in range(40):
            handler.wfile.write(b":")
            handler.wfile.flush()
            time.sleep(0.02)

    server.reply = silence
    with pytest.raises(EndpointError, match=r"0\.2 seconds"):
        RemoteReasoner(server.url, "m", timeout=0.2).reason(REQUEST)
    server.reply = drip
    with pytest.raises(EndpointError, match="not done"):
        RemoteReasoner(server.url, "m", timeout=0.3, deadline=0.2).reason(REQUEST)


@pytest.mark.parametrize(
    "body",
    [
        b"data: {\n\n", b"data: [1]\n\n", b'data: {"choices": [1]}\n\n', b'data: {"choices": {"a": 1}}\n\n',
        b'data: {"choices": [{"delta": {"content": 5}}]}\n\n', b'data: {"choices": [{"delta": 7}]}\n\n',
        b'data: {"error": {"message": "out of memory"}}\n\n', b'data: {"choices": "abc"}\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n", b"data: \xff\xfe\n\n", b"<html>", b"", b"x" * (3 << 20),
    ],
)  # fmt: skip
def test_answers_that_are_none(server: Server, body: bytes) -> None:
    server.reply = send(body)
    with pytest.raises(EndpointError):
        RemoteReasoner(server.url, "m").generate(REQUEST)


def test_a_connection_cut_in_a_chunk(server: Server) -> None:
    server.reply = send(b"5\r\ndata", **{"Transfer-Encoding": "chunked"})
    with pytest.raises(EndpointError):
        RemoteReasoner(server.url, "m").generate(REQUEST)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=300), framed=st.booleans(), json_kind=st.booleans())
def test_any_body_is_text_or_one_error(server: Server, body: bytes, framed: bool, json_kind: bool) -> None:
    kind = "application/json" if json_kind else "text/event-stream"
    server.reply = send(b"data: " + body + b"\n\n" if framed else body, kind=kind)
    with pytest.raises(EndpointError):
        RemoteReasoner(server.url, "m").generate(REQUEST)
