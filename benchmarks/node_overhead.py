"""What the nodes cost over the engine's bare calls, inside a real ComfyUI's modules.

    PYTHONPATH=/path/to/ComfyUI python benchmarks/node_overhead.py [--rounds 41]

(As a file, not with -m: the pack's own root on the path would hide ComfyUI's `nodes`.)

Reason and Edit with the bundled models on the bundled example, node and engine interleaved, medians, and
their ratio. Progress goes through ComfyUI's own registry and the previews are written, as on a server.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def main(rounds: int) -> int:
    if importlib.util.find_spec("comfy") is None:
        print("no ComfyUI to measure in: PYTHONPATH=/path/to/ComfyUI python benchmarks/node_overhead.py")
        return 2
    nodes = _nodes()
    example = nodes["EVLM_Example"].execute("1-reference").args
    image, references, prompt = example[0], example[1], example[2]
    model = nodes["EVLM_LoadModel"].execute("bundled", "none", "auto", "auto", "none", 0, False).args[0]
    editor = nodes["EVLM_LoadEditor"].execute("bundled", "auto", False).args[0]
    from evlm_pack.evlm.request import Request

    planned = nodes["EVLM_Reason"].execute(
        model, image, prompt, "pictures", 768, 0.0, 1.0, 0, True, references
    )
    trace, mask = planned.args[0][0], planned.args[3][0]

    def reason() -> None:
        with model.use() as engine:
            engine.reason(Request(image, prompt, references))

    def edit() -> None:
        with editor.use() as engine:
            engine.edit(image, trace.plan.instruction, mask)

    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "Reason": (
            lambda: nodes["EVLM_Reason"].execute(
                model, image, prompt, "pictures", 768, 0.0, 1.0, 0, True, references
            ),
            reason,
        ),
        "Edit": (
            lambda: nodes["EVLM_Edit"].execute(
                editor, image, "", 0, 0.0, 0.0, 1.0, 0, "model", 1.2, -1, 8, trace, mask
            ),
            edit,
        ),
    }
    for name, (node, bare) in pairs.items():
        node(), bare()
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(rounds):
            both = list(zip(times, (node, bare), strict=True))
            for kept, work in both if turn % 2 else reversed(both):  # who comes first must not matter
                began = time.perf_counter()
                work()
                kept.append(time.perf_counter() - began)
        ours, theirs = (statistics.median(each) for each in times)
        print(f"{name}: node {ours:.3f} s, engine {theirs:.3f} s, ratio {ours / theirs:.3f} (bar 1.03)")
    return 0


def _nodes() -> dict[str, Any]:
    """node id -> class, imported as ComfyUI imports the pack."""
    sys.argv = [sys.argv[0], "--cpu"]  # ComfyUI reads its options when its modules are imported
    import comfy.options

    comfy.options.enable_args_parsing()
    import utils.install_util  # noqa: F401, I001 - before comfy, whose import leaves another `utils` behind

    import comfy.utils
    import folder_paths
    from comfy_execution.progress import get_progress_state, reset_progress_state
    from comfy_execution.utils import CurrentNodeContext

    folder_paths.set_temp_directory(tempfile.mkdtemp())
    graph: Any = type("Graph", (), {"get_display_node_id": lambda self, node: node})()
    reset_progress_state("benchmark", graph)
    context = CurrentNodeContext("benchmark", "1")
    context.__enter__()  # for the whole run

    def hook(value: float, total: float, preview: Any, **rest: Any) -> None:
        get_progress_state().update_progress("1", value, total, preview)

    comfy.utils.set_progress_bar_global_hook(hook)
    spec = importlib.util.spec_from_file_location("evlm_pack", ROOT / "__init__.py")
    assert spec is not None and spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules["evlm_pack"] = pack
    spec.loader.exec_module(pack)

    async def listed() -> list[Any]:
        extension = await pack.comfy_entrypoint()
        return await extension.get_node_list()

    classes = asyncio.run(listed())
    return {each.GET_SCHEMA().node_id: each for each in classes}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    sys.exit(main(parser.parse_args().rounds))
