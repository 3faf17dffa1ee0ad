"""What a source gives: an original, and what is known about an edit of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

MediaKind = Literal["image", "video"]


@dataclass(frozen=True)
class Order:
    """A picture that is not there yet. prompt: what it is to show. original: what is edited so; None for a
    diptych, of which this is the half number `side`."""

    prompt: str
    original: Path | None = None
    side: int = 0


@dataclass(frozen=True)
class Media:
    """A picture or a clip that is read when it is needed. id: what it is called, unique among all of a
    recipe's sources. load: gives its bytes, or the file or the folder of frames where it lies; raises
    RecordError, OSError. file, row: where that is, and which row of a table. order: what a maker has to draw
    for it first."""

    id: str
    kind: MediaKind
    load: Callable[[], bytes | Path] = field(repr=False, compare=False)
    file: Path | None = field(default=None, repr=False, compare=False)
    row: int = field(default=0, repr=False, compare=False)
    order: Order | None = None


@dataclass(frozen=True)
class Asked:
    """What somebody asked for, as it was asked. prompt: their words. references: pictures and clips in their
    order. texts: text references. One of the three is there."""

    prompt: str = ""
    references: tuple[Media, ...] = ()
    texts: tuple[str, ...] = ()

    def category(self, original: MediaKind) -> str:
        """Which of Table 6 it comes nearest to; the paper has one alone for clips that are edited."""
        if not self.references:
            return "text"
        if original == "video":
            return "image->video"
        kind = "video" if any(media.kind == "video" for media in self.references) else "image"
        return kind + ("+text" if self.texts else "")


@dataclass(frozen=True)
class Item:
    """One row of a source.

    key: unique within the source. group: whose pictures belong together; no split parts them. original,
    edited, reference: the pictures, of which a clip of `kind: frames` may serve as either. instruction: what
    made the edited one of the original. region: what may change, in words. edit_type: one of `quota.TYPES`,
    None where it is not known. asked: somebody's own question, which is kept as it is; None where one has to
    be planned. extra: goes into the row's meta.
    """

    key: str
    group: str
    original: Media
    license: str
    source: str
    edited: Media | None = None
    reference: Media | None = None
    instruction: str = ""
    region: str = ""
    edit_type: str | None = None
    source_url: str = ""
    asked: Asked | None = None
    extra: dict[str, Any] = field(default_factory=dict)
