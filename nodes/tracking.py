"""The other half of a segmenter, which follows things through a clip: made by the same file when it is first
asked for."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from . import folders, host

_KNOWN: WeakKeyDictionary[host.Managed[Any], host.Managed[Any] | None] = WeakKeyDictionary()


def tracker_of(segmenter: Any) -> host.Managed[Any] | None:
    """The tracker of a loaded segmenter; None where its file holds no memory, or cannot be run as a tracker
    here."""
    if not isinstance(segmenter, host.Managed):
        return None
    if segmenter not in _KNOWN:
        _KNOWN[segmenter] = _made(segmenter)
    return _KNOWN[segmenter]


def _made(segmenter: host.Managed[Any]) -> host.Managed[Any] | None:
    from ..evlm.models.zoo import resolve
    from ..evlm.segment.tracker import Tracker, tracker_source

    path = folders.find("segmenter", segmenter.name)
    source = None if path is None else tracker_source(resolve(path, "segmenter"))
    if source is None:
        return None
    with segmenter.use() as engine:
        dtype = engine.dtype
    return host.Managed(
        segmenter.name,
        lambda device: Tracker.load(source, dtype, device),
        lambda tracker: [tracker.model],
        "segmenter",
        said=segmenter.said and f"{segmenter.said} as tracker",
    )
