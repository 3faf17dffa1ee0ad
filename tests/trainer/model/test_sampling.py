"""Many samples at once against one at a time; which tokens are which part; what a sample earns."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evlm.models.zoo import resolve
from evlm.plan.trace import Plan, Trace, render
from evlm.reason.reasoner import Reasoner
from trainer.bundle.reasoner import questions
from trainer.config.recipe import load_config
from trainer.estimators.rewards import RewardConfig, embed, iou_of, plan_in, similarity, slots, truth_of
from trainer.learner.learner import Learner, load_learner
from trainer.model.logprobs import base_of, sequence_logps
from trainer.model.prompts import split
from trainer.model.ranks import Ranks
from trainer.model.sampling import SampleConfig, _choose, answers, decode, sample
from trainer.model.spans import find_spans
from trainer.world.light import lit
from trainer.world.rows import to_request


@pytest.fixture(scope="module")
def learner() -> Learner:
    return load_learner(load_config("tiny", ["model.device=cpu", "lora.rank=2"]))


def prompts_of(learner: Learner, count: int, seed: int = 5):  # type: ignore[no-untyped-def]
    chats = [learner.chat(to_request(q)) for q in questions("test", count, seed)]
    return split(learner.collate(chats, [""] * count), learner.merge)[0]


def test_greedy_answers_are_the_engines(learner: Learner) -> None:
    requests = [to_request(q) for q in questions("test", 3, 4)]
    texts = answers(learner, [learner.chat(r) for r in requests], SampleConfig(0.0))
    reasoner = Reasoner.load(resolve("bundled", "reasoner"), dtype="fp32", device="cpu")
    assert texts == [reasoner.generate(request).text for request in requests]


def test_a_sample_depends_on_its_seed_alone(learner: Learner) -> None:
    prompts, config = prompts_of(learner, 3), SampleConfig(1.5, 40)
    many = sample(learner.model, prompts, [0, 0, 1, 2, 2], config, [1, 2, 3, 4, 4])
    alone = sample(learner.model, prompts.take([1]), [0], config, [3])
    assert torch.equal(many[2], alone[0])
    assert torch.equal(many[3], many[4]) and not torch.equal(many[0], many[1])


def test_nothing_is_called_by_a_name_that_the_library_gives_up(learner: Learner) -> None:
    """`past_key_values` goes in transformers 5.40."""
    prompts = prompts_of(learner, 2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drawn = sample(learner.model, prompts, [0, 1], SampleConfig(0.0, 3), [0, 0])
        sequence_logps(learner.model, prompts, drawn, [0, 1], "cached")
    assert [str(each.message) for each in caught if issubclass(each.category, FutureWarning)] == []


def test_samples_are_cut_off_and_the_end_is_the_last_token(learner: Learner) -> None:
    prompts = prompts_of(learner, 2)
    assert [len(ids) for ids in sample(learner.model, prompts, [0, 1], SampleConfig(0.0, 7), [0, 0])] == [
        7,
        7,
    ]
    end = learner.processor.tokenizer.eos_token_id
    for ids in sample(learner.model, prompts, [0, 1], SampleConfig(0.0), [0, 0]):
        assert int(ids[-1]) == end and end not in ids[:-1].tolist()


def test_sampling_follows_the_models_distribution(learner: Learner) -> None:
    """First tokens at a high temperature against the softmax itself, within five standard errors."""
    prompts, count = prompts_of(learner, 1), 2000
    config = SampleConfig(3.0, 1)
    first = torch.cat(sample(learner.model, prompts, [0] * count, config, range(count)))
    from trainer.model.logprobs import response_states
    from trainer.model.merged_lora import merged

    with merged(learner.model):
        state = response_states(learner.model, prompts, [torch.tensor([1])], [0], "naive")
        odds = (base_of(learner.model).lm_head(state)[0].float() / 3.0).softmax(-1)
    for token in odds.topk(3).indices.tolist():
        p = float(odds[token])
        seen = float((first == token).float().mean())
        assert abs(seen - p) < 5 * (p * (1 - p) / count) ** 0.5 + 1e-3


def test_a_device_without_float64_draws_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's; its tensors are told here by their device alone."""
    logits, chance = torch.randn(3, 50), torch.rand(3, 2, dtype=torch.float64)
    want = _choose(logits, chance, torch.arange(3), 1, 0.7)

    class Apples:
        device, shape, cpu = torch.device("mps"), logits.shape, lambda self: logits

        def double(self) -> None:
            raise TypeError("Cannot convert a MPS Tensor to float64")

    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    assert torch.equal(_choose(Apples(), chance, torch.arange(3), 1, 0.7), want)  # type: ignore[arg-type]


def test_answers_see_one_picture_at_a_time(learner: Learner) -> None:
    chats = [learner.chat(to_request(q)) for q in questions("test", 4, 11)]
    batch = learner.collate(chats, [""] * 4)
    seen: list[int] = []
    embedding = base_of(learner.model).model.visual.patch_embed
    hook = embedding.register_forward_hook(lambda module, taken, out: seen.append(len(taken[0])))
    answers(learner, chats, SampleConfig(0.0, 2))
    hook.remove()
    assert 0 < max(seen) == int(batch.grids.prod(1).max()) < sum(seen)


def test_the_parts_of_an_answer(learner: Learner) -> None:
    text = answers(learner, [learner.chat(to_request(questions("test", 3, 1)[0]))], SampleConfig(0.0))[0]
    tokenizer = learner.processor.tokenizer
    ids = tokenizer(text + learner.collate.end, add_special_tokens=False)["input_ids"]
    spans = find_spans(tokenizer, ids)
    assert spans.text == text
    plan = plan_in(text)
    assert plan is not None and plan.mask_text is not None

    def words(numbers: tuple[int, ...]) -> str:
        return decode(tokenizer, torch.tensor([ids[n] for n in numbers])).strip()

    assert words(spans.mask) == plan.mask_text
    assert words(spans.intermediate) == text.split("<intermediate>\n")[1].split("\n</intermediate>")[0]
    assert words(spans.reflection) == text.split("<reflection>\n")[1].split("\n</reflection>")[0]
    assert spans.after_reflection == spans.reflection[-1] + 1


def test_a_plan_of_several_steps_has_all_their_masks(learner: Learner) -> None:
    steps = [Plan(f"remove the hat {n}", ("hat",), f"box {n}00 0 500 1000 full") for n in range(3)]
    steps.insert(1, Plan("make it snow", (), None, "global"))
    tokenizer = learner.processor.tokenizer
    ids = tokenizer(render(Trace("mask: a\n", "b", "c", Plan.of_steps(steps))), add_special_tokens=False)
    mask = find_spans(tokenizer, ids["input_ids"]).mask
    said = "".join(tokenizer.decode([ids["input_ids"][n]]) for n in mask).split("box")
    assert [text.split()[0] for text in said[1:]] == ["000", "100", "200"]


@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.integers(0, 400), max_size=60))
def test_any_tokens_have_spans(learner: Learner, ids: list[int]) -> None:
    ids = [min(i, len(learner.processor.tokenizer) - 1) for i in ids]
    spans = find_spans(learner.processor.tokenizer, ids)
    for part in (spans.mask, spans.intermediate, spans.reflection):
        assert all(0 <= n < len(ids) for n in part)


def test_slots_count_operation_targets_and_words() -> None:
    truth = Plan("make the red circle blue", ("red circle",), None, "local")
    assert slots(truth, truth) == 1
    assert slots(None, truth) == 0
    other = Plan("make the red circle green", ("red circle",), None, "local")
    assert slots(other, truth) == pytest.approx((1 + 1 + 2 * 1 / 4) / 3)  # of "the blue", "the" is right
    removed = Plan("remove the green star", ("green star",), None, "local")
    assert slots(removed, truth) == pytest.approx((0 + 0 + 2 * 1 / 3) / 3)


def test_iou_is_held_against_the_picture_then_the_text() -> None:
    plan = Plan("x", ("y",), "box 0 0 500 1000 full", "local")
    half = torch.zeros(10, 10)
    half[:, :5] = 1
    assert iou_of(plan, half) == 1
    assert iou_of(None, half) == 0 and iou_of(plan, None) == 0
    truth = truth_of(None, plan)
    assert truth is not None and iou_of(plan, truth) == 1
    assert truth_of(half, plan) is half and truth_of(None, None) is None


def test_embeddings_do_not_see_the_padding_nor_the_adapter(learner: Learner) -> None:
    texts = [torch.tensor([5, 6, 7]), torch.arange(40) + 3, torch.tensor([9])]
    together = embed(learner.model, texts)
    alone = torch.cat([embed(learner.model, [each]) for each in texts])
    assert torch.allclose(together, alone, atol=1e-5)
    likeness = similarity(learner.model, texts[:2], [texts[0], texts[1], texts[1]], [0, 0, 1], Ranks())
    assert float(likeness[0]) == pytest.approx(1, abs=1e-5) and float(likeness[2]) == pytest.approx(
        1, abs=1e-5
    )
    assert float(likeness[1]) < 0.5


def test_rewards_are_checked() -> None:
    from evlm.errors import EVLMError

    for bad in ({"samples": 0}, {"temperature": 0.0}, {"similarity": "vibes"}, {"max_new_tokens": 0}):
        with pytest.raises(EVLMError, match=next(iter(bad))):
            RewardConfig(**bad)  # type: ignore[arg-type]


def test_the_lamp_takes_blue_and_no_shape(learner: Learner) -> None:
    request = to_request(questions("test", 1, 2)[0])
    warm = lit(request, 0.5)
    assert torch.equal(warm.original[..., 0], request.original[..., 0])
    assert torch.allclose(warm.original[..., 2], request.original[..., 2] * 0.55)
    assert lit(request, 0.0) is request
