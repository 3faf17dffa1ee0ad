"""The safetensors container, checked before it is believed.

A file is eight bytes of header length, a JSON header, then the tensors' bytes. `read_header` proves from the
header and the file's size alone that every tensor lies where it says, without overlap or gap, so that a
damaged or hostile file is refused with a reason before anything is allocated.
Source: the format section of github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER = 32 << 20
"""Bytes. A 7B model's full header is 0.1 MB; the format itself allows 100 MB."""

_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class TensorInfo:
    """dtype in safetensors' spelling ("F32"), shape, and the byte range [start, end) in the data section."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str] = field(default_factory=dict)


def read_header(path: str | Path) -> Header:
    """The checked header of a safetensors file. No tensor is read. Raises CheckpointError."""
    path = Path(path)
    with _opened(path) as (file, size, length):
        raw = file.read(length)
    if len(raw) != length:
        raise _bad(path, "the header ends early")
    return _parse(path, raw, size - 8 - length)


def header_start(path: str | Path, most: int = 64 << 10) -> bytes:
    """The first bytes of the JSON header as they stand in the file, at most `most`: enough to tell kinds of
    file apart, without parsing anything.

    Raises CheckpointError for anything that does not begin as a safetensors file does.
    """
    path = Path(path)
    with _opened(path) as (file, _, length):
        raw = file.read(min(length, most))
    if not raw.lstrip().startswith(b"{"):
        raise _bad(path, "its header is not a JSON object")
    return raw


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int, int]]:
    """(the file at its header, the file's size, the header's size). Raises CheckpointError."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise CheckpointError(f"{path} is a device or a pipe, expected a safetensors file")
            start = file.read(8)
            if start.startswith(_PICKLES):
                raise CheckpointError(
                    f"{path} is a pickle or zip archive, whatever its name says. Such files can run code "
                    "and are never opened here; convert it with safetensors.torch.save_file where you "
                    "trust it"
                )
            if len(start) < 8:
                raise _bad(path, f"{about.st_size} bytes is too short")
            (length,) = struct.unpack("<Q", start)
            if length > MAX_HEADER or 8 + length > about.st_size:
                raise _bad(path, f"it announces a header of {length:,} bytes, the file has {about.st_size:,}")
            yield file, about.st_size, length
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error


def _open_at_once(path: str, flags: int) -> int:
    """A pipe that nobody writes to would keep the reader waiting."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_tensors(path: str | Path, header: Header) -> dict[str, Tensor]:
    """All tensors of a file whose header was checked, on the CPU, in memory of their own.

    Raises CheckpointError when the file cannot be read or a floating tensor holds NaN or infinity.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            for name in header.tensors:
                tensors[name] = file.get_tensor(name).clone()
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}; copy or download it again") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise CheckpointError(
                f"{path}: {name} holds NaN or infinity; use an earlier save of this training"
            )
    return tensors


def _parse(path: Path, raw: bytes, data_size: int) -> Header:
    try:
        content = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"its header is not JSON ({str(error)[:120]})") from None
    if not isinstance(content, dict):
        raise _bad(path, "its header is not a JSON object")
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad(path, "its metadata is not a map of texts")
    tensors = {name: _info(path, name, entry) for name, entry in content.items()}
    end = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if info.start != end:
            what = "overlaps the tensor before it" if info.start < end else "leaves a gap before it"
            raise _bad(path, f"{name!r} {what} (starts at byte {info.start}, expected {end})")
        end = info.end
    if end != data_size:
        raise _bad(path, f"its tensors take {end:,} bytes, the file holds {data_size:,}")
    return Header(tensors, metadata)


def _info(path: Path, name: str, entry: Any) -> TensorInfo:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad(path, f"the entry of {name!r} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise _bad(path, f"{name!r} has the unknown dtype {dtype!r:.40}")
    if not _naturals(shape) or len(shape) > 8:
        raise _bad(path, f"{name!r} has the impossible shape {shape!r:.80}")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(path, f"{name!r} has the impossible byte range {offsets!r:.80}")
    expected = _SIZES[dtype]
    for side in shape:
        expected *= side
    if offsets[1] - offsets[0] != expected:
        raise _bad(
            path,
            f"{name!r} of {dtype} {shape!r:.80} needs {expected:,} bytes, has {offsets[1] - offsets[0]:,}",
        )
    return TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 48 for item in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name occurs twice")
    return content


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _bad(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a whole safetensors file: {reason}. Copy or download it again")
