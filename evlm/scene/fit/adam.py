"""Adam over named rows: its state is plain tensors, row by row, so that rows may come and go and a file holds
it."""

from __future__ import annotations

import torch
from torch import Tensor

BETAS = (0.9, 0.99)
EPS = 1e-15  # gradients of single Gaussians are tiny; 3DGS's value


class Adam:
    """Kingma & Ba 2015 with bias correction, one step count for all. first, second: the moments of each
    tensor, of its shape."""

    def __init__(self, parameters: dict[str, Tensor]) -> None:
        self.first = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}
        self.second = {name: torch.zeros_like(tensor) for name, tensor in parameters.items()}

    @torch.no_grad()
    def step(
        self,
        parameters: dict[str, Tensor],
        grads: dict[str, Tensor],
        rates: dict[str, Tensor | float],
        count: int,
    ) -> None:
        """Changes `parameters` in place. rates: a number, or a tensor that broadcasts. count: of this step,
        from 1."""
        one, two = BETAS
        for name, tensor in parameters.items():
            first, second, grad = self.first[name], self.second[name], grads[name]
            first.lerp_(grad, 1 - one)
            second.mul_(two).addcmul_(grad, grad, value=1 - two)
            scale = second.sqrt().div_((1 - two**count) ** 0.5).add_(EPS)
            tensor.sub_(first / scale * (rates[name] / (1 - one**count)))

    def keep(self, rows: Tensor, added: int) -> None:
        """Of every tensor the rows that `rows` (bool [M]) picks, then `added` new ones that have no past."""
        for moments in (self.first, self.second):
            for name, tensor in moments.items():
                new = tensor.new_zeros(added, *tensor.shape[1:])
                moments[name] = torch.cat([tensor[rows], new])
