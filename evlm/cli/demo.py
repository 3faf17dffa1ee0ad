"""`python -m evlm demo`, and `make demo`: the bundled requests through all five steps, two edits in one and a
what-if among them; with no network.

Writes out/demo.png."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import EVLMError
from ..models.zoo import BUNDLED
from . import arguments as kinds

if TYPE_CHECKING:
    from .terminal import Terminal

EXAMPLES = BUNDLED / "examples"
OUT = "out/demo.png"


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    text = "picture to write; one that is there stays, and the new one gets a number"
    parser.add_argument("--out", default=OUT, type=kinds.path, metavar="FILE", help=text)


def run(options: argparse.Namespace) -> int:
    """Run the demo."""
    return main(options.out)


def main(out: str | Path = OUT) -> int:
    """Run the demo. Returns 0, or 2 with the reason when the bundled models are not there.

    out: the picture; where another file has that name, it gets a number. out/demo.png is the demo's own.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the libraries look: nothing here needs the network
    from .terminal import Terminal, fail, quiet_libraries

    quiet_libraries()
    try:
        return _run(Path(out), Terminal(sys.stdout))
    except EVLMError as error:
        return fail(str(error))


def _run(path: Path, terminal: Terminal) -> int:
    from ..files.pictures import write_atomically
    from ..models.zoo import choose
    from ..pipeline import Pipeline
    from ..request import load_example
    from ..viz.sheet import SheetRow, draw_sheet
    from .outputs import Outputs, expanded, free_name

    began, path = time.perf_counter(), expanded(str(path))
    if path.suffix.lower() != ".png":
        raise EVLMError(f"--out {path}: the demo writes a PNG; name a file that ends in .png")
    Outputs(str(path.parent))
    examples = [load_example(file) for file in sorted(EXAMPLES.glob("*.json"))]
    if not examples:
        raise EVLMError(f"no example requests in {EXAMPLES}; take a whole checkout")
    terminal.line("loading the bundled models: tiny ones of the real classes, that know only a drawn world")
    pipeline = Pipeline.load(choose(["bundled"]), device="cpu")
    terminal.line(terminal.faint(f"{'time':8}  load {time.perf_counter() - began:.2f} s"))
    rows = []
    for title, request in examples:
        terminal.line()
        terminal.line(terminal.strong(f"{title}: “{request.prompt}”"))
        result = pipeline.run(request, on_event=terminal.event)
        terminal.summary(result)
        rows.append(SheetRow(request, result, title))
    image = draw_sheet(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path = path if path == Path(OUT) else free_name(path)
    write_atomically(path, lambda file: image.save(file, format="PNG"))
    terminal.line()
    terminal.line(f"wrote {path}: look at it. Everything together took {time.perf_counter() - began:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:2]))
