"""A dataset for others: shards with the pictures inside, for Hugging Face's `datasets` or as WebDataset's
tars, with a card and the licences. Formats of other trainers are `python -m trainer data convert`'s.

    python -m trainer data export my-set my-set-hf --to hf
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tarfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from evlm.errors import ConfigError, RecordError
from evlm.files.safe_paths import inside
from evlm.records import Row, row_data

from ..data.files import OnProblem, parquet_tools, read
from .card import card, licences, noncommercial, unknown
from .card_figures import draw

TARGETS = ("hf", "webdataset")
_SHARD = 500 << 20  # bytes of pictures
_GROUP = 100  # rows that are read together
_TEXTS = ("id", "question", "source", "edit_type", "category", "prompt", "thinking", "intermediate",
          "reflection", "instruction", "scope", "mask_text", "answer", "meta", "steps")  # fmt: skip
_LICENSES = "LICENSES.csv"
_FILES = {"hf": "data/{split}-{at:05d}-of-{count:05d}.parquet", "webdataset": "{split}-{at:06d}.tar"}


class Shard(Protocol):
    """One file of rows."""

    def add(self, row: Row, pictures: dict[str, bytes]) -> None: ...
    def close(self) -> None: ...


def export(
    folder: Path, out: Path, target: str, allow: bool, on_problem: OnProblem, shard: int = _SHARD
) -> dict[str, int]:
    """{split: rows} that were written; `out` appears, whole, at the end. allow: also what may not be used
    freely. shard: bytes of pictures in a file. Raises RecordError, and ConfigError for such licences."""
    if out.exists():
        raise RecordError(f"{out} exists; name another folder, or remove it first")
    rows = [row for _, row in read(folder, on_problem, check_files=True)]
    if not rows:
        raise RecordError(f"{folder}: no row is good enough to be written")
    for split in {row.split for row in rows}:
        if not re.fullmatch(r"[A-Za-z0-9_]{1,40}", split):
            raise RecordError(
                f"split {split!r:.60}: expected letters, digits and _, for it becomes a file's name"
            )
    bound = sorted({f"{source} ({licence})" for source, licence, *_ in licences(rows)
                    if unknown(licence) or noncommercial(licence)})  # fmt: skip
    if bound and not allow:
        raise ConfigError(
            f"{', '.join(bound)}: may not be passed on, or not be used by everybody, as far as the rows say; "
            "leave these sources out, or say --allow if they may"
        )
    part = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        part.mkdir(parents=True)
        counts = _write(folder, rows, part, target, shard)
        _put(part / _LICENSES, _licence_lines(rows))
        _put(part / "README.md", _head(counts, target) + card(folder, rows))
        draw(part, rows)
        part.rename(out)
    except OSError as error:
        raise RecordError(f"{out}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return counts


def _write(folder: Path, rows: list[Row], out: Path, target: str, most: int) -> dict[str, int]:
    """Each split's shards, one after the other, in the order of the rows."""
    begin: Callable[[Path], Shard] = Parquet if target == "hf" else Tar
    splits: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        splits[row.split].append(row)
    for split, some in splits.items():
        shards: list[Path] = []
        open_: Shard | None = None
        size = 0
        for row in some:
            pictures = {path: inside(folder, path).read_bytes() for path in dict.fromkeys(row.paths())}
            length = sum(map(len, pictures.values()))
            if open_ is None or size + length > most:
                if open_ is not None:
                    open_.close()
                shards.append(out / f"{split}.{len(shards)}")
                open_, size = begin(shards[-1]), 0
            open_.add(row, pictures)
            size += length
        if open_ is not None:
            open_.close()
        for at, file in enumerate(shards):
            target_file = out / _FILES[target].format(split=split, at=at, count=len(shards))
            target_file.parent.mkdir(exist_ok=True)
            file.rename(target_file)
    return {split: len(some) for split, some in splits.items()}


class Parquet:
    """Rows as `datasets` reads them, without compression: pictures are compressed."""

    def __init__(self, file: Path) -> None:
        self.arrow, parquet = parquet_tools()
        meta = {"huggingface": json.dumps({"info": {"features": features()}})}
        self.schema = self.arrow.schema(
            [(name, _arrow(self.arrow, kind)) for name, kind in COLUMNS.items()], metadata=meta
        )
        self.file = open(file, "wb")  # noqa: SIM115 (pyarrow knows names in UTF-8 alone)
        self.out = parquet.ParquetWriter(self.file, self.schema, compression="none")
        self.held: list[dict[str, Any]] = []

    def add(self, row: Row, pictures: dict[str, bytes]) -> None:
        self.held.append(columns(row, pictures))
        if len(self.held) >= _GROUP:
            self._flush()

    def close(self) -> None:
        self._flush()
        self.out.close()
        self.file.close()

    def _flush(self) -> None:
        if self.held:
            self.out.write_table(self.arrow.Table.from_pylist(self.held, self.schema))
            self.held = []


class Tar:
    """Rows as WebDataset reads them: of each its JSON, and its pictures by their place in it."""

    def __init__(self, file: Path) -> None:
        self.out = tarfile.open(file, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - open until it is full
        self.count = 0

    def add(self, row: Row, pictures: dict[str, bytes]) -> None:
        # A name without an ending gets one: behind a dot WebDataset reads no folders.
        ends = [PurePosixPath(path).suffix or ".bin" for path in pictures]
        named = {path: f"{at}{end}" for at, (path, end) in enumerate(zip(pictures, ends, strict=True))}
        data = {**row_data(row), "pictures": named}
        self._put("json", json.dumps(data, allow_nan=False).encode())
        for path, name in named.items():
            self._put(name, pictures[path])
        self.count += 1

    def _put(self, name: str, data: bytes) -> None:
        entry = tarfile.TarInfo(f"{self.count:06d}.{name}")
        entry.size = len(data)
        self.out.addfile(entry, io.BytesIO(data))

    def close(self) -> None:
        self.out.close()


_PICTURE = {"bytes": "bytes", "path": "text"}
_REFERENCE = {"kind": "text", "text": "text", "note": "text", "fps": "number", "frames": [_PICTURE]}
COLUMNS: dict[str, Any] = {
    **dict.fromkeys(_TEXTS, "text"), "targets": ["text"], "label": "bool", "raters": ["bool"],
    "fps": "number", "original": [_PICTURE], "references": [_REFERENCE], "edited": [_PICTURE],
    "mask": _PICTURE, "step_masks": [_PICTURE],
}  # fmt: skip
"""Of a shard; a list has what is in it, `meta` and `steps` are JSON as text."""


def columns(row: Row, pictures: dict[str, bytes]) -> dict[str, Any]:
    """A row with its pictures inside. pictures: path -> bytes."""

    def shown(paths: Any) -> list[dict[str, Any]]:
        return [{"bytes": pictures[path], "path": path} for path in paths]

    data = row_data(row)
    masks = [step["mask"] for step in row.steps if step.get("mask") is not None]
    return {
        **{name: data.get(name) for name in (*_TEXTS, "targets", "label", "raters", "fps")},
        "meta": json.dumps(data["meta"]),
        "steps": json.dumps(data.get("steps") or []),
        "original": shown(row.original),
        "references": [{**each, "frames": shown(each.get("frames") or ())} for each in row.references],
        "edited": shown(row.edited),
        "mask": None if row.mask is None else shown([row.mask])[0],
        "step_masks": shown(masks),
    }


def features(kind: Any = None) -> Any:
    """What `datasets` is told of the columns."""
    if kind is None:
        return {name: features(each) for name, each in COLUMNS.items()}
    if kind is _PICTURE:
        return {"_type": "Image"}
    if isinstance(kind, list):
        return [features(kind[0])]
    if isinstance(kind, dict):
        return {name: features(each) for name, each in kind.items()}
    return {"dtype": {"text": "string", "number": "float64", "bool": "bool"}[kind], "_type": "Value"}


def _arrow(arrow: Any, kind: Any) -> Any:
    if isinstance(kind, list):
        return arrow.list_(_arrow(arrow, kind[0]))
    if isinstance(kind, dict):
        return arrow.struct([(name, _arrow(arrow, each)) for name, each in kind.items()])
    return {"text": arrow.string(), "number": arrow.float64(), "bool": arrow.bool_(),
            "bytes": arrow.binary()}[kind]  # fmt: skip


def _licence_lines(rows: list[Row]) -> str:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("source", "licence", "rows", "from"))
    for source, licence, count, url in licences(rows):
        lines.writerow((source, licence, count.replace(",", ""), url))
    return text.getvalue()


def _head(counts: dict[str, int], target: str) -> str:
    """What the hub reads of a card."""
    if target != "hf":
        return ""
    files = "".join(f"  - split: {split}\n    path: data/{split}-*.parquet\n" for split in counts)
    return f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n\n"


def _put(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
