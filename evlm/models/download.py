"""Fetch a model from the hub: only when asked, at a pinned revision, resumable, every file checked."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import Cancelled, ModelError, one_line
from .zoo import Model, find, missing_files, role_of, split_hub_id

Progress = Callable[[int, int, str], None]


def download(name: str, folder: str | Path | None = None, on_progress: Progress | None = None) -> Path:
    """Fetch one model and return its folder.

    name: a name of the catalogue, or "owner/model@<commit>".
    folder: it goes into folder/<name>; None: into the hub's cache, which other programs share.
    on_progress(done, total, file): bytes so far; what it raises stops the download, also within a file.
    An interrupted download goes on where it stopped. Raises ModelError for a name without a pinned revision,
    for trouble with the network, and for a file whose size or SHA-256 is not the hub's (it is removed).
    """
    repo, revision = pinned(name)
    model = find(name)
    short = model.name if model else repo.split("/")[1]
    target = None if folder is None else Path(folder).expanduser() / short
    at = f"{repo} at {revision[:12]}"
    path = _fetch(repo, revision, model, target, on_progress)
    role = model.role if model else role_of(path)
    missing = missing_files(path, role) if role else []
    if missing:
        raise ModelError(f"{at} lacks {', '.join(missing)}: it cannot be used as a {role}")
    return path


def pinned(name: str) -> tuple[str, str]:
    """(repository, commit) of what `download` takes. Raises ModelError for any other name."""
    found = split_hub_id(name)
    if found is not None:
        return found
    if name == "bundled":
        raise ModelError("'bundled' are the models that come with EVLM: there is nothing to fetch")
    raise ModelError(
        f"{name!r} has no pinned revision; give a name that `python -m evlm models` lists, "
        "or owner/model@<commit>"
    )


@contextmanager
def _network(what: str) -> Iterator[None]:
    """Whatever the hub's client raises while it works becomes a ModelError of one line."""
    try:
        yield
    except (ModelError, Cancelled):
        raise
    except Exception as error:  # the HTTP client below the hub's has changed twice, and its errors with it
        reason = one_line(str(error), 300) or type(error).__name__
        raise ModelError(
            f"{what} could not be fetched ({type(error).__name__}: {reason.rstrip('. ')}). Is there a "
            "network? Run it again: what has come is kept, and it goes on from there"
        ) from error


def check_file(path: Path, size: int | None, sha256: str | None) -> None:
    """Compare a file with what the hub says of it; one that differs is removed. Raises ModelError."""
    length = path.stat().st_size
    wrong = f"{length} bytes, expected {size}" if size is not None and length != size else ""
    if not wrong and sha256:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        if digest.hexdigest() != sha256:
            wrong = f"SHA-256 {digest.hexdigest()[:12]}…, expected {sha256[:12]}…"
    if wrong:
        real = path.resolve()
        path.unlink()
        real.unlink(missing_ok=True)  # the hub's cache keeps the bytes behind a link
        raise ModelError(f"{path.name} arrived damaged ({wrong}) and was removed; run the download again")


def _fetch(
    repo: str, revision: str, model: Model | None, target: Path | None, on_progress: Progress | None
) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    at = f"{repo} at {revision[:12]}"
    with _network(at):
        info = HfApi().model_info(repo, revision=revision, files_metadata=True)
    if info.sha != revision:
        raise ModelError(f"the hub answered with {repo} at {info.sha}, asked for was {revision}")
    patterns = model.files if model else ("*.json", "*.txt", "*.jinja", "*.safetensors")
    files: list[Any] = [f for f in info.siblings or [] if any(fnmatch(f.rfilename, p) for p in patterns)]
    if not files:
        raise ModelError(f"{repo} at {revision[:12]} has none of {', '.join(patterns)}")
    total, done, root = sum(f.size or 0 for f in files), 0, Path()
    for file in files:
        if on_progress:
            on_progress(done, total, file.rfilename)
        heard, how = _within(on_progress, done, file.size or 0, total, file.rfilename)
        try:
            with _network(f"{file.rfilename} of {at}"):
                got = Path(hf_hub_download(repo, file.rfilename, revision=revision, local_dir=target, **how))
        finally:
            heard.check()
        check_file(got, file.size, file.lfs.sha256 if file.lfs else None)
        done += file.size or 0
        root = got.parents[len(Path(file.rfilename).parts) - 1]
    if on_progress:
        on_progress(done, total, "")
    return root


class _Heard:
    """What a progress raised in the client's own thread, to be raised again where it was asked for."""

    error: BaseException | None = None

    def check(self) -> None:
        if self.error is not None:
            raise self.error


def _within(
    on_progress: Progress | None, done: int, size: int, total: int, name: str
) -> tuple[_Heard, dict[str, Any]]:
    """(what is heard, arguments for the hub's client): the bytes of one file are told as they come."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import tqdm

    heard = _Heard()
    if on_progress is None or "tqdm_class" not in inspect.signature(hf_hub_download).parameters:
        return heard, {}
    tell = on_progress

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self._come = int(kwargs.get("initial") or 0)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if heard.error is not None:
                raise heard.error
            self._come += int(n or 0)
            if self._come >= size:
                return None  # it is put in its place first
            try:
                tell(done + self._come, total, name)
            except BaseException as error:
                heard.error = error
                raise
            return None

    return heard, {"tqdm_class": Bar}
