"""What is freed on a CPU stays for the next tensor: no page is handed out anew."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import resource, torch
from trainer.run.allocator import keep_memory
def work():
    for _ in range(20):
        a = torch.ones(8 << 20, dtype=torch.uint8); b = torch.ones(9 << 20, dtype=torch.uint8); del a, b
def faults():
    work()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
without = faults()
assert keep_memory()
print(without, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator, which is left alone")
def test_freed_memory_stays_with_the_process() -> None:
    """MALLOC_MMAP_THRESHOLD_: glibc's own, which it otherwise raises by itself."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    command = [sys.executable, "-c", PROGRAM]
    said = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    without, kept = map(int, said.stdout.split())
    assert kept < 100 < without
