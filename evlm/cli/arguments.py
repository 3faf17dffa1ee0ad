"""How arguments are read: a value that does not fit is named, with what was expected, before anything is
loaded."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from ..errors import EVLMError, one_line


class ArgumentError(EVLMError):
    """An argument that is missing, unknown or outside its range."""


class Parser(argparse.ArgumentParser):
    """Says in one line what does not fit, as all else of the command does; help names the defaults."""

    def __init__(self, *rest: Any, **more: Any) -> None:
        more.setdefault("formatter_class", _Help)
        super().__init__(*rest, **more)

    def error(self, message: str) -> NoReturn:
        raise ArgumentError(f"{message}; `{self.prog} --help` shows what there is")


class _Help(argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        told = action.default not in (None, False, [], "", argparse.SUPPRESS) and "default" not in text
        if not told or not (action.option_strings or action.nargs in ("?", "*")):
            return text
        default = " ".join(action.default) if isinstance(action.default, list) else str(action.default)
        return f"{text} (default: {default.replace('%', '%%')})".lstrip()


def number(low: float, high: float, or_zero: bool = False) -> Callable[[str], float]:
    """A finite number in low..high; or_zero: 0 as well."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (low <= value <= high or (or_zero and value == 0)):  # false for NaN
            raise _refused(text, f"a number from {low:g} to {high:g}{', or 0' * or_zero}")
        return value

    return read


def whole(low: int, high: int) -> Callable[[str], int]:
    """A whole number in low..high."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:  # also for more digits than Python reads
            value = low - 1
        if not low <= value <= high:
            raise _refused(text, f"a whole number from {low} to {high}")
        return value

    return read


def numbers(count: int) -> Callable[[str], tuple[int, ...]]:
    """So many whole numbers of 0 or more, parted by commas."""

    def read(text: str) -> tuple[int, ...]:
        if not re.fullmatch(rf"[0-9]{{1,6}}(?:,[0-9]{{1,6}}){{{count - 1}}}", text, re.ASCII):
            raise _refused(
                text, f"{count} whole numbers parted by commas, such as {','.join(['64'] * count)}"
            )
        return tuple(map(int, text.split(",")))

    return read


def colour(text: str) -> tuple[float, float, float]:
    """Three numbers from 0 to 1, parted by commas; or whole ones to 255, where one is above 1."""
    if re.fullmatch(r"[0-9]{1,3}(?:,[0-9]{1,3}){2}", text, re.ASCII):
        values = [int(each) for each in text.split(",")]
        if 1 < max(values) <= 255:
            red, green, blue = (value / 255 for value in values)
            return red, green, blue
    channel = r"(?:0|1|0?\.[0-9]{1,9}|[01]\.0{0,9}|0\.[0-9]{1,9})"
    if not re.fullmatch(rf"{channel},{channel},{channel}", text, re.ASCII):
        raise _refused(text, "three numbers from 0 to 1 parted by commas, such as 0.6,0.7,0.9, or 0 to 255")
    red, green, blue = map(float, text.split(","))
    return red, green, blue


def keyframes(text: str) -> str | int | tuple[int, ...] | Path:
    """ "auto", how many, or which ones, parted by commas; else the folder that has edited ones."""
    if text == "auto":
        return text
    if not re.fullmatch(r"[0-9,]*", text, re.ASCII) and is_dir(path(text)):
        return Path(text).expanduser()
    if not re.fullmatch(r"[0-9]{1,7}(?:,[0-9]{1,7})*,?", text, re.ASCII) or text.strip("0") == "":
        raise _refused(
            text,
            "auto, a number from 1, frames parted by commas, such as 0,40,80, or a folder of "
            "edited keyframes",
        )
    which = tuple(sorted({int(each) for each in text.split(",") if each}))
    return which if "," in text else which[0]


def path(text: str) -> str:
    """A path that an operating system can take: not empty, no NUL."""
    if not text.strip() or "\0" in text:
        raise _refused(text, "a path")
    if text.lower().startswith(("http://", "https://")):
        raise _refused(text, "a path; nothing is fetched from the web, so download it first")
    return text


def folder(text: str) -> str:
    """A folder that is there."""
    if not is_dir(path(text)):
        raise _refused(text, "a folder that exists")
    return text


def model_name(text: str) -> str:
    """NAME or ROLE=NAME, neither empty."""
    name = text.partition("=")[2] if "=" in text else text
    if not name.strip() or "\0" in text:
        raise _refused(text, "a model's name or path; `models` lists the names, ROLE=none leaves a role out")
    return text


def is_dir(text: str) -> bool:
    """Whether it is a folder; False for whatever cannot even be asked about."""
    try:
        return os.path.isdir(Path(text).expanduser())
    except (OSError, ValueError, RuntimeError):
        return False


def _refused(text: str, expected: str) -> argparse.ArgumentTypeError:
    return argparse.ArgumentTypeError(f"{one_line(ascii(text), 200)}, expected {expected}")
