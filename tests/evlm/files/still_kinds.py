"""Stills of every kind that people have: a writer each, and the numbers that its file holds, upright.

Lossless kinds know their numbers; of lossy ones Pillow's decoder says them, turned by the table below.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import icc_profiles
import numpy as np
from PIL import Image
from png_by_hand import chunk, png

Make = Callable[[Path], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """make: writes the file, returns [H, W, C] as its decoder gives it, upright, at its own depth. profile:
    what must be in the result. grey: it may be written in RGB. name: of the file."""

    title: str
    name: str
    make: Make
    profile: bytes | None = None


KINDS: list[Kind] = []


def kind(title: str, name: str, profile: bytes | None = None) -> Callable[[Make], Make]:
    def add(make: Make) -> Make:
        KINDS.append(Kind(title, name, make, profile))
        return make

    return add


@lru_cache
def photograph() -> np.ndarray:
    """[30, 44, 3] uint8: eyes and nose of the cat."""
    import skimage.data

    return np.ascontiguousarray(skimage.data.chelsea()[90:210:4, 120:296:4])


def deep() -> np.ndarray:
    """[30, 44, 3] uint16 with low bytes of their own."""
    low = np.random.default_rng(0).integers(0, 256, photograph().shape)
    return (photograph().astype(np.uint16) << 8 | low).astype(np.uint16)


def opacity(full: int = 255) -> np.ndarray:
    """[30, 44, 1]: 0 above, full below, a ramp between."""
    ramp = np.clip((np.arange(30)[:, None] - 5) / 15, 0, 1) * np.ones((1, 44))
    return (ramp * full).round().astype(np.uint8 if full == 255 else np.uint16)[..., None]


def with_alpha(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values, opacity(255 if values.dtype == np.uint8 else 65535)], -1)


def as_stored(values: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores so that `orientation` makes it upright again (EXIF 2.3, table of 0x0112)."""
    turned = {
        1: values,
        2: values[:, ::-1],
        3: values[::-1, ::-1],
        4: values[::-1],
        5: values.swapaxes(0, 1),
        6: np.rot90(values, 1),
        7: values.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(values, -1),
    }
    return np.ascontiguousarray(turned[orientation])


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of `as_stored`."""
    return as_stored(values, {6: 8, 8: 6}.get(orientation, orientation))


def pixels(path: Path, mode: str | None = None) -> np.ndarray:
    """What Pillow decodes, unturned."""
    with Image.open(path) as image:
        values = np.array(image.convert(mode) if mode else image)
    return values if values.ndim == 3 else values[..., None]


def saved(values: np.ndarray, path: Path, form: str, mode: str | None = None, **options: Any) -> np.ndarray:
    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    (image.convert(mode) if mode else image).save(path, form, **options)
    return values


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112], data[0x010F] = orientation, "maker"
    return data


def grey() -> np.ndarray:
    return np.array(Image.fromarray(photograph()).convert("L"))[..., None]


# --- JPEG ---

for _orientation in range(1, 9):

    @kind(f"JPEG of orientation {_orientation}", "a.jpg")
    def _(path: Path, orientation: int = _orientation) -> np.ndarray:
        saved(as_stored(photograph(), orientation), path, "JPEG", exif=exif(orientation))
        return upright(pixels(path), orientation)


def _jpeg(title: str, values: Callable[[], np.ndarray], profile: bytes | None = None, **options: Any) -> None:
    @kind(title, "a.jpg", profile)
    def _(path: Path) -> np.ndarray:
        saved(values(), path, "JPEG", icc_profile=profile, **options)
        return pixels(path)


_jpeg("JPEG, progressive", photograph, progressive=True)
_jpeg("JPEG, 4:2:0", photograph, subsampling=2, quality=60)
_jpeg("JPEG, grey", grey)
_jpeg("JPEG, 300 dpi", photograph, dpi=(300, 300))
_jpeg("JPEG in Display P3", photograph, icc_profiles.display_p3())
_jpeg("JPEG in Adobe RGB", photograph, icc_profiles.adobe_rgb())
_jpeg("JPEG, grey with a profile", grey, icc_profiles.grey())


@kind("JPEG in CMYK", "a.jpg")
def _(path: Path) -> np.ndarray:
    Image.fromarray(photograph()).convert("CMYK").save(path, "JPEG")
    return pixels(path)


@kind("JPEG in CMYK with a profile", "a.jpg", icc_profiles.cmyk())
def _(path: Path) -> np.ndarray:
    Image.fromarray(photograph()).convert("CMYK").save(path, "JPEG", icc_profile=icc_profiles.cmyk())
    return pixels(path)


@kind("JPEG with a profile for another kind of picture", "a.jpg")
def _(path: Path) -> np.ndarray:
    saved(photograph(), path, "JPEG", icc_profile=icc_profiles.grey())
    return pixels(path)


@kind("JPEG with a second picture (MPO)", "a.jpg")
def _(path: Path) -> np.ndarray:
    second = Image.fromarray(photograph()[::2, ::2])
    Image.fromarray(photograph()).save(path, "MPO", save_all=True, append_images=[second])
    return pixels(path)


@kind("JPEG that is called .png", "a.png")
def _(path: Path) -> np.ndarray:
    saved(photograph(), path, "JPEG")
    return pixels(path)


@kind("JPEG without a suffix", "photograph")
def _(path: Path) -> np.ndarray:
    saved(photograph(), path, "JPEG")
    return pixels(path)


# --- PNG ---


def _png(
    title: str, values: Callable[[], np.ndarray], *extra: bytes, profile: bytes | None = None, **how: Any
) -> None:
    @kind(title, "a.png", profile)
    def _(path: Path) -> np.ndarray:
        path.write_bytes(png(values(), *extra, **how))
        return values()


def iccp(profile: bytes) -> bytes:
    import zlib

    return chunk(b"iCCP", b"p\0\0" + zlib.compress(profile))


_png("PNG", photograph)
_png("PNG, interlaced", photograph, interlaced=True)
_png("PNG with alpha", lambda: with_alpha(photograph()))
_png("PNG, grey", grey)
_png("PNG, grey with alpha", lambda: with_alpha(grey()))
_png("PNG of 16 bits", deep)
_png("PNG of 16 bits, interlaced", deep, interlaced=True)
_png("PNG of 16 bits with alpha", lambda: with_alpha(deep()))
_png("PNG, grey of 16 bits", lambda: deep()[..., :1])
_png("PNG, grey of 16 bits with alpha", lambda: with_alpha(deep()[..., :1]))
_png("PNG in Display P3", photograph, iccp(icc_profiles.display_p3()), profile=icc_profiles.display_p3())
_png("PNG of 16 bits in Display P3", deep, iccp(icc_profiles.display_p3()), profile=icc_profiles.display_p3())
_png("PNG of 16 bits with alpha in Adobe RGB", lambda: with_alpha(deep()), iccp(icc_profiles.adobe_rgb()),
     profile=icc_profiles.adobe_rgb())  # fmt: skip
_png("PNG, grey of 16 bits with a profile", lambda: deep()[..., :1], iccp(icc_profiles.grey()),
     profile=icc_profiles.grey())  # fmt: skip
_png("PNG with a gamma of 1", photograph, chunk(b"gAMA", struct.pack(">I", 100_000)))
_png("PNG of 16 bits in PQ", deep, chunk(b"cICP", b"\x09\x10\0\x01"))
_png("PNG of 16 bits at 300 dpi", deep, chunk(b"pHYs", struct.pack(">IIB", 11811, 11811, 1)))
_png("PNG of one pixel", lambda: photograph()[:1, :1])
_png("PNG of 16 bits, one pixel", lambda: deep()[:1, :1])
_png("PNG of one row", lambda: photograph()[:1])
_png("PNG of one column", lambda: with_alpha(photograph())[:, :1])
_png("PNG of odd size", lambda: photograph()[:29, :43])


@kind("PNG with one colour transparent", "a.png")
def _(path: Path) -> np.ndarray:
    values = photograph()
    path.write_bytes(png(values, chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())))
    seen = np.where((values == values[0, 0]).all(-1), 0, 255).astype(np.uint8)
    return np.concatenate([values, seen[..., None]], -1)


@kind("PNG of 16 bits with one colour transparent", "a.png")
def _(path: Path) -> np.ndarray:
    values = deep()
    path.write_bytes(png(values, chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())))
    seen = np.where((values == values[0, 0]).all(-1), 0, 65535).astype(np.uint16)
    return np.concatenate([values, seen[..., None]], -1)


@kind("PNG, grey of 16 bits with one value transparent", "a.png")
def _(path: Path) -> np.ndarray:
    values = deep()[..., :1]
    path.write_bytes(png(values, chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())))
    seen = np.where(values == values[0, 0], 0, 65535).astype(np.uint16)
    return np.concatenate([values, seen], -1)


@kind("PNG of orientation 6", "a.png")
def _(path: Path) -> np.ndarray:
    saved(as_stored(photograph(), 6), path, "PNG", exif=exif(6))
    return photograph()


@kind("PNG of 16 bits and orientation 5", "a.png")
def _(path: Path) -> np.ndarray:
    path.write_bytes(png(as_stored(deep(), 5), chunk(b"eXIf", exif(5).tobytes()[6:])))
    return deep()


@kind("PNG with a palette", "a.png")
def _(path: Path) -> np.ndarray:
    Image.fromarray(photograph()).quantize(60).save(path)
    return pixels(path, "RGB")


@kind("PNG with a palette of 4 bits", "a.png")
def _(path: Path) -> np.ndarray:
    Image.fromarray(photograph()).quantize(12).save(path, bits=4)
    return pixels(path, "RGB")


@kind("PNG with a palette and alpha", "a.png")
def _(path: Path) -> np.ndarray:
    Image.fromarray(photograph()).quantize(60).save(
        path, transparency=bytes(min(255, 6 * index) for index in range(60))
    )
    return pixels(path, "RGBA")


@kind("PNG of one bit", "a.png")
def _(path: Path) -> np.ndarray:
    Image.fromarray(photograph()).convert("1").save(path)
    return pixels(path, "L")


# --- GIF, WebP, BMP, AVIF, PNM ---


@kind("GIF", "a.gif")
def _(path: Path) -> np.ndarray:
    Image.fromarray(photograph()).quantize(200).save(path)
    return pixels(path, "RGB")


@kind("GIF, transparent", "a.gif")
def _(path: Path) -> np.ndarray:
    Image.fromarray(photograph()).quantize(200).save(path, transparency=7)
    return pixels(path, "RGBA")


def _pillow(
    title: str,
    name: str,
    values: Callable[[], np.ndarray],
    mode: str | None = None,
    profile: bytes | None = None,
    **options: Any,
) -> None:
    @kind(title, name, profile)
    def _(path: Path) -> np.ndarray:
        image = Image.fromarray(values()[..., 0] if values().shape[-1] == 1 else values())
        (image.convert(mode) if mode else image).save(path, icc_profile=profile, **options)
        decoded = pixels(path)
        return decoded.astype(np.uint8) * 255 if decoded.dtype == bool else decoded


_pillow("WebP, lossless", "a.webp", photograph, lossless=True)
_pillow("WebP, lossy", "a.webp", photograph, quality=70)
_pillow("WebP, lossless with alpha", "a.webp", lambda: with_alpha(photograph()), lossless=True, exact=True)
_pillow("WebP, lossy with alpha", "a.webp", lambda: with_alpha(photograph()), quality=80)
_pillow("WebP in Display P3", "a.webp", photograph, profile=icc_profiles.display_p3(), lossless=True)
_pillow("AVIF", "a.avif", photograph)
_pillow("AVIF with alpha", "a.avif", lambda: with_alpha(photograph()))
_pillow("AVIF in Display P3", "a.avif", photograph, profile=icc_profiles.display_p3())
_pillow("BMP", "a.bmp", photograph)
_pillow("BMP of 32 bits", "a.bmp", lambda: with_alpha(photograph()))
_pillow("BMP of one bit", "a.bmp", photograph, mode="1")
_pillow("PBM", "a.pbm", photograph, mode="1")
_pillow("PGM", "a.pgm", grey)
_pillow("PPM", "a.ppm", photograph)


@kind("BMP with a palette", "a.bmp")
def _(path: Path) -> np.ndarray:
    Image.fromarray(photograph()).quantize(30).save(path)
    return pixels(path, "RGB")


@kind("PPM of 16 bits", "a.ppm")
def _(path: Path) -> np.ndarray:
    path.write_bytes(b"P6\n# by hand\n44 30\n65535\n" + deep().astype(">u2").tobytes())
    return deep()


@kind("PGM of 16 bits", "a.pgm")
def _(path: Path) -> np.ndarray:
    path.write_bytes(b"P5 44 30 65535\n" + deep()[..., :1].astype(">u2").tobytes())
    return deep()[..., :1]


# --- TIFF ---


def _tiff(title: str, values: Callable[[], np.ndarray], profile: bytes | None = None, **how: Any) -> None:
    """Written by tifffile."""

    @kind(title, "a.tif", profile)
    def _(path: Path) -> np.ndarray:
        import tifffile

        data = values()
        stored = as_stored(data, how.get("orientation", 1))
        if how.get("planarconfig") == "separate":
            stored = np.moveaxis(stored, -1, 0)
        options = {key: value for key, value in how.items() if key != "orientation"}
        if "orientation" in how:
            options["extratags"] = [(274, "H", 1, how["orientation"], True)]
        if stored.shape[-1] == 1:
            stored, options["photometric"] = stored[..., 0], options.get("photometric", "minisblack")
        tifffile.imwrite(path, stored, iccprofile=profile, metadata=None,
                         **{"photometric": "rgb", **options})  # fmt: skip
        return data


_pillow("TIFF, LZW", "a.tif", photograph, compression="tiff_lzw")
_pillow("TIFF, deflated", "a.tif", photograph, compression="tiff_adobe_deflate")
_pillow("TIFF, PackBits", "a.tif", photograph, compression="packbits")
_pillow("TIFF, JPEG", "a.tif", photograph, compression="jpeg")
_pillow("TIFF, fax G4", "a.tif", photograph, mode="1", compression="group4")
_pillow("TIFF with a palette", "a.tif", grey)
_pillow("TIFF in CMYK", "a.tif", photograph, mode="CMYK")
_pillow("TIFF in CMYK with a profile", "a.tif", photograph, mode="CMYK", profile=icc_profiles.cmyk())
_pillow("TIFF with alpha", "a.tif", lambda: with_alpha(photograph()))
_tiff("TIFF, tiled", photograph, tile=(16, 16))
_tiff("TIFF, planes apart", photograph, planarconfig="separate")
_tiff("TIFF, big-endian", photograph, byteorder=">")
_tiff("BigTIFF", photograph, bigtiff=True)
_tiff("TIFF of orientation 8", photograph, orientation=8)
_tiff("TIFF of 16 bits", deep)
_tiff("TIFF of 16 bits in Adobe RGB", deep, icc_profiles.adobe_rgb())
_tiff("TIFF of 16 bits, deflated, tiled", deep, tile=(16, 16), compression="zlib", predictor=2)
_tiff("TIFF of 16 bits, planes apart", deep, planarconfig="separate")
_tiff("TIFF of 16 bits, big-endian", deep, byteorder=">")
_tiff("TIFF of 16 bits and orientation 6", deep, orientation=6)
_tiff("TIFF of 16 bits with alpha", lambda: with_alpha(deep()), extrasamples=["unassalpha"])
_tiff("TIFF, grey of 16 bits", lambda: deep()[..., :1])
_tiff("TIFF, grey of 16 bits, big-endian", lambda: deep()[..., :1], byteorder=">")
_tiff("TIFF in CMYK of 16 bits", lambda: np.concatenate([deep(), deep()[..., :1] // 4], -1),
      photometric="separated")  # fmt: skip
_tiff("TIFF with two more channels", lambda: np.concatenate([with_alpha(photograph()), grey()], -1),
      extrasamples=["unassalpha", "unspecified"])  # fmt: skip
_tiff("TIFF of floats", lambda: (deep() / 65535).astype(np.float32))
_tiff("TIFF, grey of floats", lambda: (deep()[..., :1] / 65535).astype(np.float32))


@kind("TIFF, white is 0", "a.tif")
def _(path: Path) -> np.ndarray:
    import tifffile

    tifffile.imwrite(path, 65535 - deep()[..., 0], photometric="miniswhite", metadata=None)
    return deep()[..., :1]


@kind("TIFF of three pages of 16 bits", "a.tif")
def _(path: Path) -> np.ndarray:
    import tifffile

    with tifffile.TiffWriter(path) as writer:
        for page in (deep(), deep() // 2, deep()[:20]):
            writer.write(page, photometric="rgb", metadata=None)
    return deep()


@kind("TIFF of three pages", "a.tif")
def _(path: Path) -> np.ndarray:
    pages = [Image.fromarray(photograph() // part) for part in (1, 2, 3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    return photograph()


@kind("TIFF of 16 bits, LZW", "a.tif")
def _(path: Path) -> np.ndarray:
    """By FFmpeg: neither Pillow nor tifffile alone writes one."""
    import av

    out, values = BytesIO(), deep()
    with av.open(out, "w", format="image2pipe") as container:
        stream = container.add_stream("tiff")
        stream.width, stream.height, stream.pix_fmt = 44, 30, "rgb48le"
        stream.options = {"compression_algo": "lzw"}
        frame = av.VideoFrame(44, 30, "rgb48le")
        rows = np.zeros((30, frame.planes[0].line_size // 2), "<u2")
        rows[:, : 44 * 3] = values.reshape(30, -1)
        frame.planes[0].update(rows.tobytes())
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.write_bytes(out.getvalue())
    return values
