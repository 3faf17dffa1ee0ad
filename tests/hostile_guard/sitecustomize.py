"""Watches a Python process from its first moment: with this folder on PYTHONPATH and a log in EVLM_GUARD_LOG.

Written down, one JSON object a line: what is written, moved or deleted outside the folders of
EVLM_GUARD_ALLOW; whatever touches a path that holds EVLM_GUARD_CANARY; every connection and every look-up of
a foreign name; every program that is started. An audit hook cannot be taken off again, and sees the calls of
every library.
"""

from __future__ import annotations

import ipaddress
import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable
from itertools import zip_longest

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate",
            "os.chmod", "shutil.rmtree", "shutil.move", "shutil.copyfile", "shutil.copytree"}  # fmt: skip
# Where an event says in which open folder a relative path lies (-1: in none), beside each of its paths.
_FOLDERS = {"os.mkdir": (2,), "os.remove": (1,), "os.rmdir": (1,), "os.chmod": (2,), "os.rename": (2, 3),
            "os.link": (2, 3), "os.symlink": (2, 2)}  # fmt: skip
_READS = {"os.listdir", "os.scandir", "glob.glob"}
_PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile"}
_NET = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
_FOLDER = os.path.dirname(os.path.realpath(__file__))
_HERE = ("localhost", "ip6-localhost", "0.0.0.0", "")


def watch(log: str, allowed: list[str], canary: str) -> Callable[[], None]:
    """Start watching this process. The hook stays as long as the process; what is given back makes it deaf,
    for tests that share their process with others."""
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    roots = tuple(os.path.realpath(each).rstrip(os.sep) + os.sep for each in allowed)
    heard = _CHANGES | _READS | _PROGRAMS | _NET | {"open"}

    def hook(event: str, args: tuple) -> None:
        if event not in heard:
            return
        what = _judge(event, args, roots, canary)
        if what is not None:
            line = {"time": time.time(), "event": event, "what": what[:500]}
            os.write(out, json.dumps(line).encode() + b"\n")

    sys.addaudithook(hook)
    return heard.clear


def _judge(event: str, args: tuple, roots: tuple[str, ...], canary: str) -> str | None:
    """What is wrong with an event, or None."""
    if event in _NET:
        return _network(event, args)
    if event in _PROGRAMS:
        return None if _is_known(event, args, canary) else repr(args)
    folders = [args[at] for at in _FOLDERS.get(event, ()) if at < len(args)]
    given = args[:2] if event in _CHANGES else args[:1]
    paths = [_path(arg, folder) for arg, folder in zip_longest(given, folders[: len(given)])]
    for path in filter(None, paths):
        if canary and canary in path:
            return f"canary {path}"
    if event in _READS:
        return None
    if event == "open" and not _is_write(args):
        return None
    if event == "os.mkdir" and all(os.path.isdir(path) for path in paths if path):
        return None  # a host makes sure of its own folders at every question: what is there stays as it is
    for path in filter(None, paths):
        if not (path + os.sep).startswith(roots) and path != os.devnull:
            return path
    return None


def _is_known(event: str, args: tuple, canary: str) -> bool:
    """The one program that a node of this pack starts: our trainer, by a recipe of the pack. And what
    Python's own ctypes.util.find_library asks the linker, for a library that is used for the first time."""
    if event != "subprocess.Popen" or not isinstance(args[1], (list, tuple)):
        return False
    words = [str(word) for word in args[1]]
    if words == ["/sbin/ldconfig", "-p"]:
        return True
    shipped = os.path.join(os.path.dirname(os.path.dirname(_FOLDER)), "trainer", "recipes")
    return (
        words[:4] == [sys.executable, "-m", "trainer", "run"]
        and os.path.dirname(words[4]) == shipped
        and not (canary and any(canary in word for word in words))
    )


def _is_write(args: tuple) -> bool:
    mode, flags = args[1], args[2]
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return isinstance(flags, int) and bool(flags & _WRITES)


def _path(value: object, folder: object = None) -> str:
    """folder: the descriptor of an open folder, as shutil.rmtree works through one."""
    if isinstance(value, bytes):
        value = os.fsdecode(value)
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        return ""  # a file descriptor
    try:
        if isinstance(folder, int) and folder >= 0:
            value = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), value)
        return os.path.realpath(value)
    except (OSError, ValueError):
        return value


def _network(event: str, args: tuple) -> str | None:
    if event in ("socket.connect", "socket.sendto"):
        address = args[1]
        return repr(address) if isinstance(address, tuple) else None  # else a socket file
    host = args[0].decode("latin-1") if isinstance(args[0], bytes) else str(args[0] or "")
    host = unicodedata.normalize("NFKC", host).rstrip(".")  # as Python asks for a name in other letters
    if host in _HERE or host.replace(".", "").isdigit() or host.startswith("0x"):
        return None
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return f"looked up {host!r}"
    return None


if os.environ.get("EVLM_GUARD_LOG"):
    watch(
        os.environ["EVLM_GUARD_LOG"],
        os.environ.get("EVLM_GUARD_ALLOW", "").split(os.pathsep),
        os.environ.get("EVLM_GUARD_CANARY", ""),
    )
