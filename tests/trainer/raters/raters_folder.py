"""A dataset to rate, a client of the page's server, and raters who press keys."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from data_rows import draw_pictures, many, write_rows

from trainer.raters.items import load_items
from trainer.raters.store import FILE, Store, add_rater, rater_of


def rated_folder(place: Path, count: int, known: list[dict[str, Any]] | None = None) -> Path:
    """count rows over a few pictures; `known` becomes known.jsonl."""
    folder = draw_pictures(place)
    write_rows(folder / "rows.jsonl", many(count, raters=(), source="a secret source"))
    if known:
        (folder / "known.jsonl").write_text("".join(json.dumps(each) + "\n" for each in known))
    return folder


def opened(folder: Path, wanted: int = 3) -> Store:
    store = Store(folder / FILE)
    load_items(store, folder, wanted, 0, lambda problem: None)
    return store


_KEYS = itertools.count()


def new_key() -> str:
    return f"key-of-a-test-{next(_KEYS):06d}"


def rater(store: Store, name: str) -> Any:
    found = rater_of(store, add_rater(store, name))
    assert found is not None
    return found


class Client:
    """A rater's requests, in process."""

    def __init__(self, client: Any, token: str) -> None:
        self.client, self.headers = client, {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> Any:
        return self.client.get(path, headers=self.headers)

    def post(self, path: str, data: Any) -> Any:
        return self.client.post(path, json=data, headers=self.headers)

    def vote(self, item: int, value: bool | None, key: str | None = None) -> Any:
        return self.post("/api/votes", {"key": key or new_key(), "item": item, "value": value})
