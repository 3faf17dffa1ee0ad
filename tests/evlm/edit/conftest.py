from __future__ import annotations

from pathlib import Path

import pytest
import tiny_ip2p
import torch

from evlm.edit.ip2p import IP2P


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a random InstructPix2Pix; nobody writes into it."""
    return tiny_ip2p.save_folder(tiny_ip2p.build(), tmp_path_factory.mktemp("ip2p") / "folder")


@pytest.fixture(scope="session")
def editor(folder: Path) -> IP2P:
    return tiny_ip2p.load(folder)
