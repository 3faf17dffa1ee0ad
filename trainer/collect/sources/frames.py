"""`frames`: a folder of clips, each a video file or a folder of frames in order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from evlm.errors import RecordError

from ..recipe import Source
from .folder import CLIPS, PICTURES, media
from .item import Item


def read(number: int, path: Path, source: Source) -> Iterator[Item]:
    """One item a clip. Raises RecordError."""
    if not path.is_dir():
        raise RecordError(
            f"sources.{number}: {path} is no folder; expected one with a clip each file or folder"
        )
    count = 0
    for clip in sorted(path.iterdir()):
        if clip.name.startswith(".") or not _is_clip(clip):
            continue
        count += 1
        original = media(number, clip.name, "original", clip)
        yield Item(
            clip.name,
            f"{number}/{clip.name}",
            original,
            source.license,
            "frames",
            source_url=source.source_url,
        )
    if not count:
        raise RecordError(
            f"sources.{number}: {path} has no clip: neither {', '.join(CLIPS)} nor a folder of pictures"
        )


def _is_clip(path: Path) -> bool:
    if path.is_dir():
        return any(each.suffix.lower() in PICTURES for each in path.iterdir())
    return path.suffix.lower() in CLIPS
