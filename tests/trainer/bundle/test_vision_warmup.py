"""The vision tower's warm-up: its labels lie where the pictures say, and it learns."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from evlm.reason.messages import SHORT, build_messages
from trainer.bundle.tiny_qwen import make_model, make_processor, make_tokenizer
from trainer.bundle.vision_warmup import CLASSES, Eyes, make_batch, shown_in, warm_up
from trainer.model.batch import Collator, Pictures, patchify
from trainer.model.optim import make_optimizer
from trainer.world.questions import CATEGORIES, ask
from trainer.world.render import render
from trainer.world.rows import to_request
from trainer.world.scene import COLOURS, Scene, Thing

PICTURES = Pictures(8, 2, 2, (0.5,) * 3, (0.5,) * 3, 4096)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(iter(["<thinking>\nlarge red circle , left\n</thinking>"] * 8))


def test_labels_lie_on_the_patches_that_show_the_thing():
    thing = Thing("square", "red", "plain", "large", 2, 1, -1)
    scene = Scene((thing,), "grey")
    question = ask(random.Random(0), "train", "remove", "text")
    edit = type(question.edit)("remove", scene, scene.swap(thing, None), "", (), thing)
    labels = shown_in(type(question)(edit, "text", "text", "no square", (), 1, "", False), PICTURES)
    frame = torch.from_numpy(render(scene)).permute(2, 0, 1)[None]
    bare = torch.from_numpy(render(Scene((), "grey"))).permute(2, 0, 1)[None]
    changed = (patchify(frame, PICTURES)[0] - patchify(bare, PICTURES)[0]).abs().mean(1)
    marked = labels[:, 0] > 0
    assert 4 <= int(marked.sum()) <= 9
    assert changed[marked].min() > changed[~marked].max()
    assert set(labels[marked, 1].tolist()) == {COLOURS.index("red") + 1}


@pytest.mark.parametrize("category", CATEGORIES)
def test_labels_are_as_many_as_patches_and_in_their_order(tokenizer, category):
    rng = random.Random(category)
    asked = [ask(rng, "train", category=category) for _ in range(6)]
    batch = Collator(make_processor(tokenizer))(
        [build_messages(to_request(q), style=SHORT) for q in asked], ["ok"] * 6
    )
    labels = torch.cat([shown_in(q, PICTURES) for q in asked])
    assert labels.shape == (len(batch.pixels), len(CLASSES))
    for name, size in zip(CLASSES, range(len(CLASSES)), strict=True):
        assert labels[:, size].max() < CLASSES[name]


def test_matrices_of_every_block_go_to_muon_and_the_head_to_adam(tokenizer):
    tower = make_model(tokenizer).model.visual
    both = nn.ModuleDict({"tower": tower, "eyes": Eyes(96)})
    groups = {
        g["muon"]: {id(p) for p in g["params"]}
        for g in make_optimizer(both, adam_names=("eyes.",)).param_groups
    }
    for block in tower.blocks:
        assert id(block.attn.qkv.weight) in groups[True]
        assert id(block.mlp.fc1.weight) in groups[True]
    assert id(both["eyes"].head.weight) in groups[False]


@pytest.mark.slow  # learns: half a minute of one core
def test_the_tower_learns_colours(tokenizer):
    torch.manual_seed(0)
    tower = make_model(tokenizer, vision_width=32, vision_depth=1).model.visual
    eyes = Eyes(32)
    pixels, labels = make_batch(random.Random("other"), 32, PICTURES)
    from trainer.model.forward import tower_states

    def loss() -> float:
        with torch.no_grad():
            return float(eyes(tower_states(tower, pixels, 8, 8).flatten(0, 1), labels.flatten(0, 1)))

    before = loss()
    warm_up(tower, eyes, PICTURES, 60, batch=16, log=lambda _: None)
    assert loss() < 0.6 * before
