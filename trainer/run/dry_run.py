"""`python -m trainer run RECIPE --dry-run`: rows, steps, tokens, trained parameters and memory, and all
that is missing at once. No weights are loaded and nothing is written."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from evlm.adapter.checkpoint import AdapterMeta, Expected, load_adapter
from evlm.adapter.stacking import check_stackable
from evlm.errors import ConfigError, EVLMError, ModelError
from evlm.models.loading import pick_device, read_notes
from evlm.models.quantized import check_four_bit
from evlm.plan.mask_codec import get_codec
from evlm.reason.backbone import open_processor
from evlm.reason.messages import MAX_FRAMES, get_style

from ..config.recipe import Config, Phase, Source, completed
from ..data.stream import Source as Folder
from ..data.stream import Stream
from ..learner.learner import style_of
from ..learner.rows import Rows, rows_for
from ..learner.state import States
from ..model.batch import Collator
from ..model.shapes import known_shape
from ..model.shards import supported
from ..model.skeleton import base_folder, skeleton
from .heldout import Measured, open_held_out, open_samples
from .lock import check_free
from .memory import Length, assumed, fixed, learning, looking, passing, split
from .work import seconds, work

_PROBE = 16  # rows that are read to know how long they are


@dataclass(frozen=True)
class Plan:
    """text: for people. missing: what keeps the run from beginning, one line each."""

    text: str
    missing: tuple[str, ...]


@dataclass
class _Findings:
    lines: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def need(self, what: str, find: Callable[[], Any]) -> Any:
        """What `find` gives; None, and a line among the missing, where it raises."""
        try:
            return find()
        except EVLMError as error:
            self.missing.append(f"{what}: {error}")
            return None


def plan(config: Config, fresh: bool = False) -> Plan:
    """What a run of this recipe would do and need. fresh: an earlier run in its folder does not count."""
    findings = _Findings()
    device = findings.need("model.device", lambda: _device(config))
    base = findings.need("model.base", lambda: base_folder(config.model.base))
    shape = base or known_shape(config.model.base)
    model = None if shape is None else findings.need("model.base", lambda: skeleton(shape))
    trained = None if model is None else findings.need("lora", lambda: learning(config, model))
    tuned = None
    if model is not None and config.model.adapter:
        tuned = findings.need("model.adapter", lambda: _stacked(str(config.model.adapter), model))
    for number, source in enumerate(config.data):
        if not source.world:
            findings.need(f"data.{number}", partial(_count, source))
    for what, package, remedy in _packages(config):
        if importlib.util.find_spec(package) is None:
            findings.missing.append(
                f"{what}: the package {package} is not installed: pip install {package}{remedy}"
            )
    if config.model.quantize and device is not None:
        findings.need("model.quantize", partial(check_four_bit, device))
    if config.model.shard:
        findings.need("model.shard", supported)
    findings.need("out", lambda: _writable(Path(config.out)))
    findings.need("out", lambda: check_free(Path(config.out)))
    done = 0 if fresh else findings.need("out", lambda: _done(config))
    if model is not None and trained is not None:
        every = sum(p.numel() for p in model.parameters())
        share = {"merger": "the merger", "full": "all of it"}.get(
            config.model.train, f"LoRA of rank {config.lora.rank}"
        )
        findings.lines.append(
            f"model {config.model.base}: {every:,} parameters; trained {trained:,}, {share}"
        )
    rows = {} if base is None or _lacks(findings, "data") else _rows(config, base, findings, tuned)
    steps = []
    for number, phase in enumerate(config.stages):
        known = rows.get(_kind(phase))
        steps.append(
            findings.need(f"phases.{number}", partial(_steps, phase, known)) if known else phase.steps
        )
        findings.lines.append(_stage(config, number, phase, known, steps[-1]))
    if model is not None and trained is not None:
        lengths = {kind: length for kind, (_, length) in rows.items()}
        if not lengths:
            guess = assumed(config, model)
            lengths = {_kind(phase): guess for phase in config.phases}
            findings.lines.append(
                f"rows are not read; assumed of each: {guess.prompt:.0f} + {guess.answer:.0f} tokens, "
                "a picture as large as max_pixels lets it be"
            )
        findings.lines += _memory(config, model, trained, lengths, device)
        if all(steps):
            counts = {kind: known.count for kind, (known, _) in rows.items()}
            findings.lines.append(_time(config, model, steps, lengths, counts, device))
    if done:
        findings.lines.append(f"goes on from step {done:,} of {sum(filter(None, steps)):,}")
    if not _lacks(findings, "out"):
        name = "adapter.safetensors" if config.model.train == "lora" else "model/, a whole model"
        findings.lines.append(f"writes {config.out}/{name}")
    if findings.missing:
        findings.lines += [
            "",
            f"missing ({len(findings.missing)}):",
            *(f"- {each}" for each in findings.missing),
        ]
    return Plan("\n".join(findings.lines), tuple(findings.missing))


def _device(config: Config) -> torch.device:
    asked = config.model.device
    device = pick_device(None if asked == "auto" else asked)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"{asked!r}: torch sees no CUDA device here; take model.device=cpu, or another machine"
        )
    return device


def _steps(phase: Phase, rows: tuple[Rows, Length]) -> int:
    return phase.length(rows[0].count)


def _stacked(adapter: str, model: Any) -> AdapterMeta:
    """What the adapter that is trained on says of itself. Raises CheckpointError where it does not fit."""
    _, meta = load_adapter(adapter, Expected.of(model))
    check_stackable(adapter)
    return meta


def _count(source: Source) -> int:
    return Stream([Folder(Path(str(source.path)), form=source.form, splits=(source.split,))], 1).counts[0]


def _packages(config: Config) -> list[tuple[str, str, str]]:
    wanted = [("TensorBoard", "tensorboardX", "")]
    if config.wandb is not None:
        wanted.append(("wandb", "wandb", ", or leave `wandb` out of the recipe"))
    return wanted


def _writable(out: Path) -> None:
    folder = next((each for each in (out, *out.resolve().parents) if each.exists()), Path("/"))
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} cannot be written to; choose another folder")


def _done(config: Config) -> int:
    """Steps of an earlier run of this recipe in its folder. Raises ConfigError for another recipe's."""
    saved = States(Path(config.out) / "state", json.loads(config.identity), complete=completed).newest()
    return 0 if saved is None else saved.progress.step


def _lacks(findings: _Findings, what: str) -> bool:
    return any(line.startswith(what) for line in findings.missing)


def _kind(phase: Phase) -> tuple[str, bool]:
    """What decides which rows a phase sees."""
    truth = phase.kind == "group" and phase.group.against == "truth"
    return phase.kind, truth or (phase.kind == "rkto" and bool(phase.rkto.lambda_u))


def _rows(
    config: Config, base: Path, findings: _Findings, tuned: AdapterMeta | None
) -> dict[tuple[str, bool], tuple[Rows, Length]]:
    """The rows of each kind of phase, and how long they are. tuned: the adapter, in whose words the model is
    asked as `load_backbone` does."""
    notes = findings.need("model.base", lambda: read_notes(base))
    processor = findings.need("model.base", lambda: open_processor(base, config.model.max_pixels))
    if notes is None or processor is None:
        return {}
    style = style_of(config, get_style((tuned and tuned.prompt) or notes.get("prompt", "full")))
    codec = get_codec((tuned and tuned.mask_codec) or notes.get("mask_codec", "box-spans-8"))
    seen = style, codec, int(notes.get("max_frames", MAX_FRAMES))
    by_kind: dict[tuple[str, bool], tuple[Rows, Length]] = {}
    for phase in config.phases:
        if _kind(phase) not in by_kind:
            rows = findings.need("data", partial(rows_for, config, phase, *seen))
            length = rows and findings.need("data", partial(_length, processor, rows))
            if length is not None:
                by_kind[_kind(phase)] = rows, length
    findings.need("sample_every", partial(open_samples, config, *seen))
    if config.eval_every:
        measured = findings.need("eval_every", partial(open_held_out, config, *seen))
        if measured is not None:
            findings.lines.append(_evaluation(config, measured))
    return by_kind


def _evaluation(config: Config, measured: Measured) -> str:
    """What is measured, and how often."""
    questions, answered = len(measured.questions), len(measured.examples)
    what = [f"{questions:,} questions"] * bool(questions) + [f"the loss of {answered:,} answers"] * bool(
        answered
    )
    return f"measures {' and '.join(what)} every {config.eval_every:,} steps, and at each phase's end"


def _length(processor: Any, rows: Rows) -> Length:
    collate = Collator(processor)
    whole, answers, seen = [], [], []
    for example in rows.batch(0)[:_PROBE]:
        batch = collate([example.chat], [example.answer])
        whole.append(batch.tokens)
        answers.append(int((batch.labels != -100).sum()))
        seen.append(int(batch.vision_mask.sum()))
    answer = sum(answers) / len(answers)
    return Length(sum(whole) / len(whole) - answer, answer, max(whole), sum(seen) / len(seen))


def _stage(
    config: Config, number: int, phase: Phase, rows: tuple[Rows, Length] | None, steps: int | None
) -> str:
    often = f"{steps:,} steps" if steps else f"{phase.epochs:g} epochs"
    text = f"stage {number}: {phase.kind}, {often} of {phase.batch} rows"
    if rows is not None and steps:
        count, length = rows[0].count, rows[1]
        amount = "the endless world" if count is None else f"{count:,}"
        text += f" from {amount}, lr {phase.lr:g}"
        if count is not None:
            text += f", {steps * phase.batch / count:.1f} epochs"
        tokens = steps * phase.batch * length.row
        text += f"; about {_big(tokens)} tokens ({length.prompt:.0f} + {length.answer:.0f} a row"
        if phase.kind in ("rkto", "group"):
            drawn = steps / phase.draws * phase.batch * phase.rewards.samples * length.answer
            text += f"; and {_big(drawn)} sampled"
        return text + ")"
    return f"{text}, lr {phase.lr:g}"


def _memory(
    config: Config,
    model: Any,
    trained: int,
    lengths: Mapping[tuple[str, bool], Length],
    device: torch.device | None,
) -> list[str]:
    """The stage that needs most, part by part, against what there is. device: None where the recipe's is not
    here; then as on CUDA."""
    always = fixed(config, model, trained)
    text, processes = model.config.text_config, max(1, int(os.environ.get("WORLD_SIZE", "1")))
    stages, kind = [], device.type if device else "cuda"
    for number, phase in enumerate(config.phases):
        if _kind(phase) in lengths:
            part, length = _shared(phase, processes), lengths[_kind(phase)]
            needs = passing(config, part, text, length, kind)
            stages.append((number, needs | looking(config, part, model.config.vision_config, length)))
    number, most = max(stages, key=lambda stage: sum(stage[1].values()))
    whole, there = sum(always.values()) + sum(most.values()), _available(device) if device else None
    of = f" of {_size(there)}" if there else ""
    where = str(device or config.model.device) + (
        f" for each of {processes} processes" if processes > 1 else ""
    )
    lines = [f"memory on {where}, estimated: {_size(whole)}{of}, most of it in stage {number}"]
    lines += [f"  {name} {_size(value)}" for name, value in {**always, **most}.items()]
    if config.model.shard:
        lines.append(
            f"  of several processes each holds a part of {_size(split(config, model))} of the weights"
        )
    if there and whole > there:
        remedies = ["lower phases' micro_batch", "take a 16-bit dtype, model.quantize or a smaller model"]
        remedies += [] if config.model.checkpointing else ["model.checkpointing"]
        remedies += [] if config.model.shard else ["or split it over several processes with model.shard"]
        lines.append(f"  more than there is: {', '.join(remedies)}")
    return lines


def _time(
    config: Config,
    model: Any,
    steps: Sequence[int],
    lengths: Mapping[tuple[str, bool], Length],
    counts: Mapping[tuple[str, bool], int | None],
    device: torch.device | None,
) -> str:
    """How much is computed and how long that takes."""
    flop = sum(
        work(config, phase, model, count, lengths[_kind(phase)], counts.get(_kind(phase)))
        for phase, count in zip(config.stages, steps, strict=True)
        if _kind(phase) in lengths
    )
    needed, where = seconds(flop, device, config.model.dtype)
    return f"time, estimated: {_long(needed)} for {flop / 1e12:,.3g} TFLOP on {where}; loading is not in it"


def _long(needed: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if needed >= 2 * size:
            return f"{needed / size:.1f} {unit}"
    return f"{needed:.0f} s"


def _shared(phase: Phase, processes: int) -> Phase:
    """A phase as each of several processes sees it."""
    batch = -(-phase.batch // processes)
    return replace(phase, batch=max(batch, 2), micro_batch=min(phase.micro_batch or batch, batch))


def _available(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    if hasattr(os, "sysconf"):
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return _of_windows()


def _of_windows() -> float:
    """Bytes of memory; Windows has no sysconf."""
    import ctypes

    kilobytes = ctypes.c_ulonglong()
    ctypes.windll.kernel32.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes))  # type: ignore[attr-defined]
    return 1024.0 * kilobytes.value


def _size(value: float) -> str:
    return f"{value / 1e9:,.1f} GB" if value >= 1e9 else f"{value / 1e6:,.0f} MB"


def _big(value: float) -> str:
    return f"{value / 1e6:,.1f} M" if value >= 1e5 else f"{value:,.0f}"
