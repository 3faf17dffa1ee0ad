"""Files of Gaussians: what is read, what is written again as it was, what is refused and how."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_examples import apart, columns_of, ply_bytes, same_bits, some_gaussians

from evlm.errors import SceneError
from evlm.scene import Gaussians
from evlm.scene.files import load_gaussians, load_points, save_gaussians

INRIA = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *[f"f_rest_{i}" for i in range(9)],
         "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]  # fmt: skip


@pytest.mark.parametrize("degree", range(4))
def test_a_ply_holds_every_bit_and_is_laid_out_as_inrias(tmp_path: Path, degree: int) -> None:
    g = some_gaussians(degree=degree)
    assert save_gaussians(tmp_path / "a.ply", g) == ()
    back = load_gaussians(tmp_path / "a.ply")
    assert (back.kind, back.notes) == ("ply", ()) and same_bits(back.gaussians, g)
    if degree == 1:
        header = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")[0].decode().split("\n")
        assert [line.split()[-1] for line in header if line.startswith("property float")] == INRIA


@pytest.mark.parametrize("form", ["binary_little_endian", "binary_big_endian", "ascii"])
@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_any_order_type_and_unknown_property_is_read_and_written_again(
    tmp_path: Path, form: str, kind: str, newline: str
) -> None:
    g = some_gaussians(degree=2)
    columns = dict(reversed(columns_of(g, kind).items()))
    if kind == "double":  # more digits than Gaussians hold
        columns = {name: (k, v.astype(np.float64) + 1e-12) for name, (k, v) in columns.items()}
    columns["quality"] = ("int", np.arange(len(g)) - 3)
    data = ply_bytes(columns, form, newline, tail=b"trailing bytes")
    (tmp_path / "a.ply").write_bytes(data)
    back = load_gaussians(tmp_path / "a.ply")
    pairs = zip(back.gaussians.tensors().values(), g.tensors().values(), strict=True)
    assert max(apart(a, b) for a, b in pairs) < 1e-6
    save_gaussians(tmp_path / "b.ply", back.gaussians, back.source)
    assert (tmp_path / "b.ply").read_bytes() == data


@pytest.mark.parametrize("form", ["binary_little_endian", "ascii"])
def test_rows_that_an_edit_leaves_alone_are_the_same_bytes(tmp_path: Path, form: str) -> None:
    g = some_gaussians(20)
    columns = columns_of(g, "double")
    columns["opacity"][1][3] = np.inf
    columns["label"] = ("uchar", np.arange(20))
    (tmp_path / "a.ply").write_bytes(data := ply_bytes(columns, form))
    back = load_gaussians(tmp_path / "a.ply")
    chosen = torch.arange(20) % 3 == 0
    means = back.gaussians.means.clone()
    means[chosen] += 0.1
    edited = Gaussians(**{**back.gaussians.tensors(), "means": means})
    save_gaussians(tmp_path / "b.ply", edited, back.source)
    again = load_gaussians(tmp_path / "b.ply")
    assert same_bits(again.gaussians, edited)

    def rows(data: bytes) -> list[bytes]:
        body = data.partition(b"end_header\n")[2]
        size = len(body) // 20
        return (
            body.splitlines() if form == "ascii" else [body[at * size : at * size + size] for at in range(20)]
        )

    pairs = list(zip(rows(data), rows((tmp_path / "b.ply").read_bytes()), strict=True))
    assert [a != b for a, b in pairs] == chosen.tolist()


def test_rows_can_be_removed_and_added_and_keep_what_belongs_to_them(tmp_path: Path) -> None:
    g = some_gaussians(6)
    columns = columns_of(g)
    columns["label"] = ("uchar", np.arange(6) + 10)
    (tmp_path / "a.ply").write_bytes(ply_bytes(columns))
    back = load_gaussians(tmp_path / "a.ply")
    origin = torch.tensor([5, 2, -1, 0])
    with pytest.raises(SceneError, match="4 Gaussians for a file of 6: say by `origin`"):
        save_gaussians(tmp_path / "b.ply", back.gaussians.rows(origin), back.source)
    with pytest.raises(SceneError, match=r"origin holds 0 to 7, expected -1 to 5"):
        save_gaussians(tmp_path / "b.ply", g.rows(origin), back.source, torch.tensor([0, 1, 2, 7]))
    assert not (tmp_path / "b.ply").exists()
    save_gaussians(tmp_path / "b.ply", g.rows(origin), back.source, origin)
    again = load_gaussians(tmp_path / "b.ply")
    assert same_bits(again.gaussians, g.rows(origin)) and again.source is not None
    assert again.source.rows["label"].tolist() == [15, 12, 0, 10]
    assert b"comment by hand" in (tmp_path / "b.ply").read_bytes()


def test_a_text_file_whose_last_line_has_no_end_takes_rows_behind_it(tmp_path: Path) -> None:
    data = ply_bytes(columns_of(some_gaussians(6)), "ascii").rstrip(b"\n")
    (tmp_path / "a.ply").write_bytes(data)
    back = load_gaussians(tmp_path / "a.ply")
    save_gaussians(tmp_path / "b.ply", back.gaussians, back.source)
    assert (tmp_path / "b.ply").read_bytes() == data
    for origin in (torch.tensor([0, 5, -1]), torch.tensor([5, 0, 1, 2])):
        rows = back.gaussians.rows(origin)
        save_gaussians(tmp_path / "b.ply", rows, back.source, origin)
        assert same_bits(load_gaussians(tmp_path / "b.ply").gaussians, rows)


@pytest.mark.parametrize("form", ["binary_little_endian", "ascii"])
@pytest.mark.parametrize(("old", "new"), [(0, 2), (3, 1), (2, 0)])
def test_harmonics_of_another_degree_change_the_header_alone_where_they_stand(
    tmp_path: Path, form: str, old: int, new: int
) -> None:
    g = some_gaussians(degree=old)
    (tmp_path / "a.ply").write_bytes(ply_bytes(columns_of(g), form))
    back = load_gaussians(tmp_path / "a.ply")
    save_gaussians(tmp_path / "b.ply", back.gaussians.with_degree(new), back.source)
    again = load_gaussians(tmp_path / "b.ply")
    assert same_bits(again.gaussians, g.with_degree(new))


def test_elements_around_the_vertices_are_kept(tmp_path: Path) -> None:
    """As ml-sharp writes its camera behind the Gaussians, or a mesh editor its faces."""
    data = ply_bytes(
        columns_of(some_gaussians(5)), more="element face 1\nproperty list uchar int vertex_indices"
    )
    start, _, rest = data.partition(b"element vertex")
    data = start + b"element camera 2\nproperty double f\nelement vertex" + rest
    head, _, body = data.partition(b"end_header\n")
    data = head + b"end_header\n" + bytes(range(16)) + body + bytes([3, *range(12)])
    (tmp_path / "a.ply").write_bytes(data)
    back = load_gaussians(tmp_path / "a.ply")
    assert same_bits(back.gaussians, some_gaussians(5))
    save_gaussians(tmp_path / "b.ply", back.gaussians, back.source)
    assert (tmp_path / "b.ply").read_bytes() == data


def test_rows_that_are_not_finite_are_left_out_and_named(tmp_path: Path) -> None:
    columns = columns_of(some_gaussians(8))
    columns["x"][1][2] = np.nan
    columns["scale_1"][1][4] = np.inf
    columns["scale_1"][1][5] = -np.inf  # without extent: that can be drawn
    columns["opacity"][1][6] = -np.inf  # not to be seen: that, too
    (tmp_path / "a.ply").write_bytes(ply_bytes(columns))
    back = load_gaussians(tmp_path / "a.ply")
    assert len(back.gaussians) == 6 and back.gaussians.finite().all()
    assert back.notes == ("2 of 8 Gaussians have numbers that are not finite, or a rotation of 0; left out",)
    save_gaussians(tmp_path / "b.ply", back.gaussians, back.source)
    raw = (tmp_path / "b.ply").read_bytes()
    assert b"element vertex 6\n" in raw and raw.count(struct.pack("<f", -np.inf)) == 2
    columns["y"][1][:] = np.nan
    (tmp_path / "c.ply").write_bytes(ply_bytes(columns))
    with pytest.raises(SceneError, match="none of its 8 Gaussians has finite numbers"):
        load_gaussians(tmp_path / "c.ply")


def without(*names: str) -> Callable[[dict], None]:
    return lambda columns: [columns.pop(each) for each in names] and None


@pytest.mark.parametrize(
    ("change", "more", "said"),
    [
        (without("opacity", *[f"rot_{i}" for i in range(4)], *[f"scale_{i}" for i in range(3)]), "",
         "it is a point cloud, not Gaussians"),
        (without("opacity", *[f"rot_{i}" for i in range(4)], *[f"scale_{i}" for i in range(3)]),
         "element face 3\nproperty list uchar int vertex_indices", "it is a mesh, not Gaussians"),
        (without("scale_2"), "", "flat Gaussians"),
        (without("rot_1"), "", "its vertices have no rot_1"),
        (without("f_rest_4"), "", "has 8 properties f_rest_"),
        (lambda c: c.update(opacity=("uchar", np.zeros(12))), "", "property opacity is u1, expected float"),
    ],
)  # fmt: skip
def test_a_ply_of_something_else_is_refused_with_what_it_is(
    tmp_path: Path, change: Callable, more: str, said: str
) -> None:
    columns = columns_of(some_gaussians())
    change(columns)
    (tmp_path / "a.ply").write_bytes(ply_bytes(columns, more=more))
    with pytest.raises(SceneError, match=said):
        load_gaussians(tmp_path / "a.ply")


HEAD = "ply\nformat binary_little_endian 1.0\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"ply\n" + b"comment x\n" * 7000, "no end_header within 65536 bytes"),
        (b"plyx\n", "begins with b'plyx"),
        (b"ply\nelement vertex 1\nend_header\n", "says no format"),
        (f"{HEAD}element vertex -1\nend_header\n".encode(), "says 'element vertex -1'"),
        (f"{HEAD}element vertex 99999999999999999999\nend_header\n".encode(), "says 'element vertex 999"),
        (f"{HEAD}property float x\nend_header\n".encode(), "says 'property float x'"),
        (f"{HEAD}element vertex 1\nproperty quad x\nend_header\n".encode(), "which is no property"),
        (f"{HEAD}element v 1\nproperty float x\nproperty float x\nend_header\n".encode(), "'x' of 'v' twice"),
        (f"{HEAD}element face 1\nend_header\n".encode(), "has no element 'vertex', only face"),
        (b"", "is empty"),
        (b"GIF89a", "begins with b'GIF8', which no .ply does"),
    ],
)  # fmt: skip
def test_a_header_that_is_none_is_quoted(tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "a.ply").write_bytes(data)
    with pytest.raises(SceneError, match=said):
        load_gaussians(tmp_path / "a.ply")


def test_more_rows_than_bytes_are_refused_before_anything_is_made_for_them(tmp_path: Path) -> None:
    whole = ply_bytes(columns_of(some_gaussians()))
    for count, said in ((100_000_000, "at most 50000000 are read"), (49_000_000, "it was cut off")):
        (tmp_path / "a.ply").write_bytes(whole.replace(b"vertex 12", b"vertex %d" % count))
        with pytest.raises(SceneError, match=said):
            load_gaussians(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("rows", "said"),
    [("1 2 3\n1 2\n", "row 2 has 2 numbers, expected 3"), ("1 2 3\n4 5 x\n", "rows 1 to 2"),
     ("1 2 3\n", "row 2 has 0 numbers"), (f"1 2 3\n1 2 {'9' * 70}\n", "row 2")],
)  # fmt: skip
def test_damaged_text_names_its_row(tmp_path: Path, rows: str, said: str) -> None:
    head = "ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\nproperty float z\n"
    (tmp_path / "a.ply").write_text(f"{head}end_header\n{rows}{' ' * 20}")
    with pytest.raises(SceneError, match=said):
        load_points(tmp_path / "a.ply")


def test_names_that_are_no_files_of_gaussians_are_refused_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"nothing\.ply: cannot be read"):
        load_gaussians(tmp_path / "nothing.ply")
    with pytest.raises(SceneError, match="is a folder"):
        load_gaussians(tmp_path)
    (tmp_path / "a.sog").write_bytes(b"PK\3\4")
    with pytest.raises(SceneError, match=r"\.sog is not read, expected \.ply.*splat-transform"):
        load_gaussians(tmp_path / "a.sog")
    for name in ("a.ksplat", "a.glb", "a"):
        with pytest.raises(SceneError, match=r"is not written, use \.ply"):
            save_gaussians(tmp_path / name, some_gaussians())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.sog"]


@pytest.mark.parametrize("name", ["a.ply", "a.compressed.ply", "a.splat", "a.spz"])
def test_a_full_disk_leaves_the_earlier_file_whole(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_gaussians(tmp_path / name, some_gaussians())
    before = (tmp_path / name).read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(SceneError, match=r"\(No space left on device\); nothing was changed"):
        save_gaussians(tmp_path / name, some_gaussians(50))
    assert [each.name for each in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == before


def test_numbers_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    g = some_gaussians()
    g.logits[3] = torch.nan
    with pytest.raises(SceneError, match="1 of 12 Gaussians have numbers that are not finite"):
        save_gaussians(tmp_path / "a.ply", g)
    with pytest.raises(SceneError, match="holds no Gaussians"):
        save_gaussians(tmp_path / "a.ply", g.rows(torch.zeros(12, dtype=torch.bool)))
    assert not list(tmp_path.iterdir())


def test_a_point_cloud_gives_points_for_a_fit(tmp_path: Path) -> None:
    xyz = some_gaussians(4).means.numpy()
    columns = {name: ("float", xyz[:, at].copy()) for at, name in enumerate("xyz")}
    columns |= {name: ("uchar", np.array([0, 51, 255, 7])) for name in ("red", "green", "blue")}
    columns["x"][1][3] = np.nan
    for form in ("binary_little_endian", "ascii"):
        (tmp_path / "a.ply").write_bytes(ply_bytes(columns, form))
        points = load_points(tmp_path / "a.ply")
        assert torch.equal(points.positions, torch.from_numpy(xyz[:3]))
        assert torch.allclose(points.colours[:, 0], torch.tensor([0, 0.2, 1]))
        assert points.notes == ("1 of 4 points have numbers that are not finite; left out",)
    (tmp_path / "b.ply").write_bytes(ply_bytes({name: columns[name] for name in "yxz"}))
    assert load_points(tmp_path / "b.ply").notes[0] == "the points have no colours; grey is taken"
    (tmp_path / "c.ply").write_bytes(ply_bytes({"x": columns["x"]}))
    with pytest.raises(SceneError, match="no vertices with x, y and z"):
        load_points(tmp_path / "c.ply")
