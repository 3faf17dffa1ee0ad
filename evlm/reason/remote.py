"""A reasoner behind an OpenAI-compatible endpoint (vLLM, llama.cpp, a hosted service): same prompt, same
parser.

    RemoteReasoner("https://host/v1", "Qwen/Qwen2-VL-7B-Instruct").reason(request)

The key comes from the environment variable EVLM_API_KEY and from nowhere else. Redirects are not followed.
Addresses inside this machine or its network are refused unless `allow_private` or the environment variable
EVLM_ALLOW_PRIVATE_ENDPOINTS=1 says otherwise, because the address may come out of somebody else's
workflow file. For the same reason the nodes send the key only to hosts that EVLM_API_HOSTS names.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import EndpointError
from ..plan.mask_codec import get_codec
from ..request import Request
from .endpoint import KEY_VARIABLE, PRIVATE_VARIABLE, connect, parse_address
from .messages import FULL, MAX_FRAMES, Chat, PromptStyle, build_messages
from .openai_form import MAX_PIXELS, Answer, openai_messages, read_json
from .reasoner import Generated, OnToken, Reasoned, Sampling, understood

HOSTS_VARIABLE = "EVLM_API_HOSTS"
_MAX_LINE = 1 << 20  # bytes of one event
_MAX_ANSWER = 16 << 20  # bytes of all events


class RemoteReasoner:
    """Speaks to `<endpoint>/chat/completions`. Holds no connection between requests.

    endpoint: "https://host[:port][/v1]", with or without `/chat/completions`. model: its name there.
    timeout: seconds without a byte before giving up; deadline: seconds for a whole answer.
    max_pixels: larger pictures are made smaller before they are sent. key_hosts: where the key may go; None:
    to the endpoint, whichever it is.
    """

    def __init__(
        self,
        endpoint: str,
        model: str,
        timeout: float = 120.0,
        deadline: float = 900.0,
        allow_private: bool | None = None,
        max_pixels: int = MAX_PIXELS,
        max_frames: int = MAX_FRAMES,
        style: PromptStyle = FULL,
        codec: str = "box-spans-8",
        key_hosts: Sequence[str] | None = None,
    ) -> None:
        self.key_hosts = None if key_hosts is None else {host.strip().lower() for host in key_hosts}
        self.address = parse_address(endpoint)
        self.model = model
        self.timeout, self.deadline = timeout, deadline
        self.allow_private = (
            os.environ.get(PRIVATE_VARIABLE) == "1" if allow_private is None else allow_private
        )
        self.max_pixels, self.max_frames = max_pixels, max_frames
        self.style, self.codec = style, get_codec(codec)

    def reason(
        self,
        request: Request,
        sampling: Sampling | None = None,
        on_token: OnToken | None = None,
        repair: bool = True,
    ) -> Reasoned:
        """As `Reasoner.reason`. Raises EndpointError, and TraceError when the answer holds no plan."""
        generated = self.generate(request, sampling, on_token)
        return understood(generated, repair)

    def generate(
        self, request: Request, sampling: Sampling | None = None, on_token: OnToken | None = None
    ) -> Generated:
        """As `reason`, but the text is returned whether or not it is a trace. `tokens` is what the
        server says, or the number of pieces it sent."""
        chat = build_messages(request, self.codec, self.style, self.max_frames)
        return self.ask(chat, sampling, on_token)

    def ask(self, chat: Chat, sampling: Sampling | None = None, on_token: OnToken | None = None) -> Generated:
        """As `generate`, for any chat."""
        sampling = sampling or Sampling()
        start = time.perf_counter()
        payload = {
            "model": self.model,
            "messages": openai_messages(chat, self.max_pixels),
            "stream": True,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed,
        }
        answer = Answer()
        for event in self._events(payload, start + self.deadline):
            piece = answer.add(event, self.address)
            if piece and on_token is not None:
                on_token(piece)
        if answer.ended is None:
            raise EndpointError(f"{self.address.url} stopped in the middle of its answer; ask again")
        seconds = time.perf_counter() - start
        return Generated("".join(answer.pieces), answer.tokens, seconds, answer.ended != "length")

    def _events(self, payload: dict[str, Any], until: float) -> Iterator[dict[str, Any]]:
        """The JSON objects of the answer: of its event stream, or the one of a server that does not
        stream."""
        key = os.environ.get(KEY_VARIABLE, "").strip()
        if key and self.key_hosts is not None and self.address.host.lower() not in self.key_hosts:
            raise EndpointError(
                f"{self.address.host} would get {KEY_VARIABLE} and is not among {HOSTS_VARIABLE}: if it is "
                f"yours to use, set {HOSTS_VARIABLE}={self.address.host} in the environment, else unset it"
            )
        connection = connect(self.address, key, self.allow_private, self.timeout)
        try:
            headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}
            if key:
                headers["Authorization"] = f"Bearer {key}"
            body = json.dumps(payload).encode()
            connection.request("POST", self.address.path, body, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refusal(response, key)
            if "json" in response.headers.get_content_type():
                yield read_json(b"".join(self._chunks(response, until)), self.address)
                return
            yield from self._stream(response, until)
        except TimeoutError as error:
            raise EndpointError(
                f"{self.address.url} sent nothing for {self.timeout:g} seconds; try again or raise the "
                f"timeout"
            ) from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if isinstance(error, EndpointError):
                raise
            raise EndpointError(
                f"{self.address.url}: the connection failed ({_hide(str(error), key)}); is the server "
                f"running?"
            ) from None
        finally:
            connection.close()

    def _stream(self, response: http.client.HTTPResponse, until: float) -> Iterator[dict[str, Any]]:
        rest = b""
        for chunk in self._chunks(response, until):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _MAX_LINE:
                raise EndpointError(
                    f"{self.address.url} sends a line without an end; is it the right address?"
                )
            for line in lines:
                name, _, value = line.strip().partition(b":")
                if name != b"data" or not value.strip():
                    continue
                if value.strip() == b"[DONE]":
                    yield {"done": True}
                    return
                yield read_json(value, self.address)

    def _chunks(self, response: http.client.HTTPResponse, until: float) -> Iterator[bytes]:
        """The body as it arrives, bounded in time and size; a drip of bytes cannot hold us beyond the
        deadline."""
        total = 0
        while chunk := response.read1(1 << 16):
            total += len(chunk)
            if total > _MAX_ANSWER:
                raise EndpointError(
                    f"{self.address.url} sends more than an answer can be; is it the right one?"
                )
            if time.perf_counter() > until:
                raise EndpointError(f"{self.address.url} was not done after {self.deadline:g} seconds")
            yield chunk

    def _refusal(self, response: http.client.HTTPResponse, key: str) -> EndpointError:
        status = response.status
        if 300 <= status < 400:
            target = response.getheader("Location", "nowhere")[:200]
            return EndpointError(
                f"{self.address.url} redirects to {target}, which is not followed; give that one"
            )
        body = _hide(response.read(2000).decode("utf-8", "replace"), key)
        remedy = _REMEDIES.get(status, "look at the server's log" if status >= 500 else "check the endpoint")
        return EndpointError(
            f"{self.address.url} answered {status} {response.reason}: {body[:300]!r}; {remedy}"
        )


_REMEDIES = {
    400: "does the model take pictures, and as many as this? max_pixels makes them smaller",
    401: f"set the environment variable {KEY_VARIABLE}",
    403: f"check what the key in {KEY_VARIABLE} may use",
    404: "check the endpoint's path and the model's name",
    413: "lower max_pixels or use fewer references",
    422: "does the model take pictures, and as many as this? max_pixels makes them smaller",
    429: "too many requests; wait and ask again",
}


def _hide(text: str, key: str) -> str:
    """Servers like to repeat the key that they refuse."""
    return text.replace(key, "<key>") if key else text
