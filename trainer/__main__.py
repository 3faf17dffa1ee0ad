"""`python -m trainer run | eval | ...`: each command is a module of its own, loaded when asked for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from evlm.errors import EVLMError

COMMANDS = {
    "start": ("trainer.start.cli", "look at a dataset and write a recipe for it, with reasons"),
    "run": ("trainer.run.cli", "train an adapter by a recipe"),
    "export": (
        "trainer.export.cli",
        "write what was learned as an adapter file, a PEFT folder or a merged model",
    ),
    "report": ("trainer.report.page", "draw a run as one HTML page: recipe, curves, answers"),
    "study": ("trainer.study.cli", "compare SFT, KTO and RKTO in miniature, at equal compute"),
    "eval": ("trainer.evaluation.cli", "measure a reasoner on questions whose answer is known"),
    "protocol": ("trainer.protocol.cli", "the paper's tables: what judges and people say of models' answers"),
    "bench": ("trainer.bench.cli", "benchmarks of reasoning edits over local copies, with any editor"),
    "retention": ("trainer.bench.retention", "what a model still knows after training, through lmms-eval"),
    "world": ("trainer.world.cli", "make rows and pictures of the procedural world, or a sheet of them"),
    "data": (
        "trainer.data.cli",
        "check a dataset, count what is in it, convert it to and from other formats",
    ),
    "bundle": ("trainer.bundle.cli", "train or measure the tiny models that lie in evlm/bundled"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command: `add_parser(parser)` of its module declares the flags, `run(options)` does the work.

    Returns what `run` returns (None counts as 0), 2 for what does not fit, 130 when interrupted.
    """
    for stream in (sys.stdout, sys.stderr):  # a name that is no text in the terminal's encoding
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    words = list(sys.argv[1:] if arguments is None else arguments)
    if any("\0" in word for word in words):
        print("error: an argument holds the character NUL, which no name may hold", file=sys.stderr)
        return 2
    words = [_at_home(word) for word in words]
    parser = argparse.ArgumentParser(prog=called(), description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(COMMANDS))
    for name, (_, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name in words[:1]:
            import_module(COMMANDS[name][0]).add_parser(command)
    options, others = parser.parse_known_args(words)
    # argparse gives key=value that stands behind a flag to nobody.
    settings = hasattr(options, "settings") and all("=" in w and not w.startswith("-") for w in others)
    if others and not settings:
        parser.error(f"unrecognized arguments: {' '.join(others)}")
    if others:
        options.settings = [*options.settings, *others]
    try:
        return _last(int(import_module(COMMANDS[options.command][0]).run(options) or 0))
    except EVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who read the output has had enough of it, as `head` has
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a file that nothing closer to it has spoken of
        place = f"{error.filename}: " if error.filename else ""
        print(f"error: {place}{error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130


def _at_home(word: str) -> str:
    """--flag=~/x, which no shell expands, as --flag ~/x, which all do."""
    flag, sign, value = word.partition("=")
    named = flag.startswith("--") and sign and value.startswith("~")
    return f"{flag}={os.path.expanduser(value)}" if named else word


def _last(code: int) -> int:
    """Flushes what was printed while its reader's absence can still be taken quietly."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


def called() -> str:
    """How this program was called: `evlm-train`, or `python -m trainer`."""
    name = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] else ""
    return "evlm-train" if name == "evlm-train" else "python -m trainer"


if __name__ == "__main__":
    sys.exit(main())
