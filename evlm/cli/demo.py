"""`make demo`: three bundled requests through all five steps by the bundled models, with no network; writes
out/demo.png."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from ..errors import EVLMError
from ..request import EXAMPLES, load_example


def main(out: str | Path = "out/demo.png") -> int:
    """Run the demo. Returns 0, or 2 with the reason when the bundled models are not there."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries look: nothing here needs the network
    from .terminal import Terminal, fail, quiet_libraries

    quiet_libraries()
    from ..files.pictures import write_atomically
    from ..models.zoo import choose
    from ..pipeline import Pipeline
    from ..viz.sheet import SheetRow, draw_sheet

    began = time.perf_counter()
    terminal = Terminal(sys.stdout)
    try:
        examples = [load_example(path) for path in sorted(EXAMPLES.glob("*.json"))]
        if not examples:
            raise EVLMError(f"no example requests in {EXAMPLES}; take a whole checkout")
        terminal.line(
            "loading the bundled models: tiny ones of the real classes, that know only a drawn world"
        )
        pipeline = Pipeline.load(choose(["bundled"]), device="cpu")
        terminal.line(terminal.faint(f"{'time':8}  load {time.perf_counter() - began:.2f} s"))
        rows = []
        for title, request in examples:
            terminal.line()
            terminal.line(terminal.strong(f"{title}: “{request.prompt}”"))
            result = pipeline.run(request, on_event=terminal.event)
            terminal.summary(result)
            rows.append(SheetRow(request, result, title))
    except EVLMError as error:
        return fail(str(error))
    path, image = Path(out), draw_sheet(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: image.save(file, format="PNG"))
    terminal.line()
    terminal.line(f"wrote {path}: look at it. Everything together took {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
