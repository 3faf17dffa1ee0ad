"""The bundled reasoner trained on from weights that are there: more words, more kinds of questions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from evlm.errors import ConfigError
from evlm.plan.trace import render
from evlm.reason.messages import SHORT, build_messages

from ..model.batch import Batch, Collator
from ..world.film_questions import FilmQuestion, ask_film
from ..world.mix import Mix, ask_mixed
from ..world.question import Question
from ..world.rows import to_request
from ..world.solid_questions import SolidQuestion, ask_solid
from ..world.solid_traces import write_solid_trace
from ..world.traces import write_trace
from ..world.words import all_words
from .grow import carry_reasoner, grown_bpe
from .reasoner import PRACTICE, export, open_eyes
from .sft import SFTConfig, run_sft
from .vision_warmup import CLASSES, SOLID_CLASSES, Eyes, shown_in

# The rest are ordinary questions, as they were practised.
MIX = Mix(doubles=0.15, conflicts=0.05, whatif=0.5)
# Causes, too, are practised by how hard they are, not as they are asked.
RULES = {
    "fall": 0.15,
    "sink": 0.13,
    "balance": 0.08,
    "clock": 0.02,
    "fade": 0.03,
    "push": 0.25,
    "mix": 0.12,
    "support": 0.1,
    "flood": 0.02,
    "march": 0.05,
    "cycle": 0.08,
    "vanish": 0.02,
    "day": 0.02,
}
LOOKS = 300  # steps in which a new head learns to name what the tower sees; the tower is not touched
# Four fifths of the rates of a training from nothing, and a longer way up: the optimiser's moments begin at
# nothing.
RECIPE = SFTConfig(
    steps=1900, batch=32, lr_muon=0.008, lr_adam=1.5e-3, warmup=150, cooldown=0.4, save_every=250
)

# Most is known: half of the rates suffice. What two paints give is forgotten first. The tower saw solids in a
# first round, by 600 steps of its own (from the flat world alone, set SOLID_EYES to that).
SOLID_RULES = RULES | {"mix": 0.35}
SOLID_MIX = Mix(doubles=0.15, conflicts=0.07, whatif=0.42)
SOLID_EYES = 0
SOLID_FILMS = 0.12
SOLID_RECIPE = SFTConfig(
    steps=1500, batch=32, lr_muon=0.006, lr_adam=1.2e-3, warmup=100, cooldown=0.5, save_every=100
)


def warm_batch(
    collate: Collator,
    step: int,
    rows: int,
    seed: int,
    mix: Mix = MIX,
    solids: float = 0.0,
    films: float = 0.0,
) -> Batch:
    """The batch of a step: a function of (seed, step, mix, solids, films) alone. solids, films: shares of
    questions about stills of solids and about films; the mix is of the others."""
    rng = random.Random(f"warm {seed} {step}")
    ops = rng.choices(list(PRACTICE), list(PRACTICE.values()), k=rows)
    practised = SOLID_RULES if solids else RULES
    rules = rng.choices(list(practised), list(practised.values()), k=rows)
    questions: list[Question | SolidQuestion | FilmQuestion] = []
    for op, rule in zip(ops, rules, strict=True):
        drawn = rng.random() if solids or films else 1.0
        if drawn < solids:
            questions.append(ask_solid(rng, "train", op))
        elif drawn < solids + films:
            questions.append(ask_film(rng, "train", op))
        else:
            questions.append(ask_mixed(rng, rng, "train", mix, op=op, rule=rule))
    requests = [q.request() if isinstance(q, FilmQuestion) else to_request(q) for q in questions]
    chats = [build_messages(request, style=SHORT) for request in requests]
    traces = [
        write_solid_trace(rng, q)
        if isinstance(q, SolidQuestion)
        else write_trace(rng, q.still if isinstance(q, FilmQuestion) else q)
        for q in questions
    ]
    batch = collate(chats, [render(trace) for trace in traces])
    return replace(batch, shown=torch.cat([shown_in(q, collate.pictures) for q in questions]))


def train_on(
    begin: Path,
    out: Path,
    work: Path,
    seed: int = 0,
    log: Callable[[str], None] = print,
    config: SFTConfig = RECIPE,
    looks: int = LOOKS,
    mix: Mix = MIX,
    solids: float = 0.0,
    eyes: int = 0,
    films: float = 0.0,
) -> None:
    """Trains the reasoner in the folder `begin` on and writes the model folder `out`, which may be the same.
    Stopped, it goes on from its newest state in `work` when it is called again with the same recipe and the
    same `begin`. Raises ConfigError where `begin` holds no Qwen2-VL.

    seed: of the questions. config: of the SFT phase. looks: steps of the new head. mix: of the questions.
    solids: share of questions about stills of solids. eyes: steps in which the tower learns to see them,
    before the SFT phase. films: share of questions about films.
    """
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    try:
        processor = AutoProcessor.from_pretrained(begin, local_files_only=True)
        model = Qwen2VLForConditionalGeneration.from_pretrained(
            begin, dtype=torch.float32, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise ConfigError(f"{begin}: no reasoner to begin with ({error!s:.120}); give its folder") from None
    # On a CPU eager's backward is the faster one in bf16; in float32 SDPA takes a quarter less.
    model.set_attn_implementation("eager" if config.autocast else "sdpa")
    old = processor.tokenizer
    processor.tokenizer = grown_bpe(old, all_words())
    carry_reasoner(model, old, processor.tokenizer)
    collate = Collator(processor)
    grown = f"{len(old)} tokens have become {len(processor.tokenizer)}"
    log(f"reasoner: {grown}; {config.steps} steps of {mix.name}")
    classes = SOLID_CLASSES if solids else CLASSES
    beside, tower = Eyes(model.config.vision_config.embed_dim, classes), model.model.visual
    shown, half = solids and max(solids, 0.5), config.autocast or not solids
    name = f"-solids-{solids:g}" if solids else ""
    tower.requires_grad_(False)
    open_eyes(tower, beside, collate, looks, seed, work / f"warm-eyes{name}.safetensors", log, shown, half)
    tower.requires_grad_(True)
    if solids and eyes:
        saved = work / f"warm-tower{name}.safetensors"
        open_eyes(tower, beside, collate, eyes, seed + 1, saved, log, shown, half, lr=0.4)
    run_sft(
        model,
        lambda step: warm_batch(collate, step, config.batch, seed, mix, solids, films),
        config,
        work / f"reasoner-{mix.name or 'ordinary'}{name}{f'-films-{films:g}' if films else ''}",
        log,
        beside=beside,
    )
    export(model, processor, out)
