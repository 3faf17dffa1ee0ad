"""One process of `shard`'s trainings, started by torchrun: the trainer's own command, and then what memory it
took at most.

    python -m torch.distributed.run ... -m benchmarks.gpu.sharded FOLDER RECIPE [key=value ...]
"""

from __future__ import annotations

import json
import os
import resource
import sys
from pathlib import Path

import torch

from trainer.__main__ import main


def peak() -> int:
    """Bytes of this process's card, on a machine without one of its RAM."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return max(torch.cuda.max_memory_allocated(number) for number in range(torch.cuda.device_count()))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    folder, *words = sys.argv[1:]
    code = main(["run", *words, "--progress", "jsonl"])
    Path(folder, f"peak-{os.environ['RANK']}.json").write_text(json.dumps(peak()), "utf-8")
    sys.exit(code)
