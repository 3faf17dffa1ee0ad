"""Reasoner: loaded through the public path from the layouts users have, equal to the library's own
results."""

from __future__ import annotations

import json
import math
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_qwen
import torch

from evlm.errors import Cancelled, CheckpointError, ModelError, RequestError, TraceError
from evlm.models import quantized
from evlm.reason.decoding import Words
from evlm.reason.messages import SHORT, build_messages, encode
from evlm.reason.reasoner import Reasoner, Sampling
from evlm.reason.transformers_compat import cache_name
from evlm.request import Reference, Request


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    saved = {family: tiny_qwen.save_folder(root / family, family) for family in tiny_qwen.FAMILIES}
    for folder in saved.values():
        (folder / "evlm.json").write_text('{"prompt": "short"}')
    return saved


@pytest.fixture(scope="module")
def reasoner(folders: dict[str, Path]) -> Reasoner:
    return Reasoner.load(folders["qwen2_vl"], device="cpu")


def ask(video: bool = True) -> Request:
    random = torch.Generator().manual_seed(1)
    references = [Reference("image", torch.rand(1, 40, 56, 3, generator=random), note="the hat")]
    if video:
        references.append(Reference("video", torch.rand(5, 32, 48, 3, generator=random), fps=8.0))
    return Request(torch.rand(1, 48, 64, 3, generator=random), "like this", tuple(references))


def library_tokens(reasoner: Reasoner, request: Request, **options: Any) -> list[int]:
    """What `generate()` of transformers writes for the same messages."""
    inputs = encode(reasoner.processor, [build_messages(request, style=SHORT)])
    model: Any = reasoner.module
    out = model.generate(**inputs, **options)
    return out[0, inputs["input_ids"].shape[1] :].tolist()


def test_a_sharded_folder_is_sharded(folders: dict[str, Path]) -> None:
    assert len(list(folders["qwen2_vl"].glob("model-0000*.safetensors"))) > 1


@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_greedy_text_is_that_of_generate(folders: dict[str, Path], family: str) -> None:
    reasoner = Reasoner.load(folders[family], device="cpu", dtype="fp32")
    for request in (ask(), ask(video=False)):
        ours = reasoner.generate(request, Sampling(max_new_tokens=60))
        tokens = library_tokens(reasoner, request, max_new_tokens=60, do_sample=False)
        text = reasoner.processor.tokenizer.decode(
            [t for t in tokens if t < 256], clean_up_tokenization_spaces=False
        )
        assert ours.text == text
        assert ours.tokens == len(tokens)


@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_nothing_is_called_by_a_name_that_the_library_gives_up(folders: dict[str, Path], family: str) -> None:
    """`past_key_values` goes in transformers 5.40; the warning was the first line of every command (C19)."""
    reasoner = Reasoner.load(folders[family], device="cpu", dtype="fp32")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reasoner.generate(ask(), Sampling(max_new_tokens=3))
    assert [str(each.message) for each in caught if issubclass(each.category, FutureWarning)] == []


def test_older_versions_keep_the_older_name() -> None:
    class Older:
        def forward(self, input_ids: Any = None, past_key_values: Any = None) -> None: ...

    class Newer:
        def forward(self, input_ids: Any = None, cache: Any = None, **kwargs: Any) -> None: ...

    assert (cache_name(Older()), cache_name(Newer())) == ("past_key_values", "cache")


@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_the_weights_are_those_that_were_saved(folders: dict[str, Path], family: str) -> None:
    reasoner = Reasoner.load(folders[family], device="cpu", dtype="fp32")
    inputs = encode(reasoner.processor, [build_messages(ask(), style=SHORT)])
    with torch.no_grad():
        expected = tiny_qwen.make_model(family)(**inputs).logits
        torch.testing.assert_close(reasoner.module(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


def test_stale_rope_deltas_of_the_library_do_not_reach_us(reasoner: Reasoner) -> None:
    before = reasoner.generate(ask(), Sampling(max_new_tokens=40)).text
    library_tokens(reasoner, ask(video=False), max_new_tokens=3, do_sample=False)
    stale = reasoner.module.model.rope_deltas.clone()
    assert reasoner.generate(ask(), Sampling(max_new_tokens=40)).text == before
    assert torch.equal(reasoner.module.model.rope_deltas, stale)


def test_a_seed_gives_one_text_and_leaves_the_global_state(reasoner: Reasoner) -> None:
    state = torch.get_rng_state()
    draw = {
        seed: reasoner.generate(ask(), Sampling(30, temperature=1.5, top_p=0.95, seed=seed)).text
        for seed in (1, 2, 3)
    }
    again = reasoner.generate(ask(), Sampling(30, temperature=1.5, top_p=0.95, seed=2)).text
    assert again == draw[2]
    assert len(set(draw.values())) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tiny_top_p_is_greedy(reasoner: Reasoner) -> None:
    greedy = reasoner.generate(ask(), Sampling(30)).text
    assert reasoner.generate(ask(), Sampling(30, temperature=2.0, top_p=1e-6, seed=9)).text == greedy


def test_sampling_follows_the_probabilities(reasoner: Reasoner) -> None:
    from evlm.reason.decoding import Chooser

    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    choose = Chooser(Sampling(temperature=1.0, top_p=0.8), reasoner.module)
    counts = torch.bincount(torch.tensor([choose(logits) for _ in range(4000)]), minlength=4) / 4000
    assert counts[2] == counts[3] == 0
    assert abs(float(counts[0]) - 0.625) < 0.03


def test_streamed_pieces_join_to_the_text(reasoner: Reasoner) -> None:
    pieces: list[str] = []
    generated = reasoner.generate(ask(), Sampling(60, temperature=1.2, seed=4), pieces.append)
    assert "".join(pieces) == generated.text
    assert len(pieces) > 5


def test_a_character_of_several_tokens_comes_out_whole(reasoner: Reasoner) -> None:
    text = "größer \u2192 \u66f4\u7ea2 \U0001f642 done"
    ids = reasoner.processor.tokenizer(text)["input_ids"]
    pieces: list[str] = []
    words = Words(reasoner.processor.tokenizer, frozenset(), pieces.append, every=0)
    for token in ids:
        words.add(token)
    assert words.finish() == text
    assert [piece for piece in pieces if piece] == list(text)
    assert len(pieces) == len(ids)


def test_cancel_comes_through_and_the_model_lives_on(reasoner: Reasoner) -> None:
    expected = reasoner.generate(ask(), Sampling(40)).text
    seen: list[str] = []

    def stop(piece: str) -> None:
        seen.append(piece)
        if len(seen) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        reasoner.generate(ask(), Sampling(40), stop)
    assert len(seen) == 3
    assert reasoner.generate(ask(), Sampling(40)).text == expected


def test_text_without_a_plan_is_a_trace_error(reasoner: Reasoner) -> None:
    with pytest.raises(TraceError, match="raise max_new_tokens"):
        reasoner.reason(ask(), Sampling(max_new_tokens=5))


def test_reason_returns_the_trace(reasoner: Reasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    from evlm.plan.trace import Plan, Trace, render

    trace = Trace("a hat", "paint it", "yes", Plan("make the hat red", ("hat",)))
    ids = [*reasoner.processor.tokenizer(render(trace))["input_ids"], *reasoner._stops]
    logs = ((token, torch.tensor(-0.1)) for token in ids)
    monkeypatch.setattr(reasoner, "_tokens", lambda decoder, inputs, choose: logs)
    reasoned = reasoner.reason(ask(), repair=False)
    assert reasoned.trace == trace
    assert reasoned.confidence == pytest.approx(math.exp(-0.1))
    assert reasoned.finished and reasoned.tokens == len(ids) - len(reasoner._stops) + 1


def test_too_long_a_request_names_the_remedy(reasoner: Reasoner) -> None:
    with pytest.raises(RequestError, match="max_pixels"):
        reasoner.generate(Request(torch.zeros(1, 32, 32, 3), "word " * 1000))


def test_the_pixel_budget_bounds_pictures_and_frames(folders: dict[str, Path]) -> None:
    big = Request(torch.rand(1, 300, 200, 3), "", (Reference("video", torch.rand(4, 300, 200, 3)),))
    for family in tiny_qwen.FAMILIES:
        small = Reasoner.load(folders[family], device="cpu", max_pixels=32 * 32, min_pixels=16 * 16)
        inputs = encode(small.processor, [build_messages(big, style=SHORT)])
        assert int(inputs["image_grid_thw"][0, 1:].prod()) * 64 <= 32 * 32
        assert int(inputs["video_grid_thw"][0, 1:].prod()) * 64 <= 32 * 32
    with pytest.raises(ModelError, match="min_pixels"):
        Reasoner.load(folders["qwen2_vl"], device="cpu", max_pixels=32 * 32, min_pixels=64 * 64)


@pytest.mark.parametrize("family", tiny_qwen.FAMILIES)
def test_without_a_budget_the_model_sees_what_it_was_trained_on(
    folders: dict[str, Path], family: str
) -> None:
    processor = Reasoner.load(folders[family], device="cpu").processor
    chat = build_messages(ask(), style=SHORT)
    ours, theirs = encode(processor, [chat]), encode(tiny_qwen.make_processor(family), [chat])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 700)])
def test_pictures_of_any_shape_go_through(reasoner: Reasoner, size: tuple[int, int]) -> None:
    request = Request(torch.rand(1, *size, 3), "", (Reference("image", torch.rand(1, *size, 3)),))
    assert reasoner.generate(request, Sampling(2)).tokens == 2


@pytest.mark.parametrize(("dtype", "expected"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_precision(folders: dict[str, Path], dtype: str, expected: torch.dtype) -> None:
    reasoner = Reasoner.load(folders["qwen2_vl"], device="cpu", dtype=dtype)
    assert {p.dtype for p in reasoner.module.parameters()} == {expected}
    assert reasoner.generate(ask(), Sampling(5)).tokens == 5


def test_attention_choices_agree(folders: dict[str, Path], reasoner: Reasoner) -> None:
    eager = Reasoner.load(folders["qwen2_vl"], device="cpu", attention="eager")
    assert eager.generate(ask(), Sampling(20)).text == reasoner.generate(ask(), Sampling(20)).text
    with pytest.raises(ModelError, match="attention 'fast'"):
        Reasoner.load(folders["qwen2_vl"], attention="fast")


def test_four_bit_says_what_it_needs(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(__version__="0.43.1")  # which knows CUDA alone
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "bitsandbytes", old)
        patch.setattr(quantized, "_installed", lambda name: True)
        with pytest.raises(ModelError, match=r"bitsandbytes 0\.43\.1 knows CUDA alone"):
            Reasoner.load(folders["qwen2_vl"], device="cpu", quantize="4bit")
        with pytest.raises(ModelError, match="not on mps"):
            quantized.check_four_bit(torch.device("mps"))
        quantized.check_four_bit(torch.device("cuda"))
        patch.setattr(quantized, "_installed", lambda name: False)
        with pytest.raises(ModelError, match="pip install bitsandbytes"):
            Reasoner.load(folders["qwen2_vl"], device="cpu", quantize="4bit")
    with pytest.raises(ModelError, match="3bit"):
        Reasoner.load(folders["qwen2_vl"], device="cpu", quantize="3bit")


def test_four_bit_weights_are_packed_on_a_cpu_only_where_nothing_is_lost() -> None:
    """bitsandbytes' way for machines with AVX512-BF16, by the names it has there."""

    class Linear4bit(torch.nn.Linear):
        support_avx512bf16_for_cpu = True

        def __init__(self, into: int, out: int, dtype: torch.dtype) -> None:
            super().__init__(into, out)
            self.compute_dtype = dtype

    shapes = [(64, 32, torch.bfloat16), (64, 3420, torch.bfloat16), (3420, 32, torch.bfloat16)]
    shapes.append((64, 32, torch.float32))
    model = torch.nn.ModuleList(Linear4bit(*shape) for shape in shapes)
    quantized.keep_plain_on_cpu(model)
    assert [each.support_avx512bf16_for_cpu for each in model] == [True, False, False, False]
    quantized.keep_plain_on_cpu(model, every=True)
    assert not any(each.support_avx512bf16_for_cpu for each in model)


def test_half_precision_overflow_is_named(reasoner: Reasoner, monkeypatch: pytest.MonkeyPatch) -> None:
    from evlm.reason.decoding import Chooser

    with pytest.raises(ModelError, match="not finite"):
        Chooser(Sampling(), reasoner.module)(torch.tensor([0.0, float("nan")]))


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_p": 0.0},
        {"top_p": 1.5}, {"seed": -1}, {"temperature": 5e-324},
    ],
)  # fmt: skip
def test_sampling_refuses(bad: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        Sampling(**bad)


def broken(folder: Path, copy: Path) -> Path:
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def test_broken_folders_are_refused_with_a_reason(folders: dict[str, Path], tmp_path: Path) -> None:
    source = folders["qwen2_vl"]
    with pytest.raises(ModelError, match="not a folder"):
        Reasoner.load(tmp_path / "nothing")

    bare = broken(source, tmp_path / "bare")
    (bare / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="llama"):
        Reasoner.load(bare)

    short = broken(source, tmp_path / "short")
    (short / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match="lacks model-00002"):
        Reasoner.load(short)

    cut = broken(source, tmp_path / "cut")
    shard = cut / "model-00001-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        Reasoner.load(cut)

    outside = broken(source, tmp_path / "outside")
    (outside / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x.safetensors"}}')
    with pytest.raises(ModelError, match="outside its folder"):
        Reasoner.load(outside)

    pickled = broken(source, tmp_path / "pickled")
    for file in pickled.glob("model*"):
        file.unlink()
    (pickled / "pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError, match="never loaded"):
        Reasoner.load(pickled)

    mute = broken(source, tmp_path / "mute")
    for file in [*mute.glob("*token*"), *mute.glob("vocab*"), *mute.glob("merges*")]:
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        Reasoner.load(mute)

    odd = broken(source, tmp_path / "odd")
    (odd / "evlm.json").write_text('{"prompt": "poem"}')
    with pytest.raises(ModelError, match="poem"):
        Reasoner.load(odd)


def test_missing_tensors_are_an_error_not_random_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = broken(folders["qwen2_vl"], tmp_path / "holes")
    shard = folder / "model-00002-of-00003.safetensors"
    tensors = load_file(shard)
    gone = sorted(tensors)[0]
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    del tensors[gone], table["weight_map"][gone]
    save_file(tensors, shard, metadata={"format": "pt"})
    index.write_text(json.dumps(table))
    with pytest.raises(ModelError, match="missing"):
        Reasoner.load(folder, device="cpu")


def test_other_sized_weights_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = broken(folders["qwen2_vl"], tmp_path / "sizes")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 96
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        Reasoner.load(folder, device="cpu")


def test_an_adapter_that_does_not_fit_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"\x80\x02not tensors")
    with pytest.raises(CheckpointError, match="pickle"):
        Reasoner.load(folders["qwen2_vl"], tmp_path / "a.safetensors", device="cpu")


def test_text_comes_seldom_and_the_callback_after_every_token(reasoner: Reasoner) -> None:
    ids = reasoner.processor.tokenizer("one two three")["input_ids"]
    pieces: list[str] = []
    words = Words(reasoner.processor.tokenizer, frozenset(), pieces.append, every=3600)
    for token in ids:
        words.add(token)
    assert len(pieces) == len(ids)
    assert not any(pieces[1:])
    assert words.finish() == "".join(pieces) == "one two three"
