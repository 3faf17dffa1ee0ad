"""The reasoner trained on: new words, new kinds of questions, a tower that keeps its sight; it resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evlm.errors import ConfigError
from trainer.__main__ import main
from trainer.bundle.reasoner import export
from trainer.bundle.sft import SFTConfig
from trainer.bundle.tiny_qwen import make_model, make_processor, make_tokenizer
from trainer.bundle.vision_warmup import CLASSES, SOLID_CLASSES
from trainer.bundle.warm import train_on, warm_batch
from trainer.model.batch import Collator
from trainer.world.mix import Mix


@pytest.fixture(scope="module")
def begin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reasoner")
    tokenizer = make_tokenizer(iter(["<thinking>\nlarge red circle , left\n</thinking>"] * 8))
    model = make_model(tokenizer, width=64, layers=1, vision_width=32, vision_depth=1)
    export(model, make_processor(tokenizer), folder)
    return folder


def config(steps: int) -> SFTConfig:
    return SFTConfig(steps=steps, batch=2, warmup=2, autocast=False, save_every=2)


def trained(begin: Path, out: Path, work: Path, steps: int = 4) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    train_on(begin, out, work, log=lambda _: None, config=config(steps), looks=2)
    return load_file(out / "model.safetensors")


def test_it_learns_on_with_new_words_and_resumes_to_the_same_bits(
    begin: Path, tmp_path: Path, monkeypatch
) -> None:
    whole = trained(begin, tmp_path / "whole", tmp_path / "a")
    real = warm_batch

    def dies(collate, step, *rest):
        if step == 3:
            raise KeyboardInterrupt
        return real(collate, step, *rest)

    monkeypatch.setattr("trainer.bundle.warm.warm_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        trained(begin, tmp_path / "cut", tmp_path / "b")
    monkeypatch.setattr("trainer.bundle.warm.warm_batch", real)
    cut = trained(begin, tmp_path / "cut", tmp_path / "b")
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    known = json.loads((tmp_path / "whole" / "tokenizer.json").read_text())["model"]["vocab"]
    before = json.loads((begin / "tokenizer.json").read_text())["model"]["vocab"]
    assert "\u0120dropped" in known and "\u0120dropped" not in before
    assert all(known[token] == number for token, number in before.items())
    assert (tmp_path / "whole" / "evlm.json").is_file()


def test_a_batch_is_a_function_of_its_step_and_holds_the_new_kinds(begin: Path) -> None:
    from transformers import AutoProcessor

    collate = Collator(AutoProcessor.from_pretrained(begin))
    first, again, other = (warm_batch(collate, step, 3, 0, Mix(doubles=1.0)) for step in (5, 5, 6))
    assert torch.equal(first.input_ids, again.input_ids) and first.shown is not None
    assert first.input_ids.shape != other.input_ids.shape or not torch.equal(first.input_ids, other.input_ids)
    texts = collate.processor.tokenizer.batch_decode(first.input_ids)
    assert all(text.count("instruction:") == 2 for text in texts)


def test_what_it_cannot_begin_with_is_said(tmp_path: Path, capsys) -> None:
    with pytest.raises(ConfigError, match="no reasoner to begin with"):
        train_on(tmp_path, tmp_path / "out", tmp_path / "work")
    options = ["--out", str(tmp_path), "--work", str(tmp_path / "work"), "--begin", str(tmp_path)]
    for part in ("detector", "segmenter", "editor"):
        assert main(["bundle", part, *options]) != 0
        assert f"no {part} to begin with" in capsys.readouterr().err
    assert main(["bundle", "check", *options]) != 0
    assert "--begin is for one of reasoner" in capsys.readouterr().err
    for flag in (["--float32"], ["--solids", "0.3"]):
        assert main(["bundle", "reasoner", *options[:-2], *flag]) != 0
        assert f"{flag[0]} is for reasoner, detector" in capsys.readouterr().err
    assert main(["bundle", "reasoner", *options, "--solids", "nan"]) != 0
    for wrong in (
        ["--films", "0.1"],
        ["--solids", "0.5", "--films", "-1"],
        ["--solids", "0.6", "--films", "0.5"],
    ):
        assert main(["bundle", "reasoner", *options, *wrong]) != 0
    assert "expected a share from 0 to 1" in capsys.readouterr().err


@pytest.mark.slow  # as above, and the solids' batch is below
def test_with_solids_it_learns_their_words_and_sights_and_resumes_to_the_same_bits(
    begin: Path, tmp_path: Path, monkeypatch
) -> None:
    from safetensors.torch import load_file

    def solids(out: Path, work: Path) -> dict[str, torch.Tensor]:
        train_on(begin, out, work, 0, lambda _: None, config(3), looks=1, solids=0.5, eyes=1)
        return load_file(out / "model.safetensors")

    whole = solids(tmp_path / "whole", tmp_path / "a")
    real = warm_batch

    def dies(collate, step, *rest):
        if step == 2:
            raise KeyboardInterrupt
        return real(collate, step, *rest)

    monkeypatch.setattr("trainer.bundle.warm.warm_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        solids(tmp_path / "cut", tmp_path / "b")
    monkeypatch.setattr("trainer.bundle.warm.warm_batch", real)
    cut = solids(tmp_path / "cut", tmp_path / "b")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    known = json.loads((tmp_path / "whole" / "tokenizer.json").read_text())["model"]["vocab"]
    assert {"\u0120sky", "\u0120torus"} <= known.keys()


def test_a_batch_has_its_share_of_solids_with_labels_for_every_patch(begin: Path) -> None:
    from transformers import AutoProcessor

    collate = Collator(AutoProcessor.from_pretrained(begin))
    batch = warm_batch(collate, 5, 3, 0, Mix(), 1.0)
    assert batch.shown is not None and len(batch.shown) == len(batch.pixels)
    texts = collate.processor.tokenizer.batch_decode(batch.input_ids)
    assert all(" sky" in text for text in texts)
    for number, most in enumerate(SOLID_CLASSES.values()):
        assert int(batch.shown[:, number].max()) < most
    assert (
        int(batch.shown[:, 0].max()) >= CLASSES["shape"] and int(batch.shown[:, -1].min()) >= CLASSES["style"]
    )


def test_a_batch_has_its_share_of_clips_and_is_the_same_without_them(begin: Path) -> None:
    from transformers import AutoProcessor

    collate = Collator(AutoProcessor.from_pretrained(begin))
    batch = warm_batch(collate, 5, 3, 0, Mix(), 0.0, 1.0)
    assert batch.shown is not None and len(batch.shown) == len(batch.pixels)
    assert (batch.grids[:, 0] > 2).sum() >= 1, "a clip of 6 frames or more is three patches deep"
    mixed, plain = (warm_batch(collate, 5, 3, 0, Mix(), 0.5, *films) for films in ((0.0,), ()))
    assert torch.equal(mixed.input_ids, plain.input_ids) and torch.equal(mixed.pixels, plain.pixels)
