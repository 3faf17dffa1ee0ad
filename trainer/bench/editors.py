"""Where edited pictures come from: a chain of this pack, a folder that another program filled, or a ComfyUI
server that runs a workflow."""

from __future__ import annotations

import http.client
import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from evlm.errors import ConfigError, EndpointError
from evlm.reason.endpoint import PRIVATE_VARIABLE, connect, parse_address

from .base import PICTURES, Item

Editor = Callable[[Item], bytes]
"""An item -> the edited picture's bytes, PNG or as the other program made it."""
PICTURE, INSTRUCTION = "{picture}", "{instruction}"
_LARGEST = 256 << 20
_POLL = 0.5  # seconds between questions whether it is done


def of_folder(folder: Path, place: Callable[[Item], Path]) -> Editor:
    """Pictures that are there: in the benchmark's own layout below the folder, or called by the item's id."""

    def edit(item: Item) -> bytes:
        layout = Path(*place(item).parts[1:])
        flat = item.id.replace("/", "-")
        for stem in (folder / layout.with_suffix(""), folder / item.id, folder / flat):
            for suffix in PICTURES:
                file = stem.with_name(stem.name + suffix)
                if file.is_file():
                    return file.read_bytes()
        raise ConfigError(f"{folder}: no picture for item {item.id!r:.80}; expected {layout} there")

    return edit


def of_chain(names: list[str], seed: int = 0) -> Editor:
    """The pack's own chain: detector, segmenter, reasoner and editor as `python -m evlm edit --models` takes
    them. A plan that is doubted is painted all the same."""
    from dataclasses import replace
    from io import BytesIO

    from evlm.files.pictures import load_picture, to_pil
    from evlm.models.zoo import choose
    from evlm.pipeline import Pipeline
    from evlm.request import Request

    pipeline = Pipeline.load(choose(names))
    settings = replace(pipeline.editor.defaults, seed=seed)

    def edit(item: Item) -> bytes:
        result = pipeline.run(
            Request(load_picture(item.originals[0]), item.prompt), edit=settings, anyway=True
        )
        file = BytesIO()
        to_pil(result.edited[0]).save(file, "PNG")
        return file.getvalue()

    return edit


class ComfyUI:
    """A server that runs a workflow once an item. workflow: a file in API form ("Export (API)"); in its
    texts {picture} becomes the name of the uploaded original, {instruction} the item's words. The first
    picture that it saves is the edited one. Raises ConfigError, EndpointError."""

    def __init__(self, url: str, workflow: Path, timeout: float = 1800.0) -> None:
        self.url, self.timeout = url.rstrip("/"), timeout
        self.address = parse_address(url)
        try:
            self.text = workflow.read_text(encoding="utf-8")
            nodes = json.loads(self.text)
        except (OSError, ValueError, RecursionError) as error:
            raise ConfigError(f"{workflow}: not a workflow ({error!s:.120})") from None
        good = (
            isinstance(nodes, dict)
            and nodes
            and all(isinstance(each, dict) and "class_type" in each for each in nodes.values())
        )
        if not good:
            raise ConfigError(
                f"{workflow}: expected a workflow in API form; in ComfyUI: Workflow, Export (API)"
            )
        for mark in (PICTURE, INSTRUCTION):
            if mark not in self.text:
                raise ConfigError(f"{workflow}: {mark} stands nowhere in it; write it where it belongs")
        self.nodes: dict[str, Any] = nodes

    def __call__(self, item: Item) -> bytes:
        name = self._upload(item.originals[0])
        nodes = _filled(self.nodes, {PICTURE: name, INSTRUCTION: item.prompt})
        answer = self._json("POST", "/prompt", {"prompt": nodes, "client_id": uuid.uuid4().hex})
        number = answer.get("prompt_id") if isinstance(answer, dict) else None
        if not isinstance(number, str):
            raise EndpointError(f"{self.url} took no workflow: {answer!s:.300}")
        until = time.monotonic() + self.timeout
        while time.monotonic() < until:
            done = self._json("GET", f"/history/{number}")
            if isinstance(done, dict) and number in done:
                return self._picture(done[number], item)
            time.sleep(_POLL)
        raise EndpointError(f"{self.url} was not done with item {item.id:.80} in {self.timeout:g} seconds")

    def _picture(self, done: Any, item: Item) -> bytes:
        try:
            if done.get("status", {}).get("status_str") == "error":
                raise EndpointError(f"{self.url}: item {item.id:.80} failed: {done['status']!s:.400}")
            saved = [each for out in done["outputs"].values() for each in out.get("images", ())]
            kept = [each for each in saved if each.get("type") == "output"] or saved
            query = {key: str(kept[0].get(key, "")) for key in ("filename", "subfolder", "type")}
        except (AttributeError, LookupError, TypeError):
            raise EndpointError(
                f"{self.url}: item {item.id:.80} saved no picture; the workflow needs a Save Image"
            ) from None
        return self._ask("GET", f"/view?{urlencode(query)}")

    def _upload(self, picture: Path) -> str:
        edge, name = uuid.uuid4().hex, f"evlm-bench-{uuid.uuid4().hex[:12]}{picture.suffix}"
        head = (
            f'--{edge}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        ).encode()
        body = head + picture.read_bytes() + f"\r\n--{edge}--\r\n".encode()
        said = json.loads(self._ask("POST", "/upload/image", body, f"multipart/form-data; boundary={edge}"))
        folder = said.get("subfolder") or ""
        return f"{folder}/{said['name']}" if folder else str(said["name"])

    def _json(self, method: str, path: str, data: Any = None) -> Any:
        body = None if data is None else json.dumps(data).encode()
        answer = self._ask(method, path, body)
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            raise EndpointError(f"{self.url}{path}: not JSON: {answer[:200]!r}") from None

    def _ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> bytes:
        private = os.environ.get(PRIVATE_VARIABLE) == "1"
        connection = connect(self.address, "", private, 120.0)
        base = urlsplit(self.url).path.rstrip("/")
        try:
            connection.request(method, base + path, body, {"Content-Type": kind} if body is not None else {})
            response = connection.getresponse()
            data = response.read(_LARGEST + 1)
        except (OSError, http.client.HTTPException) as error:
            raise EndpointError(f"{self.url}{path} broke off ({error})", broken=True) from None
        finally:
            connection.close()
        if response.status != 200 or len(data) > _LARGEST:
            raise EndpointError(f"{self.url}{path} says {response.status}: {data[:300]!r}", response.status)
        return data


def _filled(value: Any, words: dict[str, str]) -> Any:
    """A workflow with its marks replaced in every text."""
    if isinstance(value, dict):
        return {key: _filled(each, words) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, words) for each in value]
    if isinstance(value, str):
        for mark, text in words.items():
            value = value.replace(mark, text) if mark != value else text
    return value
