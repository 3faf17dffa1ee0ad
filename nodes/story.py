"""What our nodes have said in the run at hand, or in the last one: for a page that was loaded anew meanwhile.

ComfyUI sends each message once, and what nodes ended with can be asked for only when the whole run has
ended. The page asks for it at /evlm/run; only the page that queued the run gets an answer.
"""

from __future__ import annotations

import copy
import threading
from typing import Any

from . import host

_LOCK = threading.Lock()  # the run writes from a thread of its own


class Story:
    """One run's. A node's part is {"texts": [...]}, one for each picture, while it writes, and
    {"output": {...}} when it has ended."""

    def __init__(self) -> None:
        self._prompt: str | None = None
        self._client: str | None = None
        self._queued = host.Queued(None, {})
        self._nodes: dict[str, dict[str, Any]] = {}

    def write(self, text: str, begun: bool) -> None:
        """The whole text so far of the picture at hand; not `begun`: it is the next picture's first."""
        with _LOCK:
            if (place := self._turn()) is None:
                return
            texts = self._nodes.setdefault(place.node, {}).setdefault("texts", [])
            if begun and texts:
                texts[-1] = text
            else:
                texts.append(text)

    def end(self, output: dict[str, Any]) -> None:
        """What a node shows of itself. Of a node that runs once for each item of a list, all of it."""
        with _LOCK:
            if (place := self._turn()) is None:
                return
            before = self._nodes.get(place.node, {}).get("output", {}) if place.item else {}
            joined = {key: [*before.get(key, ()), *value] for key, value in output.items()}
            self._nodes[place.node] = {"output": joined}

    def told_to(self, client: str) -> dict[str, Any]:
        """The answer to a page; {} to any other than that which queued the run."""
        with _LOCK:
            if self._prompt is None or not client or client != self._client:
                return {}
            nodes = copy.deepcopy(self._nodes)
            for name, part in nodes.items():
                part["type"] = self._queued.kinds.get(name)
            prompt, workflow = self._prompt, self._queued.workflow
        running = prompt in host.running()
        return {"prompt_id": prompt, "workflow": workflow, "running": running, "nodes": nodes}

    def _turn(self) -> host.Place | None:
        """Where the run is; forgets the run before."""
        place = host.place()
        if place is not None and place.prompt != self._prompt:
            self._prompt, self._client, self._nodes = place.prompt, host.client_id(), {}
            self._queued = host.running().get(place.prompt, host.Queued(None, {}))
        return place


STORY = Story()


def register() -> None:
    """Lets the page ask."""
    host.answer("/evlm/run", lambda query: STORY.told_to(query.get("client_id", "")))
