"""`python -m trainer.run.memory_table`: the table of docs/training.md, from the estimator alone. Nothing of
it was run: no card was here."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..config.recipe import Config, load_config
from ..model.shapes import SHAPES
from ..model.skeleton import skeleton
from .memory import assumed, fixed, learning, looking, passing, split

METHODS = {
    "LoRA, SFT": ["model.dtype=bf16", "model.checkpointing=true"],
    "LoRA, SFT then RKTO": ["model.dtype=bf16", "model.checkpointing=true"],
    "QLoRA, SFT": ["model.dtype=bf16", "model.checkpointing=true", "model.quantize=4bit"],
    "merger, SFT": ["model.train=merger", "model.dtype=fp32", "model.checkpointing=true"],
    "merger, SFT then RKTO": ["model.train=merger", "model.dtype=fp32", "model.checkpointing=true"],
    "full, SFT": ["model.train=full", "model.dtype=fp32", "model.checkpointing=true"],
    "full, SFT then RKTO": ["model.train=full", "model.dtype=fp32", "model.checkpointing=true"],
}
CARDS = (1, 2, 8)
USUAL = (12, 16, 24, 32, 40, 48, 80, 141)  # GB of one card
ROOM = 0.85  # of it that an estimate may fill: CUDA and the allocator take the rest
_PIXELS = {"qwen3_vl": 524288}  # 512 tokens a picture; elsewhere 401408


def config_of(repo: str, method: str) -> Config:
    """One row of the table as a recipe: rank 32, one row in memory at a time."""
    pixels = _PIXELS.get(SHAPES[repo]["model_type"], 401408)
    sft = "phases=[{kind: sft, steps: 1, batch: 32, micro_batch: 1}"
    both = ", {kind: rkto, steps: 1, batch: 32, micro_batch: 1, eta0: {over: shifts, shifts: 4}}"
    phases = f"{sft}{both if 'RKTO' in method else ''}]"
    words = [f"model.base={repo}", f"model.max_pixels={pixels}", "lora.rank=32", phases]
    return load_config("qwen3vl-4b-lora", [*words, *METHODS[method]])


def needed(repo: str, method: str) -> dict[int, float]:
    """Bytes on each card, by how many there are; several split the decoder layers (model.shard), which
    weights that learn and 4-bit weights cannot."""
    config = config_of(repo, method)
    whole = needed_by(config, repo)
    if config.model.train != "lora" or config.model.quantize:
        return {1: whole}
    layers = split(config, model := _shape(repo))
    gathered = (
        2 * layers / model.config.text_config.num_hidden_layers
    )  # a layer as it is received, and as it is used
    return {n: whole if n == 1 else whole - layers + layers / n + gathered for n in CARDS}


def needed_by(config: Config, repo: str) -> float:
    """Bytes on the one card of a recipe."""
    model = _shape(repo)
    trained, length = learning(config, model), assumed(config, model)
    text, vision = model.config.text_config, model.config.vision_config
    steps = [
        passing(config, phase, text, length, "cuda") | looking(config, phase, vision, length)
        for phase in config.phases
    ]
    return sum(fixed(config, model, trained).values()) + max(sum(each.values()) for each in steps)


@cache
def _shape(repo: str) -> Any:
    """Made once: a large model has thousands of modules, and every method asks it for its sizes alone."""
    return skeleton(SHAPES[repo])


def table() -> str:
    """Markdown."""
    lines = [
        "| model | method | one card | each of 2 | each of 8 | smallest usual card |",
        "|---|---|---|---|---|---|",
    ]
    for repo in SHAPES:
        name = repo.removeprefix("Qwen/").removesuffix("-Instruct")
        for method in METHODS:
            sizes = needed(repo, method)
            shown = [f"{sizes[n] / 1e9:.0f} GB" if n in sizes else "-" for n in CARDS]
            fits = next((f"{card} GB" for card in USUAL if sizes[1] <= ROOM * card * 1e9), "none")
            lines.append(f"| {name} | {method} | {' | '.join(shown)} | {fits} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
