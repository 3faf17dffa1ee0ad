"""A package that hands on names of its modules, each loaded when it is first used (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def hand_on(package: str, **names: str) -> tuple[list[str], Callable[[str], Any], Callable[[], list[str]]]:
    """(`__all__`, `__getattr__`, `__dir__`) of a package, for its `__init__.py`.

    package: its `__name__`. names: module within the package = "the names of it that others use". A name that
    is asked for is kept in the package, so the second time costs nothing. Other names raise AttributeError.
    """
    home = {name: module for module, handed in names.items() for name in handed.split()}

    def getter(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f".{home[name]}", package), name)
        setattr(sys.modules[package], name, value)
        return value

    def names_of() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return list(home), getter, names_of
