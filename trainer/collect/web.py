"""An endpoint's other addresses beside its chat: files, batches, pictures; JSON, forms and files over HTTP.

The rules are those of `evlm.reason.remote`: the key comes from EVLM_API_KEY and goes to hosts that
EVLM_API_HOSTS names, addresses inside one's own network want EVLM_ALLOW_PRIVATE_ENDPOINTS=1, redirects are
not followed.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from evlm.errors import EndpointError
from evlm.reason.endpoint import KEY_VARIABLE, PRIVATE_VARIABLE, connect, parse_address
from evlm.reason.remote import HOSTS_VARIABLE

_CHUNK = 1 << 20
_MOST = 256 << 20  # bytes of an answer in JSON: pictures come so
Files = dict[str, tuple[str, bytes | Path]]
AGAIN = (408, 409, 425, 429)  # and all from 500; never what says that the question is wrong


def key_hosts() -> tuple[str, ...]:
    """Where EVLM_API_KEY may go."""
    return tuple(os.environ.get(HOSTS_VARIABLE, "").split(","))


def passing(error: EndpointError) -> bool:
    """Whether asking again may help."""
    if error.status is None:
        return error.broken
    return error.status in AGAIN or error.status >= 500


class Web:
    """endpoint: as in the recipe ("https://host/v1"). timeout: seconds without a byte. tries, pause: how
    often a request is sent, and the seconds after its first failure, twice as many after each. Raises
    EndpointError."""

    def __init__(self, endpoint: str, timeout: float, tries: int = 1, pause: float = 1.0) -> None:
        self.endpoint, self.address = endpoint, parse_address(endpoint)
        self.base = self.address.path.removesuffix("/chat/completions")
        self.timeout, self.tries, self.pause = timeout, tries, pause

    def json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """What a request in JSON is answered."""
        data = None if body is None else json.dumps(body).encode()
        return self._again(method, path, data, {"Content-Type": "application/json"} if data else {})

    def form(self, path: str, fields: dict[str, str], files: Files) -> dict[str, Any]:
        """What a form is answered. files: {field: (name, bytes or where they lie)}."""
        border = uuid.uuid4().hex
        form = _Form(border, fields, files)
        headers = {
            "Content-Type": f"multipart/form-data; boundary={border}",
            "Content-Length": str(form.size),
        }
        return self._again("POST", path, form, headers)

    def save(self, path: str, file: IO[bytes]) -> None:
        """Writes what is there to a file."""
        with _own(), self._answer("GET", path, None, {}) as response:
            while piece := self._piece(response, _CHUNK, path):
                try:
                    file.write(piece)
                except OSError as error:
                    raise _Local(error) from error

    def _again(self, method: str, path: str, body: Any, headers: dict[str, str]) -> dict[str, Any]:
        for left in range(self.tries - 1, -1, -1):
            try:
                with self._answer(method, path, body, headers) as response:
                    return self._read(response, path)
            except EndpointError as error:
                if not left or not passing(error):
                    raise
                time.sleep(max(min(60.0, error.after or 0), self.pause * 2 ** (self.tries - 1 - left)))
        raise AssertionError("tries is at least 1")

    def _read(self, response: http.client.HTTPResponse, path: str) -> dict[str, Any]:
        data = self._piece(response, _MOST + 1, path)
        try:
            found = json.loads(data) if len(data) <= _MOST else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise EndpointError(f"{self._url(path)} answered with no JSON object: {data[:200]!r}")
        return found

    def _piece(self, response: http.client.HTTPResponse, size: int, path: str) -> bytes:
        """So many bytes, fewer at the end alone: `read` says nothing of a connection that broke off."""
        piece = response.read(size)
        if len(piece) < size and response.length:
            raise EndpointError(
                f"{self._url(path)}: the connection broke off, {response.length:,} bytes before the end",
                broken=True,
            )
        return piece

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        """A good answer, still to be read."""
        url, key = self._url(path), self._key()
        private = os.environ.get(PRIVATE_VARIABLE) == "1"
        connection = connect(replace(self.address, path=self.base + path), key, private, self.timeout)
        try:
            signed = {"Authorization": f"Bearer {key}"} if key else {}
            connection.request(method, self.base + path, body, {**headers, **signed})
            response = connection.getresponse()
            if not 200 <= response.status < 300:
                said = response.read(65536).decode("utf-8", "replace").replace(key or "\0", "***")
                after = response.headers.get("Retry-After", "")
                raise EndpointError(
                    f"{url} says {response.status}: {' '.join(said.split())[:300]}", response.status,
                    after=float(after) if re.fullmatch(r"[0-9]{1,6}", after.strip()) else None,
                )  # fmt: skip
            yield response
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, EndpointError):
                raise
            raise EndpointError(f"{url}: the connection failed ({error})", broken=True) from None
        finally:
            connection.close()

    def _url(self, path: str) -> str:
        return replace(self.address, path=self.base + path).url

    def _key(self) -> str:
        key = os.environ.get(KEY_VARIABLE, "").strip()
        hosts = {host.strip().lower() for host in key_hosts()}
        if key and self.address.host.lower() not in hosts:
            raise EndpointError(
                f"{self.address.host} would get {KEY_VARIABLE} and is not among {HOSTS_VARIABLE}: if it is "
                f"yours to use, set {HOSTS_VARIABLE}={self.address.host} in the environment, else unset it"
            )
        return key


class _Local(Exception):
    """An OSError of this machine's disk, which is no fault of the connection."""

    def __init__(self, error: OSError) -> None:
        self.error = error


@contextmanager
def _own() -> Iterator[None]:
    try:
        yield
    except _Local as local:
        raise local.error from None


class _Form:
    """The bytes of a form, read from the disk as they are sent, from the start again each time."""

    def __init__(self, border: str, fields: dict[str, str], files: Files) -> None:
        self._parts: list[bytes | Path] = []
        for field, value in fields.items():
            head = f'--{border}\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n'
            self._parts.append(f"{head}{value}\r\n".encode())
        for field, (name, data) in files.items():
            kind = "image/png" if name.endswith(".png") else "application/octet-stream"
            head = f'--{border}\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n'
            self._parts += [f"{head}Content-Type: {kind}\r\n\r\n".encode(), data, b"\r\n"]
        self._parts.append(f"--{border}--\r\n".encode())
        self.size = sum(each.stat().st_size if isinstance(each, Path) else len(each) for each in self._parts)

    def __iter__(self) -> Iterator[bytes]:
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
                continue
            with open(part, "rb") as file:
                while piece := file.read(_CHUNK):
                    yield piece
