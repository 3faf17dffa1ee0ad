"""The editor's recipe, at toy size: it runs, resumes, and leaves a folder that the engine loads and edits
with."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainer.bundle.editor import Recipe, check, train
from trainer.bundle.editor.data import LOCAL, WHOLE, batches, draw_edit, draw_pairs
from trainer.bundle.editor.models import MULTIPLE, TEXT_LENGTH, build_tokenizer
from trainer.bundle.editor.train import Phase
from trainer.world.edits import OPERATIONS, Edit
from trainer.world.scene import SPLITS, composition_split

TOY = Recipe(
    vae_steps=6,
    vae_width=8,
    widths=(16, 16, 16),
    epochs=1,
    polish=1,
    batch=8,
    whole_batch=4,
    validation=0,
    phases=(Phase(0, 16, 4, LOCAL, WHOLE, 2), Phase(1, 16, 4, {"add": 1.0}, WHOLE, 3)),
)


def unet(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    folder = tmp_path_factory.mktemp("editor")
    lines: list[str] = []
    train(folder / "out", 3, lines.append, TOY, folder / "work")
    return folder / "out", lines


@pytest.mark.slow  # trains: half a minute of one core
def test_it_leaves_a_folder_that_the_engine_edits_with(trained: tuple[Path, list[str]]) -> None:
    folder, lines = trained
    assert any(line.startswith("epoch 2/2") for line in lines)
    assert all(value.dtype == torch.float16 for value in unet(folder).values())
    measured = check(folder, rows=len(OPERATIONS), seed=1, log=lambda _: None)
    assert set(OPERATIONS) <= set(measured) and measured["outside"] == 0


@pytest.mark.slow
def test_a_run_that_was_cut_off_goes_on_where_it_was(trained: tuple[Path, list[str]], tmp_path: Path) -> None:
    def stop(line: str) -> None:
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    (tmp_path / "work").mkdir()
    shutil.copy(trained[0].parent / "work" / "vae.safetensors", tmp_path / "work")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "out", 3, stop, TOY, tmp_path / "work")
    assert not (tmp_path / "out").exists()
    train(tmp_path / "out", 3, lambda _: None, TOY, tmp_path / "work")
    whole, resumed = unet(trained[0]), unet(tmp_path / "out")
    assert all(torch.allclose(whole[name], resumed[name], atol=1e-3) for name in whole)


def test_training_sees_no_held_out_composition() -> None:
    rng = random.Random(0)
    for op in OPERATIONS:
        for split in SPLITS:
            for _ in range(6):
                edit, _ = draw_edit(rng, op, split)
                looks = {composition_split(t.look) for t in (edit.target, edit.outcome) if t is not None}
                assert edit.split == split
                assert looks <= {"train", split}


def test_moves_go_one_cell_or_by_name_to_any() -> None:
    rng = random.Random(6)
    near = [draw_edit(rng, "move")[0] for _ in range(20)]
    named = [draw_edit(rng, "move", far=1.0)[0] for _ in range(40)]
    assert not any(" to the " in edit.instruction for edit in near)
    assert all(" to the " in edit.instruction and edit.split == "train" for edit in named)

    def cells(edit: Edit) -> int:
        assert edit.target is not None and edit.outcome is not None
        a, b = edit.target.cell, edit.outcome.cell
        return max(abs(a % 3 - b % 3), abs(a // 3 - b // 3))

    assert {cells(edit) for edit in near} == {1}
    assert {cells(edit) for edit in named} == {1, 2}


def test_pairs_differ_inside_the_region_only() -> None:
    for mix in (LOCAL, WHOLE):
        for pair in draw_pairs(random.Random(1), mix, 40, 32):
            assert pair.source.shape == pair.result.shape
            assert all(side % MULTIPLE == 0 for side in pair.mask.shape)
            assert not torch.equal(pair.source, pair.result)
            # a resampled crop rings a little across the region's edge
            far = torch.nn.functional.max_pool2d(pair.mask[None], 9, 1, 4)[0] == 0
            assert float(((pair.source - pair.result).abs().amax(-1) * far).max()) < 0.02


def test_batches_hold_one_size_and_every_pair_once() -> None:
    sizes = [(32, 32), (24, 24), (32, 32), (48, 24), (32, 32)]
    groups = list(batches(random.Random(2), sizes, 2))
    assert sorted(n for group in groups for n in group) == list(range(5))
    assert all(len({sizes[n] for n in group}) == 1 and len(group) <= 2 for group in groups)


def test_the_world_is_one_token_a_word_and_any_text_is_tokens() -> None:
    tokenizer = build_tokenizer()
    rng = random.Random(4)
    for op in OPERATIONS:
        order = draw_edit(rng, op)[0].instruction
        assert len(tokenizer(order).input_ids) == len(order.split()) + 2, order
    for text in ("", "naïve \u6f22\u5b57 \u0000 \U0001f389", "x" * 5000):
        ids = tokenizer(text, padding="max_length", truncation=True).input_ids
        assert len(ids) == TEXT_LENGTH and max(ids) < len(tokenizer)
