"""FSDP2: decoder layers whose frozen weights are split over the processes, and are whole one at a time.

PyTorch's `fully_shard` splits, gathers and frees. What it takes for granted is not so here: that all
processes run the same layers equally often. Answers differ in length, and a reference that one process finds
in its cache another has to compute. So nobody gathers a layer alone: each process says which layer it needs,
or that it waits for an exchange, and all take part in gathering what any of them needs until all of them
wait.

Gathers overlap with computing where the processes go the same way: before it computes a layer each says which
one comes next, and where nobody needs or foresees another, that one is gathered meanwhile.

Adapters are small: they stay whole in each process, and their gradients are summed as ever (`ranks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from evlm.errors import ConfigError

# What a process says in place of a layer's number; and numbers from the count of layers on foresee one.
WAITING, FAILED, READY, CROWDED = -1, -2, -3, -4


class PeerFailed(Exception):
    """Another process could not finish its part of the step."""


class _Here:
    """The flight of a layer that is there already."""

    def wait(self) -> None:
        pass


class Shards:
    """The layers of one model, split over all processes of the default group. Every process makes one, of the
    same layers, and calls `wait` before anything else that all of them do together.

    device: where the layers are computed, and where their parts move; they may come from the CPU. Parameters
    of adapters (".lora_") are left as they are.
    """

    def __init__(self, layers: Sequence[nn.Module], device: torch.device) -> None:
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.device = device
        self._told = False  # whether the others know that this process failed
        self._begun: set[int] = set()  # layers that FSDP has seen in a forward
        self._flying: dict[int, Any] = {}  # what is gathered meanwhile
        self.gathered = {"late": 0, "early": 0}  # layers for this process: when needed, or before
        self.layers: list[Any] = list(layers)
        self._group: Any = dist.new_group(backend="gloo")  # of numbers that must not wait for a GPU
        self._count = dist.get_world_size()
        self._bytes: list[int] = []
        mesh = init_device_mesh(device.type, (self._count,))
        for number, layer in enumerate(self.layers):
            frozen = [p for name, p in layer.named_parameters() if ".lora_" not in f".{name}"]
            self._bytes.append(sum(p.nbytes for p in frozen))
            adapters = {p for name, p in layer.named_parameters() if ".lora_" in f".{name}"}
            fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=adapters)
            # Before FSDP's own hooks, which then find the layer whole.
            layer.register_forward_pre_hook(partial(self._before, number), prepend=True)
            layer.register_forward_hook(partial(self._after, number), prepend=True)
            layer.register_forward_pre_hook(lambda *_, number=number: self._begun.add(number))
        self._first = [_first_split(layer) for layer in self.layers]

    def wait(self) -> None:
        """Returns when every process is here; until then takes part in what the others gather. Raises
        PeerFailed."""
        self._drop()
        self._meet(WAITING)

    def fail(self) -> None:
        """Tells the others that this process cannot go on with the step; each of them raises PeerFailed where
        it is."""
        if not self._told:
            self._meet(FAILED)

    def reset(self) -> None:
        """After a step that failed: every layer is split again, and knows of no forward or backward."""
        self._told = False
        self._drop()
        for number, layer in enumerate(self.layers):
            if number in self._begun:
                layer.reset_iter_state()
            else:  # which it does not know before its first forward
                layer.reshard()

    def _before(self, number: int, module: nn.Module, given: Any) -> None:
        self._need(number)

    def _after(self, number: int, module: nn.Module, given: Any, output: Any) -> None:
        if torch.is_grad_enabled():
            for each in output if isinstance(output, (tuple, list)) else (output,):
                if isinstance(each, Tensor) and each.requires_grad:
                    each.register_hook(lambda _: self._need(number))

    def _need(self, number: int) -> None:
        self._land(number)
        if not self._whole(number):
            self._meet(number)
            self.gathered["late"] += 1
        # A checkpointed layer is computed again in the backward pass, which goes the other way.
        backward = torch._C._current_graph_task_id() != -1
        after = number + (-1 if backward else 1)
        if 0 <= after < len(self.layers) and after not in self._flying and not self._whole(after):
            self._drop()
            self._meet(len(self.layers) + after)

    def _land(self, number: int) -> None:
        """Waits for a layer that is on its way."""
        if number in self._flying:
            self._flying[number].wait()
            del self._flying[number]  # not before: where that had no memory, `reset` must wait for it

    def _drop(self) -> None:
        """Forgets what was gathered too early."""
        for number in list(self._flying):
            self._land(number)
            self.layers[number].reshard()

    def _whole(self, number: int) -> bool:
        from torch.distributed.tensor import DTensor

        module, name = self._first[number]
        return not isinstance(getattr(module, name), DTensor)

    def _meet(self, word: int) -> None:
        """Rounds in which all say a word and gather what one of them needs, until this process has what it
        asked for. Who foresees a layer stays for one round: it has another to compute."""
        count = len(self.layers)
        while True:
            words = self._exchange(word)
            if FAILED in words:
                if word == FAILED:
                    return
                raise PeerFailed
            if needed := sorted(each for each in words if 0 <= each < count):
                number = max(needed, key=needed.count)
                self._gather(number, word in (number, count + number))
                if word == count + number:
                    self._flying[number] = _Here()
                if word == number or word >= count:
                    return
                continue
            foreseen = {each - count for each in words if each >= count}
            if not foreseen:
                return
            if len(foreseen) == 1:
                self._gather_meanwhile(foreseen.pop(), word >= count)
            if word >= count:
                return

    def _gather(self, number: int, keep: bool) -> None:
        """All of them a layer; who does not keep it has only given its part."""
        self._land(number)
        layer, kept = self.layers[number], self._whole(number)
        if kept:  # a gather is everyone's: whoever has it gives its part again
            layer.reshard()
        problem = self._room(number)
        words = self._exchange(READY if problem is None else FAILED)
        if problem is not None:
            self._told = True
            raise problem
        if FAILED in words:
            raise PeerFailed
        layer.unshard()
        if not (keep or kept):
            layer.reshard()

    def _gather_meanwhile(self, number: int, keep: bool) -> None:
        """All of them a layer that some foresee; nobody, where one of them has no room for it yet."""
        if CROWDED in self._exchange(READY if self._room(number) is None else CROWDED):
            return
        layer, kept = self.layers[number], self._whole(number)
        if kept:
            layer.reshard()
        flight = layer.unshard(async_op=True)
        if keep:
            self._flying[number] = flight
            self.gathered["early"] += 1
            return
        flight.wait()
        if not kept:
            layer.reshard()

    def _room(self, number: int) -> Exception | None:
        """What was raised for want of the memory that gathering a layer takes, asked before anyone begins: a
        gather that one of them cannot take part in would hold the others for ever."""
        try:
            # What the gather receives, and the parameters that are made of it.
            torch.empty(2 * self._bytes[number], dtype=torch.uint8, device=self.device)
        except (RuntimeError, MemoryError) as error:
            return error
        return None

    def _exchange(self, word: int) -> list[int]:
        import torch.distributed as dist

        words = [torch.zeros(1, dtype=torch.long) for _ in range(self._count)]
        dist.all_gather(words, torch.tensor([word]), group=self._group)
        return [int(each) for each in words]


def supported() -> None:
    """Raises ConfigError where this torch cannot split a model so."""
    from torch.distributed.fsdp import FSDPModule

    if not hasattr(FSDPModule, "reset_iter_state"):
        raise ConfigError(f"model.shard needs torch 2.15 or newer; installed is {torch.__version__}")


def whole(tensor: Tensor) -> Tensor:
    """The tensor; of one that is split over the processes, all of it. Every process must ask, and none may be
    at work in a layer."""
    from torch.distributed.tensor import DTensor

    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _first_split(layer: nn.Module) -> tuple[nn.Module, str]:
    """Where the layer's first split parameter is registered."""
    from torch.distributed.tensor import DTensor

    for module in layer.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(parameter, DTensor):
                return module, name
    raise AssertionError("fully_shard left nothing split")
