"""Log-probabilities behind the head against a plain log-softmax, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.model.token_logprobs import token_logps


def plain(states, tokens, head):
    return head(states).log_softmax(-1)[torch.arange(len(tokens)), tokens]


def both(dtype=torch.float64, learns=False, bias=False, rows=11):
    torch.manual_seed(0)
    head = nn.Linear(6, 50, bias=bias, dtype=dtype).requires_grad_(learns)
    return head, torch.randn(rows, 6, dtype=dtype) * 3, torch.randint(0, 50, (rows,))


@pytest.mark.parametrize("learns", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 100, None])
def test_values_and_gradients_are_those_of_a_log_softmax(learns, bias, chunk):
    head, states, tokens = both(learns=learns, bias=bias)
    weights = torch.linspace(-1, 2, len(tokens), dtype=states.dtype)
    results = []
    for score in (plain, lambda *given: token_logps(*given, chunk)):
        x = states.clone().requires_grad_()
        head.zero_grad()
        logps = score(x, tokens, head)
        (weights * logps).sum().backward()
        results.append([logps.detach(), x.grad, *(p.grad for p in head.parameters() if learns)])
    for want, got in zip(*results, strict=True):
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-12)


def test_nothing_is_saved_where_no_gradient_is_asked_for():
    head, states, tokens = both()
    with torch.no_grad():
        assert not token_logps(states.requires_grad_(), tokens, head).requires_grad
    assert not token_logps(states.detach(), tokens, head).requires_grad
    assert token_logps(states[:0], tokens[:0], head).shape == (0,)


def test_an_unlikely_token_keeps_its_log_probability():
    """e^-200 is no float32 number, but -200 is."""
    head = nn.Linear(1, 3, bias=False).requires_grad_(False)
    head.weight.copy_(torch.tensor([[200.0], [0.0], [0.0]]))
    x = torch.ones(1, 1, requires_grad=True)
    logp = token_logps(x, torch.tensor([1]), head)
    logp.backward()
    assert logp.item() == pytest.approx(-200) and x.grad.item() == pytest.approx(-200)


def test_half_precision_is_near_float32():
    head, states, tokens = both(torch.bfloat16, rows=40)
    x, y = states.clone().requires_grad_(), states.float().requires_grad_()
    half = token_logps(x, tokens, head)
    full = token_logps(y, tokens, head.float())
    assert half.dtype == torch.float32
    half.sum().backward(), full.sum().backward()
    assert torch.allclose(half, full, atol=0.05)
    assert (x.grad.float() - y.grad).norm() / y.grad.norm() < 0.02


def test_a_temperature_divides_the_logits() -> None:
    head = torch.nn.Linear(6, 40, bias=False).double().requires_grad_(False)
    tokens = torch.tensor([3, 0, 39, 7])
    got, want = (torch.randn(4, 6, dtype=torch.float64).requires_grad_() for _ in range(2))
    want.data.copy_(got.data)
    one = token_logps(got, tokens, head, 3, temperature=1.7)
    other = (head(want) / 1.7).log_softmax(-1)[range(4), tokens]
    assert torch.allclose(one, other, atol=1e-12)
    one.sum().backward()
    other.sum().backward()
    assert torch.allclose(got.grad, want.grad, atol=1e-12)
    with pytest.raises(ValueError, match="bias"):
        token_logps(got, tokens, torch.nn.Linear(6, 40).double(), temperature=2.0)
