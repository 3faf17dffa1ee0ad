"""How long `import evlm` takes in a fresh interpreter, and what it brings along: python
benchmarks/import_time.py

Prints the median and the worst of several runs beside `import json`, the same way measured, for comparison.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "torch",
    "numpy",
    "transformers",
    "diffusers",
    "peft",
    "sam2",
    "PIL",
    "scipy",
    "huggingface_hub",
    "av",
)
CODE = """
import sys, time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began, *(m for m in {heavy} if m in sys.modules))
"""


def measure(module: str, runs: int = 7) -> tuple[list[float], set[str]]:
    """Seconds of each run, and which heavy packages were imported in any of them."""
    seconds: list[float] = []
    heavy: set[str] = set()
    for _ in range(runs):
        code = CODE.format(module=module, heavy=HEAVY)
        out = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        )
        first, *names = out.stdout.split()
        seconds.append(float(first))
        heavy.update(names)
    return seconds, heavy


if __name__ == "__main__":
    for module in ("evlm", "json"):
        seconds, heavy = measure(module)
        print(
            f"import {module:6} median {statistics.median(seconds) * 1000:6.1f} ms, "
            f"worst {max(seconds) * 1000:6.1f} ms, heavy imports: {', '.join(sorted(heavy)) or 'none'}"
        )
