"""The bridge's recipe on the bundle, in seconds: samples, cues, three stages that resume to the same bits,
the file in the pipeline."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evlm.edit.bridge import Shape, load_bridge
from evlm.edit.bridge_editor import BridgedIP2P
from evlm.models.zoo import BUNDLED, choose
from evlm.pipeline import Pipeline
from evlm.plan.trace import parse
from evlm.request import EXAMPLES, load_example
from trainer.bundle.bridge import train as training
from trainer.bundle.bridge.__main__ import main
from trainer.bundle.bridge.data import KINDS, TENSORS, Models, draw, fill, load_pool, save_pool, together
from trainer.bundle.bridge.measure import cue_losses, measure
from trainer.bundle.bridge.rival import Pasted, train_rival
from trainer.bundle.bridge.train import Learning, Recipe, begin, learning, step_loss

SMALL = Shape(width=32, patch_blocks=1, query_blocks=1, queries=4, tokens=4, heads=2, rank=2)
RECIPE = Recipe(steps=(2, 2, 2), batches=(2, 2, 2), pool=4, shape=SMALL, save_every=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def models() -> Models:
    return Models(BUNDLED, begin(BUNDLED, RECIPE, 0))


@pytest.mark.parametrize("kind", KINDS)
def test_samples_say_what_is_right(kind: Any) -> None:
    for split in ("train", "test"):
        sample = draw(random.Random(3), split, kind)  # type: ignore[arg-type]
        assert parse(sample.text, repair=False).plan == sample.plan
        before, after, mask = sample.frames()
        assert before.shape == after.shape == (1, 64, 64, 3) and not torch.equal(before, after)
        assert mask is None or torch.equal(before[mask == 0], after[mask == 0])
        shown = [each for each in sample.request.references if each.frames is not None]
        assert bool(shown) or kind == "what-if"


def test_cues_are_what_the_models_see(models: Models) -> None:
    """The same picture has the same patches, wherever it stands."""
    sample = draw(random.Random(1), "train", "woven")
    cues = models.cues(sample)
    assert cues.picture is not None and cues.patches is not None and cues.regions is not None
    assert cues.picture.values.shape == cues.patches.values.shape == (1, 64, 96)
    assert cues.regions.values.shape == (1, 11, 64)  # the place, the reference and its nine parts
    assert cues.states is not None and cues.states.values.shape[1] <= 32 and cues.words is not None
    swapped = replace(
        sample,
        request=replace(
            sample.request,
            original=sample.request.references[0].frames,
            references=(replace(sample.request.references[0], frames=sample.request.original),),
        ),
    )
    other = models.cues(swapped)
    assert other.picture is not None and other.patches is not None
    torch.testing.assert_close(other.picture.values, cues.patches.values, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(other.patches.values, cues.picture.values, atol=1e-4, rtol=1e-4)


def test_a_pool_is_read_back(models: Models, tmp_path: Path) -> None:
    rng = random.Random(0)
    pool = fill(models, [draw(rng, "train", kind) for kind in KINDS for _ in range(2)])
    save_pool(tmp_path / "pool.safetensors", pool, "these")
    again = load_pool(tmp_path / "pool.safetensors", "these")
    assert again is not None and again.sizes == pool.sizes
    for name in TENSORS:
        assert all(map(torch.equal, getattr(pool, name), getattr(again, name)))
    one, two = together(pool.cues), together(again.cues)
    for name, seen in vars(one).items():
        other = getattr(two, name)
        assert (seen is None) == (other is None)
        assert seen is None or (
            torch.equal(seen.values, other.values) and torch.equal(seen.known, other.known)
        )
    assert load_pool(tmp_path / "pool.safetensors", "others") is None


def test_each_stage_moves_its_own_part(models: Models) -> None:
    editor, rng = models.editor, random.Random(0)
    pool = fill(models, [draw(rng, "train", "woven") for _ in range(4)])
    names = dict(Learning(editor).named_parameters())
    for stage, expected in enumerate(({"states", "queries", "query_blocks", "to_say"}, None, None)):
        for parameter in names.values():
            parameter.grad = None
        with learning(editor, stage):
            step_loss(editor, pool, RECIPE, 0, stage, 0).backward()
        moved = {name for name, parameter in names.items() if parameter.grad is not None}
        if expected is not None:
            assert {name.split(".")[1] for name in moved} == expected
        else:
            assert "bridge.raw_gate" in moved
            assert any(name.startswith("low.") for name in moved) == (stage == 2)
    assert not any(parameter.requires_grad for parameter in editor.unet.parameters())


def test_a_step_in_bfloat16_is_the_step_in_32_bits(models: Models) -> None:
    """Where attention is not saturated: of the bundle's, whose logits reach 300, eight bits of fraction may
    turn a gradient. And products of attention are the fused kernel's."""
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    rng = random.Random(0)
    pool = fill(models, [draw(rng, "train", "woven") for _ in range(4)])

    def gradient(half: bool, fused: bool = False) -> tuple[float, torch.Tensor]:
        editor = begin(BUNDLED, RECIPE, 0)
        torch.nn.init.constant_(editor.bridge.raw_gate, 0.5)  # shut, only the gate would learn
        for module in editor.unet.modules():
            if isinstance(module, Attention):
                module.to_q.weight.data.mul_(0.1)
        if fused:
            for each in editor.unet.attn_processors.values():
                each.plain = AttnProcessor2_0()
        with learning(editor, 2):
            loss = step_loss(editor, pool, replace(RECIPE, half=half), 0, 2, 0)
            loss.backward()
        found = [p.grad.flatten() for p in Learning(editor).parameters() if p.grad is not None]
        return loss.item(), torch.cat(found)

    (loss, whole), (rough, short), (same, kernel) = gradient(False), gradient(True), gradient(False, True)
    assert rough == pytest.approx(loss, rel=0.01) and same == pytest.approx(loss, rel=1e-5)
    assert torch.cosine_similarity(short, whole, 0) > 0.999
    torch.testing.assert_close(kernel, whole, rtol=1e-3, atol=1e-5)


class Cut(Exception):
    pass


def test_a_run_that_was_cut_off_ends_in_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = training.train(BUNDLED, tmp_path / "a.safetensors", tmp_path / "a", 0, lambda _: None, RECIPE)
    own: Callable[..., torch.Tensor] = training.step_loss
    for stage, step in ((0, 1), (2, 1)):

        def cut(*given: Any, at: tuple[int, int] = (stage, step)) -> torch.Tensor:
            if given[4:] == at:
                raise Cut
            return own(*given)

        monkeypatch.setattr(training, "step_loss", cut)
        with pytest.raises(Cut):
            training.train(BUNDLED, tmp_path / "b.safetensors", tmp_path / "b", 0, lambda _: None, RECIPE)
    monkeypatch.setattr(training, "step_loss", own)
    training.train(BUNDLED, tmp_path / "b.safetensors", tmp_path / "b", 0, lambda _: None, RECIPE)
    first, second = (load_bridge(tmp_path / f"{name}.safetensors")[0] for name in "ab")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert bool((whole.bridge.raw_gate != 0).all())  # it has begun to open, or been told not to
    with pytest.raises(training.ConfigError, match="another recipe"):
        training.train(BUNDLED, tmp_path / "b.safetensors", tmp_path / "b", 1, lambda _: None, RECIPE)


def test_the_pipeline_tells_a_bridge_and_shut_it_is_the_bundle(models: Models, tmp_path: Path) -> None:
    request = load_example(EXAMPLES / "1-reference.json")[1]
    bundled = Pipeline.load(choose(["bundled"]), device="cpu")
    quick = bundled.editor.defaults.with_kwargs(steps=1)
    plain = bundled.run(request, edit=quick).edited
    file = tmp_path / "bridge.safetensors"
    with torch.no_grad():
        models.editor.bridge.raw_gate.zero_()
    models.editor.save(file)
    pipeline = Pipeline.load(choose(["bundled", f"editor={file}"]), device="cpu")
    assert isinstance(pipeline.editor, BridgedIP2P)
    assert torch.equal(pipeline.run(request, edit=quick).edited, plain)
    with torch.no_grad():
        pipeline.editor.bridge.raw_gate.fill_(0.5)
    result = pipeline.run(request, edit=quick)
    assert result.mask is not None and not torch.equal(result.edited, plain)
    assert torch.equal(result.edited[result.mask == 0], request.original[result.mask == 0])


@pytest.mark.slow  # what it measures paints as the pipeline above
def test_shares_right_of_each_kind_with_and_without_cues(models: Models) -> None:
    others = {"alone": lambda sample: models.editor}
    found = measure(BUNDLED, models.editor, rows=1, log=lambda _: None, others=others)
    assert {*KINDS, *(f"{kind}, alone" for kind in KINDS), "seconds"} <= set(found)
    assert all(0 <= found[kind] <= 1 for kind in KINDS) and found["woven"] == found["woven, alone"]


def test_the_loss_tells_whose_cues_are_heard(models: Models) -> None:
    with torch.no_grad():
        models.editor.bridge.raw_gate.zero_()
    shut = cue_losses(BUNDLED, models.editor, rows=2)
    assert {*shut} == {"loss, own", "loss, another's", "loss, none"}
    assert [*shut.values()] == pytest.approx([shut["loss, none"]] * 3, rel=1e-5)
    with torch.no_grad():
        models.editor.bridge.raw_gate.fill_(0.5)
    heard = cue_losses(BUNDLED, models.editor, rows=2)
    models.editor.bridge.raw_gate.data.zero_()
    assert heard["loss, none"] == shut["loss, none"] and len(set(heard.values())) == 3


@pytest.mark.slow  # the run that was cut off is what it does
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--steps", "1", "1", "1", "--pool", "12", "--work", str(tmp_path), "--parts", "none"]
    assert main(words) == 0
    assert (tmp_path / "none-0" / "bridge.safetensors").is_file()
    assert "bridge 1/1" in capsys.readouterr().out


@pytest.mark.slow  # what it is measured beside; the bridge's own training and painting are above
def test_the_rival_sees_what_is_pasted_and_paints_beside_it(models: Models, tmp_path: Path) -> None:
    rng = random.Random(0)
    samples = [draw(rng, "train", kind) for kind in KINDS for _ in range(2)]
    pool = fill(models, samples)
    few = replace(RECIPE, steps=(0, 2, 1))
    whole = train_rival(BUNDLED, tmp_path / "a.safetensors", tmp_path / "a", pool, 0, lambda _: None, few)
    # stopped after its first state, it goes on to the same bits
    state = tmp_path / "b" / "rival-state.safetensors"
    calls: list[str] = []

    def stop(text: str) -> None:
        calls.append(text)
        if len(calls) == 2:
            raise Cut

    for log in (stop, lambda _: None):
        with contextlib.suppress(Cut):
            train_rival(BUNDLED, tmp_path / "b.safetensors", state.parent, pool, 0, log, few)
    again = Pasted.begin(BUNDLED, SMALL.rank).put(tmp_path / "b.safetensors")
    first, second = whole.low.state_dict(), again.low.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)

    sample = samples[0]
    before, _, mask = sample.frames()
    assert mask is not None and sample.shown is not None
    settings = whole.defaults.with_kwargs(steps=2)
    edited = whole.of(sample).edit(before, sample.instruction, mask, settings).frames
    assert edited.shape == before.shape and torch.equal(edited[mask == 0], before[mask == 0])
    other = replace(sample, request=replace(sample.request, references=()))
    assert not torch.equal(whole.of(other).edit(before, sample.instruction, mask, settings).frames, edited)
