"""Fetch a model from the hub: only when asked, at a pinned revision, resumable, every file checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..errors import ModelError
from .zoo import Model, find, missing_files, role_of, split_hub_id

Progress = Callable[[int, int, str], None]


def download(name: str, folder: str | Path | None = None, on_progress: Progress | None = None) -> Path:
    """Fetch one model and return its folder.

    name: a name of the catalogue, or "owner/model@<commit>".
    folder: it goes into folder/<name>; None: into the hub's cache, which other programs share.
    on_progress(done, total, file): bytes of whole files so far; what it raises stops the download.
    An interrupted download goes on where it stopped. Raises ModelError for a name without a pinned revision,
    for trouble with the network, and for a file whose size or SHA-256 is not the hub's (it is removed).
    """
    pinned = split_hub_id(name)
    if pinned is None:
        raise ModelError(
            f"{name!r} has no pinned revision; give a name that `python -m evlm models` lists, "
            "or owner/model@<commit>"
        )
    repo, revision = pinned
    model = find(name)
    short = model.name if model else repo.split("/")[1]
    target = None if folder is None else Path(folder).expanduser() / short
    at = f"{repo} at {revision[:12]}"
    try:
        path = _fetch(repo, revision, model, target, on_progress)
    except ModelError:
        raise
    except OSError as error:  # the hub's and the HTTP client's errors are OSErrors; Cancelled passes through
        raise ModelError(f"{at} could not be fetched: {error}. Run it again: it resumes") from error
    role = model.role if model else role_of(path)
    missing = missing_files(path, role) if role else []
    if missing:
        raise ModelError(f"{at} lacks {', '.join(missing)}: it cannot be used as a {role}")
    return path


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
        got = Path(hf_hub_download(repo, file.rfilename, revision=revision, local_dir=target))
        check_file(got, file.size, file.lfs.sha256 if file.lfs else None)
        done += file.size or 0
        root = got.parents[len(Path(file.rfilename).parts) - 1]
    if on_progress:
        on_progress(done, total, "")
    return root
