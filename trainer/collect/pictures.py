"""The dataset's own copies of pictures, each called by the hash of its bytes: what two rows show lies there
once."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from evlm.errors import EVLMError, PictureError, RecordError
from evlm.files.append import flush_files
from evlm.files.clip_reader import open_clip
from evlm.files.pictures import check_size, from_pil, open_image, to_pil, write_atomically

from .sources.item import Media

FOLDER = "pictures"
_KEPT = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp"}  # others become PNG
_MOST = 256 << 20  # bytes of a file


class Pictures:
    """Copies into OUT/pictures. frames: of a clip, at most so many, spread evenly."""

    def __init__(self, out: Path, frames: int) -> None:
        self.out, self.frames = out, frames
        self._written: list[Path] = []  # since the last flush
        self._lock = threading.Lock()

    def copy(self, media: Media) -> dict[str, Any]:
        """{"paths": relative to OUT, "fps": of a clip or None}, or {"dropped": why it cannot be used}, which
        the next run looks at again. Raises RecordError where the copy cannot be written."""
        try:
            if media.kind == "video":
                paths, fps = self._clip(media.load())
            else:
                paths, fps = [self._still(media.load())], None
        except Unwritten:
            raise
        except (EVLMError, OSError) as error:
            return {"dropped": f"{media.id}: {error}"[:400], "passing": True}
        return {"paths": paths, "fps": fps}

    def _still(self, where: bytes | Path) -> str:
        if isinstance(where, Path) and where.stat().st_size > _MOST:
            raise PictureError(f"{where}: larger than {_MOST:,} bytes")
        data = where.read_bytes() if isinstance(where, Path) else where
        name = where if isinstance(where, Path) else f"{len(data):,} bytes"
        try:
            with open_image(BytesIO(data)) as image:
                check_size(image)
                kind = _KEPT.get(image.format or "")
                image.load()
                if kind is None or getattr(image, "n_frames", 1) > 1:
                    file = BytesIO()
                    to_pil(from_pil(image)[0]).save(file, "PNG")  # 16 bits, floats, alpha: as models see them
                    data, kind = file.getvalue(), "png"
        except EVLMError:
            raise
        except Exception as error:  # decoders raise a zoo of errors on damaged bytes
            raise PictureError(f"{name}: cannot be decoded ({error}); it is damaged or truncated") from None
        return self.write(data, kind)

    def _clip(self, where: bytes | Path) -> tuple[list[str], float | None]:
        if isinstance(where, bytes):
            raise PictureError("a clip must be a file or a folder of frames")
        frames, rate = open_clip(where).some(self.frames)
        paths = []
        for frame in frames:
            file = BytesIO()
            to_pil(frame).save(file, "PNG")
            paths.append(self.write(file.getvalue(), "png"))
        return paths, None if rate is None else round(float(rate), 6)

    def write(self, data: bytes, kind: str) -> str:
        """The path of a copy of these bytes. Raises Unwritten."""
        name = hashlib.sha256(data).hexdigest()[:32]
        path = f"{FOLDER}/{name[:2]}/{name}.{kind}"
        target = self.out / path
        with self._lock:
            self._put(target, data)
        return path

    def _put(self, target: Path, data: bytes) -> None:
        if not target.is_file() or target.stat().st_size != len(data):  # a power cut leaves it empty
            write: Callable[[IO[bytes]], object] = lambda file: file.write(data)  # noqa: E731
            try:
                write_atomically(target, write, flush=False)
            except OSError as error:
                raise Unwritten(
                    f"{target}: cannot be written ({error.strerror or error}); make room and run the same "
                    "command again"
                ) from error
            self._written.append(target)

    def flush(self) -> None:
        """Brings to the disk what was copied. Raises OSError."""
        with self._lock:
            flush_files(self._written)
            self._written = []


def stamp(file: Path | None) -> list[list[str | int]]:
    """What becomes another where a file, or one in a folder of frames, is changed."""
    try:
        files = sorted(file.iterdir()) if file is not None and file.is_dir() else [file] if file else []
        return [[each.name, each.stat().st_size, each.stat().st_mtime_ns] for each in files]
    except OSError:  # whoever reads it says so
        return []


class Unwritten(RecordError):
    """The disk did not take a copy."""
