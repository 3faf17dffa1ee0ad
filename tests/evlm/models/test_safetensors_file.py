"""Hundreds of damaged and hostile files under the name of an adapter: each refused with a reason, none
opened."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_adapters import join, save_good, split

from evlm.adapter.checkpoint import Expected, load_adapter
from evlm.errors import CheckpointError, EVLMError
from evlm.models.safetensors_file import read_header

SETTINGS = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Expected]:
    return save_good(tmp_path_factory.mktemp("adapter"))


def refuse(path: Path, content: bytes, expect: Expected | None = None) -> str:
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_adapter(path, expect)
    return str(caught.value)


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": {**ENTRY, "shape": [2, 3]}}, 16, "needs 24 bytes, has 16"),
        ({"a": {**ENTRY, "shape": [1 << 40, 1 << 40]}}, 16, "needs"),
        ({"a": {**ENTRY, "shape": [1 << 64]}}, 16, "impossible shape"),
        ({"a": {**ENTRY, "shape": [-2, -2]}}, 16, "impossible shape"),
        ({"a": {**ENTRY, "shape": [True, 4]}}, 16, "impossible shape"),
        ({"a": {**ENTRY, "shape": "22"}}, 16, "impossible shape"),
        ({"a": {**ENTRY, "shape": [2.0, 2]}}, 16, "impossible shape"),
        ({"a": {**ENTRY, "dtype": "F16"}}, 16, "needs 8 bytes"),
        ({"a": {**ENTRY, "dtype": "O"}}, 16, "unknown dtype"),
        ({"a": {**ENTRY, "dtype": ["F32"]}}, 16, "unknown dtype"),
        ({"a": {**ENTRY, "data_offsets": [16, 0]}}, 16, "impossible byte range"),
        ({"a": {**ENTRY, "data_offsets": [0]}}, 16, "impossible byte range"),
        ({"a": {**ENTRY, "data_offsets": [-16, 0]}}, 16, "impossible byte range"),
        ({"a": {**ENTRY, "data_offsets": [8, 24]}}, 24, "gap"),
        ({"a": ENTRY, "b": ENTRY}, 16, "overlaps"),
        ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [8, 24]}}, 24, "overlaps"),
        ({"a": ENTRY}, 12, "take 16 bytes, the file holds 12"),
        ({"a": ENTRY}, 20, "take 16 bytes, the file holds 20"),
        ({"a": {**ENTRY, "extra": 1}}, 16, "entry of"),
        ({"a": 7}, 16, "entry of"),
        ([], 0, "not a JSON object"),
        ({"__metadata__": {"a": 1}}, 0, "map of texts"),
        ({"__metadata__": []}, 0, "map of texts"),
        (b'{"a": 1, "a": 2}', 0, "twice"),
        (b'{"a": NaN}', 0, "not JSON"),
        (b"[" * 100_000, 0, "not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", 0, "file"),
        (b"\xff\xff", 0, "not JSON"),
        (b"", 0, "not JSON"),
    ],
)
def test_headers_that_lie(header: Any, data: int, message: str, tmp_path: Path) -> None:
    assert message in refuse(tmp_path / "x.safetensors", join(header, bytes(data)))


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"a": torch.zeros(2)}, tmp_path / "zip.pt")
    for content in ((tmp_path / "zip.pt").read_bytes(), *(pickle.dumps(Trap(), p) for p in range(2, 6))):
        assert "pickle" in refuse(tmp_path / "x.safetensors", content)
    refuse(tmp_path / "x.safetensors", pickle.dumps(Trap(), 0))
    assert not (tmp_path / "ran").exists()


def test_a_header_longer_than_the_file_is_not_allocated(tmp_path: Path) -> None:
    for length in (2, 100, 1 << 31, 1 << 62, (1 << 64) - 1):
        assert "announces" in refuse(tmp_path / "x.safetensors", struct.pack("<Q", length) + b"{")


@pytest.mark.parametrize("dtype", ["I64", "U8", "BOOL", "F64", "F8_E4M3"])
def test_other_dtypes_are_no_adapter(dtype: str, good: tuple[Path, Expected], tmp_path: Path) -> None:
    header, _ = split(good[0])
    sizes = {"I64": 8, "F64": 8}
    first = next(name for name in header if name != "__metadata__")
    entry = {"dtype": dtype, "shape": [4], "data_offsets": [0, 4 * sizes.get(dtype, 1)]}
    content = join({"__metadata__": header["__metadata__"], first: entry}, bytes(4 * sizes.get(dtype, 1)))
    assert dtype in refuse(tmp_path / "x.safetensors", content)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers(value: float, good: tuple[Path, Expected], tmp_path: Path) -> None:
    header, data = split(good[0])
    spoiled = bytearray(data)
    spoiled[400:404] = struct.pack("<f", value)
    assert "NaN or infinity" in refuse(tmp_path / "x.safetensors", join(header, bytes(spoiled)), good[1])


def test_truncated_anywhere(good: tuple[Path, Expected], tmp_path: Path) -> None:
    raw = good[0].read_bytes()
    for length in {*range(64), *range(64, len(raw), len(raw) // 150), len(raw) - 1}:
        refuse(tmp_path / "x.safetensors", raw[:length])


@SETTINGS
@given(data=st.data())
def test_mutations_load_the_same_or_are_refused(
    data: st.DataObject, good: tuple[Path, Expected], tmp_path: Path
) -> None:
    """Flipped, inserted and removed bytes in the header: the adapter as it was, or one clear error."""
    raw = bytearray(good[0].read_bytes())
    (length,) = struct.unpack("<Q", raw[:8])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, 7 + length))
        kind = data.draw(st.sampled_from(["set", "insert", "remove"]))
        if kind == "set":
            raw[at] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            raw.insert(at, data.draw(st.integers(32, 126)))
        else:
            del raw[at]
    path = tmp_path / "x.safetensors"
    path.write_bytes(raw)
    try:
        tensors, _ = load_adapter(path, good[1])
    except EVLMError as error:
        assert isinstance(error, CheckpointError)
        assert str(error)
    else:
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@SETTINGS
@given(content=st.binary(max_size=200), framed=st.booleans())
def test_any_bytes_are_refused(content: bytes, framed: bool, tmp_path: Path) -> None:
    refuse(tmp_path / "x.safetensors", join(content, b"") if framed else content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 1 << 65) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3),
)
DTYPES = st.sampled_from(["F32", "F16", "I8", "Q"]) | JSON
ENTRIES = st.fixed_dictionaries({"dtype": DTYPES, "shape": JSON, "data_offsets": JSON}) | JSON


@SETTINGS
@given(header=st.dictionaries(st.text(max_size=6), ENTRIES, max_size=3))
def test_any_header_is_read_or_refused(header: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(join(header, bytes(16)))
    with pytest.raises(CheckpointError):
        read_header(path)
