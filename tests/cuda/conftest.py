"""The device of these tests: a CUDA card; EVLM_TEST_DEVICE=cpu runs their code without one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    name = os.environ.get("EVLM_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA card here; EVLM_TEST_DEVICE=cpu runs the code of these tests all the same")
    return torch.device(name)


@pytest.fixture(autouse=True)
def whole_floats() -> Iterator[None]:
    """TF32 would hide what is looked for."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
