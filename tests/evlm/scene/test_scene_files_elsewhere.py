"""Files that other programs wrote of a small scene of ours are read as splat-transform reads them.

`written_elsewhere/write.mjs` made them: @playcanvas/splat-transform 2.7.1 the .ply, compressed .ply and .spz,
@adobe/spz 0.2.2 the .spz of version 2, @mkkellogg/gaussian-splats-3d 0.4.7 the .ksplat, gsplat 1.2.9 the
.splat; all are MIT.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from splat_examples import apart, same_bits, some_gaussians, turned_apart

from evlm.errors import SceneError
from evlm.scene import Gaussians
from evlm.scene.files import load_gaussians, save_gaussians

HERE = Path(__file__).parent / "written_elsewhere"
FILES = ["theirs.compressed.ply", "two.spz", "three.spz", "four.spz", "gsplat.splat",
         "level0.ksplat", "level1.ksplat", "level2.ksplat"]  # fmt: skip


def zstd_is_there() -> bool:
    try:
        return importlib.util.find_spec("compression.zstd") is not None
    except ModuleNotFoundError:
        return importlib.util.find_spec("zstandard") is not None


def reading(name: str) -> Gaussians:
    """As splat-transform reads it: columns means, log scales, quats, logits, sh."""
    with np.load(HERE / "readings.npz") as readings:
        table = torch.from_numpy(readings[name].copy())
    sh = table[:, 11:].reshape(len(table), -1, 3)
    return Gaussians(table[:, :3], table[:, 3:6], table[:, 6:10], table[:, 10], sh)


def unpacked(name: str, folder: Path) -> Path:
    if not name.endswith(".ksplat"):
        return HERE / name
    (folder / name).write_bytes(gzip.decompress((HERE / f"{name}.gz").read_bytes()))
    return folder / name


@pytest.mark.parametrize("name", FILES)
def test_our_reading_is_theirs(tmp_path: Path, name: str) -> None:
    if name == "four.spz" and not zstd_is_there():
        pytest.skip("no zstd in this Python")
    loaded, theirs = load_gaussians(unpacked(name, tmp_path)), reading(name)
    ours = loaded.gaussians
    assert loaded.notes == () and name.endswith(loaded.kind)
    assert torch.equal(ours.means, theirs.means) and torch.equal(ours.log_scales, theirs.log_scales)
    assert apart(ours.logits, theirs.logits) < 1e-6 and apart(ours.sh, theirs.sh) < 1e-6
    # A .splat's byte is 128 + 128 q where the format comes from (and here), 127.5 + 127.5 q to them.
    assert turned_apart(ours.quats, theirs.quats) < (2.5 / 255 if loaded.kind == "splat" else 2e-6)


@pytest.mark.parametrize("name", FILES)
def test_what_they_wrote_is_the_scene(tmp_path: Path, name: str) -> None:
    """Axes, order of harmonics and of a quaternion agree with the .ply that all of them were made from."""
    if name == "four.spz" and not zstd_is_there():
        pytest.skip("no zstd in this Python")
    scene = load_gaussians(HERE / "theirs.ply").gaussians
    back = load_gaussians(unpacked(name, tmp_path)).gaussians
    scene = scene.rows(torch.cdist(back.means, scene.means).argmin(1)).with_degree(back.degree)
    assert apart(back.means, scene.means) < 0.006 and apart(back.log_scales, scene.log_scales) < 0.04
    assert apart(back.opacities, scene.opacities) < 0.006 and apart(back.sh, scene.sh) < 0.04
    assert turned_apart(back.quats, scene.quats) < 0.025


def test_their_ply_holds_our_bits() -> None:
    assert same_bits(load_gaussians(HERE / "theirs.ply").gaussians, some_gaussians(14, degree=1, seed=5))


def test_where_nothing_unpacks_zstd_version_4_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import evlm.scene.files.spz_streams as streams

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(streams, "import_module", missing)
    with pytest.raises(SceneError, match=r"version 4, packed with zstd.*pip install zstandard"):
        load_gaussians(HERE / "four.spz")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npx") is None, reason="no npx")
@pytest.mark.parametrize("name", ["a.ply", "a.compressed.ply", "a.spz", "a.splat"])
def test_splat_transform_reads_what_we_write(tmp_path: Path, name: str) -> None:
    """It is not fetched: it must lie in a folder of node modules that EVLM_NODE_MODULES names."""
    modules = os.environ.get("EVLM_NODE_MODULES", "")
    program = Path(modules, "@playcanvas", "splat-transform", "bin", "cli.mjs")
    if not modules or not program.is_file():
        pytest.skip("EVLM_NODE_MODULES names no folder with @playcanvas/splat-transform")
    version = json.loads(program.parents[1].joinpath("package.json").read_text())["version"]
    for degree in range(4):
        save_gaussians(tmp_path / name, some_gaussians(600, degree))
        command = ["node", str(program), "-q", "-w", str(tmp_path / name), str(tmp_path / "back.ply")]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        ours, theirs = (load_gaussians(tmp_path / each).gaussians for each in (name, "back.ply"))
        assert torch.equal(ours.means, theirs.means), version
        assert torch.equal(ours.log_scales, theirs.log_scales), version
        assert apart(ours.logits, theirs.logits) < 1e-6 and apart(ours.sh, theirs.sh) < 1e-6, version
        assert turned_apart(ours.quats, theirs.quats) < (3 / 255 if name == "a.splat" else 2e-6), version
