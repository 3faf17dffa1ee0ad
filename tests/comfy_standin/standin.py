"""The pack as ComfyUI would load it, on the stand-ins of this folder."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
NAME = "standin_pack"  # as in ComfyUI, neither the folder's name nor one that anything else imports

if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))
# Core's module `nodes` cannot lie here by its name: beside the pack's root on sys.path it would not be found.
sys.modules.setdefault("nodes", importlib.import_module("core_nodes"))


@lru_cache(1)
def pack() -> ModuleType:
    """The pack's package; `importlib.import_module(f"{NAME}.nodes.host")` then finds its parts."""
    spec = importlib.util.spec_from_file_location(
        NAME, PACK / "__init__.py", submodule_search_locations=[str(PACK)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)
    # Tests ask for a list right after a file has come, and see it whole, however busy the machine is.
    listing = getattr(importlib.import_module(f"{NAME}.nodes.folders"), "LISTING", None)
    if listing is not None:  # before it came, lists were made while one waited
        listing.patience, listing.rest = 60.0, 0.0
    return module


def part(name: str) -> Any:
    """A module of the pack: part("nodes.host"), part("evlm.plan.trace")."""
    pack()
    return importlib.import_module(f"{NAME}.{name}")


def nodes() -> dict[str, Any]:
    """node id -> class, of every node that the pack registers."""

    async def ask() -> list[Any]:
        extension = await pack().comfy_entrypoint()
        await extension.on_load()
        return list(await extension.get_node_list())

    return {each.GET_SCHEMA().node_id: each for each in asyncio.run(ask())}


def object_info() -> dict[str, Any]:
    """What ComfyUI would answer to /object_info about this pack."""
    return {name: node.GET_NODE_INFO_V1() for name, node in nodes().items()}


def call(node_id: str, **inputs: Any) -> Any:
    """Run one node. Widgets that are not named keep their defaults. Raises TypeError for an input that the
    schema lacks, for one that it needs, and for a wrong number of outputs; else what the node raises."""
    node = nodes()[node_id]
    schema = node.GET_SCHEMA()
    known = {each.id: each for each in schema.inputs or ()}
    if unknown := set(inputs) - set(known):
        raise TypeError(f"{node_id} has no {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    given = {name: widget_default(each) for name, each in known.items() if has_widget(each)} | inputs
    if missing := [name for name, each in known.items() if not each.optional and name not in given]:
        raise TypeError(f"{node_id} needs {', '.join(missing)}")
    result = node.execute(**given)
    if result.block_execution is not None:
        return result
    if len(result.args) != len(schema.outputs or ()):
        raise TypeError(
            f"{node_id} gave {len(result.args)} outputs; its schema has {len(schema.outputs or ())}"
        )
    for output, value in zip(schema.outputs or (), result.args, strict=True):
        if output.is_output_list and not isinstance(value, list):
            raise TypeError(
                f"{node_id}: output {output.id} is a list by its schema, not a {type(value).__name__}"
            )
    return result


def has_widget(each: Any) -> bool:
    return hasattr(each, "default") and not getattr(each, "force_input", None)


def widget_default(each: Any) -> Any:
    """What the browser shows at first."""
    if each.default is not None:
        return each.default
    if hasattr(each, "options"):
        return each.options[0]
    return {"STRING": "", "BOOLEAN": False}.get(each.io_type, 0)
