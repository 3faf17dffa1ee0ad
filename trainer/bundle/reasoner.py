"""The bundled reasoner: a tiny Qwen2-VL trained from nothing on the world by the trainer's SFT phase."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evlm.plan.trace import render
from evlm.reason.messages import SHORT, Chat, build_messages, encode

from ..model.batch import Batch, Collator
from ..world.questions import Question, ask
from ..world.rows import to_request
from ..world.scene import Split
from ..world.traces import write_trace
from .sft import SFTConfig, run_sft
from .tiny_qwen import make_model, make_processor, make_tokenizer
from .vision_warmup import Eyes, shown_in, warm_up

# Rare operations are practised more often than they are asked (edits.MIX).
PRACTICE = {
    "recolour": 0.20,
    "replace": 0.19,
    "remove": 0.10,
    "add": 0.12,
    "weather": 0.07,
    "ground": 0.05,
    "restyle": 0.05,
    "retexture": 0.11,
    "move": 0.11,
}
CONFIDENCE_TEMPERATURE = 930.0  # as check_confidence fits it; another model wants another
EYES = 5000  # steps of 64 pictures before the first word
RECIPE = SFTConfig(steps=5500, batch=32, lr_muon=0.01, lr_adam=2e-3, warmup=100, cooldown=0.4)


def training_batch(collate: Collator, step: int, rows: int, seed: int) -> Batch:
    """The batch of a step: a function of (seed, step) alone."""
    rng = random.Random(f"reasoner {seed} {step}")
    questions = [
        ask(rng, "train", rng.choices(list(PRACTICE), list(PRACTICE.values()))[0]) for _ in range(rows)
    ]
    chats = [build_messages(to_request(q), style=SHORT) for q in questions]
    batch = collate(chats, [render(write_trace(rng, q)) for q in questions])
    return replace(batch, shown=torch.cat([shown_in(q, collate.pictures) for q in questions]))


def train(
    out: Path,
    work: Path,
    seed: int = 0,
    log: Callable[[str], None] = print,
    config: SFTConfig = RECIPE,
    eyes: int = EYES,
    on_save: Callable[[Any, Any, int], None] | None = None,
) -> None:
    """Trains from nothing and writes the model folder `out`.

    work: folder of what is unfinished, from which it goes on.
    seed: of the weights and the questions.
    log: told a line.
    config: of the SFT phase.
    eyes: steps of the vision tower's warm-up.
    on_save: called with (model, processor, step) after each saved state.
    """
    tokenizer = make_tokenizer()
    processor, model = make_processor(tokenizer), make_model(tokenizer, seed)
    model.set_attn_implementation("eager")  # on a CPU its backward is the faster one in bf16
    collate = Collator(processor)
    log(f"reasoner: {sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}")
    beside = Eyes(model.config.vision_config.embed_dim)
    open_eyes(model.model.visual, beside, collate, eyes, seed, work / "eyes.safetensors", log)
    run_sft(
        model,
        lambda step: training_batch(collate, step, config.batch, seed),
        config,
        work / "reasoner",
        log,
        None if on_save is None else lambda step: on_save(model, processor, step),
        beside,
    )
    export(model, processor, out)


def open_eyes(
    tower: Any,
    eyes: Eyes,
    collate: Collator,
    steps: int,
    seed: int,
    saved: Path,
    log: Callable[[str], None],
    solids: float = 0.0,
    half: bool = True,
    lr: float = 1.0,
) -> None:
    """The vision tower's warm-up, or what an earlier run of the same recipe saved of it.

    tower, eyes: trained in place; the eyes read what the tower's states say of each cell.
    steps, seed: the warm-up's recipe.
    saved: file that holds it, or will.
    solids, half: as `warm_up`'s. lr: factor of its learning rates.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    recipe = {"recipe": f"{steps} steps, seed {seed}" + (f", solids {solids:g}" if solids else "")}
    both = nn.ModuleDict({"tower": tower, "eyes": eyes})
    if saved.is_file():
        with safe_open(saved, "pt") as file:
            if file.metadata() == recipe:
                both.load_state_dict({name: file.get_tensor(name) for name in both.state_dict()})
                log("the vision tower was warmed up before")
                return
    warm_up(
        tower,
        eyes,
        collate.pictures,
        steps,
        seed,
        lr_muon=0.02 * lr,
        lr_adam=2e-3 * lr,
        log=log,
        solids=solids,
        half=half,
    )
    saved.parent.mkdir(parents=True, exist_ok=True)
    save_file({n: t.contiguous() for n, t in both.state_dict().items()}, saved.with_suffix(".tmp"), recipe)
    saved.with_suffix(".tmp").replace(saved)


def export(model: Any, processor: Any, out: Path) -> None:
    """The library's own folder layout, fp16 safetensors, and evlm.json."""
    import copy
    import json

    half = copy.deepcopy(model).half()
    for part in (half.config.text_config, half.config.vision_config):
        part.dtype = None  # where the model was loaded it is what it was loaded as
    half.save_pretrained(out)
    processor.save_pretrained(out)
    notes = {
        "prompt": "short",
        "mask_codec": "box-spans-8",
        "confidence_temperature": CONFIDENCE_TEMPERATURE,
        "second_look": True,
    }
    (out / "evlm.json").write_text(json.dumps(notes, indent=1) + "\n")


@torch.no_grad()
def answer(
    model: Any, processor: Any, chats: Sequence[Chat], batch: int = 32, tokens: int = 220
) -> list[str]:
    """Greedy answers of many chats in batches: for watching a training; `check` goes through
    evlm.reason.reasoner."""
    texts: list[str] = []
    for at in range(0, len(chats), batch):
        inputs = encode(processor, chats[at : at + batch])
        model.model.rope_deltas = None
        out = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)
        texts += processor.tokenizer.batch_decode(
            out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
    return texts


def questions(
    split: Split, rows: int, seed: int, op: str | None = None, category: str | None = None
) -> list[Question]:
    """Row i depends on (split, seed, i) alone."""
    return [ask(random.Random(f"{split} {seed} {i}"), split, op, category) for i in range(rows)]
