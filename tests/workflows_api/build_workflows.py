"""Writes workflows/*.json, as the frontend would save them, and their API twins beside this file.

python tests/workflows_api/build_workflows.py
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "comfy_standin")]

from described import WORKFLOWS  # noqa: E402
from ui_graph import Definitions, write  # noqa: E402


def definitions() -> dict[str, Any]:
    """What `/object_info` would answer: core's nodes as copied in core_nodes.json, ours by their schemas."""
    from standin import object_info

    core: dict[str, Any] = json.loads((HERE / "core_nodes.json").read_text(encoding="utf-8"))
    return core | json.loads(json.dumps(object_info()))


def files(known: Definitions) -> Iterator[tuple[Path, str]]:
    """(path, text) of every file that is generated."""
    for describe in WORKFLOWS:
        graph = describe(known)
        yield ROOT / "workflows" / f"{graph.name}.json", write(graph.ui())
        yield HERE / f"{graph.name}.json", write(graph.api())


if __name__ == "__main__":
    for path, text in files(definitions()):
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
