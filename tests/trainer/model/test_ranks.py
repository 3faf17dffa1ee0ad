"""Two processes that exchange what a step needs, and one of them that fails meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as processes

from trainer.model.ranks import PeerFailed, Ranks

CPU = torch.device("cpu")


def both(folder: Path) -> list[Any]:
    """What happens in each of two processes."""
    processes.spawn(_one, (str(folder),), nprocs=2, join=True)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def _one(rank: int, folder: str) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    exchanged = exchange(Ranks.here()) | failing(Ranks.here())
    (Path(folder) / f"{rank}.json").write_text(json.dumps(exchanged))
    dist.destroy_process_group()


def exchange(ranks: Ranks) -> dict[str, Any]:
    me = ranks.rank
    texts = [torch.tensor([10 * me + n] * (n + 1)) for n in range(2 * me)]  # the first rank has none
    others, before = ranks.others(texts, CPU)
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 3))]
    parameters[me].grad = torch.ones_like(parameters[me]) * (me + 1)
    ranks.sum_gradients(parameters)
    return {
        "gathered": ranks.gather(torch.arange(me + 1).float().view(-1, 1)).tolist(),
        "flags": ranks.gather(torch.tensor([me == 0])).tolist(),
        "before": ranks.before(5 + me, CPU),
        "others": [text.tolist() for text in others],
        "lower": before,
        "total": ranks.total(0.25 + me, CPU),
        "totals": ranks.totals({"a": 1.0, "b": 2.0} if me else {"a": 1.0}, ("a", "b", "c"), CPU),
        "any": [ranks.any(me == 1, CPU), ranks.any(False, CPU)],
        "gradients": [p.grad.tolist() for p in parameters if p.grad is not None],
        "part": ranks.part(list(range(5))),
    }


def failing(ranks: Ranks) -> dict[str, Any]:
    """The second rank fails before an exchange that the first one waits in; then both begin again."""
    seen = []
    for attempt in range(3):
        try:
            if attempt == ranks.rank:
                ranks.fail(CPU)
                seen.append("failed")
                continue
            ranks.total(1.0, CPU)
            parameter = torch.nn.Parameter(torch.ones(1))
            ranks.sum_gradients([parameter])
            seen.append("done")
        except PeerFailed:
            seen.append("peer failed")
    return {"seen": seen, "after": ranks.total(1.0, CPU)}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_exchange_what_one_would_have(tmp_path: Path) -> None:
    first, second = both(tmp_path)
    for exchanged in (first, second):
        assert exchanged["gathered"] == [[0], [0], [1]] and exchanged["flags"] == [True, False]
        assert exchanged["total"] == 1.5 and exchanged["totals"] == {"a": 2.0, "b": 2.0}
        assert exchanged["any"] == [True, False]
        assert exchanged["gradients"] == [[1, 1], [[2, 2, 2]]]
    assert (first["before"], second["before"]) == (0, 5)
    assert first["others"] == [[10], [11, 11]] and first["lower"] == 0
    assert second["others"] == [] and second["lower"] == 0
    assert (first["part"], second["part"]) == ([0, 1], [2, 3, 4])
    assert first["seen"] == ["failed", "peer failed", "done"] and first["after"] == 2.0
    assert second["seen"] == ["peer failed", "failed", "done"] and second["after"] == 2.0


def test_a_process_alone_sends_nothing() -> None:
    alone = Ranks.here()
    values = torch.arange(3)
    assert alone == Ranks() and alone.gather(values) is values and alone.part([1, 2]) == [1, 2]
    assert alone.others([values], CPU) == ([], 0) and alone.total(0.1, CPU) == 0.1
    assert alone.any(True, CPU) and not alone.any(False, CPU)
    alone.fail(CPU)
