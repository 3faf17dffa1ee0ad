"""Detector, segmenter and editor trained on with solids: what was known stays as it was until a step is made,
and a training that was stopped goes on to the same bits."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evlm.errors import ConfigError
from trainer.bundle import detector, warm_parts
from trainer.bundle.editor.data import FRAME, draw_pairs
from trainer.bundle.editor.models import MULTIPLE
from trainer.bundle.editor.train import Phase
from trainer.bundle.editor.warm import RECIPE, train_editor_on
from trainer.bundle.objects import draw_mixed, draw_solids, look_split
from trainer.bundle.warm_parts import PartRecipe, run_part, train_detector_on, train_segmenter_on
from trainer.world.solid import SOLIDS

BUNDLED = Path(__file__).resolve().parents[3] / "evlm" / "bundled"
TOY = PartRecipe(steps=3, batch=2, lr_muon=0.01, lr_adam=1e-3, warmup=1, half=False, save_every=2)


def quiet(_: str) -> None:
    return None


def test_a_steps_samples_are_a_function_of_it_and_mixed() -> None:
    one, again = (draw_mixed("parts 0", 3, 10, 0.5) for _ in range(2))
    assert all(
        (a.picture == b.picture).all() and a.things == b.things for a, b in zip(one, again, strict=True)
    )
    solid = [sample for sample in one if sample.things[0].shape in SOLIDS]
    assert 2 <= len(solid) <= 8
    for sample in solid:
        assert len(sample.things) == len(sample.boxes) == len(sample.silhouettes)
        assert any(look_split(thing.look) == "train" for thing in sample.things)
    held = draw_solids(random.Random(1), "test")
    assert any(look_split(thing.look) == "test" for thing in held.things)


def test_a_detector_without_a_step_scores_what_it_knew_alike_and_has_the_new_words(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, OwlViTForObjectDetection

    train_detector_on(BUNDLED / "detector", tmp_path / "out", tmp_path, replace(TOY, steps=0), quiet)
    labels, pixels = [phrase for phrase, _ in detector.label_bank()][::9], torch.rand(1, 3, 64, 64)
    scores = []
    for folder in (BUNDLED / "detector", tmp_path / "out"):
        model = OwlViTForObjectDetection.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        with torch.no_grad():
            scores.append(
                model(pixel_values=pixels, **tokenizer(labels, padding=True, return_tensors="pt")).logits
            )
    assert torch.equal(*scores)
    assert all(len(tokenizer(word)["input_ids"]) == 3 for word in SOLIDS)


# Both are learned by `run_part`.
@pytest.mark.parametrize("part", [pytest.param("detector", marks=pytest.mark.slow), "segmenter"])
def test_a_part_that_was_stopped_goes_on_to_the_same_bits(part: str, tmp_path: Path, monkeypatch) -> None:
    train = train_detector_on if part == "detector" else train_segmenter_on

    def trained(name: str) -> dict[str, torch.Tensor]:
        train(BUNDLED / part, tmp_path / name / "out", tmp_path / name, TOY, quiet)
        return load_file(tmp_path / name / "out" / "model.safetensors")

    whole = trained("whole")

    def dies(name: str, step: int, *rest):
        if step == 2:
            raise KeyboardInterrupt
        return draw_mixed(name, step, *rest)

    monkeypatch.setattr(warm_parts, "draw_mixed", dies)
    with pytest.raises(KeyboardInterrupt):
        trained("cut")
    monkeypatch.undo()
    cut, begin = trained("cut"), load_file(BUNDLED / part / "model.safetensors")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert any(
        not torch.equal(whole[name], begin[name]) for name in whole if begin[name].shape == whole[name].shape
    )
    lines: list[str] = []
    train(BUNDLED / part, tmp_path / "cut" / "out", tmp_path / "cut", TOY, lines.append)
    assert any("resumed at step 3" in line for line in lines)
    with pytest.raises(ConfigError, match="another recipe"):
        train(BUNDLED / part, tmp_path / "out", tmp_path / "cut", replace(TOY, batch=3), quiet)


def test_a_loss_that_falls_and_one_that_is_not_finite(tmp_path: Path) -> None:
    from evlm.errors import TrainingError

    torch.manual_seed(0)
    model, x = torch.nn.Linear(4, 1), torch.randn(32, 4)
    seen = []

    def loss(step: int):
        value = (model(x) - x.sum(1, keepdim=True)).square().mean()
        seen.append(value.item())
        return value, {"loss": value.item()}

    recipe = replace(TOY, steps=40, lr_muon=0.1, lr_adam=0.1, save_every=100)
    run_part(model, loss, recipe, tmp_path / "a", "line", log=quiet)
    assert seen[-1] < seen[0] / 5

    def broken(step: int):
        return model(x).sum() * float("nan"), {}

    with pytest.raises(TrainingError):
        run_part(model, broken, recipe, tmp_path / "b", "line", log=quiet)


def test_a_tracker_is_no_segmenter_to_begin_with(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "sam2_video"}')
    with pytest.raises(ConfigError, match="bundle tracker"):
        train_segmenter_on(tmp_path, tmp_path / "out", tmp_path / "work", TOY, quiet)


def test_pairs_of_solids_are_cut_as_others_are() -> None:
    mix = {"recolour": 0.4, "replace": 0.3, "restyle": 0.3}
    pairs = draw_pairs(random.Random(2), mix, 6, 32, solids=1.0)
    assert {pair.edit.op for pair in pairs} <= {"recolour", "replace", "sky"}
    for pair in pairs:
        assert pair.source.shape == pair.result.shape and not torch.equal(pair.source, pair.result)
        assert all(side % MULTIPLE == 0 for side in pair.mask.shape)
        assert pair.edit.op != "sky" or pair.mask.shape == (FRAME, FRAME)


def test_pairs_of_clips_show_things_on_their_way() -> None:
    mix = {"recolour": 0.3, "replace": 0.3, "remove": 0.2, "weather": 0.2}
    pairs = draw_pairs(random.Random(5), mix, 24, 32, clips=1.0)
    turned = 0
    for pair in pairs:
        assert not torch.equal(pair.source, pair.result) and pair.edit.split == "train"
        local = pair.edit.scope == "local"
        assert (pair.mask.shape == (FRAME, FRAME)) != local
        change = (pair.source - pair.result).abs().mean(-1)
        assert float(change[pair.mask > 0.5].mean()) > 10 * float((change * (pair.mask == 0)).mean())
        turned += local and pair.mask.sum() < 0.9 * pair.mask.numel()
    assert turned > 8


@pytest.mark.slow  # trains the real editor: half a minute of one core
def test_the_editor_is_trained_on_and_resumes_to_the_same_bits(tmp_path: Path, monkeypatch) -> None:
    phases = (Phase(0, 6, 2, {"recolour": 1.0}, {"weather": 1.0}, 2.0),)
    toy = replace(RECIPE, epochs=2, phases=phases, batch=4, whole_batch=2, passes=1, solids=0.5, half=False)

    def trained(name: str, log=quiet) -> dict[str, torch.Tensor]:
        train_editor_on(BUNDLED / "editor", tmp_path / name, tmp_path / f"{name}-work", 0, log, toy)
        return load_file(tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors")

    def dies(line: str) -> None:
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("cut", dies)
    cut = trained("cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    for part in ("unet", "vae"):
        assert str(BUNDLED) not in (tmp_path / "cut" / part / "config.json").read_text()
    assert (tmp_path / "cut" / "evlm.json").read_bytes() == (BUNDLED / "editor" / "evlm.json").read_bytes()
    from evlm.edit.ip2p import IP2P

    assert IP2P.load(tmp_path / "cut", device="cpu") is not None
