"""Rows in and out of files: JSON lines, a JSON list, parquet where `pyarrow` is installed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from evlm.errors import RecordError
from evlm.files.safe_paths import Inside
from evlm.records import ROWS_FILE, Row, row_data, row_problems, unchecked_row

PARQUET = "rows.parquet"  # in a dataset folder without ROWS_FILE
SUFFIXES = (".jsonl", ".json", ".parquet")
_JSON_COLUMNS = ("references", "meta", "steps")  # of any shape, so parquet holds them as JSON text
_CHUNK = 1000  # rows that go to parquet, or move the bar, together


class Problem(NamedTuple):
    """A row that cannot be taken: its line (1 is the first), and all that is wrong with it."""

    line: int
    reasons: list[str]

    def __str__(self) -> str:
        return f"line {self.line}: {'; '.join(self.reasons)}"


OnProblem = Callable[[Problem], None]


def rows_file(path: Path) -> Path:
    """The file that holds the rows of a dataset folder, or the path itself. Raises RecordError."""
    file = path / ROWS_FILE if path.is_dir() else path
    if path.is_dir() and not file.is_file() and (path / PARQUET).is_file():
        file = path / PARQUET
    if not file.is_file():
        raise RecordError(
            f"{file}: no such file; expected a dataset folder with {ROWS_FILE} or {PARQUET}, or a file"
        )
    if file.suffix not in SUFFIXES:
        raise RecordError(f"{file}: expected a name that ends in {', '.join(SUFFIXES)}")
    return file


def read(
    path: Path, on_problem: OnProblem, check_files: bool = True, bar: bool = False
) -> Iterator[tuple[int, Row]]:
    """(line, row) of a dataset's good rows; `on_problem` is told of each other line.

    check_files: whether every picture must exist; that paths stay inside is always checked.
    Raises RecordError where the file itself cannot be read.
    """
    file = rows_file(path)
    folder, seen = Inside(file.parent), dict[str, int]()
    for line, data in read_lines(file, bar):
        if isinstance(data, RecordError):
            on_problem(Problem(line, [str(data)]))
            continue
        data = from_parquet(data) if file.suffix == ".parquet" else data
        reasons = row_problems(data, folder, check_files) or unicode_problems(data)
        if not reasons and data["id"] in seen:
            reasons = [f"id {data['id']!r:.80} was seen on line {seen[data['id']]}"]
        if reasons:
            on_problem(Problem(line, reasons))
        else:
            seen[data["id"]] = line
            yield line, unchecked_row(data)


def unicode_problems(data: Any) -> list[str]:
    """Where a value spells half of a surrogate pair: JSON can, tokenizers and parquet cannot take it."""
    try:
        json.dumps(data, ensure_ascii=False, default=lambda value: "").encode()  # pictures may be bytes
    except UnicodeEncodeError:
        return list(_surrogates(data, ""))
    return []


def read_lines(file: Path, bar: bool = False) -> Iterator[tuple[int, Any]]:
    """(line, parsed value) of each row; a line that is not JSON comes as a RecordError that says why.

    bar: show the progress on a terminal. Raises RecordError where the file cannot be read.
    """
    from tqdm import tqdm

    size = file.stat().st_size
    with tqdm(total=size, unit="B", unit_scale=True, disable=None if bar else True, desc=file.name) as moved:
        try:
            if file.suffix == ".parquet":
                yield from _parquet_lines(file, lambda share: moved.update(share * size))
            elif file.suffix == ".json":
                yield from _list_lines(file)
            else:
                yield from _json_lines(file, moved.update)
        except OSError as error:
            raise RecordError(f"{file}: cannot be read ({error})") from error


@contextmanager
def writing(file: Path, columns: dict[str, str]) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A function that takes rows; the file appears, whole, when the block ends without an error.

    file: .jsonl or .parquet, not there yet. columns: name -> type of each, one of those in `_arrow_type`.
    Raises RecordError.
    """
    if file.suffix not in (".jsonl", ".parquet"):
        raise RecordError(f"{file}: expected a name that ends in .jsonl or .parquet")
    if file.exists():
        raise RecordError(f"{file} exists; name another file, or remove it first")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with (_parquet_writer if file.suffix == ".parquet" else _json_writer)(part, columns) as write:
            yield write
        os.replace(part, file)
    except OSError as error:
        raise RecordError(f"{file}: cannot be written ({error})") from error
    finally:
        part.unlink(missing_ok=True)


EVLM_COLUMNS = {
    "id": "text", "question": "text", "split": "text", "source": "text", "edit_type": "text",
    "category": "text", "original": "texts", "prompt": "text", "thinking": "text", "intermediate": "text",
    "reflection": "text", "instruction": "text", "targets": "texts", "scope": "text", "label": "bool",
    "mask_text": "text", "mask": "text", "edited": "texts", "references": "json", "fps": "number",
    "raters": "bools", "meta": "json", "answer": "text",
    "steps": "json",
}  # fmt: skip


def row_columns(row: Row) -> dict[str, Any]:
    """A row as the columns of `EVLM_COLUMNS`."""
    return row_data(row)


# --- reading ---

_SURROGATE = re.compile("[\ud800-\udfff]")


def _surrogates(data: Any, where: str) -> Iterator[str]:
    if isinstance(data, str) and _SURROGATE.search(data):
        yield f"{where}: half of a surrogate pair in {data!r:.60}, which is no character"
    elif isinstance(data, dict):
        for key, value in data.items():
            if _SURROGATE.search(str(key)):
                yield f"{where}: half of a surrogate pair in the name {key!r:.60}, which is no character"
            yield from _surrogates(value, f"{where}.{key}" if where else str(key))
    elif isinstance(data, (list, tuple)):
        for at, value in enumerate(data):
            yield from _surrogates(value, f"{where}[{at}]")


def parse(text: str | bytes) -> Any:
    """JSON that may be hostile. Raises RecordError."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: bad UTF-8, bad JSON, endless numbers
        raise RecordError(f"not JSON ({type(error).__name__}: {error!s:.120})") from None


def _json_lines(file: Path, moved: Callable[[float], object]) -> Iterator[tuple[int, Any]]:
    size = 0
    with open(file, "rb") as lines:
        for line, text in enumerate(lines, 1):
            size += len(text)
            if line % _CHUNK == 0:
                moved(size)
                size = 0
            if text.strip():
                yield line, _parsed(text)
    moved(size)


def _parsed(text: bytes) -> Any:
    try:
        return parse(text)
    except RecordError as error:
        return error


def _list_lines(file: Path) -> Iterator[tuple[int, Any]]:
    try:
        rows = parse(file.read_bytes())
    except RecordError as error:
        raise RecordError(f"{file}: {error}") from None
    if not isinstance(rows, list):
        raise RecordError(f"{file}: expected a list of rows, got {type(rows).__name__}")
    yield from enumerate(rows, 1)


def _parquet_lines(file: Path, moved: Callable[[float], object]) -> Iterator[tuple[int, Any]]:
    _, parquet = parquet_tools()
    import pyarrow

    line = 0
    try:
        with open(file, "rb") as opened, parquet.ParquetFile(opened) as source:
            total = max(1, source.metadata.num_rows)
            for batch in source.iter_batches(batch_size=_CHUNK):
                for data in batch.to_pylist():
                    line += 1
                    yield line, data
                moved(batch.num_rows / total)
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise RecordError(f"{file}: not a whole parquet file ({error!s:.200})") from None


def from_parquet(data: dict[str, Any]) -> Any:
    """A row of our own columns with those that are JSON text parsed; one that is none stays, for the checks
    to name it."""
    for name in _JSON_COLUMNS:
        if isinstance(data.get(name), str):
            value = _parsed(data[name].encode("utf-8", "surrogatepass"))
            data[name] = data[name] if isinstance(value, RecordError) else value
    return data


# --- writing ---


def _part_of(error: UnicodeEncodeError) -> str:
    """What could not be written, and some of what stands around it."""
    return repr(error.object[max(0, error.start - 30) : error.end + 30])


@contextmanager
def _json_writer(part: Path, columns: dict[str, str]) -> Iterator[Callable[[dict[str, Any]], None]]:
    with open(part, "w", encoding="ascii", newline="\n") as out:

        def write(row: dict[str, Any]) -> None:
            out.write(json.dumps(row, allow_nan=False) + "\n")

        yield write
        out.flush()
        os.fsync(out.fileno())


@contextmanager
def _parquet_writer(part: Path, columns: dict[str, str]) -> Iterator[Callable[[dict[str, Any]], None]]:
    arrow, parquet = parquet_tools()
    schema = arrow.schema([(name, _arrow_type(arrow, kind)) for name, kind in columns.items()])
    held: list[dict[str, Any]] = []
    with (
        open(part, "wb") as opened,
        parquet.ParquetWriter(opened, schema) as out,
    ):  # pyarrow knows UTF-8 alone

        def flush() -> None:
            if held:
                try:
                    out.write_table(arrow.Table.from_pylist(held, schema))
                except UnicodeEncodeError as error:  # of a folder's name: rows are checked
                    raise RecordError(
                        f"parquet holds UTF-8 alone, and a row says {_part_of(error)}; write .jsonl"
                    ) from None
                held.clear()

        def write(row: dict[str, Any]) -> None:
            held.append(
                {
                    n: json.dumps(row[n]) if kind == "json" and n in row else row.get(n)
                    for n, kind in columns.items()
                }
            )
            if len(held) >= _CHUNK:
                flush()

        yield write
        flush()


def _arrow_type(arrow: Any, kind: str) -> Any:
    """text, texts (a list), number, bool, bools, json (any value, as text); frames: lists of texts; chat:
    messages of text; content: messages of {type, text} items; turns: {from, value} messages."""
    text, item = arrow.string(), arrow.struct([("type", arrow.string()), ("text", arrow.string())])
    return {
        "text": text,
        "texts": arrow.list_(text),
        "frames": arrow.list_(arrow.list_(text)),
        "number": arrow.float64(),
        "bool": arrow.bool_(),
        "bools": arrow.list_(arrow.bool_()),
        "json": text,
        "chat": arrow.list_(arrow.struct([("role", text), ("content", text)])),
        "turns": arrow.list_(arrow.struct([("from", text), ("value", text)])),
        "content": arrow.list_(arrow.struct([("role", text), ("content", arrow.list_(item))])),
    }[kind]


def parquet_tools() -> tuple[Any, Any]:
    """pyarrow and its parquet. Raises RecordError where it is missing."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise RecordError(
            "parquet needs the package pyarrow: pip install pyarrow; or use a .jsonl file"
        ) from None
    return pyarrow, pyarrow.parquet
