from __future__ import annotations

import torch
from torch import nn

from trainer.model.optim import make_optimizer, orthogonalise, schedule


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.conv = nn.Conv2d(3, 8, 3)
        self.inner = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight
        self.free = nn.Parameter(torch.zeros(4, 4))


def test_matrices_go_to_muon_and_the_rest_to_adamw() -> None:
    model = Small()
    muon, adam = make_optimizer(model, 0.02, 0.001).param_groups
    assert {id(p) for p in muon["params"]} == {id(model.conv.weight), id(model.inner.weight)}
    assert id(model.embedding.weight) in {id(p) for p in adam["params"]}
    assert len(muon["params"]) + len(adam["params"]) == len(list(model.parameters()))
    only_conv = make_optimizer(model, adam_names=["inner"]).param_groups[0]["params"]
    assert [id(p) for p in only_conv] == [id(model.conv.weight)]


def test_orthogonalise_evens_the_singular_values() -> None:
    torch.manual_seed(0)
    for shape in ((3, 8, 20), (20, 8)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.5 and values.max() < 1.4


def test_adamw_part_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.LayerNorm(6), nn.LayerNorm(6)
    theirs.load_state_dict(ours.state_dict())
    a = make_optimizer(ours, lr_adam=0.01, weight_decay=0.1)
    b = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.1, betas=(0.9, 0.98))
    x, y = torch.randn(5, 6), torch.randn(5, 6)
    for _ in range(5):
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6)


def test_a_small_net_learns() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 1))
    optimizer = make_optimizer(net, 0.02, 0.01)
    x = torch.randn(64, 1, 8, 8)
    y = x.mean(dim=(1, 2, 3))[:, None] * 5
    first = last = 0.0
    for step in range(60):
        optimizer.set_lr(schedule(step, 60, warmup=5))
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        first, last = first or loss.item(), loss.item()
    assert last < 0.1 * first


def test_schedule_rises_and_falls() -> None:
    values = [schedule(step, 100, warmup=10) for step in range(101)]
    assert values[0] == 0.1 and max(values) == values[10] == 1.0 and values[-1] == 0.0
    assert schedule(100, 100, floor=0.1) == 0.1
