"""What was learned, wherever it lies: in a run, finished or not, a file of ours, or a PEFT folder."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from evlm.adapter.checkpoint import AdapterMeta, Expected, config_hash, load_adapter, save_adapter
from evlm.adapter.lora import PEFT_PREFIX, Lora, check_places
from evlm.adapter.stacking import stack_adapters
from evlm.errors import CheckpointError
from evlm.models.loading import read_notes
from evlm.models.safetensors_file import read_header, read_tensors
from evlm.models.zoo import resolve
from evlm.reason.messages import get_style

from ..config.recipe import Config, completed, load_config
from ..learner.learner import style_of
from ..learner.state import WEIGHTS, States
from ..model.skeleton import skeleton

RECIPE = "recipe.yaml"  # in a run's folder: the recipe with every setting, as it was run


@dataclass(frozen=True)
class Learned:
    """tensors: CPU, with PEFT's names. base: name or folder of the backbone. below: an adapter that was
    merged into the base before this one was trained, or None."""

    tensors: dict[str, Tensor]
    meta: AdapterMeta
    base: str
    below: Path | None = None


def read_learned(source: Path, base: str | None = None) -> Learned:
    """An adapter by the place of its run, file or PEFT folder. base: in place of the backbone that it names.

    Raises CheckpointError; ModelError where the backbone is needed to tell what an adapter fits, and is not
    there; ConfigError for a run's broken recipe.
    """
    below: Path | None = None
    if (source / RECIPE).is_file():
        config = load_config(source / RECIPE)
        base = base or config.model.base
        tensors, meta = _of_run(source, config, base)
        if config.model.adapter and "started_from" not in meta.training:  # else it lies in the file already
            below = Path(config.model.adapter)
    elif source.is_file() or (source / "adapter_config.json").is_file():
        tensors, meta = load_adapter(source)
        base = base or meta.base_model
        if None in (meta.base_config_hash, meta.prompt, meta.mask_codec):
            tensors, meta = _completed(source, base)
    elif not source.exists():
        raise CheckpointError(f"{source} does not exist; name a run's folder or an adapter")
    else:
        raise CheckpointError(
            f"{source} is no run (it has no {RECIPE}), no PEFT folder (no adapter_config.json) and no "
            ".safetensors file; name one of them"
        )
    named = {PEFT_PREFIX + name.removeprefix(PEFT_PREFIX): tensor for name, tensor in tensors.items()}
    return Learned(named, replace(meta, base_model=base), base, below)


def fitted(learned: Learned, expect: Expected) -> tuple[dict[str, Tensor], AdapterMeta]:
    """The adapter as `load_adapter` gives it for a model: checked, and with that model's names. Raises
    CheckpointError."""
    if learned.meta.base_config_hash != expect.config_hash:
        raise CheckpointError(
            f"the adapter was trained on {learned.meta.base_model or 'another model'} (shape "
            f"{learned.meta.base_config_hash}); {learned.base} has the shape {expect.config_hash}. Name its "
            "own backbone with --base"
        )
    stored = {name.removeprefix(PEFT_PREFIX): tuple(t.shape) for name, t in learned.tensors.items()}
    names = check_places("the adapter", stored, learned.meta.lora, expect.shapes)
    return {names[n.removeprefix(PEFT_PREFIX)]: t for n, t in learned.tensors.items()}, learned.meta


def alone(learned: Learned) -> Learned:
    """The adapter as one that needs no other below it. Raises CheckpointError."""
    if learned.below is None:
        return learned
    with tempfile.TemporaryDirectory() as folder:
        above, both = Path(folder) / "above.safetensors", Path(folder) / "both.safetensors"
        save_adapter(above, learned.tensors, learned.meta)
        stack_adapters(learned.below, above, both)
        tensors, meta = load_adapter(both)
    return replace(learned, tensors=tensors, meta=meta, below=None)


def _of_run(run: Path, config: Config, base: str) -> tuple[dict[str, Tensor], AdapterMeta]:
    """The adapter that a run ended with, or, where it has not ended or went on since, its newest state's."""
    if config.model.train != "lora":
        raise CheckpointError(
            f"{run} trained the model's own weights (model.train {config.model.train}); its folder model/ is "
            "the whole model, as it is, for Load EVLM and any program that takes the backbone"
        )
    finished = run / "adapter.safetensors"
    state = States(run / "state", json.loads(config.identity), complete=completed).newest()
    step = 0 if state is None else state.progress.step
    if finished.is_file():
        tensors, meta = load_adapter(finished)
        if step <= int(meta.training.get("steps", step)):
            return tensors, meta
    if state is None:
        raise CheckpointError(
            f"{run} holds neither adapter.safetensors nor a state; it was stopped too early"
        )
    file = state.folder / WEIGHTS
    tensors = {
        name.replace(".default", ""): tensor
        for name, tensor in read_tensors(file, read_header(file)).items()
        if ".lora_" in name and ".default" in name
    }
    modules = {name.removeprefix(PEFT_PREFIX).partition(".lora_")[0] for name in tensors}
    settings = config.lora
    lora = Lora(settings.rank, settings.alpha, tuple(sorted(modules)), settings.use_rslora, settings.use_dora)
    meta = _meta(lora, base, {"steps": step, "unfinished": True})
    if config.model.adapter:  # the run asked in its words
        below = load_adapter(config.model.adapter)[1]
        meta = replace(
            meta, prompt=below.prompt or meta.prompt, mask_codec=below.mask_codec or meta.mask_codec
        )
    own = get_style(str(meta.prompt), baselines=True)
    return tensors, replace(meta, prompt=style_of(config, own).name)


def _completed(source: Path, base: str) -> tuple[dict[str, Tensor], AdapterMeta]:
    """An adapter of other makers, with what its backbone tells: names, shape, prompt style, codec."""
    if not base:
        raise CheckpointError(f"{source} does not say what it was trained on; name it with --base")
    folder = resolve(base, "reasoner")
    tensors, meta = load_adapter(source, Expected.of(skeleton(folder)))
    lora = replace(meta.lora, targets=tuple(sorted({name.partition(".lora_")[0] for name in tensors})))
    return tensors, _meta(lora, base, dict(meta.training))


def _meta(lora: Lora, base: str, training: dict[str, Any]) -> AdapterMeta:
    folder = resolve(base, "reasoner")
    notes = read_notes(folder)
    style, codec = str(notes.get("prompt", "full")), str(notes.get("mask_codec", "box-spans-8"))
    return AdapterMeta(lora, base, config_hash(skeleton(folder).config), style, codec, training)
