"""Damaged files of every format: a SceneError or a valid reading, no other exception, little memory."""

from __future__ import annotations

import gzip
import os
import random
import signal
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from splat_examples import columns_of, ply_bytes, some_gaussians
from test_scene_files_elsewhere import HERE, unpacked, zstd_is_there

from evlm.errors import SceneError
from evlm.scene.files import load_gaussians, load_points, save_gaussians

KINDS = ["a.ply", "ascii.ply", "a.compressed.ply", "a.splat", "a.spz", "unzipped.spz", "four.spz",
         "level0.ksplat", "level2.ksplat"]  # fmt: skip
_NUMBERS = [0, 1, 3, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
_MOST = 24 * 2**20  # bytes that reading a file of a few kB may take


def seed_file(kind: str, folder: Path) -> bytes:
    if kind == "ascii.ply":
        return ply_bytes(columns_of(some_gaussians(8)), "ascii")
    if kind == "four.spz" or kind.endswith(".ksplat"):
        return unpacked(kind, folder).read_bytes()
    path = folder / ("a.spz" if kind == "unzipped.spz" else kind)
    save_gaussians(path, some_gaussians(8))
    data = path.read_bytes()
    path.unlink()
    return gzip.decompress(data) if kind == "unzipped.spz" else data


def mutant(data: bytes, draw: random.Random) -> bytes:
    """The file with one to four things done to it: bits, numbers, cuts, copies, digits of a header."""
    changed = bytearray(data)
    near = min(len(data), 6000 if len(data) > 5120 else 200)  # headers: there the damage is worst
    for _ in range(draw.choice([1, 1, 2, 4])):
        at = draw.randrange(max(1, draw.choice([near, len(changed) or 1])))
        what = draw.randrange(7)
        if what == 0 and at < len(changed):
            changed[at] ^= 1 << draw.randrange(8)
        elif what == 1:
            changed[at : at + 4] = struct.pack("<I", draw.choice(_NUMBERS))
        elif what == 2:
            del changed[at:]
        elif what == 3:
            del changed[at : at + draw.randrange(1, 40)]
        elif what == 4:
            changed[at:at] = changed[at : at + draw.randrange(1, 40)]
        elif what == 5:
            changed[at : at + 4] = struct.pack("<f", draw.choice([float("nan"), float("inf"), -1e38, 0.0]))
        else:
            digits = [place for place in range(min(len(changed), near)) if chr(changed[place]).isdigit()]
            for place in draw.sample(digits, min(len(digits), 2)):
                changed[place : place + 1] = draw.choice([b"9", b"0", b"99999999", b"-", b"x"])
    return bytes(changed)


def read_mutants(kind: str, folder: Path, count: int) -> tuple[int, int]:
    """(readings, refusals)."""
    data, draw = seed_file(kind, folder), random.Random(f"{kind} 7")
    path = folder / ("a.spz" if kind == "unzipped.spz" else kind)
    readings = refusals = 0
    for number in range(count):
        changed = mutant(data, draw)
        path.write_bytes(gzip.compress(changed, 1) if kind == "unzipped.spz" else changed)
        try:
            loaded = load_gaussians(path)
        except SceneError as error:
            refusals += 1
            assert str(error).startswith(str(path)), f"mutant {number}: {error}"
        else:
            readings += 1
            assert loaded.gaussians.finite().all() and loaded.gaussians.means.dtype == torch.float32
    return readings, refusals


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    if kind == "four.spz" and not zstd_is_there():
        pytest.skip("no zstd in this Python")
    tracemalloc.start()
    try:
        readings, refusals = read_mutants(kind, tmp_path, 60)
        assert tracemalloc.get_traced_memory()[1] < _MOST
    finally:
        tracemalloc.stop()
    assert readings + refusals == 60 and refusals > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_damaged_files_are_read_or_refused(tmp_path: Path, kind: str) -> None:
    if kind == "four.spz" and not zstd_is_there():
        pytest.skip("no zstd in this Python")
    tracemalloc.start()
    try:
        readings, refusals = read_mutants(kind, tmp_path, 1000)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    print(f"{kind}: {readings} read, {refusals} refused, at most {most / 2**20:.1f} MiB")
    assert most < _MOST


def spz_header(count: int, degree: int = 0, version: int = 3) -> bytes:
    return b"NGSP" + struct.pack("<IIBBBB", version, count, degree, 12, 0, 0)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    """20 MB of zeros in 100 kB: one that promises few Gaussians, one that promises millions, one without
    a header."""
    said = {
        "goes on behind its Gaussians": spz_header(3),
        "bytes of gzip cannot hold": spz_header(45_000_000),
    }
    said["has NGSP there"] = b""
    zeros = bytes(10**6)
    for number, start in enumerate(said.values()):
        pack = zlib.compressobj(1, wbits=31)
        data = pack.compress(start) + b"".join(pack.compress(zeros) for _ in range(20)) + pack.flush()
        (tmp_path / f"{number}.spz").write_bytes(data)
    tracemalloc.start()
    try:
        for number, what in enumerate(said):
            with pytest.raises(SceneError, match=what):
                load_gaussians(tmp_path / f"{number}.spz")
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (spz_header(0), "holds no Gaussians"),
        (spz_header(2**31), "at most 50000000 are read"),
        (spz_header(1, degree=4), "harmonics of degree 4, at most 3"),
        (spz_header(1, version=9), "version 9 in gzip, expected 1, 2 or 3"),
        (spz_header(1)[:10], "under its gzip"),
        (spz_header(2) + bytes(30), "promises 2 Gaussians, 40 bytes, has 30"),
    ],
)  # fmt: skip
def test_an_spz_that_promises_what_it_does_not_hold(tmp_path: Path, header: bytes, said: str) -> None:
    (tmp_path / "a.spz").write_bytes(gzip.compress(header))
    with pytest.raises(SceneError, match=said):
        load_gaussians(tmp_path / "a.spz")


def test_version_1_has_half_floats_and_other_axes_are_turned(tmp_path: Path) -> None:
    """Never released, but read; and a file that says that it stands right-down-front is not turned over."""
    half = struct.pack("<3e", 1.5, -2.0, 0.25) + bytes([255, 128, 128, 128, 160, 160, 160, 255, 128, 128])
    (tmp_path / "a.spz").write_bytes(gzip.compress(spz_header(1, version=1) + half))
    assert load_gaussians(tmp_path / "a.spz").gaussians.means.tolist() == [[1.5, 2.0, -0.25]]
    header = bytearray(spz_header(1, version=1))
    header[14] = 2
    record = struct.pack("<III", 0xADBE0003, 4, 6) + struct.pack("<II", 7, 2) + b"ab"
    (tmp_path / "a.spz").write_bytes(gzip.compress(bytes(header) + half + record))
    loaded = load_gaussians(tmp_path / "a.spz")
    assert loaded.gaussians.means.tolist() == [[1.5, -2.0, 0.25]]
    assert loaded.notes == ("1 extensions of the .spz are not kept",)


def test_a_ksplat_whose_parts_do_not_add_up(tmp_path: Path) -> None:
    whole = unpacked("level1.ksplat", tmp_path).read_bytes()
    path = tmp_path / "a.ksplat"

    def said(at: int, value: bytes) -> str:
        path.write_bytes(whole[:at] + value + whole[at + len(value) :])
        with pytest.raises(SceneError) as caught:
            load_gaussians(path)
        return str(caught.value)

    assert "version 1.1 with compression 1; version 0.1" in said(0, b"\1")
    assert "with compression 3" in said(20, struct.pack("<H", 3))
    assert "which 5884 bytes cannot hold" in said(4, struct.pack("<I", 2**32 - 1))
    assert "promises 13 Gaussians, its sections hold 14" in said(16, struct.pack("<I", 13))
    assert "of 2000000000 up to byte" in said(4096 + 4, struct.pack("<I", 2_000_000_000))
    assert "buckets" in said(4096 + 32, struct.pack("<I", 900))
    assert "harmonics of degree 9" in said(4096 + 40, struct.pack("<H", 9))
    path.write_bytes(whole[:3000])
    with pytest.raises(SceneError, match="has 5120 of headers alone"):
        load_gaussians(path)


def test_a_compressed_ply_whose_elements_do_not_fit(tmp_path: Path) -> None:
    whole = (HERE / "theirs.compressed.ply").read_bytes()

    def said(old: bytes, new: bytes) -> str:
        assert old in whole
        (tmp_path / "a.ply").write_bytes(whole.replace(old, new))
        with pytest.raises(SceneError) as caught:
            load_gaussians(tmp_path / "a.ply")
        return str(caught.value)

    assert "2 chunks for 14 Gaussians, expected 1" in said(b"element chunk 1", b"element chunk 2")
    assert "harmonics of 13 Gaussians, and 14" in said(b"element sh 14", b"element sh 13")
    assert "packed_scale is i4, expected uint" in said(b"uint packed_scale", b"int packed_scale")
    assert "no float max_y" in said(b"float max_y", b"float may_y")
    assert "only some of min_r" in said(b"float max_g", b"float mag_g")
    assert "'sh' has 9 properties" in said(b"uchar f_rest_4", b"uchar f_rest_x")
    assert "in ascii" in said(b"binary_little_endian", b"ascii")


def test_a_small_spz_that_would_take_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    """Both containers; the second is refused before it is asked whether this Python knows zstd."""
    count = 10_000_000  # 200 MB of rows that are all alike: 200 kB of gzip
    pack = zlib.compressobj(9, wbits=31)
    data = [pack.compress(spz_header(count)), *(pack.compress(bytes(20 * 10**6)) for _ in range(10))]
    (tmp_path / "a.spz").write_bytes(b"".join([*data, pack.flush()]))
    sizes = [9 * count, count, 3 * count, 3 * count, 4 * count]
    table = struct.pack("<10Q", *(number for size in sizes for number in (8, size)))
    header = b"NGSP" + struct.pack("<IIBBBBI", 4, count, 0, 12, 0, 5, 32)
    (tmp_path / "b.spz").write_bytes(header.ljust(32, b"\0") + table + bytes(8 * 5))
    tracemalloc.start()
    try:
        for name in ("a.spz", "b.spz"):
            with pytest.raises(SceneError, match="200,000,000 bytes: more than 100 times as many"):
                load_gaussians(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    finally:
        tracemalloc.stop()
    few = gzip.compress(spz_header(500_000) + bytes(10_000_000))  # as small, and bearable
    (tmp_path / "a.spz").write_bytes(few)
    assert len(few) < 100_000 and len(load_gaussians(tmp_path / "a.spz").gaussians) == 500_000


@pytest.mark.parametrize("start", [b"\x1f\x8b\x08\x3f", b"ply\x3f", b"\x1f\x8b\xff\x3f"])
def test_a_splat_may_begin_with_the_mark_of_another_kind(tmp_path: Path, start: bytes) -> None:
    """It has none of its own: its first bytes are the first position."""
    path = tmp_path / "a.splat"
    save_gaussians(path, some_gaussians(8))
    path.write_bytes(start + path.read_bytes()[4:])
    assert load_gaussians(path).kind == "splat" and len(load_gaussians(path).gaussians) == 8
    save_gaussians(tmp_path / "b.spz", some_gaussians(8))
    (tmp_path / "b.spz").rename(path)
    assert load_gaussians(path).kind == "spz"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes that have a name")
@pytest.mark.parametrize("read", [load_gaussians, load_points])
def test_a_pipe_is_refused_before_anybody_waits_for_it(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    os.mkfifo(tmp_path / "a.ply")

    def late(*_: object) -> None:
        raise TimeoutError("it waited")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(5)
    try:
        with pytest.raises(SceneError, match="is no file"):
            read(tmp_path / "a.ply")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
