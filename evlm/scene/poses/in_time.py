"""Cameras that know their time: brought to 0..1, and some of the times taken."""

from __future__ import annotations

import re
from dataclasses import replace

from ...errors import SceneError
from .loaded import LoadedCameras

_FORM = re.compile(r"(\d{0,6}):(\d{0,6})(?::(\d{1,6}))?")


def to_unit(found: LoadedCameras) -> LoadedCameras:
    """With the times that cameras know in 0..1, where a file counts pictures or seconds: its first is 0, its
    last 1. A fit takes them so, and whoever shows what it made."""
    times = [each.time for each in found.cameras if each.time is not None]
    low, high = min(times, default=0.0), max(times, default=0.0)
    if low >= 0 and high <= 1:
        return found
    span = (high - low) or 1.0
    cameras = tuple(
        each if each.time is None else replace(each, time=(each.time - low) / span) for each in found.cameras
    )
    notes = (*found.notes, f"times {low:g} to {high:g} are taken as 0 to 1")
    return found._replace(cameras=cameras, notes=notes)


def in_time(found: LoadedCameras, frames: str | None = None) -> LoadedCameras:
    """With times in 0..1; frames: of the different times those that A:B:STEP takes, counted from 0. Raises
    SceneError: a camera without a time, fewer than two times, or none that is taken."""
    timeless = [each.name or str(at) for at, each in enumerate(found.cameras) if each.time is None]
    if timeless:
        raise SceneError(
            f"camera {timeless[0]!r:.60} has no time, nor have {len(timeless) - 1} others: a scene that "
            "moves is fitted to pictures that know when they were taken (`time` in transforms.json, or a "
            "clip as --images); for a scene that stands still name OUT.ply"
        )
    found = to_unit(found)
    times = sorted({float(each.time or 0.0) for each in found.cameras})
    notes = found.notes
    if frames is not None:
        parts = _FORM.fullmatch(frames)
        if parts is None or parts[3] == "0":
            raise SceneError(f"frames {frames!r:.60}: expected FROM:TO:STEP, as 0:300:4 or ::2")
        begin, end, step = (int(part) if part else None for part in parts.groups())
        some = set(times[begin:end:step])
        if not some:
            raise SceneError(f"frames {frames}: none of the {len(times)} times is taken")
        which = [at for at, each in enumerate(found.cameras) if each.time in some]
        found, times = found.only(which), sorted(some)
        notes = (*notes, f"{len(times)} times are taken, {len(which)} pictures")
    if len(times) < 2:
        raise SceneError("all cameras are of one time: a scene that stands still: name OUT.ply")
    return found._replace(notes=notes)
