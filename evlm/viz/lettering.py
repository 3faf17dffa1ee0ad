"""Text in any script: Pillow's own font, the system's fonts for what it lacks, escapes for the rest."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

# Files that systems ship for scripts beyond Latin, the better first.
_KNOWN = (
    r"NotoSansCJK.*Regular", r"NotoSans(SC|TC|JP|KR|Arabic|Hebrew|Devanagari|Thai|Bengali|Tamil)?-?Regular",
    r"SourceHanSans.*Regular", r"PingFang", r"Hiragino.*W3", r"STHeiti.*", r"msyh", r"YuGoth[RM]", r"meiryo",
    r"malgun", r"simsun", r"wqy-.*", r"DroidSansFallback.*", r"GeezaPro", r"DejaVuSans", r"segoeui",
    r"arialuni", r"Arial Unicode", r"tahoma", r"arial", r"FreeSans", r"Amiri-Regular", r"NotoEmoji-?.*",
    r"seguiemj", r"seguisym", r"Symbola.*", r"NotoColorEmoji", r"Apple Color Emoji",
    r"NotoSansSymbols.*Regular", r"unifont.*",
)  # fmt: skip
_FONT_FILE = re.compile(r"\.(ttf|otf|ttc)", re.IGNORECASE)
_BITMAP_SIZE = 109  # the one size that bitmap emoji fonts have
_NOBODY = "\U0010fffe"  # no character, so its picture is that of a missing one


class Lettering:
    """Letters of one size in pixels. What no font of this system has is written as its code, `\\u4e2d`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.height = round(size * 1.5)

    def length(self, text: str) -> float:
        """How wide the text is, in pixels."""
        return sum(_width(run, font, self.size) for run, font in self._runs(text))

    def draw(self, image: Image, at: tuple[float, float], text: str, fill: tuple[int, int, int]) -> None:
        """Write the text into an RGB picture, its upper left corner at (x, y)."""
        from PIL import ImageDraw

        x, y = at
        for run, font in self._runs(text):
            if font.size == self.size:
                ImageDraw.Draw(image).text((x, y), run, fill, font)
            else:
                _paste(image, (x, y), run, font, self.size)
            x += _width(run, font, self.size)

    def _runs(self, text: str) -> Iterator[tuple[str, FreeTypeFont]]:
        """The text in pieces, each with the font for it; a piece goes on as long as its font has the letters,
        so that words of one script stay together."""
        own = _own(self.size)
        piece, font = "", own
        for letter in text:
            letter = " " if letter.isspace() else letter
            if _has(font, letter) and (font is own or not _has(own, letter) or not letter.isalnum()):
                piece += letter
                continue
            better = next((each for each in _fonts(self.size) if _has(each, letter)), None)
            written = letter if better else letter.encode("unicode_escape").decode()
            better = better or own
            if better is not font:
                yield from _parted(piece, font, own)
                piece = ""
            piece, font = piece + written, better
        yield from _parted(piece, font, own)


def _parted(piece: str, font: FreeTypeFont, own: FreeTypeFont) -> Iterator[tuple[str, FreeTypeFont]]:
    """A piece and the blanks behind it, which in a script from right to left would be drawn before it."""
    words = piece if font is own else piece.rstrip()
    if words:
        yield words, font
    if len(words) < len(piece):
        yield piece[len(words) :], own


@lru_cache
def _own(size: int) -> FreeTypeFont:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


@lru_cache
def _fonts(size: int) -> tuple[FreeTypeFont, ...]:
    """Pillow's own, then the system's that are known to reach further."""
    from PIL import ImageFont

    fonts = [_own(size)]
    for path in system_fonts():
        for each in (size, _BITMAP_SIZE):
            try:
                fonts.append(ImageFont.truetype(path, each))
                break
            except (OSError, ValueError):  # damaged, or a bitmap font without this size
                continue
    return tuple(fonts)


@lru_cache
def system_fonts() -> tuple[str, ...]:
    """Paths of the system's fonts that `_KNOWN` names, in its order."""
    found: dict[str, str] = {}
    for folder in _folders():
        for place, _, names in os.walk(folder):
            for name in names:
                stem, suffix = os.path.splitext(name)
                if _FONT_FILE.fullmatch(suffix):
                    found.setdefault(stem, os.path.join(place, name))
    ranked = []
    for rank, pattern in enumerate(_KNOWN):
        ranked += [(rank, stem) for stem in found if re.fullmatch(pattern, stem, re.IGNORECASE)]
    return tuple(dict.fromkeys(found[stem] for _, stem in sorted(ranked)))


def _folders() -> list[Path]:
    home = Path(os.path.expanduser("~"))
    if sys.platform == "win32":
        windows = Path(os.environ.get("WINDIR", r"C:\Windows")) / "Fonts"
        return [windows, home / "AppData" / "Local" / "Microsoft" / "Windows" / "Fonts"]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    own = [home / ".local/share/fonts", home / ".fonts"]
    return [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), *own]


@lru_cache(maxsize=4096)
def _has(font: FreeTypeFont, letter: str) -> bool:
    """Whether the font has a picture for the letter, other than the one for a missing letter."""
    if letter.isspace() or letter in "\u200c\u200d\ufe0f":
        return True
    try:
        picture = font.getmask(letter, mode="L")
    except (OSError, ValueError):
        return False
    return bool(picture.size[0]) and (picture.size, bytes(picture)) != _missing(font)


@lru_cache
def _missing(font: FreeTypeFont) -> tuple[tuple[int, int], bytes]:
    try:
        picture = font.getmask(_NOBODY, mode="L")
    except (OSError, ValueError):
        return (0, 0), b""
    return picture.size, bytes(picture)


def _width(run: str, font: FreeTypeFont, size: int) -> float:
    return font.getlength(run) * size / font.size


def _paste(image: Image, at: tuple[float, float], run: str, font: FreeTypeFont, size: int) -> None:
    """Letters of a font that has them in one size alone, made smaller."""
    from PIL import Image as Images
    from PIL import ImageDraw

    wide = max(1, round(font.getlength(run)))
    large = Images.new("RGBA", (wide, round(font.size * 1.25)))
    ImageDraw.Draw(large).text((0, 0), run, (0, 0, 0, 255), font, embedded_color=True)
    scale = size / font.size
    small = large.resize((max(1, round(wide * scale)), max(1, round(large.height * scale))))
    image.paste(small, (round(at[0]), round(at[1])), small)
