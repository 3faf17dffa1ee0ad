"""What a clip can be written as: which encoder, in which file, and what of a picture it holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from ..errors import PictureError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

CRF = 14  # of h264 and vp9: differences that nobody sees


@dataclass(frozen=True)
class ClipCodec:
    """encoder: FFmpeg's name; container: of the file, "" for a folder of pictures. pixels: the pixel format
    by (more than 8 bits, with opacity). options: of the encoder. sound: into what sound is encoded that
    cannot be copied. lossless: every pixel comes back as it was."""

    name: str
    encoder: str
    suffix: str
    container: str
    pixels: Mapping[tuple[bool, bool], str]
    options: Mapping[str, str] = field(default_factory=dict)
    sound: str = "aac"
    lossless: bool = False


# No frame waits for a later one (bf, auto-alt-ref), so packets are in the order of their times, and the
# segments of one clip are joined by copying them.
CODECS = {
    each.name: each
    for each in (
        ClipCodec(
            "h264",
            "libx264",
            ".mp4",
            "mp4",
            {(False, False): "yuv420p", (True, False): "yuv420p10le"},
            {"crf": str(CRF), "bf": "0"},
        ),
        ClipCodec(
            "vp9",
            "libvpx-vp9",
            ".webm",
            "webm",
            {(False, False): "yuv420p", (False, True): "yuva420p"},
            {"crf": str(CRF), "b": "0", "auto-alt-ref": "0", "deadline": "good", "cpu-used": "4"},
            "libopus",
        ),
        ClipCodec(
            "ffv1",
            "ffv1",
            ".mkv",
            "matroska",
            {
                (False, False): "bgr0",
                (False, True): "bgra",
                (True, False): "rgb48le",
                (True, True): "rgba64le",
            },
            {"level": "3", "g": "1", "slicecrc": "1"},
            lossless=True,
        ),
        ClipCodec("png", "", "", "", {}, lossless=True),
    )
}


@dataclass(frozen=True)
class ClipForm:
    """How the frames of one clip are written. height, width: of the frames, in pixels. rate: frames a second
    on average. alpha: there is opacity. deep: more than 8 bits a channel."""

    codec: ClipCodec
    height: int
    width: int
    rate: Fraction = Fraction(8)
    alpha: bool = False
    deep: bool = False

    @property
    def pixels(self) -> str:
        return self.codec.pixels[self.deep, self.alpha]

    @property
    def padded(self) -> tuple[int, int]:
        """(height, width) as they are stored: with half the colours a frame has even sides."""
        if "420" not in self.pixels:
            return self.height, self.width
        return self.height + self.height % 2, self.width + self.width % 2


def form_of(
    codec: str,
    height: int,
    width: int,
    rate: Fraction | None = None,
    alpha: bool = False,
    bits: int = 8,
) -> tuple[ClipForm, list[str]]:
    """(how such a clip is written, what the codec cannot keep of it in words).

    codec: a name of `CODECS`. rate: frames a second, 8 where nobody says. Raises PictureError where the codec
    is unknown, or this FFmpeg has no encoder for it.
    """
    if codec not in CODECS:
        raise PictureError(f"codec {codec!r:.40}: expected one of {', '.join(CODECS)}")
    chosen, notes = CODECS[codec], []
    deep = bits > 8
    if chosen.encoder:
        check_encoder(chosen)
        if alpha and (False, True) not in chosen.pixels:
            notes.append(f"{codec} holds no transparency; --codec ffv1, vp9 or png keep it")
            alpha = False
        if deep and (True, alpha) not in chosen.pixels:
            notes.append(f"{codec} is written with 8 bits a channel; --codec ffv1 or png keep {bits}")
            deep = False
        elif deep:
            kept = "10" if "10" in chosen.pixels[True, alpha] else "16"
            notes.append(f"{codec} is written with {kept} bits a channel")
    form = ClipForm(chosen, height, width, rate or Fraction(8), alpha, deep)
    if chosen.encoder and form.padded != (height, width):
        notes.append(
            f"{codec} has even sides: other programs show {form.padded[1]} x {form.padded[0]}, the last "
            f"column or row twice; --codec ffv1 or png keep {width} x {height}"
        )
    return form, notes


def check_encoder(codec: ClipCodec) -> None:
    """Raises PictureError where av or this encoder is not there."""
    try:
        import av
    except ImportError:
        raise PictureError("writing a video file needs the package av: pip install av") from None
    try:
        av.codec.Codec(codec.encoder, "w")
    except Exception as error:  # PyAV has an error of its own for it, which old ones do not name
        raise PictureError(
            f"this FFmpeg has no {codec.encoder} to write {codec.name}: install PyAV's own wheel "
            "(pip install --force-reinstall av), or take another codec (--codec ffv1 or png)"
        ) from error


def values_of(picture: Tensor, form: ClipForm) -> np.ndarray:
    """A picture [H, W, 3 or 4] in 0..1 as uint8 or uint16, with opacity only where the form has it."""
    import numpy as np

    full, kind = (65535, np.uint16) if form.deep else (255, np.uint8)
    values = (picture[..., : 3 + form.alpha] * full).round_().clamp_(0, full)
    return values.numpy().astype(kind)


def to_frame(picture: Tensor, form: ClipForm) -> Any:
    """A picture [H, W, 3 or 4] in 0..1 as PyAV's frame in the form's pixel format, padded by its edge."""
    import av
    import numpy as np

    values = values_of(picture, form)
    height, width = form.padded
    if (height, width) != values.shape[:2]:
        values = np.pad(values, ((0, height - values.shape[0]), (0, width - values.shape[1]), (0, 0)), "edge")
    if form.deep:
        name = "rgba64le" if form.alpha else "rgb48le"
    else:
        name = "rgba" if form.alpha else "rgb24"
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(values), format=name)
    if "yuv" not in form.pixels:
        return frame.reformat(format=form.pixels)
    frame = frame.reformat(format=form.pixels, dst_colorspace=BT709, dst_color_range=LIMITED)
    frame.colorspace, frame.color_range = BT709, LIMITED
    return frame


BT709, LIMITED = 1, 1  # ITU-T H.273; FFmpeg's "tv" range
