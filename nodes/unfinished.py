"""What is done of an edit that was cancelled or failed: it stays in ComfyUI's temp folder, for the same edit
queued again.

The folder is named by what goes into the edit, and by a word of this process. A model of ours is what was
loaded, so that it is the same when its loader has run anew; others are told apart as objects, which ComfyUI
hands on as long as nothing before them has changed. Its temp folder is emptied when it starts; what lasts
lies in the output folder, in evlm/unfinished.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from . import folders, host

if TYPE_CHECKING:
    from ..evlm.clips.job import ClipJob
    from ..evlm.clips.masks import MaskStore

PIECE = 1 << 20  # numbers of a tensor of which a copy is made at a time, at least one frame
MOST = 2  # edits of which something is kept; of a third the oldest is forgotten
_HEAD = f"evlm_unfinished_{secrets.token_hex(8)}_"  # nobody else can know it, or number models so
_LASTS = "evlm_unfinished_scene_"  # of what lasts: its models are told apart by their files
_numbers: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_next = count()
_busy: set[Path] = set()


def key_of(*parts: Any) -> str:
    """The same for the same parts: tensors by what is in them, files by name, size and time, all else as
    Python writes it."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(_said(part).encode("utf-8", "surrogatepass") + b"\0")  # a path may be no UTF-8
    return digest.hexdigest()


def model(value: Any) -> str:
    """A model in `key_of`: another of this process has the same words only if the same was loaded in the
    same way."""
    if value is None:
        return "none"
    if isinstance(value, host.Managed) and value.said:
        return value.said
    return str(_numbers.setdefault(value, next(_next)))


@contextmanager
def work_folder(key: str, worth: Callable[[Path], bool], lasts: bool = False) -> Iterator[Path]:
    """A folder for what is done, with what was done of the same edit before. It is gone behind the edit;
    where that raises, it stays if `worth` says so. lasts: it stays as well where ComfyUI ends or is killed;
    only for a key that is the same in every process."""
    head, home = (_LASTS, folders.unfinished()) if lasts else (_HEAD, folders.temp())
    folder = home / (head + key)
    if folder in _busy:  # the same edit runs beside this one
        with tempfile.TemporaryDirectory(prefix=_HEAD, dir=folders.temp()) as other:
            _busy.add(Path(other))
            try:
                yield Path(other)
            finally:
                _busy.discard(Path(other))
        return
    _busy.add(folder)
    try:
        folder.mkdir(exist_ok=True)
        if lasts:  # those of a process that was killed count, too
            os.utime(folder)
            _forget_the_oldest(home, head)
        yield folder
    except BaseException:
        if worth(folder):
            os.utime(folder)
            _forget_the_oldest(home, head)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        _busy.discard(folder)


def _forget_the_oldest(home: Path, head: str) -> None:
    kept = [each for each in home.glob(f"{head}*") if each.is_dir()]
    for folder in sorted(kept, key=lambda each: each.stat().st_mtime_ns)[:-MOST]:
        if folder not in _busy:
            shutil.rmtree(folder, ignore_errors=True)


def _said(part: Any) -> str:
    if isinstance(part, Tensor):
        digest = hashlib.blake2b(digest_size=16)
        each = part[:1].numel() or 1  # of a frame, or of a row of a scene
        for piece in part.detach().split(max(1, PIECE // each)):
            digest.update(piece.cpu().float().numpy().tobytes())
        return f"{tuple(part.shape)} {digest.hexdigest()}"
    if isinstance(part, Path):
        facts = part.stat()
        return f"{part.resolve()} {facts.st_size} {facts.st_mtime_ns}"
    return repr(part)


class Painting:
    """The frames of a clip while they are painted, and what stays of them where that ends before its time.

    held: whether they are kept in memory. frames: [F, H, W, 3] then, from the first on, else None.
    """

    def __init__(self, job: ClipJob, held: bool) -> None:
        self.job, self.held = job, held
        self.frames: Tensor | None = None
        if held and job.done and not self._file.is_file():  # its frames were too many for the disk
            for kind in ("state", "window", "mask", "key"):  # places and keyframes are good
                for each in job.work.glob(f"{kind}-*"):
                    each.unlink()

    @contextmanager
    def of(self, store: MaskStore) -> Iterator[None]:
        """While every window is painted and written."""
        import numpy as np

        job, done = self.job, self.job.done
        if self.held:
            self.frames = torch.empty(store.count, job.clip.height, job.clip.width, 3)
            if done:
                kept = np.load(self._file, mmap_mode="r", allow_pickle=False)
                for at in range(done):  # one frame at a time: they are held once
                    self.frames[at] = torch.from_numpy(kept[at].copy())
                del kept  # Windows unlinks no file that is mapped
        if done:
            host.tell([f"{done} of {store.count} frames are painted from the run before: it goes on there"])
        job.on_frames = self._keep
        try:
            yield
        except BaseException:
            self._stay(store.count)
            raise

    def _keep(self, first: int, frames: Tensor) -> None:
        if self.frames is not None:
            self.frames[first : first + len(frames)] = frames

    def _stay(self, count: int) -> None:
        from ..evlm.files.pictures import write_atomically

        done = self.job.done
        if not done:
            return
        if self.frames is not None:
            import numpy as np

            data = self.frames[:done].numpy()
            try:
                self._file.unlink(missing_ok=True)
                write_atomically(self._file, lambda file: np.save(file, data))
            except OSError as error:
                host.tell(
                    [
                        f"{done} of {count} frames were painted, and the disk did not take them "
                        f"({error.strerror or error}): make room for ComfyUI's temp folder; queued again, "
                        "they are painted anew"
                    ]
                )
                return
        host.tell(
            [f"{done} of {count} frames are painted, and kept: queue the same again, and it goes on there"]
        )

    @property
    def _file(self) -> Path:
        return self.job.work / "frames.npy"


def worth(folder: Path, looked: bool) -> bool:
    """Whether what is in a work folder took long. looked: places were looked for, not given."""
    long = ("state-*", "keys-*", *(["places-*", "follow-*"] if looked else []))
    return any(next(folder.glob(pattern), None) for pattern in long)
