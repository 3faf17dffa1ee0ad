"""The reference rho_ref: a frozen second adapter in the same base, or a copy of the weights that learn; and
its log-probabilities on disk.

There is never a second model. A log-probability of the reference never changes, so it is computed once for
each (reference, prompt, response) and read back in later epochs and runs.
"""

from __future__ import annotations

import hashlib
import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evlm.errors import EVLMError

from .logprobs import base_of, sequence_logps, summed
from .merged_lora import merged
from .prompts import Prompts
from .shards import whole


class ReferencePolicy:
    """The reference of a PeftModel: one of its adapters, or with None its base with all adapters off; of a
    model whose own weights learn, their copy (`keep_frozen`).

    cache: where its log-probabilities are kept; None computes them every time. The adapter must not change
    while this object is in use: after a refresh make a new one, whose fingerprint is another.
    """

    def __init__(
        self, model: Any, adapter: str | None = "reference", cache: LogProbCache | None = None
    ) -> None:
        self.adapter = adapter
        self.cache = cache
        self.fingerprint = fingerprint(model, adapter)

    def logps(
        self,
        model: Any,
        prompts: Prompts,
        responses: Sequence[Tensor],
        owner: Sequence[int],
        keep: bool = True,
    ) -> Tensor:
        """log rho_ref(responses[n] | prompts[owner[n]]) without a graph: [N], float64.

        keep: whether they may come from the cache and go there; samples, which never recur, should not.

        What is missing in the cache is computed together and stored together, whole or not at all: a run that
        was killed and resumes sees the very bits that it would have computed.
        """
        if self.cache is None or not keep:
            return self._compute(model, prompts, responses, owner)
        keys = self._keys(model, prompts, responses, owner)
        known = self.cache.get(keys)
        missing: dict[bytes, int] = {}
        for n, key in enumerate(keys):
            if key not in known:
                missing.setdefault(key, n)
        if missing:
            some = list(missing.values())
            fresh = self._compute(model, prompts, [responses[n] for n in some], [owner[n] for n in some])
            computed = dict(zip(missing, fresh.tolist(), strict=True))
            # NaN would come back as None. A step that has one is dropped, and the next may be sane.
            self.cache.put({key: value for key, value in computed.items() if math.isfinite(value)})
            known |= computed
        device = base_of(model).device
        wide = summed(torch.zeros(0, device=device)).dtype
        return torch.tensor([known[key] for key in keys], dtype=wide, device=device)

    def _compute(
        self, model: Any, prompts: Prompts, responses: Sequence[Tensor], owner: Sequence[int]
    ) -> Tensor:
        with merged(model), using(model, self.adapter):
            return sequence_logps(model, prompts, responses, owner, "cached")

    def _keys(
        self, model: Any, prompts: Prompts, responses: Sequence[Tensor], owner: Sequence[int]
    ) -> list[bytes]:
        """A name for each (reference, arithmetic, prompt, response): the tokens and patches that the model
        sees, so the row, its template and its pixel budget are all in it."""
        base = base_of(model)
        kind = base.device.type
        autocast = str(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else ""
        how = f"2 {self.fingerprint} {base.dtype} {autocast} {kind}"
        asked = {}
        for row in set(owner):
            b = prompts.take([row]).batch
            asked[row] = _digest(how.encode(), b.input_ids, b.position_ids, b.grids, b.pixels)
        return [_digest(asked[row], response) for row, response in zip(owner, responses, strict=True)]


class LogProbCache:
    """Log-probabilities by key in one SQLite file; several processes may share it.

    Raises EVLMError where the file cannot be read or written; it can always be deleted.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as file:
            file.execute("CREATE TABLE IF NOT EXISTS logp (key BLOB PRIMARY KEY, value REAL) WITHOUT ROWID")

    def get(self, keys: Sequence[bytes]) -> dict[bytes, float]:
        """Those that are known."""
        known: dict[bytes, float] = {}
        wanted = list(dict.fromkeys(keys))
        with self._open() as file:
            for at in range(0, len(wanted), 500):
                some = wanted[at : at + 500]
                marks = ",".join("?" * len(some))
                found = file.execute(f"SELECT key, value FROM logp WHERE key IN ({marks})", some)
                known.update((key, value) for key, value in found if value is not None)  # NaN is NULL there
        return known

    def put(self, values: Mapping[bytes, float]) -> None:
        """All in one transaction. A key that is there keeps its value: the first computed is the one used."""
        with self._open() as file:
            file.executemany("INSERT OR IGNORE INTO logp VALUES (?, ?)", values.items())

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            file = sqlite3.connect(self.path, timeout=60)
            try:
                with file:
                    yield file
            finally:
                file.close()
        except sqlite3.Error as error:
            raise EVLMError(
                f"{self.path}: the cache of the reference's log-probabilities cannot be used ({error}). "
                "Free some disk, or delete the file: it is filled again"
            ) from error


def keep_frozen(model: Any) -> None:
    """Keeps a copy of the weights that learn, as they are now, in place of a reference adapter."""
    model.evlm_frozen = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def frozen_of(model: Any) -> dict[str, Tensor]:
    """That copy, by the weights' names; empty where there is none."""
    return getattr(model, "evlm_frozen", {})


@contextmanager
def using(model: Any, adapter: str | None) -> Iterator[None]:
    """The model with another adapter, with None without any; afterwards everything is as before, also what is
    trainable (PEFT changes that with the adapter). Raises EVLMError for a model without that adapter.

    Where the model's own weights learn, their copy stands in their places, whatever the adapter's name: for
    use without a graph."""
    if frozen := frozen_of(model):
        learned = {name: p.data for name, p in model.named_parameters() if name in frozen}
        try:
            _put(model, frozen)
            yield
        finally:
            _put(model, learned)
        return
    known = _adapters(model)
    if not known or adapter not in (None, *known):
        raise EVLMError(f"no adapter {adapter!r} in the model: it has {sorted(known) or 'none'}")
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    before = model.active_adapter
    try:
        if adapter is None:
            with model.disable_adapter():
                yield
        else:
            model.set_adapter(adapter)
            yield
    finally:
        model.set_adapter(before)
        for parameter, was in trainable.items():
            parameter.requires_grad_(was)


def _put(model: Any, values: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in values:
            parameter.data = values[name]


def fingerprint(model: Any, adapter: str | None) -> str:
    """A hash of all weights that the model computes with under this adapter, and of the adapter's scale.

    It reads every weight once: seconds for a few billion parameters. Where a model is split over several
    processes, all of them must ask.
    """
    if frozen_of(model):
        with using(model, adapter):
            return _fingerprint(model, adapter)
    return _fingerprint(model, adapter)


def _fingerprint(model: Any, adapter: str | None) -> str:
    known = _adapters(model)
    others = set(known) - {adapter}
    scale = ""
    if adapter is not None and adapter in known:
        c = known[adapter]
        scale = f"{c.r} {c.lora_alpha} {c.use_rslora} {c.use_dora} {c.rank_pattern} {c.alpha_pattern}"
    total = hashlib.sha256(scale.encode())
    for name, tensor in sorted(model.state_dict().items()):
        parts = name.split(".")
        if any(part.startswith("lora_") for part in parts) and others & set(parts):
            continue
        total.update(_digest(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), whole(tensor)))
    return total.hexdigest()[:32]


def _adapters(model: Any) -> Mapping[str, Any]:
    """Settings of a PeftModel's adapters; none for a bare model (PEFT leaves them on that one too)."""
    return model.peft_config if hasattr(model, "get_base_model") else {}


def _digest(start: bytes, *tensors: Tensor) -> bytes:
    total = hashlib.sha256(start)
    for tensor in tensors:
        total.update(repr(tuple(tensor.shape)).encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().data)
    return total.digest()
