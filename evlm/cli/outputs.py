"""Where results go: a folder that takes them, checked before the work, and names that nobody has."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from ..errors import EVLMError

CLAIMED = "names.json"  # in a run's unfinished work: the names that its results have taken
Ours = Callable[[Path], bool]
"""Whether a folder is a result, and may be written anew; the caller takes it away."""


class Outputs:
    """A folder for results.

    overwrite: files of an earlier run may be replaced, an input never; without it nothing is ever replaced,
    a second run writes `edited-2.png` and so on. inputs: files that the run reads. flag: the argument that
    named the folder. Raises EVLMError where it cannot take a file; the trial leaves nothing behind.
    """

    def __init__(
        self, folder: str, overwrite: bool = False, inputs: Iterable[str] = (), flag: str = "--out"
    ) -> None:
        self.folder, self.overwrite = expanded(folder), overwrite
        self._inputs = [found for each in inputs if (found := _identity(each)) is not None]
        _try(self.folder, flag)

    def check(self, names: Sequence[str], ours: Ours = lambda folder: False) -> None:
        """Raises EVLMError where overwriting would hit an input, or a folder has one of the names; a folder
        of frames, NAME.frames, may be replaced by another where nothing else lies in it."""
        if not self.overwrite:
            return
        for path in (self.folder / name for name in names):
            if _identity(path) in self._inputs:
                raise EVLMError(
                    f"{path} is read by this command, and --overwrite would replace it: name another --out, "
                    "or leave --overwrite out, then the results get new names"
                )
            if _no_result(path) and not ours(path):
                raise EVLMError(f"{path} is a folder: name another --out, or leave --overwrite out")

    def claim(self, names: Sequence[str], ours: Ours = lambda folder: False) -> list[Path]:
        """Paths for these files, all with one number, made as empty files so that no other run takes them."""
        self.check(names, ours)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.overwrite:
            return [self.folder / name for name in names]
        for number in count(1):
            paths = [self.folder / _numbered(name, number) for name in names]
            if any(os.path.lexists(path) for path in paths):
                continue
            claimed: list[Path] = []
            try:
                for path in paths:
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                    claimed.append(path)
                return paths
            except FileExistsError:  # somebody else was faster
                self.release(claimed)
            except BaseException:
                self.release(claimed)
                raise
        raise AssertionError("count ends")

    def claim_again(self, names: Sequence[str], work: Path, ours: Ours = lambda folder: False) -> list[Path]:
        """As `claim`, but the names that an earlier run of the same command had taken, where that is still
        so: of a run that was killed while it wrote. work: the folder of what that run left undone; the names
        are noted there, and go with it. Raises OSError where the disk takes no more."""
        from ..files.pictures import write_atomically

        note = work / CLAIMED
        try:
            said = json.loads(note.read_text(encoding="utf-8"))
            before = self.claimed_before(names, said["names"], said["replaced"], ours)
        except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
            before = None  # no note, or none of ours
        if before is not None:
            self.check([path.name for path in before], ours)
            return before
        files = self.claim(names, ours)
        text = json.dumps({"names": [path.name for path in files], "replaced": self.overwrite})
        try:
            write_atomically(note, lambda file: file.write(text.encode("utf-8")))
        except OSError:
            self.release(files)
            raise
        return files

    def forget_parts(self, files: Sequence[Path]) -> None:
        """Takes away what runs that were killed while they wrote these files have left beside them."""
        from ..files.pictures import forget_parts

        for path in files:  # with --overwrite another command may write that name at this moment
            forget_parts(path, older=3600 if self.overwrite else 0)

    def claimed_before(
        self,
        names: Sequence[str],
        noted: object,
        replaced: object,
        ours: Ours = lambda folder: False,
    ) -> list[Path] | None:
        """The paths that an earlier run of the same command claimed for these files, or None: what a note
        says is believed only where `claim` could have given it, and what lies there may be written over.

        noted: the names in that note. replaced: whether that run had overwrite.
        """
        if not isinstance(noted, list) or (replaced is not False and not self.overwrite):
            return None  # whoever may replace has taken names at which something stands
        number = _number_in(noted[0], names[0]) if noted and isinstance(noted[0], str) else 1
        paths = [self.folder / _numbered(name, number) for name in names]
        if [path.name for path in paths] != noted or not any(os.path.lexists(path) for path in paths):
            return None
        read = not self.overwrite and any(_identity(path) in self._inputs for path in paths)
        if read or any(path.is_symlink() or (_no_result(path) and not ours(path)) for path in paths):
            return None
        return paths

    def publish(self, made: Sequence[tuple[Path, Path]]) -> None:
        """Gives results that are whole their claimed names: (where it lies, its name) of files and folders on
        the same disk. All of them get theirs, or, where that fails or is interrupted, none, and an earlier
        run's stay. Of a process that is killed meanwhile the last name is missing: the one that is read to
        know what the others are. Raises OSError."""
        begun: list[tuple[Path, Path]] = []  # said before it is done: Ctrl-C may come between
        aside: list[Path] = []
        try:
            for _, path in reversed(made):
                if os.path.lexists(path):
                    aside.append(path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp"))
                    begun.append((path, aside[-1]))
                    os.rename(path, aside[-1])
            for each in made:
                begun.append(each)
                os.rename(*each)
        except BaseException:
            for source, target in reversed(begun):
                if not os.path.lexists(source):
                    os.rename(target, source)
            raise
        for path in aside:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):  # the new ones stand; a file that is open elsewhere stays beside them
                    path.unlink()

    def release(self, paths: Sequence[Path]) -> None:
        """Take away what was claimed and never written."""
        for path in paths:
            with suppress(OSError):
                if not self.overwrite and path.stat().st_size == 0:
                    path.unlink()


def free_name(path: Path) -> Path:
    """The path itself, or with a number where something is there already."""
    return next(
        free
        for number in count(1)
        if not os.path.lexists(free := path.with_name(_numbered(path.name, number)))
    )


def expanded(folder: str) -> Path:
    """The path with ~ resolved. Raises EVLMError where there is no such user."""
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise EVLMError(f"{folder}: {error}; write the whole path") from error


def same_file(one: str | Path, other: str | Path) -> bool:
    """Whether two paths are one file, or folder, that is there."""
    found = _identity(one)
    return found is not None and found == _identity(other)


def _numbered(name: str, number: int) -> str:
    if number == 1:
        return name
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}-{number}.{suffix}" if dot else f"{name}-{number}"


def _number_in(noted: str, name: str) -> int:
    """The number by which a noted name is another one than `name`; 1 where there is none to be read."""
    stem, dot, suffix = name.rpartition(".") if "." in name else (name, "", "")
    found = re.fullmatch(rf"{re.escape(stem)}-([1-9][0-9]{{0,8}}){re.escape(dot + suffix)}", noted)
    return 1 if found is None else int(found[1])


def _no_result(path: Path) -> bool:
    """Whether a folder stands there in which not only frames lie."""
    from ..files.clip_writer import others_in

    return path.is_dir() and (path.suffix != ".frames" or bool(others_in(path)))


def _identity(path: str | Path) -> tuple[int, int] | None:
    try:
        found = os.stat(Path(path).expanduser())
    except (OSError, ValueError, RuntimeError):
        return None
    return found.st_dev, found.st_ino


def _try(folder: Path, flag: str) -> None:
    """Make the folder and a file in it, and take away what was made."""
    made: list[Path] = []
    try:
        for each in [*reversed(folder.parents), folder]:
            if not os.path.lexists(each):
                each.mkdir()
                made.append(each)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise EVLMError(
            f"{flag} {folder}: nothing can be written there ({what}); name another folder"
        ) from error
    finally:
        for each in reversed(made):
            with suppress(OSError):
                each.rmdir()
