"""`evlm serve`: the bundled reasoner behind OpenAI's form, asked by our own client and by hands less kind."""

from __future__ import annotations

import base64
import http.client
import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

from evlm.errors import EndpointError, RequestError
from evlm.models.zoo import BUNDLED
from evlm.reason.messages import build_messages, for_untuned, get_style
from evlm.reason.openai_chat import read_chat, read_request
from evlm.reason.openai_form import openai_messages
from evlm.reason.reasoner import Reasoner, Sampling
from evlm.reason.remote import RemoteReasoner
from evlm.reason.server import Server
from evlm.request import EXAMPLES, Reference, Request
from evlm.request import load_picture as load

SAMPLING = Sampling(300)


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    reasoner = Reasoner.load(BUNDLED / "reasoner", device="cpu")
    with Server(reasoner, "bundled", most_body=1 << 20) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVLM_ALLOW_PRIVATE_ENDPOINTS", "1")
    monkeypatch.delenv("EVLM_API_KEY", raising=False)


def example() -> Request:
    reference = Reference("image", load(EXAMPLES / "1-reference-reference-1.png"))
    return Request(load(EXAMPLES / "1-reference.png"), "", (reference,))


def post(server: Server, body: Any, path: str = "/v1/chat/completions", **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    connection.request("POST", path, data, headers)
    response = connection.getresponse()
    content = json.loads(response.read() or b"null")
    connection.close()
    return response.status, content


def asked(request: Request, **more: Any) -> dict[str, Any]:
    chat = build_messages(request, style=for_untuned(get_style("full")))
    return {"model": "bundled", "messages": openai_messages(chat), "max_tokens": 300, **more}


def test_our_client_gets_what_the_model_says_itself(served: Server) -> None:
    own = served.reasoner.reason(example(), SAMPLING)
    pieces: list[str] = []
    reasoned = RemoteReasoner(served.url, "bundled").reason(example(), SAMPLING, pieces.append)
    assert reasoned.text == own.text == "".join(pieces) and len(pieces) > 3 and reasoned.finished
    assert reasoned.trace.plan.instruction == own.trace.plan.instruction
    status, whole = post(served, asked(example()))
    assert status == 200 and whole["choices"][0]["message"]["content"] == own.text
    assert whole["choices"][0]["finish_reason"] == "stop" and whole["usage"]["prompt_tokens"] > 20
    assert whole["usage"]["completion_tokens"] == own.tokens
    assert served.answered == 2


@pytest.mark.parametrize("style", ["full", "few-shot", "direct"])
def test_a_question_comes_back_as_it_was_asked(style: str) -> None:
    clip = torch.rand(4, 16, 20, 3).mul(255).round() / 255
    still = torch.rand(1, 24, 16, 3).mul(255).round() / 255
    references = (
        Reference("video", clip, note="how it moves", fps=4.0),
        Reference("text", text="green: threads", note="as a texture"),
        Reference("image", still), Reference("depth", still.mean(-1, keepdim=True).mul(255).round()
                                             .div(255).expand(-1, -1, -1, 3)),
        Reference("video", clip),
    )  # fmt: skip
    for request in (
        Request(still, "like this", references), Request(clip, "", references[:1], 8.0),
        Request(still, "", references[1:2]), Request(clip, "a\nred hat"),
    ):  # fmt: skip
        chat = build_messages(request, style=for_untuned(get_style(style, baselines=True)))
        back = read_request(read_chat(json.loads(json.dumps(openai_messages(chat)))))
        assert back is not None and torch.equal(back.original, request.original)
        assert back.prompt == " ".join(request.prompt.split())
        assert request.fps is None or back.fps == pytest.approx(request.fps, rel=0.03)  # of rounded times
        for one, other in zip(back.references, request.references, strict=True):
            assert (one.kind, one.text, one.note) == (other.kind, other.text, other.note)
            assert one.frames is None or torch.equal(one.frames, other.frames)
    assert read_request(read_chat([{"role": "user", "content": "Prompt: hello"}])) is None


def test_a_cut_answer_says_so_and_settings_are_checked(served: Server) -> None:
    assert post(served, asked(example(), max_tokens=5))[0] == 200
    for wrong, word in (
        ({"temperature": "hot"}, "temperature"), ({"temperature": float("nan")}, "temperature"),
        ({"max_tokens": 0}, "max_new_tokens"), ({"max_tokens": 10**9}, "max_new_tokens"),
        ({"seed": -1}, "seed"), ({"top_p": True}, "top_p"), ({"n": 2}, "n:"), ({"stop": "x"}, "stop"),
        ({"response_format": {"type": "json_object"}}, "response_format"), ({"tools": [{}]}, "tools"),
        ({"model": "gpt-4o"}, "bundled"), ({"messages": []}, "messages"), ({"messages": None}, "messages"),
        ({"messages": [{"role": "robot"}]}, "role"), ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "user", "content": "hello"}]}, "tuned on EVLM's questions"),
    ):  # fmt: skip
        status, content = post(served, asked(example(), **wrong))
        assert status in (400, 404) and word in content["error"]["message"], (wrong, content)
    with pytest.raises(EndpointError, match="here it is"):
        RemoteReasoner(served.url, "other").reason(example(), SAMPLING)


def picture(url: Any) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": url}}
    return {"model": "bundled", "messages": [{"role": "user", "content": [part]}]}


def test_pictures_come_with_the_request_or_not_at_all(served: Server) -> None:
    file = io.BytesIO()
    Image.new("RGB", (9000, 9000)).save(file, "PNG")
    png = "data:image/png;base64,"
    for url, word in (
        ("http://127.0.0.1:9/a.png", "nothing is fetched"), ("file:///etc/passwd", "nothing is fetched"),
        (None, "data URL"), (7, "data URL"), (png + "%%", "base64"), (png + "AAAA", "not a picture"),
        (png + base64.b64encode(file.getvalue()).decode(), "at most"),
        (png + base64.b64encode(file.getvalue()[:80]).decode(), "messages.0.content.0"),
    ):  # fmt: skip
        status, content = post(served, picture(url))
        assert status == 400 and word in content["error"]["message"], (url, content)


def test_malformed_requests_get_an_answer_and_the_server_goes_on(served: Server) -> None:
    good = asked(example())
    for status, body, path, headers in (
        (404, good, "/", {}), (404, good, "/v1/../etc", {}), (404, good, "/v1/completions", {}),
        (415, good, "/v1/chat/completions", {"Content_Type": "text/plain"}),
        (403, good, "/v1/chat/completions", {"Host": "evil.example"}),
        (403, good, "/v1/chat/completions", {"Host": "["}),
        (413, b"x" * ((1 << 20) + 1), "/v1/chat/completions", {}),
        (411, good, "/v1/chat/completions", {"Content_Length": "-3"}),
        (400, b"{", "/v1/chat/completions", {}), (400, b"[" * 9999, "/v1/chat/completions", {}),
        (400, b"\xff\xfe", "/v1/chat/completions", {}), (400, [], "/v1/chat/completions", {}),
    ):  # fmt: skip
        try:
            answer = post(served, body, path, **headers)
        except OSError:  # a body that is not read to its end
            assert status == 413
            continue
        assert answer[0] == status and answer[1]["error"]["message"], (path, answer)
    connection = http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=30)
    connection.request("GET", "/v1/models", headers={"Host": "["})
    assert connection.getresponse().status == 403
    connection.close()
    connection.request("GET", "/v1/models")
    assert json.loads(connection.getresponse().read())["data"][0]["id"] == "bundled"
    connection.close()


def test_other_machines_need_a_key_and_a_wrong_one_is_refused(served: Server) -> None:
    with pytest.raises(RequestError, match="EVLM_SERVE_KEY"):
        Server(served.reasoner, "bundled", "0.0.0.0")
    with pytest.raises(RequestError, match="cannot listen"):
        Server(served.reasoner, "bundled", port=served.server_port)
    with pytest.raises(RequestError, match="no address to listen at"):
        Server(served.reasoner, "bundled", "b\u00fcro..lan", key="secret")
    served.key = "secret"
    try:
        assert post(served, asked(example()))[0] == 401
        assert post(served, asked(example()), Authorization="Bearer wrong")[0] == 401
        assert post(served, {"model": "x"}, Authorization="Bearer secret")[0] == 404
    finally:
        served.key = ""


def test_two_at_once_wait_for_each_other(served: Server) -> None:
    own = served.reasoner.reason(example(), SAMPLING).text
    texts: list[str] = []
    ask = lambda: texts.append(post(served, asked(example()))[1]["choices"][0]["message"]["content"])  # noqa: E731
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert texts == [own] * 3
