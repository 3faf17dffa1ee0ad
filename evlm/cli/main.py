"""The table of commands: each is a module here, with `add_parser(parser)` and `run(options)`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from ..errors import EVLMError

COMMANDS = {
    "edit": "edit one picture or video and write the picture, the mask, the trace and a contact sheet",
    "models": "list the models, or fetch some of them",
    "doctor": "say what is installed, what it runs on, and what is missing",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 2 for what does not fit (said in one paragraph), 130 when interrupted."""
    options = build_parser().parse_args(arguments)
    try:
        return int(import_module(f".{options.command}", __package__).run(options))
    except EVLMError as error:
        from .terminal import fail

        return fail(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written half", file=sys.stderr)
        return 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `options.command` names the one that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m evlm", description="EVLM without ComfyUI.")
    commands = parser.add_subparsers(dest="command", required=True, metavar=" | ".join(COMMANDS))
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        import_module(f".{name}", __package__).add_parser(command)
        text = "where models lie besides the hub's cache and EVLM_MODELS; repeatable"
        command.add_argument("--folder", action="append", default=[], metavar="DIR", help=text)
    return parser
