"""What lies in model folders: listed once a change, each file looked at once, by a thread that nobody has to
wait for.

A server asks for its lists at every request and must not stand still meanwhile. So `Listing` answers from
memory, and looks at the disk in a thread of its own; who asks waits a few hundredths of a second at most.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..files.safe_paths import leads_to_its_kind

PATIENCE = 0.03
"""Seconds that one asker at most waits for one pass over the folders."""

SETTLED_FILE, SETTLED_FOLDER = 120.0, 0.1
"""Seconds since its last change after which a file is taken for whole (it may be a download until then), and
a folder's time for one that tells (a file system's clock ticks every few milliseconds)."""

_MARKS = ("config.json", "model_index.json", "adapter_config.json")  # a folder that is one thing, not a shelf

Look = Callable[[Path], "str | None"]
log = logging.getLogger("evlm")


@dataclass(frozen=True)
class Entry:
    """name: relative to the listed folder, with forward slashes. kind: what `look` said."""

    name: str
    path: Path
    kind: str


@dataclass
class _Known:
    """What was seen of one file or folder. stamp: its time (ns) and size then."""

    stamp: tuple[int, int]
    kind: str | None
    is_folder: bool
    settled: bool


@dataclass
class _Shelf:
    """One listed folder: what is known of what lies in it, and its folders' times when that was learned."""

    look: Look
    known: dict[str, _Known] = field(default_factory=dict)
    times: dict[str, int] | None = None
    entries: tuple[Entry, ...] = ()


class Listing:
    """The files and folders of several roots that may be models, one folder deep ("owner/name").

    patience: seconds that one asker at most waits for one pass.
    rest: a pass is not repeated before so many times its own duration.
    """

    def __init__(self, patience: float = PATIENCE, rest: float = 10.0) -> None:
        self.patience, self.rest = patience, rest
        self._shelves: dict[tuple[str, Look], _Shelf] = {}
        self._lock = threading.Lock()
        self._pass: threading.Event | None = None
        self._awaited = False
        self._rest_until = 0.0

    def entries(self, roots: Sequence[Path], look: Look) -> Iterator[tuple[int, Entry]]:
        """What the last pass found: (index of the root, entry), root by root, in the names' order.

        look(path): what a file or folder is, None for nothing that is offered; it reads little, and may
            raise: what it raises is noted, and the file passed over.
        """
        keys = [(str(root), look) for root in roots]
        with self._lock:
            new = any(key not in self._shelves for key in keys)
            shelves = [self._shelves.setdefault(key, _Shelf(look)) for key in keys]
        self.refresh(new)
        for index, shelf in enumerate(shelves):
            yield from ((index, entry) for entry in shelf.entries)

    def forget(self) -> None:
        """Begins anew, with other roots."""
        with self._lock:
            self._shelves = {}

    def refresh(self, new: bool = False) -> None:
        """Begins a pass over the folders where none is under way, and waits for it, at most `patience` and
        only once a pass. new: whether the last pass is of no use to the asker, however young it is."""
        with self._lock:
            if self._pass is None:
                if not new and time.monotonic() < self._rest_until:
                    return
                self._pass, self._awaited = threading.Event(), False
                threading.Thread(target=self._run, name="evlm-listing", daemon=True).start()
            elif self._awaited:
                return
            self._awaited, done = True, self._pass
        done.wait(self.patience)

    def kind(self, root: Path, name: str, look: Look) -> str | None:
        """What root/name is, by a look at that one file; a look at an unchanged one is remembered."""
        with self._lock:
            shelf = self._shelves.setdefault((str(root), look), _Shelf(look))
        path, parts = root / name, name.split("/")
        if not _is_plain(name) or len(parts) > 2 or any(part.startswith(".") for part in parts):
            return None
        if len(parts) == 2 and _is_one_thing(path.parent):  # a part of what is listed by its folder's name
            return None
        known = _look(shelf, path, name, path.is_dir())
        return None if known is None else known.kind

    def _run(self) -> None:
        begun, seen = time.monotonic(), 0
        while True:
            with self._lock:
                if seen >= len(self._shelves):
                    now, done = time.monotonic(), self._pass
                    self._pass, self._rest_until = None, now + self.rest * (now - begun)
                    break
                (root, _), shelf = list(self._shelves.items())[seen]
            seen += 1  # a root that is first asked for during the pass still belongs to it
            try:
                _update(shelf, Path(root))
            except Exception as error:  # the other folders are listed all the same
                log.warning("%s cannot be listed: %s", os.path.basename(root), error)
        assert done is not None
        done.set()


def _update(shelf: _Shelf, root: Path) -> None:
    """Lists the root again if one of its folders has changed, or a file in it that was young."""
    if shelf.times is not None and shelf.times == {path: _time(path) for path in shelf.times}:
        young = {name: each for name, each in list(shelf.known.items()) if not each.settled}
        if all(_stamp(root / name, each.is_folder) == each.stamp for name, each in young.items()):
            for each in young.values():
                each.settled = _is_settled(each.stamp)
            return
    began = time.time_ns()
    times: dict[str, int] = {}
    entries: list[Entry] = []
    known: dict[str, _Known] = {}
    for name, is_folder in _names(root, times):
        path = root / name
        seen = _look(shelf, path, name, is_folder)
        if seen is not None:
            known[name] = seen
            if seen.kind is not None:
                entries.append(Entry(name, path, seen.kind))
    told = all(began - changed > SETTLED_FOLDER * 1e9 for changed in times.values())
    shelf.known, shelf.entries, shelf.times = known, tuple(entries), times if told else None


def _names(root: Path, times: dict[str, int]) -> Iterator[tuple[str, bool]]:
    """What may be a model: its name, relative to the root, and whether it is a folder. `times` takes the
    folders' times before they are listed."""
    for name, is_folder in _children(root, times):
        path = root / name
        if is_folder:
            times[str(path)] = _time(str(path))
        if is_folder and not _is_one_thing(path):
            yield from ((f"{name}/{inner}", inside) for inner, inside in _children(path, times))
        else:
            yield name, is_folder


def _is_one_thing(folder: Path) -> bool:
    return any((folder / mark).is_file() for mark in _MARKS)


def _children(folder: Path, times: dict[str, int]) -> list[tuple[str, bool]]:
    """(name, whether it is a folder) in order; nothing where the folder cannot be read."""
    times[str(folder)] = _time(str(folder))
    try:
        with os.scandir(folder) as entries:
            children = [
                (entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith(".")
            ]
    except OSError:
        return []
    for name, _ in children:
        if not _is_plain(name):
            log.warning("%s is passed over: its name cannot stand in a workflow", ascii(name))
    return sorted(each for each in children if _is_plain(each[0]))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _is_plain(name: str) -> bool:
    """Whether a name can stand in a workflow on every system, and leads nowhere but down."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not any(part in ("", ".", "..") for part in parts)


def _look(shelf: _Shelf, path: Path, name: str, is_folder: bool) -> _Known | None:
    """What lies at a path, looked at anew only where its time or size is another. None: nothing."""
    stamp = _stamp(path, is_folder)
    if stamp is None:
        return None
    known = shelf.known.get(name)
    if known is None or known.stamp != stamp:
        known = _Known(stamp, _judge(shelf.look, path, name), is_folder, _is_settled(stamp))
        shelf.known[name] = known
    return known


def _judge(look: Look, path: Path, name: str) -> str | None:
    if not leads_to_its_kind(path):
        log.warning("%s is passed over: the link does not lead to a file of its kind", name)
        return None
    try:
        return look(path)
    except Exception as error:  # whatever a file holds: it must not take the list away
        why = str(error).replace(str(path), "it")[:300] or type(error).__name__
        log.warning("%s is passed over: %s", name, why)
        return None


def _stamp(path: Path, is_folder: bool) -> tuple[int, int] | None:
    """(time of the last change in ns, size) of a file, or of the file that says what a folder is."""
    for each in (*(path / mark for mark in _MARKS), path) if is_folder else (path,):
        try:
            about = os.stat(each)
        except (OSError, ValueError):
            continue
        return about.st_mtime_ns, about.st_size
    return None


def _is_settled(stamp: tuple[int, int]) -> bool:
    return not 0 <= time.time_ns() - stamp[0] < SETTLED_FILE * 1e9


def _time(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1
