"""`python -m evlm models`: which models there are, where they lie, and fetching some by name."""

from __future__ import annotations

import argparse

from ..errors import EVLMError


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument(
        "--download", nargs="+", metavar="NAME", help="fetch these, at their pinned revisions"
    )


def run(options: argparse.Namespace) -> int:
    """List the models, or fetch some of them."""
    from ..models.sets import SETS, expand
    from ..models.zoo import list_models
    from .terminal import Terminal

    if options.download:
        from ..models.download import download

        if len(options.folder) > 1:
            raise EVLMError(f"--folder {' '.join(options.folder)}: a download goes into one folder, name one")
        terminal = Terminal()
        folder = options.folder[0] if options.folder else None
        for name in expand(options.download):

            def show(done: int, total: int, file: str, name: str = name) -> None:
                terminal.bar(name[:24], done // 10**6, total // 10**6, f" MB {file}")

            path = download(name, folder, show)
            terminal.line(f"{name} is in {path}")
        return 0
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
