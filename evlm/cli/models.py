"""`python -m evlm models`: which models there are, where they lie, and fetching some by name."""

from __future__ import annotations

import argparse

from ..errors import EVLMError
from . import arguments as kinds


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    text = (
        "fetch these at their pinned revisions, into --folder or the hub's cache; an interrupted download "
        "goes on when it is asked for again"
    )
    parser.add_argument("--download", nargs="+", metavar="NAME", type=kinds.model_name, help=text)


def run(options: argparse.Namespace) -> int:
    """List the models, or fetch some of them."""
    if options.download:
        _download(options.download, options.folder)
        return 0
    for folder in options.folder:
        if not kinds.is_dir(folder):
            raise EVLMError(f"--folder {folder}: expected a folder that exists")
    from ..models.sets import SETS
    from ..models.zoo import list_models

    print(f"{'name':20} {'role':10} {'size':>9} {'VRAM':>8}  {'licence':12} where")
    for found in list_models(options.folder):
        where = (
            str(found.path) if found.path else f"not here (hub: {found.repo})" if found.repo else "not here"
        )
        size = f"{found.size / 1e9:.1f} GB" if found.size >= 10**8 else f"{found.size / 1e6:.1f} MB"
        vram = f"{found.vram:g} GB"
        print(f"{found.name:20} {found.role:10} {size:>9} {vram:>8}  {found.licence:12} {where}")
    print("\nVRAM: while working in 16 bits, by the number of parameters. Fetch one with --download NAME.")
    for each in SETS:
        print(f"{each.name} is {', '.join(each.models)}: {each.about}.")
    return 0


def _download(names: list[str], folders: list[str]) -> None:
    if len(folders) > 1:
        raise EVLMError(f"--folder {' '.join(folders)}: a download goes into one folder, name one")
    from ..models.download import download, pinned
    from ..models.sets import expand
    from .outputs import Outputs
    from .terminal import Terminal, quiet_libraries

    quiet_libraries()
    names = expand(names)
    for name in names:
        pinned(name)
    folder = folders[0] if folders else None
    if folder is not None:
        Outputs(folder, flag="--folder")
    terminal = Terminal()
    for name in names:

        def show(done: int, total: int, file: str, name: str = name) -> None:
            terminal.bar(name[:24], done // 10**6, total // 10**6, f" MB {file}")

        path = download(name, folder, show)
        terminal.line(f"{name} is in {path}")
