"""Shared prompts against one row at a time: scores, gradients, eta0; the reference and its cache."""

from __future__ import annotations

import math
import random
import sqlite3
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, get_peft_model

from evlm.errors import EVLMError
from evlm.reason.messages import SHORT, build_messages
from trainer.bundle.tiny_qwen import make_model, make_processor, make_tokenizer
from trainer.estimators.eta0 import Eta0Config, pair_indices, score_pairs
from trainer.model import lean, logprobs
from trainer.model.batch import Batch, Collator
from trainer.model.forward import hidden_states
from trainer.model.logprobs import response_states, sequence_logps
from trainer.model.merged_lora import merged
from trainer.model.prompts import split
from trainer.model.reference import LogProbCache, ReferencePolicy, fingerprint, using
from trainer.model.token_logprobs import token_logps
from trainer.objectives.kto import eta0, log_ratio
from trainer.objectives.rkto import RKTOConfig, rkto_loss, step_weights
from trainer.objectives.sft import sft_loss
from trainer.world.questions import CATEGORIES, ask
from trainer.world.rows import to_request


@pytest.fixture(scope="module")
def tiny():
    tokenizer = make_tokenizer(iter(["<thinking>\nlarge red circle , left\n</thinking>"] * 8))
    collate = Collator(make_processor(tokenizer))
    rng = random.Random(5)
    chats = [build_messages(to_request(ask(rng, "train", category=c)), style=SHORT) for c in CATEGORIES[:4]]
    answers = ["large red circle", "left", "", "thinking , thinking red"]
    return tokenizer, collate(chats, answers)


def model_of(tokenizer, attention: str = "sdpa"):
    model = make_model(tokenizer, layers=2, width=64, vision_width=32, vision_depth=1).eval()
    model.set_attn_implementation(attention)
    return model


def with_adapters(tokenizer):
    """A policy and a reference of the same base, both away from it."""
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], lora_dropout=0.1)
    model = get_peft_model(model_of(tokenizer), lora)
    model.add_adapter("reference", lora)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.05)
    return model


def every_pair(responses):
    n = len(responses)
    return [responses[j] for _ in range(n) for j in range(n)], [i for i in range(n) for _ in range(n)]


def test_a_batch_splits_into_prompts_and_responses(tiny):
    tokenizer, batch = tiny
    prompts, responses = split(batch)
    assert [tokenizer.decode(r) for r in responses][:2] == ["large red circle<|im_end|>", "left<|im_end|>"]
    assert int(prompts.lengths.sum()) + sum(map(len, responses)) == batch.tokens
    assert sum(prompts.pictures) == len(batch.grids)
    for b, response in enumerate(responses):
        first = int((batch.labels[b] != -100).nonzero()[0])
        assert int(prompts.starts[b]) == int(batch.position_ids[0, b, first])
        assert torch.equal(batch.input_ids[b, :first], prompts.batch.input_ids[b, :first])
        assert torch.equal(response, batch.labels[b][batch.labels[b] != -100])


def test_padding_on_the_left_is_the_same(tiny):
    _, batch = tiny

    def turned(x):
        return torch.stack(
            [
                torch.roll(row, int((~keep).sum()), -1)
                for row, keep in zip(x, batch.attention_mask, strict=True)
            ]
        )

    left = replace(
        batch,
        input_ids=turned(batch.input_ids),
        attention_mask=turned(batch.attention_mask),
        position_ids=torch.stack([turned(axis) for axis in batch.position_ids]),
        labels=turned(batch.labels),
        vision_mask=turned(batch.vision_mask),
    )
    assert bool(left.attention_mask[:, -1].all())
    (a, x), (b, y) = split(batch), split(left)
    assert all(torch.equal(r, s) for r, s in zip(x, y, strict=True))
    for name in ("input_ids", "attention_mask", "position_ids", "vision_mask"):
        assert torch.equal(getattr(a.batch, name), getattr(b.batch, name))
    assert torch.equal(a.starts, b.starts) and a.pictures == b.pictures


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("how", ["packed", "cached"])
def test_shared_prompts_equal_one_row_at_a_time_and_so_do_the_gradients(tiny, attention, how, monkeypatch):
    """1e-5 relative in float32, over all pairs of prompts and responses; groups, chunks and all."""
    tokenizer, batch = tiny
    model = model_of(tokenizer, attention)
    prompts, responses = split(batch)
    texts, owner = every_pair(responses)
    weights = torch.linspace(-1, 2, len(texts))
    monkeypatch.setattr(lean, "usable", lambda core: False)  # what other devices and types take
    monkeypatch.setattr(logprobs, "_PROMPT_TOKENS", 300)
    monkeypatch.setitem(logprobs._FED, "cpu", 40)

    def run(way: str, chunk: int):
        model.zero_grad()
        model.model.rope_deltas = torch.full((1, 1), 77)  # as another call may have left it
        scores = sequence_logps(model, prompts, texts, owner, way, chunk)
        (weights * scores).sum().backward()
        return scores.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    want, gradient = run("naive", 10_000)
    got, other = run(how, 37)
    assert ((got - want) / want).abs().max() <= 1e-5
    assert (other - gradient).norm() / gradient.norm() <= 1e-5


def test_the_oracle_is_the_models_own_forward_with_its_own_positions(tiny):
    tokenizer, batch = tiny
    model = model_of(tokenizer)
    prompts, responses = split(batch)
    with torch.no_grad():
        got = sequence_logps(model, prompts, responses, range(len(responses)), "naive")
        for i, response in enumerate(responses):
            one = prompts.take([i]).batch
            if bool((one.input_ids == model.config.video_token_id).any()):
                continue
            ids = torch.cat([one.input_ids[0], response])[None]
            logits = model(
                input_ids=ids,
                pixel_values=one.pixels,
                image_grid_thw=one.grids,
                mm_token_type_ids=(ids == model.config.image_token_id).int(),
            ).logits[0]
            at = torch.arange(one.input_ids.shape[1] - 1, ids.shape[1] - 1)
            want = logits.log_softmax(-1)[at, response].double().sum()
            assert torch.allclose(got[i], want, rtol=1e-5)


def test_scores_agree_with_the_training_loss(tiny):
    tokenizer, batch = tiny
    model = model_of(tokenizer)
    prompts, responses = split(batch)
    with torch.no_grad():
        total, count = sft_loss(hidden_states(model, batch), batch.labels, model.lm_head)
        scores = sequence_logps(model, prompts, responses, range(len(responses)), "cached")
    assert count == sum(map(len, responses)) and torch.allclose(scores.sum(), -total.double(), rtol=1e-5)


def test_gradient_checkpointing_changes_nothing_in_a_packed_row(tiny):
    tokenizer, batch = tiny
    model = model_of(tokenizer).train()
    prompts, responses = split(batch)
    gradients = []
    for on in (False, True):
        if on:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # 4.57 has no other name for it
        model.zero_grad()
        sequence_logps(model, prompts, responses, range(len(responses))).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-5)
    with pytest.raises(EVLMError, match="packed"):
        sequence_logps(model, prompts, responses, range(len(responses)), "cached")
    with merged(model):  # nothing is checkpointed there
        sequence_logps(model, prompts, responses, range(len(responses)), "cached")


def test_states_give_probabilities_of_any_segment(tiny):
    tokenizer, batch = tiny
    model = model_of(tokenizer)
    prompts, responses = split(batch)
    with torch.no_grad():
        states = response_states(model, prompts, responses, range(len(responses)))
        each = token_logps(states, torch.cat(responses), model.lm_head, chunk=3)
    assert len(states) == len(each) == sum(map(len, responses))
    assert (each < 0).all()


def test_eta0_over_all_pairs_equals_naive_pairs(tiny):
    tokenizer, batch = tiny
    model = with_adapters(tokenizer)
    prompts, responses = split(batch)
    scores = score_pairs(model, ReferencePolicy(model), prompts, responses, Eta0Config())
    ratios = {}
    for i in range(len(responses)):
        for j in range(len(responses)):
            with merged(model):
                ours = sequence_logps(model, prompts, [responses[j]], [i], "naive")
                with using(model, "reference"):
                    theirs = sequence_logps(model, prompts, [responses[j]], [i], "naive")
            ratios[i, j] = (ours - theirs)[0]
    apart = torch.stack([ratios[pair] for pair in pair_indices(len(responses))])
    assert torch.allclose(scores.mismatched, apart, rtol=1e-4, atol=1e-4)
    assert torch.allclose(scores.eta0, eta0(apart), rtol=1e-4, atol=1e-5)
    assert torch.allclose(
        scores.policy - scores.reference,
        torch.stack([ratios[i, i] for i in range(len(responses))]),
        rtol=1e-4,
        atol=1e-4,
    )
    halves = [
        score_pairs(
            model,
            ReferencePolicy(model),
            prompts.take(mine),
            [responses[i] for i in mine],
            Eta0Config(),
            other_responses=[responses[i] for i in theirs],
        ).mismatched
        for mine, theirs in (([0, 1], [2, 3]), ([2, 3], [0, 1]))
    ]
    assert torch.allclose(torch.cat(halves).sort().values, apart.sort().values, rtol=1e-4, atol=1e-4)
    shifted = score_pairs(model, ReferencePolicy(model), prompts, responses, Eta0Config("shifts", 2), seed=3)
    without = score_pairs(
        model, ReferencePolicy(model), prompts, responses, Eta0Config("shifts", 2), seed=3, score_own=False
    )
    assert len(without.policy) == 0 and torch.allclose(without.reference, scores.reference)
    assert torch.allclose(without.mismatched, shifted.mismatched, atol=1e-5)
    pairs = pair_indices(len(responses), "shifts", 2, 3)
    assert torch.allclose(shifted.mismatched, torch.stack([ratios[p] for p in pairs]), rtol=1e-4, atol=1e-4)


def test_an_rkto_step_in_parts_has_the_gradient_of_the_whole_and_raises_the_preferred(tiny):
    """The two halves of a step on a real model: credit for the batch without a graph, then loss and gradient
    part by part, with two samples a row behind the same prompt."""
    tokenizer, batch = tiny
    model, config = with_adapters(tokenizer).eval(), RKTOConfig(reinforce="all")
    prompts, responses = split(batch)
    rows, k = len(responses), 2
    samples = [responses[(i + n + 1) % rows] for i in range(rows) for n in range(k)]
    lengths = torch.tensor([len(r) for r in responses])
    seen = score_pairs(model, ReferencePolicy(model), prompts, responses, Eta0Config())
    generator = torch.Generator().manual_seed(0)
    similarity, iou = torch.rand(2, rows, k, generator=generator)
    weights = step_weights(
        seen.policy, seen.reference, lengths, seen.eta0, similarity, iou, torch.arange(rows) != 1, config
    )

    def gradient(parts: list[slice]):
        model.zero_grad()
        for part in parts:
            here = list(range(rows))[part]
            texts = [responses[i] for i in here] + [samples[i * k + n] for i in here for n in range(k)]
            owner = [*range(len(here)), *(at for at in range(len(here)) for _ in range(k))]
            scores = sequence_logps(model, prompts.take(here), texts, owner)
            policy, sampled = scores[: len(here)], scores[len(here) :].view(-1, k)
            loss, _ = rkto_loss(policy, lengths[part], weights.part(part), config, sampled, rows=rows)
            loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    whole, parts = gradient([slice(0, rows)]), gradient([slice(0, 1), slice(1, rows)])
    a, b = (torch.cat([g.flatten() for g in each]) for each in (whole, parts))
    assert (a - b).norm() / a.norm() <= 1e-5
    with torch.no_grad():
        for parameter, g in zip([p for p in model.parameters() if p.requires_grad], whole, strict=True):
            parameter -= 0.02 * g
    after = score_pairs(model, ReferencePolicy(model), prompts, responses, Eta0Config())
    assert (weights.c * weights.reward * (after.policy - seen.policy)).sum() > 0


def test_eta0_on_policy_is_the_mean_over_the_samples(tiny):
    tokenizer, batch = tiny
    model = with_adapters(tokenizer)
    prompts, responses = split(batch)
    reference = ReferencePolicy(model)
    samples, owner = [responses[3], responses[0], responses[0]], [0, 0, 2]
    config = Eta0Config("onpolicy")
    scores = score_pairs(
        model, reference, prompts, responses, config, scale="mean", samples=samples, sample_owner=owner
    )
    with merged(model):
        ours = sequence_logps(model, prompts, samples, owner)
    lengths = torch.tensor([len(s) for s in samples])
    want = log_ratio(ours, reference.logps(model, prompts, samples, owner), lengths, "mean")
    assert torch.allclose(scores.mismatched, want, atol=1e-5)
    with pytest.raises(EVLMError, match="own samples"):
        score_pairs(model, reference, prompts, responses, config)


@pytest.mark.parametrize("rows", [1, 2, 5, 16])
def test_shifts_pair_each_prompt_with_others_and_are_unbiased(rows):
    pairs = pair_indices(rows)
    assert len(pairs) == rows * (rows - 1) and all(i != j for i, j in pairs)
    seen = set()
    for seed in range(80):
        drawn = pair_indices(rows, "shifts", 3, seed)
        assert len(set(drawn)) == len(drawn) == rows * min(3, rows - 1)
        assert all(i != j for i, j in drawn)
        seen |= set(drawn)
    assert seen == set(pairs)


def test_using_another_adapter_leaves_the_model_as_it_was(tiny):
    tokenizer, batch = tiny
    model = with_adapters(tokenizer).train()
    prompts, responses = split(batch)
    before = {name: (p.requires_grad, p.clone()) for name, p in model.named_parameters()}
    scores = {}
    for name in ("default", "reference", None):
        with merged(model), using(model, name):
            scores[name] = sequence_logps(model, prompts, responses, range(len(responses)))
    with merged(model):
        assert torch.equal(
            sequence_logps(model, prompts, responses, range(len(responses))), scores["default"]
        )
    assert not torch.allclose(scores["default"], scores["reference"])
    assert not torch.allclose(scores["reference"], scores[None])
    assert model.active_adapter == "default" and all(m.training for m in model.modules())
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == before[name][0] and torch.equal(parameter, before[name][1])
    with pytest.raises(EVLMError, match="no adapter 'other'"), using(model, "other"):
        pass
    with pytest.raises(EVLMError, match="none"), using(model.get_base_model(), "reference"):
        pass


def test_what_is_no_number_is_never_kept(tiny, tmp_path, monkeypatch):
    tokenizer, batch = tiny
    model = with_adapters(tokenizer)
    prompts, responses = split(batch)
    cache = LogProbCache(tmp_path / "reference.sqlite")
    reference, values = ReferencePolicy(model, cache=cache), iter([math.nan, -3.0, -9.0])
    monkeypatch.setattr(
        ReferencePolicy, "_compute", lambda self, m, p, r, o: torch.full((len(r),), next(values))
    )
    asked = model, prompts, responses[:1], [0]
    assert reference.logps(*asked).isnan().all()
    assert float(reference.logps(*asked)) == float(reference.logps(*asked)) == -3.0
    cache.put({b"an older version's": math.nan})
    assert cache.get([b"an older version's"]) == {}


def test_the_cache_gives_the_same_bits_and_knows_what_changed(tiny, tmp_path, monkeypatch):
    tokenizer, batch = tiny
    model = with_adapters(tokenizer)
    prompts, responses = split(batch)
    texts, owner = every_pair(responses)
    cache = LogProbCache(tmp_path / "reference.sqlite")
    reference = ReferencePolicy(model, cache=cache)
    first = reference.logps(model, prompts, texts[:6], owner[:6])
    computed = []
    monkeypatch.setattr(
        ReferencePolicy,
        "_compute",
        lambda self, m, p, r, o: computed.append(len(r)) or torch.full((len(r),), -7.0),
    )
    again = ReferencePolicy(model, cache=LogProbCache(tmp_path / "reference.sqlite"))
    assert torch.equal(again.logps(model, prompts, texts[:6], owner[:6]), first) and not computed
    assert torch.equal(again.logps(model, prompts, texts[4:8], owner[4:8])[:2], first[4:6]) and computed == [
        2
    ]
    again.logps(model, prompts, [texts[9]] * 3, [owner[9]] * 3)  # three of the same are computed once
    assert computed == [2, 1]
    brighter = replace(prompts, batch=replace(prompts.batch, pixels=prompts.batch.pixels + 0.1))
    again.logps(model, brighter, texts[:6], owner[:6])
    assert computed == [2, 1, 6]
    again.logps(model, prompts, texts[:2], owner[:2], keep=False)
    assert computed == [2, 1, 6, 2]
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B.reference" in n).add_(0.1)
    ReferencePolicy(model, cache=cache).logps(model, prompts, texts[:6], owner[:6])
    assert computed == [2, 1, 6, 2, 6]


def test_a_fingerprint_is_of_the_weights_that_count(tiny):
    model = with_adapters(tiny[0])
    policy, reference, base = (fingerprint(model, name) for name in ("default", "reference", None))
    assert len({policy, reference, base}) == 3
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "lora_B.default" in n).add_(0.1)
    assert fingerprint(model, "reference") == reference and fingerprint(model, None) == base
    assert fingerprint(model, "default") != policy


def test_a_damaged_cache_is_named(tmp_path):
    path = tmp_path / "c.sqlite"
    path.write_bytes(b"not a database, but long enough to look at" * 40)
    with pytest.raises(EVLMError, match="delete the file"):
        LogProbCache(path)
    path.unlink()
    cache = LogProbCache(path)
    cache.put({b"a": 1.5})
    cache.put({b"a": 2.5, b"b": 3.0})  # two writers: the first value stays
    assert cache.get([b"a", b"b", b"c"]) == {b"a": 1.5, b"b": 3.0}
    with sqlite3.connect(path) as file:
        assert file.execute("SELECT count(*) FROM logp").fetchone() == (2,)


def test_misfits_are_named(tiny):
    tokenizer, batch = tiny
    model = model_of(tokenizer)
    prompts, responses = split(batch)
    with pytest.raises(EVLMError, match="owners"):
        sequence_logps(model, prompts, responses, [0])
    model.config.get_text_config()._attn_implementation = "flash_attention_2"
    with pytest.raises(EVLMError, match="sdpa"):
        sequence_logps(model, prompts, responses, [0] * len(responses))
    silent: Batch = replace(batch, labels=torch.full_like(batch.labels, -100))
    with pytest.raises(EVLMError, match="row 0"):
        split(silent)
    with pytest.raises(EVLMError, match="shifts"):
        Eta0Config("shifts", 0)
    with pytest.raises(EVLMError, match="pairs"):
        Eta0Config("all")  # type: ignore[arg-type]
