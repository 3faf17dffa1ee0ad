"""What prompts begin with is read once: the same text bit for bit, in every family, and nothing stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch

from evlm.errors import ModelError
from evlm.reason import prefix_cache
from evlm.reason.decoding import Decoder
from evlm.reason.messages import build_messages, encode
from evlm.reason.prefix_cache import PrefixCache
from evlm.reason.reasoner import Reasoner, Sampling
from evlm.request import Reference, Request


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    saved = {family: tiny_qwen.save_folder(root / family, family) for family in tiny_qwen.FAMILIES}
    for folder in saved.values():
        (folder / "evlm.json").write_text('{"prompt": "short"}')
    return saved


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefix_cache, "LEAST_PIECE", 8)  # the pictures of tiny models have 6 to 16 tokens


def pictures(frames: int, seed: int) -> torch.Tensor:
    return torch.rand(frames, 48, 64, 3, generator=torch.Generator().manual_seed(seed))


def ask(prompt: str, original: int = 1, frames: int = 1, second: int = 3) -> Request:
    """frames: of the original. original, second: seeds of its pixels and of the second reference's."""
    references = (
        Reference("image", pictures(1, 2), note="the hat"),
        Reference("video", pictures(5, second), fps=8.0),
        Reference("text", text="as in autumn"),
    )
    return Request(pictures(frames, original), prompt, references)


class Seen:
    """How many pictures and pairs of frames a model's vision tower has looked at."""

    def __init__(self, reasoner: Reasoner) -> None:
        self.count = 0
        model: Any = reasoner.module
        model.model.visual.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, module: Any, args: Any, kwargs: Any) -> None:
        grid = kwargs["grid_thw"] if "grid_thw" in kwargs else args[1]
        self.count += int(grid[:, 0].sum())

    def take(self) -> int:
        count, self.count = self.count, 0
        return count


def first_logits(reasoner: Reasoner, request: Request, prefixes: PrefixCache | None) -> torch.Tensor:
    chat = build_messages(request, reasoner.codec, reasoner.style)
    with torch.inference_mode():
        return Decoder(reasoner.module, prefixes).prefill(encode(reasoner.processor, [chat]))


SAMPLINGS = {
    "free, greedy": Sampling(12, guided="never"),
    "free, drawn": Sampling(12, temperature=1.5, seed=5, guided="never"),
    "guided, greedy": Sampling(48, guided="always"),
    "guided, drawn": Sampling(48, temperature=1.5, seed=5, guided="always"),
}


@pytest.mark.parametrize("frames", [pytest.param(1, marks=pytest.mark.slow), 6])
@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_the_second_prompt_reads_its_words_alone_and_writes_the_same(
    folders: dict[str, Path], family: str, frames: int
) -> None:
    reasoner, plain = (Reasoner.load(folders[family], device="cpu", dtype="fp32") for _ in range(2))
    plain.prefixes.limit = 0
    seen = Seen(reasoner)
    reasoner.generate(ask("bluer", frames=frames), Sampling(1, guided="never"))
    assert seen.take() == frames // 2 + (frames == 1) + 1 + 3
    for name, sampling in SAMPLINGS.items():
        request = ask(f"like this, {name}", frames=frames)
        assert reasoner.generate(request, sampling).text == plain.generate(request, sampling).text
    assert seen.take() == 0
    kept, none = first_logits(reasoner, request, reasoner.prefixes), first_logits(reasoner, request, None)
    assert torch.equal(kept, none)


@pytest.mark.parametrize("frames", [pytest.param(1, marks=pytest.mark.slow), 6])
@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_pieces_are_read_as_the_whole_is(folders: dict[str, Path], family: str, frames: int) -> None:
    """Positions of pictures, deepstack's features and the mask: against the model's own single forward."""
    reasoner = Reasoner.load(folders[family], device="cpu", dtype="fp32")
    request = ask("like this", frames=frames)
    with torch.inference_mode():
        inputs = encode(reasoner.processor, [build_messages(request, reasoner.codec, reasoner.style)])
        whole = reasoner.module(**inputs).logits[0, -1]
    reasoner.generate(ask("bluer", frames=frames), Sampling(1))
    torch.testing.assert_close(first_logits(reasoner, request, None), whole, atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(
        first_logits(reasoner, request, reasoner.prefixes), whole, atol=2e-4, rtol=2e-4
    )


def test_what_is_shared_ends_at_the_first_difference(folders: dict[str, Path]) -> None:
    reasoner = Reasoner.load(folders["qwen3_vl"], device="cpu", dtype="fp32")
    seen, greedy = Seen(reasoner), Sampling(1, guided="never")
    reasoner.generate(ask("bluer"), greedy)
    seen.take()
    reasoner.generate(ask("bluer", second=9), greedy)
    assert seen.take() == 3  # the second reference, three pairs of frames
    pieces = len(reasoner.prefixes)
    reasoner.generate(ask("bluer", original=9), greedy)
    assert seen.take() == 1 + 1 + 3
    assert len(reasoner.prefixes) == pieces + 3  # the words before the original are those of any picture
    darker = ask("bluer")
    darker.original[0, 5, 5] = 0.0  # a few pixels
    reasoner.generate(darker, greedy)
    assert seen.take() == 1 + 1 + 3
    reasoner.generate(ask("redder"), greedy)
    assert seen.take() == 0  # and what was first is still there


def test_weights_that_change_are_read_with_anew(folders: dict[str, Path]) -> None:
    reasoner = Reasoner.load(folders["qwen2_vl"], device="cpu", dtype="fp32")
    request = ask("like this")
    before = first_logits(reasoner, request, reasoner.prefixes)
    weight = next(iter(reasoner.module.model.language_model.layers.parameters()))
    with torch.no_grad():
        weight.add_(0.3)
    after = first_logits(reasoner, request, reasoner.prefixes)
    assert not torch.equal(after, before)
    assert torch.equal(after, first_logits(reasoner, request, None))
    assert reasoner.prefixes.nbytes > 0
    reasoner.to("cpu")
    assert (reasoner.prefixes.nbytes, len(reasoner.prefixes)) == (0, 0)


def test_an_adapter_that_is_switched_is_another_state(folders: dict[str, Path]) -> None:
    from peft import LoraConfig, get_peft_model

    reasoner = Reasoner.load(folders["qwen2_vl"], device="cpu", dtype="fp32")
    model: Any = get_peft_model(reasoner.module, LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.2)
    request = ask("like this")
    on = first_logits(reasoner, request, reasoner.prefixes)
    with model.disable_adapter():
        off = first_logits(reasoner, request, reasoner.prefixes)
        assert torch.equal(off, first_logits(reasoner, request, None))
    assert not torch.equal(on, off)


def test_it_holds_no_more_than_it_may_and_lets_the_oldest_go(folders: dict[str, Path]) -> None:
    reasoner = Reasoner.load(folders["qwen2_vl"], device="cpu", dtype="fp32")
    seen, greedy, prefixes = Seen(reasoner), Sampling(1, guided="never"), reasoner.prefixes
    reasoner.generate(ask("bluer"), greedy)
    one, pieces = prefixes.nbytes, len(prefixes)
    assert pieces == 4  # the words before the original, the original, two references
    prefixes.limit = one * 5 // 4
    for original in (2, 3, 4):
        reasoner.generate(ask("bluer", original=original), greedy)
        assert 0 < prefixes.nbytes <= prefixes.limit
    assert prefixes.nbytes == sum(
        tensor.nbytes for layers in prefixes._kept.values() for each in layers for tensor in each
    )
    seen.take()
    reasoner.generate(ask("redder", original=4), greedy)
    assert seen.take() == 0
    reasoner.generate(ask("redder", original=2), greedy)
    assert seen.take() > 0
    with pytest.raises(ModelError, match="expected 0"):
        PrefixCache(-1)


def test_what_does_not_fit_whole_is_kept_from_its_beginning(folders: dict[str, Path]) -> None:
    reasoner = Reasoner.load(folders["qwen2_vl"], device="cpu", dtype="fp32")
    first_logits(reasoner, ask("bluer"), reasoner.prefixes)
    small = PrefixCache(reasoner.prefixes.nbytes - 1)
    first_logits(reasoner, ask("bluer"), small)
    assert len(small) == 3
    seen = Seen(reasoner)
    first_logits(reasoner, ask("redder"), small)
    assert seen.take() == 3  # the last piece, a reference of three pairs of frames
