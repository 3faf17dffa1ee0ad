"""Workflows that people saved with earlier versions of the pack, opened in today's page. saved/VERSION/ has
them as they were shipped, and beside each what it queued then (NAME.api.json)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import frontend
import live
import pytest

SAVED = sorted(
    path for path in (Path(__file__).parent / "saved").glob("*/*.json") if not path.stem.endswith(".api")
)


@pytest.fixture(scope="module")
def page(comfy: live.Comfy) -> Iterator[frontend.Page]:
    browser = frontend.chromium()
    if browser is None:
        pytest.skip("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    with frontend.opened(comfy, browser) as opened:
        yield opened


@pytest.mark.parametrize("saved", SAVED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_each_value_is_in_its_own_widget(page: frontend.Page, comfy: live.Comfy, saved: Path) -> None:
    """Values are positional: what was queued then is queued now, and what came since is at its default."""
    page.load(saved)
    assert not page.missing()
    queued = page.prompt()
    before: dict[str, Any] = json.loads(saved.with_suffix(".api.json").read_text(encoding="utf-8"))
    assert set(queued) == set(before)
    for name, node in before.items():
        kind, now = node["class_type"], queued[name]["inputs"]
        assert queued[name]["class_type"] == kind
        assert {each: now.get(each) for each in node["inputs"]} == node["inputs"], kind
        if kind.startswith("EVLM_"):
            new = set(now) - set(node["inputs"])
            assert {each: now[each] for each in new} == _defaults(comfy, kind, new), kind
    assert not page.ours()


def _defaults(comfy: live.Comfy, kind: str, names: set[str]) -> dict[str, Any]:
    inputs = comfy.get(f"/object_info/{kind}")[kind]["input"]
    known = {**inputs.get("required", {}), **inputs.get("optional", {})}
    found = {}
    for name in names:
        options = known[name][1] if len(known[name]) > 1 else {}
        choices = known[name][0] if isinstance(known[name][0], list) else options.get("options", [None])
        found[name] = options.get("default", choices[0])
    return found
