"""A mapping (YAML, flags) into frozen dataclasses: unknown keys and wrong types are errors that say what was
meant, and where."""

from __future__ import annotations

import difflib
import os
import reprlib
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from evlm.errors import ConfigError, EVLMError

T = TypeVar("T")
LARGEST = 1 << 20  # bytes of a recipe
LONGEST = 1000  # bits of a whole number; a float holds 1,023


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError."""
    import yaml

    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path}: larger than a recipe can be ({LARGEST:,} bytes)")
        content = _load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split()):.300}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(content).__name__}")
    return content


def _load(text: str) -> Any:
    """A YAML document in which no mapping says a key twice. Raises yaml.YAMLError, ValueError,
    RecursionError."""
    import yaml

    class Loader(yaml.SafeLoader):
        """PyYAML's safe one takes the last of equal keys without a word."""

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            lines: dict[tuple[str, str], int] = {}
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    name, line = (key.tag, key.value), key.start_mark.line + 1
                    if name in lines:
                        raise yaml.constructor.ConstructorError(
                            problem=f"the key {key.value!r:.60} comes twice, on lines {lines[name]} "
                            f"and {line}"
                        )
                    lines[name] = line
            return node

    return yaml.load(text, Loader)


def write_yaml(settings: Any) -> str:
    """A dataclass of settings as YAML, every field of it, which `read_yaml` and `build` read back."""
    import yaml

    return yaml.safe_dump(asdict(settings), sort_keys=False, allow_unicode=True)


def expand_home(settings: object, *names: str) -> None:
    """In these fields of a frozen dataclass "~" at the beginning is the user's home: no shell sees a file's
    words. Others, and None, stay as they are."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, str):
            object.__setattr__(settings, name, os.path.expanduser(value))


def override(content: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """The mapping with "a.b=value" applied, in order; values are YAML, and lists are reached by number
    ("phases.0.steps=10"). Raises ConfigError."""
    import copy

    import yaml

    changed: dict[str, Any] = copy.deepcopy(dict(content))
    for text in assignments:
        path, sign, value = text.partition("=")
        keys = path.strip().split(".")
        if not sign or not all(keys):
            raise ConfigError(f"{text!r:.80}: expected key=value, as in phases.0.steps=100")
        try:
            wanted = _load(value)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            why = getattr(error, "problem", None) or type(error).__name__
            raise ConfigError(f"{text!r:.80}: {_shown(value)} is not YAML ({why:.120})") from None
        node: Any = changed
        for at, key in enumerate(keys):
            last, name = at == len(keys) - 1, ".".join(keys[: at + 1])
            if isinstance(node, list):
                if not key.isdecimal() or int(key) >= len(node):
                    raise ConfigError(f"{name}: expected a number from 0 to {len(node) - 1}")
                if last:
                    node[int(key)] = wanted
                else:
                    node = node[int(key)]
            elif isinstance(node, dict):
                if last:
                    node[key] = wanted
                else:
                    node[key] = {} if node.get(key) is None else node[key]  # null: as if it were not said
                    node = node[key]
            else:
                raise ConfigError(f"{name}: {'.'.join(keys[:at])} is a value, and holds no settings")
    return changed


def build(kind: type[T], content: Any, where: str = "") -> T:
    """A dataclass from a mapping, recursively. Raises ConfigError with the place and the nearest right
    name."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where or 'recipe'}: expected settings, got {_shown(content)}")
    hints = get_type_hints(kind)
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    for key in content:
        if not isinstance(key, str):
            names = ", ".join(known)
            raise ConfigError(f"{where or 'recipe'}: {_shown(key)} is not a setting; known are {names}")
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{_join(where, key)} is not a setting; {hint}")
    values = {key: _value(hints[key], value, _join(where, key)) for key, value in content.items()}
    for name, each in known.items():
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise ConfigError(f"{_join(where, name)} is missing")
    try:
        return kind(**values)
    except EVLMError as error:
        raise ConfigError(f"{where}: {error}" if where else str(error)) from None


def _value(kind: Any, value: Any, where: str) -> Any:
    if isinstance(value, int) and value.bit_length() > LONGEST:
        raise ConfigError(f"{where}: a number of {value.bit_length():,} bits; expected at most {LONGEST}")
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _value(next(each for each in inner if each is not type(None)), value, where)
    if origin is Literal:
        if value not in inner or isinstance(value, bool):
            near = difflib.get_close_matches(str(value), map(str, inner), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{where} {_shown(value)}: expected {', '.join(map(str, inner))}{hint}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where} {_shown(value)}: expected a list")
        return tuple(_value(inner[0], each, f"{where}.{at}") for at, each in enumerate(value))
    if is_dataclass(kind):
        return build(kind, value, where)  # type: ignore[arg-type]
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 5e-5 as text
        try:
            return float(value)
        except ValueError:
            pass
    fits = {
        bool: isinstance(value, bool),
        int: isinstance(value, int) and not isinstance(value, bool),
        float: isinstance(value, (int, float)) and not isinstance(value, bool),
        str: isinstance(value, str),
    }
    if not fits[kind]:
        raise ConfigError(f"{where} {_shown(value)}: expected {_NAMES[kind]}")
    return float(value) if kind is float else value


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _shown(value: Any) -> str:
    """A value in a few words, however large it is: YAML's aliases make much of little."""
    try:
        return reprlib.repr(value)[:80]
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a number of too many digits"


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
