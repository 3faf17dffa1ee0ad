"""A recipe for what was found, every choice with its reason."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from evlm.models.zoo import find

from ..config.recipe import load_config
from ..run.memory_table import needed_by
from .look import Found, held_out

CHOICES = ("qwen3-vl-8b", "qwen3-vl-4b", "Qwen/Qwen3-VL-2B-Instruct")  # the largest that fits is taken
PIXELS = 524288
ROOM = 0.85  # of a card's memory that the estimate may fill
ENOUGH = 40  # rows below which none are held out


@dataclass(frozen=True)
class Draft:
    """text: the recipe, YAML. why: for people, in one line: on what it trains, and why that."""

    text: str
    why: str


def draft(found: Found, out: str, base: str | None, memory: float | None) -> Draft:
    """A recipe for these rows. out: folder of the run. base: the model that somebody chose, or None. memory:
    bytes of the card that is here; None where there is none."""
    base, why = (base, "as asked") if base else _base(memory)
    bundled = base == "bundled"
    desired, labelled, rows = found.sum("desired"), found.sum("labelled"), found.sum("rows")
    undesired = found.sum("undesired")
    learned = desired or labelled
    batch = next(size for size in (16, 8, 4, 2, 1) if size <= max(1, learned // 4) or size == 1)
    validated = sum(part.validation for part in found.parts)
    held = 0.0 if validated or rows < ENOUGH else _held(found)
    epochs = 3 if learned < 5000 else 1
    steps = max(1, math.ceil(epochs * learned * (1 - held) / batch))
    measured = bool(held or validated)
    every = max(1, steps // (3 * epochs))
    lines = [
        f"# Written by `python -m trainer start`: {rows:,} rows, {labelled:,} of them with a label.",
        f"out: {_said(out)}",
        f"save_every: {max(10, every)}   # a killed run loses at most so many steps",
    ]
    if measured:
        lines.append(f"eval_every: {every}   # about three looks an epoch at what is held out")
        lines.append(f"eval_rows: {min(100, max(8, validated or int(held * rows)))}   # of it, at each look")
    elif rows >= ENOUGH:
        lines.append("# nothing is held out to measure on: too many rows ask the same question")
    else:
        lines.append(f"# nothing is held out to measure on: {rows} rows are all needed")
    lines += ["model:", f"  base: {_said(base)}   # {why}"]
    if not bundled:
        lines += [
            "  dtype: bf16   # half of float32's memory; the adapter itself is float32",
            f"  max_pixels: {PIXELS}   # about 512 tokens a picture; raise it for small writing",
            "  checkpointing: true   # a third more time for a fraction of the activations' memory",
        ]
    lines += [
        "lora:",
        "  rank: 32   # a usual beginning; 8 to 64 differ little on some thousand rows",
        "  alpha: 64   # twice the rank",
        "  dropout: 0.0   # a model this small needs none" if bundled else "  dropout: 0.05   # the paper's",
        "data:",
    ]
    for part in found.parts:
        share = part.rows / rows
        lines.append(f"  - path: {_said(str(part.path))}   # {part.rows:,} rows")
        if part.form != "evlm":
            lines.append(f"    form: {part.form}   # by the names of its columns")
        if len(found.parts) > 1:
            lines.append(
                f"    weight: {share:.4g}   # its share of the rows, so that each row counts the same"
            )
        if held and not part.validation:
            lines.append(f"    heldout: {held}   # of its questions, to measure on; it has no split for that")
    lines.append("phases:")
    if desired:
        lines += _sft(bundled, desired, epochs, batch, steps, measured)
        if undesired and labelled:
            lines += [
                f"  # {undesired:,} rows are labelled as undesired, and sft leaves them out. To use them,",
                "  # take the # off the next lines; sft alone was ahead where both were measured",
                *(f"#{line}" for line in _kto(bundled, labelled, batch)),
            ]
    else:
        lines.append("  # no row is a desired one: there is nothing to imitate, only something to leave")
        lines += _kto(bundled, labelled, batch)
    return Draft("\n".join(lines) + "\n", f"{base}: {why}")


def _held(found: Found) -> float:
    """The share of questions to hold out: the least that gives enough rows; 0 where none does."""
    for share, least in ((0.05, 8), (0.1, 8), (0.2, 4)):
        if least <= held_out(found, share) <= found.sum("desired") // 2:
            return share
    return 0.0


def _sft(bundled: bool, rows: int, epochs: int, batch: int, steps: int, measured: bool) -> list[str]:
    rate = (
        "1.0e-3   # of a model this small" if bundled else "1.0e-4   # usual for a LoRA; the paper's is 5e-5"
    )
    return [
        "  - kind: sft   # imitates the desired answers, and those without a label",
        f"    epochs: {epochs}   # {rows:,} rows: {'few: several times' if epochs > 1 else 'many: once'}",
        f"    batch: {batch}   # {'usual' if batch == 16 else 'a quarter of the rows at most'}",
        "    micro_batch: 1   # rows in memory at once: changes no gradient; raise it while memory lasts"
        if not bundled
        else f"    micro_batch: {min(8, batch)}   # rows in memory at once; changes no gradient",
        f"    lr: {rate}",
        f"    warmup: {max(1, min(30, steps // 20))}   # a twentieth of the steps",
        "    schedule: cosine   # the length is known, so the rate may fall all the way",
        *(
            ["    patience: 3   # ends where three looks in a row found the held-out loss no better"]
            if measured
            else []
        ),
    ]


def _kto(bundled: bool, rows: int, batch: int) -> list[str]:
    batch = max(2, batch)
    return [
        "  - kind: kto   # away from undesired answers, toward desired ones",
        f"    steps: {max(1, math.ceil(rows / batch))}   # once over the {rows:,} labelled rows",
        f"    batch: {batch}",
        f"    micro_batch: {min(8, batch) if bundled else 1}",
        f"    lr: {'1.0e-4' if bundled else '2.0e-5'}   # a fifth of sft's or less: it is good already",
        "    warmup: 5",
        "    eta0: {over: shifts, shifts: 4}   # four random mismatches a row; pairs is exact and dearer",
    ]


def _base(memory: float | None) -> tuple[str, str]:
    """(a model, why that one)."""
    if memory is None:
        return (
            "bundled",
            "no CUDA card is here, and it learns on a CPU; it knows small drawn scenes, so for photographs "
            "name another with --base on a machine with a card",
        )
    for name in CHOICES:
        if (needed := estimate(name)) <= ROOM * memory:
            return (
                name,
                f"the largest of three sizes whose {needed / 1e9:.0f} GB fit the {memory / 1e9:.0f} GB here",
            )
    return CHOICES[
        -1
    ], f"the smallest known here; the {memory / 1e9:.0f} GB of this card may be too few: see --dry-run"


def estimate(name: str) -> float:
    """Bytes that SFT of a LoRA on that model takes, one row at a time."""
    known = find(name)
    settings = [f"model.base={_said(name)}", f"model.max_pixels={PIXELS}"]
    phases = "phases=[{kind: sft, steps: 1, micro_batch: 1}]"
    return needed_by(load_config("qwen3vl-4b-lora", [*settings, phases]), known.repo if known else name)


def _said(text: str) -> str:
    """As YAML, whatever is in it, also half a character (a name that is not UTF-8)."""
    said = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in said)


def destination(folder: Path) -> Path:
    """The recipe's file for a folder, in the current one."""
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in folder.resolve().stem).strip("-")
    return Path(f"{name or 'training'}.yaml")
