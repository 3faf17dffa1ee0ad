"""How a command ends: its exit code, or what left it as an exception, so that a test can assert which."""

from __future__ import annotations

from collections.abc import Sequence

from evlm.cli.main import main


def ends(words: Sequence[str]) -> int | str:
    """The exit code of `python -m evlm WORDS`; the exception as text where one leaves it."""
    try:
        return main(list(words))
    except SystemExit as ended:
        return f"exit {ended.code}"
    except BaseException as error:
        return repr(error)
