"""A rater that is a script: it sees what the page shows, by the page's own addresses, and knows the world."""

from __future__ import annotations

import http.client
import json
import random
import time
import uuid
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from evlm.errors import EndpointError

from .maker import picture_key


class ScriptedRater:
    """truth: what each original asks for, by `picture_key`. errs: share of wrong votes, drawn by its name, so
    that it says the same of the same item whenever it is asked. Raises EndpointError."""

    def __init__(self, url: str, token: str, name: str, truth: dict[str, str], errs: float) -> None:
        parts = urlsplit(url)
        self.where = (parts.hostname or "127.0.0.1", parts.port or 80)
        self.token, self.name, self.truth, self.errs = token, name, truth, errs

    def rate_all(self) -> int:
        """Votes until there is nothing more to vote on; gives how many."""
        count = 0
        while items := self._json("GET", "/api/next?n=1")["items"]:
            for item in items:
                vote = {"key": uuid.uuid4().hex, "item": item["id"], "value": self.says(item), "ms": 900}
                self._json("POST", "/api/votes", vote)
                count += 1
        return count

    def says(self, item: dict[str, Any]) -> bool:
        """Whether the instruction is the one that the original stands for, but for its errors."""
        from PIL import Image

        data = self._ask("GET", f"/api/items/{item['id']}/pictures/{item['original'][0]}")
        pixels = np.asarray(Image.open(BytesIO(data)).convert("RGB"))
        right = self.truth.get(picture_key(pixels))
        yes = right is not None and plain(item["instruction"]) == plain(right)
        return yes ^ (
            random.Random(f"{self.name} {picture_key(pixels)} {item['instruction']}").random() < self.errs
        )

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        return json.loads(self._ask(method, path, body))

    def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        for _ in range(60):
            connection = http.client.HTTPConnection(*self.where, timeout=60)
            headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
            try:
                connection.request(method, path, None if body is None else json.dumps(body), headers)
                response = connection.getresponse()
                data = response.read()
            except ConnectionRefusedError:  # the page says its address a moment before it listens there
                time.sleep(0.5)
                continue
            except (OSError, http.client.HTTPException) as error:
                raise EndpointError(f"the rating page does not answer ({error})") from None
            finally:
                connection.close()
            if response.status == 200:
                return data
            if response.status != 429:  # more than the page lets one rater ask a second
                raise EndpointError(
                    f"the rating page says {response.status}: {data[:200]!r}", response.status
                )
            time.sleep(float(response.getheader("Retry-After") or 1))
        raise EndpointError("the rating page does not answer, or has too much to do; run it again")


def plain(text: str) -> str:
    """As instructions are compared."""
    return " ".join(text.casefold().split())
