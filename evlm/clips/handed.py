"""Keyframes of a clip in a folder: handed out to whoever looks at them or edits them, and taken back."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import PictureError
from ..files.disk import unwritten
from ..files.pictures import load_picture, picture_files, save_picture, write_atomically
from ..video.handed_out import AS_LARGE, Keys, carry_window, digest_of, evened, sizes, unreached
from .frames import FileFrames
from .steps import place_routes

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..files.clip_reader import ClipFile
    from .masks import MaskStore

KEYS_FILE = "keys.json"
_MOST = 16_000_000  # bytes of that file
_TIME = re.compile(r"[0-9]{1,18}(/[0-9]{1,18})?", re.ASCII)
Asked = str | int | tuple[int, ...] | None
"""Which keyframes were asked for, as `VideoSettings.keyframes`; None where nobody said."""


@dataclass(frozen=True)
class HandedKeys:
    """A folder of edited keyframes, pictures in the order of `keys.indices`. asked: which were asked for.
    one_look: whether they are brought to one look before they are carried."""

    folder: Path
    pictures: tuple[Path, ...]
    keys: Keys
    asked: Asked = None
    one_look: bool = False

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> HandedKeys:
        """What `write_keys` wrote, its pictures perhaps edited. Raises PictureError."""
        folder = Path(folder).expanduser()
        path = folder / KEYS_FILE
        try:
            if path.stat().st_size > _MOST:
                raise PictureError(f"{path}: {path.stat().st_size:,} bytes, expected at most {_MOST:,}")
            data = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PictureError(
                f"{path}: cannot be read ({error.strerror or error}); give the folder that --until keyframes "
                "wrote"
            ) from error
        except (ValueError, RecursionError) as error:
            raise PictureError(f"{path}: no list of keyframes; it is no JSON ({error})") from error
        keys, asked = _keys_of(data, path)
        pictures = picture_files(folder)
        if len(pictures) != len(keys.indices):
            raise PictureError(
                f"{folder}: {len(pictures)} pictures for the {len(keys.indices)} keyframes that were handed "
                "out: give one for each, named in their order"
            )
        return cls(folder, tuple(pictures), keys, asked)

    def picture(self, key: int) -> Tensor:
        """[H, W, 3] in 0..1: the edited keyframe of frame `key`. Raises PictureError."""
        path = self.pictures[self.keys.indices.index(key)]
        picture = load_picture(path)[0]
        if tuple(picture.shape[:2]) != (self.keys.height, self.keys.width):
            raise PictureError(
                f"{path}: {picture.shape[1]} x {picture.shape[0]} pixels, and the clip has {self.keys.width} "
                f"x {self.keys.height}: scale it back to that"
            )
        return picture

    @property
    def digest(self) -> str:
        """Of what the pictures' files hold, and of what is made of them."""
        digest = hashlib.blake2b(self.keys.source.encode(), digest_size=8)
        digest.update(b"one look" if self.one_look else b"")
        for path in self.pictures:
            digest.update(hashlib.blake2b(path.read_bytes()).digest())
        return digest.hexdigest()

    def check(self, clip: ClipFile, count: int) -> None:
        """Raises PictureError where the keyframes are of another clip, or a picture does not fit. count: of
        the clip's frames."""
        keys = self.keys
        if (keys.count, keys.height, keys.width) != (count, clip.height, clip.width):
            raise PictureError(
                f"{self.folder}: keyframes of a clip of {keys.count} frames of {keys.width} x {keys.height}, "
                f"and {clip.path} has {count} of {clip.width} x {clip.height}: give the clip, and of it the "
                "frames, that they were made of"
            )
        for key in keys.indices:
            self.picture(key)
        reader = FileFrames(clip)
        if digest_of(reader.read(key, key + 1)[0] for key in keys.indices) != keys.source:
            raise PictureError(f"{self.folder}: the keyframes are of another clip than {clip.path}")


def write_keys(
    folder: Path,
    painted: Iterator[tuple[int, Tensor, Tensor]],
    durations: Sequence[Fraction],
    asked: Asked,
) -> int:
    """Keyframes into a folder, their list last; returns how many. painted: (number, the clip's frame, the
    edited one, [H, W, 3]). durations: of the clip's frames, in seconds. Raises PictureError."""
    folder.mkdir(parents=True, exist_ok=True)
    indices: list[int] = []
    size = (0, 0)

    def sources() -> Iterator[Tensor]:
        nonlocal size
        for number, source, edited in painted:
            save_picture(folder / f"{number:08}.png", edited)
            indices.append(number)
            size = (edited.shape[0], edited.shape[1])
            yield source

    try:
        source = digest_of(sources())
        if not indices:
            raise PictureError(
                "nothing is to be edited in any frame, so there are no keyframes; see --until mask"
            )
        data = {
            "indices": indices,
            "times": [str(sum(durations[:at], Fraction(0))) for at in indices],
            "count": len(durations),
            "height": size[0],
            "width": size[1],
            "source": source,
            "asked": asked,
        }
        text = json.dumps(data, indent=2)
        write_atomically(folder / KEYS_FILE, lambda file: file.write(text.encode()))
    except OSError as error:
        raise unwritten(folder, error) from error
    return len(indices)


class HandedChain:
    """A clip from keyframes that somebody edited; as `StepChain`, from frame `begin` on. What no keyframe's
    motion reaches takes the paint beside it, or stays as the nearest ones have it: nobody paints it.

    steps: of the plan, whose places the edit may touch. folder: for keyframes that are brought to one look;
    they lie there whole or not at all. on_keys: as of `CarriedChain`, of these. Raises PictureError where the
    keyframes are of another clip.
    """

    def __init__(
        self,
        handed: HandedKeys,
        steps: Sequence[int],
        masks: MaskStore,
        clip: ClipFile,
        source: FileFrames,
        window: int,
        feather: int | None,
        folder: Path,
        begin: int = 0,
        on_keys: Callable[[int, int], None] | None = None,
    ) -> None:
        handed.check(clip, masks.count)
        self.notes: list[str] = []
        self.handed, self.source, self.window = handed, source, window
        self.feather, self.begin, self.count = feather, begin, masks.count
        corners = None if masks.whole(steps) else masks.track(steps)
        painted = sizes(corners, masks.height, masks.width)
        self.routes = place_routes(painted, steps, masks, AS_LARGE, self.notes)
        self.notes += unreached(self.routes, handed.keys.indices)
        self.notes.append(
            f"{len(handed.keys.indices)} of {masks.count} frames are keyframes as they were handed back: the "
            "others are carried along the motion"
        )
        self.clip, self.folder, self.on_keys = clip, folder, on_keys
        self._reader = FileFrames(clip)
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def windows(self) -> Iterator[tuple[int, Tensor]]:
        """(number of the first frame, frames [n, H, W, 3] that are finished)."""
        if self.handed.one_look:
            self._even_out()
        indices = self.handed.keys.indices
        for first in range(0, self.count, self.window):
            if first < self.begin:
                continue
            stop = min(first + self.window, self.count)
            self._look(first, stop)
            frames = self.source.read(first, stop)
            shown = self._known.__getitem__
            yield first, carry_window(frames, first, self.routes, indices, shown, self.feather)

    def save(self, path: Path, stop: int) -> None:
        """Marks that a later run goes on at frame `stop`."""
        write_atomically(path, lambda file: file.write(b"1"))

    def _even_out(self) -> None:
        """Has the keyframes brought to one look in the folder, and goes on with those."""
        keys, reader = self.handed.keys, FileFrames(self.clip)
        pictures = [self.folder / f"even-{at:08}.png" for at in keys.indices]
        done = self.folder / "even.done"
        if not done.is_file():

            def shown(at: int) -> tuple[Tensor, Tensor]:
                return reader.read(at, at + 1)[0], self.handed.picture(at)

            even = evened(keys.indices, self.routes, shown)
            for number, (path, (_, picture)) in enumerate(zip(pictures, even, strict=True), 1):
                save_picture(path, picture)
                if self.on_keys is not None:
                    self.on_keys(number, len(pictures))
            write_atomically(done, lambda file: file.write(b"1"))
        self.handed = replace(self.handed, folder=self.folder, pictures=tuple(pictures))

    def _look(self, first: int, stop: int) -> None:
        """Reads the keyframes that the frames first..stop look at, and forgets the others."""
        indices = self.handed.keys.indices
        low = max((at for at in indices if at <= first), default=0)
        high = min((at for at in indices if at >= stop - 1), default=stop)
        self._known = {at: pair for at, pair in self._known.items() if at >= low}
        for at in indices:
            if low <= at <= high and at not in self._known:
                self._known[at] = (self._reader.read(at, at + 1)[0], self.handed.picture(at))


def _keys_of(data: Any, path: Path) -> tuple[Keys, Asked]:
    """Of what `write_keys` wrote. Raises PictureError."""

    def wrong(what: str) -> PictureError:
        return PictureError(
            f"{path}: {what}; give the folder that --until keyframes wrote, its list unchanged"
        )

    def whole(value: Any, low: int, high: int) -> bool:
        return type(value) is int and low <= value <= high

    if not isinstance(data, dict):
        raise wrong("expected an object")
    for name, high in (("count", 10**8), ("height", 10**6), ("width", 10**6)):
        if not whole(data.get(name), 1, high):
            raise wrong(f"{name} {data.get(name)!r:.40}, expected a whole number from 1")
    indices, times, source = (data.get(name) for name in ("indices", "times", "source"))
    last = data["count"] - 1
    if not isinstance(indices, list) or not indices or not all(whole(at, 0, last) for at in indices):
        raise wrong(f"indices {indices!r:.40}, expected numbers of frames from 0 to {last}")
    if indices != sorted(set(indices)):
        raise wrong(f"indices {indices!r:.40}, expected each once and in order")
    if not isinstance(times, list) or len(times) != len(indices):
        raise wrong(f"times {times!r:.40}, expected {len(indices)} of them")
    if not all(isinstance(time, str) and _TIME.fullmatch(time) for time in times):
        raise wrong(f"times {times!r:.40}, expected seconds such as '7/24'")
    if not isinstance(source, str) or not re.fullmatch(r"[0-9a-f]{32}", source, re.ASCII):
        raise wrong(f"source {source!r:.40}, expected 32 hexadecimal digits")
    asked = data.get("asked")
    if isinstance(asked, list) and asked and all(whole(at, 0, last) for at in asked):
        asked = tuple(asked)
    elif asked not in (None, "auto") and not whole(asked, 1, 10**8):
        raise wrong(f"asked {asked!r:.40}, expected null, 'auto', a number or a list of frames")
    try:
        seconds = tuple(Fraction(time) for time in times)
    except ZeroDivisionError:
        raise wrong(f"times {times!r:.40}, expected seconds such as '7/24'") from None
    return Keys(tuple(indices), seconds, data["count"], data["height"], data["width"], source), asked
