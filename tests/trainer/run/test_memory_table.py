"""The table of memory in docs/training.md is the estimator's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from evlm.models.zoo import find
from trainer.config.recipe import RECIPES, load_config
from trainer.model.shapes import SHAPES
from trainer.model.skeleton import skeleton
from trainer.run.memory import assumed, fixed, learning, looking, passing
from trainer.run.memory_table import METHODS, ROOM, needed, needed_by, table

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text(encoding="utf-8")


def test_the_page_holds_what_the_estimator_says() -> None:
    assert table() in PAGE
    (said,) = [line for line in PAGE.splitlines() if "trainer.run.memory_table" in line]
    assert "estimate" in said


def test_methods_and_cards_are_in_their_order() -> None:
    sizes = {method: needed("Qwen/Qwen2.5-VL-7B-Instruct", method) for method in METHODS}
    one = {method: size[1] for method, size in sizes.items()}
    assert one["QLoRA, SFT"] < one["LoRA, SFT"] < one["LoRA, SFT then RKTO"] < one["full, SFT"]
    assert one["full, SFT"] > 16 * 8.29e9, "weights, gradients and two moments of 4 bytes each"
    lora = sizes["LoRA, SFT"]
    assert lora[1] > lora[2] > lora[8]


def test_a_tower_that_learns_is_counted() -> None:
    """As the dry run counts it: about what its patches leave behind."""
    config = load_config("qwen2vl-2b-lora", ["lora.vision=true"])
    whole = needed_by(config, "Qwen/Qwen2-VL-2B-Instruct")
    model = skeleton(SHAPES["Qwen/Qwen2-VL-2B-Instruct"])
    length, phase = assumed(config, model), config.phases[0]
    parts = looking(config, phase, model.config.vision_config, length)
    parts |= passing(config, phase, model.config.text_config, length, "cuda")
    always = fixed(config, model, learning(config, model))
    assert parts["vision tower"] > 0 and whole >= sum(parts.values()) + sum(always.values())


@pytest.mark.parametrize("path", sorted(RECIPES.glob("qwen*.yaml")), ids=lambda path: path.stem)
def test_a_recipe_fits_the_card_that_it_names(path: Path) -> None:
    (card,) = re.findall(r"card of (\d+) GB", path.read_text().splitlines()[0])
    config = load_config(path)
    known = find(config.model.base)
    estimate = needed_by(config, known.repo if known else config.model.base)
    print(f"{path.stem}: {estimate / 1e9:.1f} of {card} GB")
    assert estimate <= ROOM * float(card) * 1e9
