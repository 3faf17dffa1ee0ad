"""ICC profiles by hand (ICC.1:2001-04): Display P3, Adobe RGB, a grey one, a coarse CMYK one."""

from __future__ import annotations

import struct

import numpy as np
from PIL import Image, ImageCms

# Colorants adapted to D50, as the profiles that Apple and Adobe ship say them.
_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
_ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
_D50 = (0.9642, 1.0, 0.8249)


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))


def _profile(kind: bytes, space: bytes, pcs: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    name = b"made by hand\0"
    described = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + b"\0" * 78
    tags = [(b"desc", described), (b"cprt", b"text\0\0\0\0none\0"), (b"wtpt", _xyz(_D50)), *tags]
    table, data = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, body in tags:
        table += struct.pack(">4sII", tag, start + len(data), len(body))
        data += body + b"\0" * (-len(body) % 4)
    illuminant = _xyz(_D50)[8:]
    head = struct.pack(">I4sI4s4s4s", start + len(data), b"", 0x02400000, kind, space, pcs)
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + b"\0" * 28 + illuminant
    return head + b"\0" * (128 - len(head)) + table + data


def _rgb(colorants: tuple[tuple[float, ...], ...], gamma: float) -> bytes:
    tags = [(name, _xyz(value)) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)]
    return _profile(
        b"mntr", b"RGB ", b"XYZ ", tags + [(t, _curve(gamma)) for t in (b"rTRC", b"gTRC", b"bTRC")]
    )


def display_p3() -> bytes:
    return _rgb(_P3, 2.2)


def adobe_rgb() -> bytes:
    return _rgb(_ADOBE, 563 / 256)


def grey(gamma: float = 1.8) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", [(b"kTRC", _curve(gamma))])


def cmyk() -> bytes:
    """Two steps of each ink one way, nine of L, a and b the other: coarse, and of the right kind."""

    def grid(steps: int, channels: int) -> np.ndarray:
        axes = np.meshgrid(*[np.linspace(0, 1, steps)] * channels, indexing="ij")
        return np.stack(axes, -1).reshape(-1, channels)

    def change(values: np.ndarray, source: str, target: str) -> np.ndarray:
        modes = {"sRGB": "RGB", "LAB": "LAB"}
        size, data = (len(values), 1), (values * 255).round().astype(np.uint8).tobytes()
        return np.asarray(
            ImageCms.profileToProfile(
                Image.frombytes(modes[source], size, data),
                ImageCms.createProfile(source),
                ImageCms.createProfile(target),
                outputMode=modes[target],
            )
        )[0]

    inks = grid(2, 4)
    flip = (0, 128, 128)  # Pillow keeps a and b with a sign, the profile counts from -128
    lab = change((1 - inks[:, :3]) * (1 - 0.8 * inks[:, 3:]), "sRGB", "LAB") ^ np.array(flip, np.uint8)
    lab = lab / 255
    labs = (grid(9, 3) * 255).round().astype(np.uint8) ^ np.array(flip, np.uint8)
    back = change(labs / 255, "LAB", "sRGB") / 255
    to_inks = np.concatenate([1 - back, np.zeros((len(back), 1))], -1)

    def table(inputs: int, outputs: int, steps: int, values: np.ndarray) -> bytes:
        identity = b"".join(struct.pack(">i", 65536 * (i % 4 == 0)) for i in range(9))
        ramp = bytes(range(256))
        body = (values.clip(0, 1) * 255).round().astype(np.uint8).tobytes()
        head = struct.pack(">4s4xBBBx", b"mft1", inputs, outputs, steps)
        return head + identity + ramp * inputs + body + ramp * outputs

    tags = [(b"A2B0", table(4, 3, 2, lab)), (b"B2A0", table(3, 4, 9, to_inks))]
    return _profile(b"prtr", b"CMYK", b"Lab ", tags)
