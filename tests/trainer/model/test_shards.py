"""Layers that are split over two processes: what a whole model computes, however unevenly they work."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from evlm.errors import ConfigError
from trainer.config.recipe import Config, load_config
from trainer.learner.guard import within_memory
from trainer.learner.learner import Learner, load_learner
from trainer.model.ranks import Ranks, joined
from trainer.model.shards import PeerFailed, Shards
from trainer.steps.sft import sft_step

CPU = torch.device("cpu")


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(8, 10), nn.Linear(10, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.into(x).tanh())


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def model_of() -> nn.Module:
    torch.manual_seed(0)
    model = get_peft_model(Model(), LoraConfig(r=2, target_modules=["into", "out"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    return model


def learning(model: nn.Module) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]


def gradients(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in learning(model)])


def fail_once(rank: int) -> Callable[..., None]:
    """A hook that has no memory on rank 1, the first time."""
    left = [rank]

    def hook(*_: object) -> None:
        if left[0]:
            left[0] = 0
            raise MemoryError("out of memory")

    return hook


def checkpointed(learner: Learner, whole: Learner, config: Config) -> tuple[float, dict[str, int], int]:
    """How far the gradient of a split model is off, whose layers are computed again in the backward pass; and
    how its layers were gathered."""
    rows, taken = learner.rows(config, config.phases[0]).batch(0)[:2], []
    phase = replace(config.phases[0], micro_batch=None)
    for each in (learner, whole):
        each.model.train()
        sft_step(replace(each, ranks=whole.ranks), rows, phase)
        taken.append(torch.cat([p.grad.flatten() for p in each.trainable() if p.grad is not None]))
    shards = learner.ranks.shards
    assert shards is not None
    return float((taken[0] - taken[1]).norm() / taken[1].norm()), dict(shards.gathered), len(shards.layers)


def process(rank: int, port: int, folder: str) -> None:
    """Rank 0 has one row, rank 1 three, which it takes one at a time."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    rows = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(1))
    mine = rows[:1] if rank == 0 else rows[1:]
    whole, model = model_of(), model_of()
    with joined("cpu") as (ranks, _):
        base = model.get_base_model()
        shards = Shards(base.layers, CPU)
        ranks = Ranks(ranks.rank, ranks.count, shards)
        size = sum(p.to_local().numel() for p in base.layers.parameters() if hasattr(p, "to_local"))
        result: dict[str, object] = {"size": size}

        # A step whose first pass ends in the second layer, before FSDP has seen the third.
        failing = base.layers[1].register_forward_pre_hook(fail_once(rank), prepend=True)
        began: list[int | None] = []
        within_memory(
            lambda m: began.append(m) or float(model(mine[0]).sum()), 4, None, ranks, CPU, lambda _: None
        )
        failing.remove()
        result["began"] = began

        # A process that has no room for a layer says so before the others wait for its part.
        if rank:
            shards._bytes[2] <<= 50
        crowded: list[int | None] = []

        def crowd(micro_batch: int | None) -> None:
            crowded.append(micro_batch)
            if micro_batch:
                shards._bytes[2] = shards._bytes[0]
            model(mine[0])

        within_memory(crowd, 4, None, ranks, CPU, lambda _: None)
        result["crowded"] = crowded

        with torch.no_grad():  # each as often as it likes
            result["forward"] = all(torch.equal(model(row), whole(row)) for row in mine)
        result["total"] = ranks.total(len(mine), CPU)

        shards.gathered = {"late": 0, "early": 0}
        model(mine[0]).square().sum().backward()  # both the same way
        whole(mine[0]).square().sum().backward()
        result["gathered"] = dict(shards.gathered)
        result["together"] = torch.equal(gradients(model), gradients(whole))
        whole.zero_grad()
        ranks.total(0, CPU)

        tries: list[int | None] = []

        def attempt(micro_batch: int | None) -> None:
            tries.append(micro_batch)
            model.zero_grad()
            loss = 0.0
            for at, row in enumerate(mine):
                # A prefix whose graph is shared by two passes, as scoring does.
                once = model(row)
                value = (model(once[:2]) + model(once[1:3])).square().sum()
                if rank and at == 1 and micro_batch is None:
                    raise MemoryError("out of memory")
                value.backward()
                loss += float(value.detach())
            ranks.sum_gradients(learning(model))

        within_memory(attempt, 4, None, ranks, CPU, lambda _: None)
        result["tries"], result["gradients"] = tries, gradients(model)

        for row in rows:
            once = whole(row)
            (whole(once[:2]) + whole(once[1:3])).square().sum().backward()
        result["expected"] = gradients(whole)
        result["split"] = all(hasattr(layer.into.base_layer.weight, "to_local") for layer in base.layers)

        ranks.total(0, CPU)
        if rank:
            ranks.fail(CPU)
            result["failed"] = True
        else:
            try:
                model(rows[0])
            except PeerFailed:
                result["failed"] = True
        ranks.reset()
        with torch.no_grad():
            result["afterwards"] = torch.equal(model(rows[rank]), whole(rows[rank]))
        ranks.total(0, CPU)

        words = ["model.device=cpu", "model.checkpointing=true"]
        config = load_config("tiny", [*words, "model.shard=true"])
        learner = load_learner(config, Ranks(ranks.rank, ranks.count))
        result["checkpointed"] = checkpointed(learner, load_learner(load_config("tiny", words)), config)
        layers = learner.model.get_base_model().model.language_model.layers
        result["real"] = [
            all(isinstance(p, DTensor) == (".lora_" not in name) for name, p in layer.named_parameters())
            for layer in layers
        ]
    torch.save(result, Path(folder) / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_that_work_unevenly_compute_what_a_whole_model_does(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(process, (port, str(tmp_path)), nprocs=2)
    results = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    numbers = sum(p.numel() for p in Model().parameters())
    assert results[0]["size"] + results[1]["size"] == numbers and results[0]["size"] == numbers // 2
    for each in results:
        off, gathered, layers = each["checkpointed"]
        assert off <= 1e-5 and gathered == {"late": 2, "early": 2 * layers - 2}
        # Late are the first layer of the forward pass, and the last one, in which the backward pass begins.
        assert each["gathered"] == {"late": 2, "early": 4} and each["together"]
        assert each["forward"] and each["afterwards"] and each["failed"] and each["split"]
        assert each["began"] == each["crowded"] == each["tries"] == [None, 2]
        assert each["total"] == 4 and len(each["real"]) > 1 and all(each["real"])
        assert torch.allclose(each["gradients"], each["expected"], rtol=1e-5, atol=1e-6)


def test_accelerate_s_own_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"model\.shard: true"), joined("cpu"):
        raise AssertionError("not reached")
