"""How the frames of a clip are edited together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import RequestError
from .together import MODES, Mode

Propagate = Literal["auto", "none", "flow", "tokens"]
PROPAGATE: tuple[str, ...] = get_args(Propagate)
Track = Literal["auto", "every-frame", "flow", "plan"]
TRACK: tuple[str, ...] = get_args(Track)
SHORT = 8
"""Up to so many frames, "auto" paints each of them."""


@dataclass(frozen=True)
class VideoSettings:
    """How a clip is edited, beside the editor's own settings.

    together: at whom a frame looks while it is painted (together.py). Nobody by default: one noise for all
        frames and a crop that follows hold a clip together, and in the drawn world `anchors` adds next to
        nothing to that, for half as much time again (benchmarks/README.md).
    window: frames that belong together. overlap: how many of a window are those that the one before has
        finished; they stay as they are, and the others go on from them (`shared`). How many frames are in
        memory at once is the editor's `chunk`.
    propagate: "none" paints every frame; "flow" paints keyframes and carries them along the motion; "tokens"
        paints every frame, most of them with what the attention of a few gave at the most similar places
        (tokens.py; `together` does not count then); "auto" is "none" for up to 8 frames, else "flow".
    keyframes: painted for "flow"; "auto", a number of them, or which ones.
    track: how things are followed: "auto" by SAM 2 where it can track, else as "every-frame", by detector and
        segmenter in each, else as "flow", by the plan's own mask, carried along the motion from the first
        frame; "plan" takes the plan's own mask for all frames.
    agree: whether the keyframes of "flow" are brought to one look before they are carried (agree.py).
    """

    together: Mode = "per-frame"
    window: int = 8
    overlap: int = 2
    propagate: Propagate = "auto"
    keyframes: Literal["auto"] | int | tuple[int, ...] = "auto"
    track: Track = "auto"
    agree: bool = True

    def __post_init__(self) -> None:
        """Raises RequestError for a value outside its range."""
        for name, value, known in (
            ("together", self.together, MODES),
            ("propagate", self.propagate, PROPAGATE),
            ("track", self.track, TRACK),
        ):
            if value not in known:
                raise RequestError(f"{name} {value!r}: expected one of {', '.join(known)}")
        if not 1 <= self.window <= 4096:
            raise RequestError(f"window {self.window}: expected 1 to 4096 frames")
        if not 0 <= self.overlap < self.window:
            raise RequestError(f"overlap {self.overlap}: expected 0 to {self.window - 1}, below the window")
        if isinstance(self.keyframes, int) and self.keyframes < 1:
            raise RequestError(f"{self.keyframes} keyframes: expected 1 or more")

    @property
    def shared(self) -> int:
        """The overlap that counts: none where no frame looks at another."""
        return self.overlap if self.together != "per-frame" or self.propagate == "tokens" else 0

    def carries(self, count: int) -> bool:
        """Whether keyframes are carried over a clip of `count` frames."""
        return self.propagate == "flow" or (self.propagate == "auto" and count > SHORT)
