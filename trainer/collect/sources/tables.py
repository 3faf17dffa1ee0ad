"""Tables as they lie on disk: parquet, what `datasets.save_to_disk` writes, jsonl, json; one or a folder of
several. Pictures in them are left where they are until somebody asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from evlm.errors import RecordError

from ...data.files import read_lines

SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json")


@dataclass(frozen=True)
class Cell:
    """A value that is read when it is asked for: the picture in one column of one row."""

    file: Path
    row: int
    column: str

    def load(self) -> bytes:
        """The picture's bytes. Raises RecordError where there are none."""
        value = _cell(self)
        value = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(value, bytes) or not value:
            raise RecordError(f"{self.file}, row {self.row}: no picture in the column {self.column!r:.60}")
        return value


def files(path: Path, pattern: str = "**/*") -> list[Path]:
    """The tables of a folder in the order of their names, or the one that `path` is. Raises RecordError."""
    found = [path] if path.is_file() else sorted(each for each in path.glob(pattern) if each.is_file())
    found = [each for each in found if each.suffix in SUFFIXES and each.name not in _BESIDE]
    if not found:
        raise RecordError(f"{path}: no table ({', '.join(SUFFIXES)}) lies there")
    return found


def named(source: str, file: Path) -> str:
    """What a table is called within its source: one of several splits has its folder in its name."""
    root = Path(source).expanduser()
    return file.stem if file == root else file.relative_to(root).with_suffix("").as_posix()


def rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, values by column) of each row, counted from 0; a picture is a Cell. Raises RecordError."""
    if file.suffix in (".jsonl", ".json"):
        for line, data in read_lines(file):
            if not isinstance(data, dict):
                raise RecordError(
                    f"{file}, line {line}: {data if isinstance(data, RecordError) else 'no object'}"
                )
            yield line - 1, data
        return
    pyarrow = _pyarrow(file)
    try:
        start = 0
        for schema, batches in _plain_batches(file):
            lazy = [name for name in schema.names if _is_picture(schema.field(name).type)]
            for batch in batches:
                for data in batch.to_pylist():
                    yield start, {**data, **{name: Cell(file, start, name) for name in lazy}}
                    start += 1
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RecordError(f"{file}: not a whole table ({str(error)[:200]})") from None


_BESIDE = ("dataset_info.json", "state.json", "dataset_dict.json")  # that save_to_disk writes


def _plain_batches(file: Path) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The schema, and the columns that are no pictures in pieces."""
    if file.suffix == ".parquet":
        with _parquet(file) as source:
            schema = source.schema_arrow
            plain = [name for name in schema.names if not _is_picture(schema.field(name).type)]
            if plain:
                yield schema, source.iter_batches(batch_size=1000, columns=plain)
            else:
                raise RecordError(f"{file}: every column is a picture; expected words beside them")
        return
    table = _arrow(file)
    plain = [name for name in table.schema.names if not _is_picture(table.schema.field(name).type)]
    yield table.schema, iter(table.select(plain).to_batches(max_chunksize=1000))


def _is_picture(kind: Any) -> bool:
    import pyarrow

    if pyarrow.types.is_struct(kind):
        return any(kind.field(at).name == "bytes" for at in range(kind.num_fields))
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _cell(cell: Cell) -> Any:
    if cell.file.suffix == ".parquet":
        at, start = _group_of(cell.file, cell.row)
        return _group(cell.file, at, cell.column)[cell.row - start].as_py()
    return _arrow(cell.file)[cell.column][cell.row].as_py()


def _pyarrow(file: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        kind = file.suffix.removeprefix(".")
        raise RecordError(f"{file}: {kind} needs the package pyarrow: pip install pyarrow") from None
    return pyarrow


def _parquet(file: Path) -> Any:
    return _pyarrow(file).parquet.ParquetFile(file)


@lru_cache(256)
def _starts(file: Path) -> tuple[int, ...]:
    with _parquet(file) as source:
        sizes = [source.metadata.row_group(at).num_rows for at in range(source.metadata.num_row_groups)]
    return tuple(sum(sizes[:at]) for at in range(len(sizes)))


def _group_of(file: Path, row: int) -> tuple[int, int]:
    """(the row group of a row, its first row)."""
    return max((at, start) for at, start in enumerate(_starts(file)) if start <= row)


@lru_cache(3)
def _group(file: Path, at: int, column: str) -> Any:
    """One column of one row group: rows that follow each other share it."""
    with _parquet(file) as source:
        return source.read_row_group(at, columns=[column])[column]


@lru_cache(3)
def _arrow(file: Path) -> Any:
    """The table of an Arrow stream, of which only what is used comes into memory."""
    pyarrow = _pyarrow(file)
    return pyarrow.ipc.open_stream(pyarrow.memory_map(str(file))).read_all()
