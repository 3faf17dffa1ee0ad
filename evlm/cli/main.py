"""The table of commands: each is a module here, with `add_parser(parser)` and `run(options)`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TextIO

from .. import __version__
from ..errors import EVLMError, explained
from . import arguments as kinds
from .terminal import fail

COMMANDS = {
    "edit": "edit one picture or video and write the picture, the mask, the trace and a contact sheet",
    "steadiness": "measure how steady an edited clip is: a table, and a strip to look at",
    "demo": "bundled requests through all five steps, with no network; writes one picture",
    "scene": "make a scene of 3D Gaussians from photographs, draw it, say what it holds, convert it",
    "serve": "a reasoner of this machine as an OpenAI-compatible endpoint",
    "models": "list the models, or fetch some of them",
    "doctor": "say what is installed, what it runs on, and what is missing",
}
OLDEST = (3, 10)
DEBUG = "EVLM_TRACEBACK"
OVERVIEW = """
try these:
  {prog} demo
  {prog} edit --image photo.png --prompt "make it autumn" --out out/photo
  {prog} edit --image photo.png --reference like_this.png --prompt "like this" --out out/photo
  {prog} models
  {prog} doctor

`{prog} COMMAND --help` shows the flags of a command.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing leaves as a traceback (EVLM_TRACEBACK=1 lets it).

    0: done. 1: a fault of ours. 2: something does not fit, said in one line. 3: edited nothing, because the
    plan is doubted. 130: interrupted. 141: whoever read the output went away.
    """
    _usable_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except EVLMError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written half", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _drop(sys.stdout)
        return 141
    except Exception as error:
        if os.environ.get(DEBUG) == "1":
            raise
        try:
            sys.stdout.flush()
        except OSError:  # it is the one that is full, and Python would flush it once more at its end
            _drop(sys.stdout)
        ours = not isinstance(error, (OSError, RuntimeError, ImportError, MemoryError, UnicodeError))
        fail(explained(error))
        return 1 if ours else 2


def _run(words: list[str]) -> int:
    parser = build_parser(words[0] if words and words[0] in COMMANDS else None)
    if not words:
        parser.print_help()
        return 0
    if sys.version_info < OLDEST and words[0] != "doctor":
        wanted = ".".join(map(str, OLDEST))
        raise EVLMError(
            f"Python {sys.version.split()[0]} is too old, {wanted} or newer is needed: make a new "
            f"environment with it, for example python{wanted} -m venv .venv"
        )
    options = parser.parse_args(words)
    if options.command is None:
        raise kinds.ArgumentError(f"a command is missing: {', '.join(COMMANDS)}")
    return int(import_module(f".{options.command}", __package__).run(options))


def build_parser(only: str | None = None) -> kinds.Parser:
    """The parser of all commands; `options.command` names the one that was asked for. only: the command whose
    flags it has to know, None for all of them."""
    prog = called()
    text = "EVLM without ComfyUI: edit a picture from a vague request."
    parser = kinds.Parser(prog=prog, description=text, epilog=OVERVIEW.format(prog=prog))
    parser.add_argument("--version", action="version", version=f"EVLM {__version__}")
    commands = parser.add_subparsers(dest="command", metavar=" | ".join(COMMANDS))
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if only not in (None, name):
            continue
        import_module(f".{name}", __package__).add_parser(command)
        text = "where models lie besides the hub's cache and EVLM_MODELS; repeatable"
        if name not in ("demo", "scene"):
            command.add_argument(
                "--folder", action="append", default=[], metavar="DIR", type=_folder_of(name), help=text
            )
    return parser


def called() -> str:
    """How this program was called: `evlm`, or `python -m evlm`."""
    name = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else ""
    stem = name[:-4] if name.lower().endswith(".exe") else name
    return "evlm" if stem == "evlm" else "python -m evlm"


def _folder_of(command: str) -> Callable[[str], str]:
    return kinds.path if command == "models" else kinds.folder  # a download makes its folder


def _usable_streams() -> None:
    """Text that a terminal's encoding lacks becomes escapes, not an error; a closed stream swallows all."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            with suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")


def _drop(stream: TextIO) -> None:
    """Send to nowhere what a stream still holds."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
