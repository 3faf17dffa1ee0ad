"""Every family of bases, as random models of the real classes: batches, states, gradients of all objectives
and samples against transformers' own processor and forward."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tiny_qwen
import torch

from evlm.plan.trace import render
from evlm.reason.messages import Chat, encode
from evlm.reason.reasoner import Reasoner, Sampling
from evlm.request import Reference, Request
from trainer.config.recipe import Config, load_config
from trainer.estimators.eta0 import Eta0Config, pair_indices
from trainer.estimators.rewards import RewardConfig
from trainer.learner.learner import Learner, load_learner
from trainer.learner.rows import Example
from trainer.model.batch import Collator
from trainer.model.forward import Features, hidden_states
from trainer.model.logprobs import base_of, response_states
from trainer.model.prompts import split
from trainer.model.ranks import Ranks
from trainer.model.reference import ReferencePolicy, using
from trainer.model.sampling import SampleConfig, answers
from trainer.model.token_logprobs import token_logps
from trainer.objectives.dpo import DPOConfig, dpo_loss
from trainer.objectives.group import GroupConfig
from trainer.objectives.kto import KTOConfig, eta0, kto_loss
from trainer.objectives.rkto import RKTOConfig
from trainer.steps import group as group_steps
from trainer.steps import rkto as rkto_steps
from trainer.steps.dpo import dpo_step
from trainer.steps.draws import Draws
from trainer.steps.group import group_step
from trainer.steps.kto import kto_step
from trainer.steps.rkto import draw, judge, rkto_step
from trainer.steps.sft import sft_step
from trainer.world.questions import ask
from trainer.world.traces import write_trace

SETTINGS = ["model.device=cpu", "lora.rank=4", "lora.alpha=8", "phases.1.batch=4", "phases.1.micro_batch=2"]


@pytest.fixture(scope="module", params=tiny_qwen.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tiny_qwen.save_folder(tmp_path_factory.mktemp(family) / "model", family)
    (path / "evlm.json").write_text(json.dumps({"prompt": "short", "mask_codec": "box-spans-8"}))
    return path


def config_of(folder: Path, *more: str) -> Config:
    return load_config("tiny", [*SETTINGS, f"model.base={folder}", *more])


def learner_of(folder: Path, *more: str) -> Learner:
    """With a policy and a reference that do something."""
    learner = load_learner(config_of(folder, *more))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in learner.model.named_parameters():
            if "lora_B" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=generator))
    return learner


@pytest.fixture(scope="module")
def learner(folder: Path) -> Learner:
    return learner_of(folder)


def requests() -> list[Request]:
    """Pictures of several sizes, videos of even and odd frames and of several rates, and both together."""
    rng = torch.Generator().manual_seed(2)

    def frames(count: int, height: int, width: int) -> torch.Tensor:
        return torch.rand(count, height, width, 3, generator=rng)

    return [
        Request(frames(1, 64, 64), "brighter", ()),
        Request(frames(5, 48, 48), "slower", (), fps=3.0),
        Request(frames(1, 40, 90), "like these", (
            Reference("image", frames(1, 64, 64)), Reference("video", frames(8, 33, 47), fps=25.0)
        )),
        Request(frames(30, 64, 48), "redder", (Reference("image", frames(1, 50, 50)),)),
    ]  # fmt: skip


EXAMPLES: dict[str, list[Example]] = {}


def examples(learner: Learner) -> list[Example]:
    """The same objects for every learner of a family."""
    family = type(learner.processor).__name__
    if family not in EXAMPLES:
        EXAMPLES[family] = made_examples(learner)
    return list(EXAMPLES[family])


def made_examples(learner: Learner) -> list[Example]:
    import random

    rng = random.Random(4)
    trace = render(write_trace(rng, ask(rng, "train", category="picture-change")))
    texts = ["dark red", trace, "left, 5 %", "none"]
    mask = torch.zeros(64, 64)
    mask[:20, :30] = 1
    return [
        Example(learner.chat(request), text, number != 3, mask if number == 1 else None, f"row {number}")
        for number, (request, text) in enumerate(zip(requests(), texts, strict=True))
    ]


# --- the native way: transformers' processor, positions and forward, one row at a time ---

ENCODED: dict[int, tuple[Chat, Any]] = {}


def native_states(learner: Learner, chat: Chat, tokens: torch.Tensor) -> torch.Tensor:
    """Last hidden states that predict the tokens behind the chat."""
    if id(chat) not in ENCODED:  # the chat is kept with it, so that no other gets its number
        ENCODED[id(chat)] = chat, encode(learner.processor, [chat])
    inputs = dict(ENCODED[id(chat)][1])
    asked = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens[None]], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    kinds = inputs["mm_token_type_ids"]
    inputs["mm_token_type_ids"] = torch.cat([kinds, kinds.new_zeros(1, len(tokens))], 1)
    out = base_of(learner.model).model(**inputs)
    return out.last_hidden_state[0, asked - 1 : -1]


def native_logps(learner: Learner, chat: Chat, tokens: torch.Tensor) -> torch.Tensor:
    logits = base_of(learner.model).lm_head(native_states(learner, chat, tokens))
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


def tokens_of(learner: Learner, example: Example) -> torch.Tensor:
    text = example.answer + learner.processor.tokenizer.eos_token
    return torch.tensor(learner.processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def gradient(learner: Learner) -> torch.Tensor:
    taken = torch.cat([p.grad.flatten() for p in learner.trainable() if p.grad is not None])
    learner.model.zero_grad()
    return taken.double()


def off(got: torch.Tensor, want: torch.Tensor) -> float:
    assert float(want.norm()) > 0
    return float((got - want).norm() / want.norm())


# --- what the model is fed ---


def test_tokens_positions_and_patches_equal_the_processors(learner: Learner, family: str) -> None:
    base = base_of(learner.model)
    collate = Collator(learner.processor, base.config)
    for example in examples(learner):
        batch = collate([example.chat], [example.answer])
        slow = encode(learner.processor, [example.chat], [example.answer + "<|im_end|>"])
        assert torch.equal(batch.input_ids, slow["input_ids"])
        given = {
            name: slow[name]
            for name in ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
            if name in slow
        }
        positions, _ = base.model.get_rope_index(slow["input_ids"], slow["mm_token_type_ids"], **given)
        assert torch.equal(batch.position_ids, positions)
        video = batch.input_ids[batch.vision_mask][:1] == base.config.video_token_id
        both = [slow[n] for n in ("pixel_values", "pixel_values_videos") if n in slow]
        grids = [slow[n] for n in ("image_grid_thw", "video_grid_thw") if n in slow]
        if bool(video):  # the videos come first in the row then
            both, grids = both[::-1], grids[::-1]
        assert torch.equal(batch.grids, torch.cat(grids))
        assert torch.allclose(batch.pixels, torch.cat(both), atol=1e-6)


def test_the_times_of_a_video_are_in_its_positions_where_the_model_has_them(
    learner: Learner, family: str
) -> None:
    """Qwen2.5-VL counts seconds, Qwen3-VL reads them, Qwen2-VL numbers its frames."""
    slow, quick = (replace(requests()[1], fps=fps) for fps in (1.0, 30.0))
    batches = [learner.collate([learner.chat(each)], ["ok"]) for each in (slow, quick)]
    same_tokens = torch.equal(batches[0].input_ids, batches[1].input_ids)
    same = same_tokens and torch.equal(batches[0].position_ids, batches[1].position_ids)
    assert same == (family == "qwen2_vl") and same_tokens == (family != "qwen3_vl")


def test_states_are_the_models_own_with_known_features_and_without(learner: Learner) -> None:
    rows = examples(learner)
    batch = learner.collate([e.chat for e in rows], [e.answer for e in rows])
    kept = Features(base_of(learner.model))
    ends = batch.attention_mask.sum(1)
    with torch.no_grad():
        for each in (batch, kept(batch), kept(batch)):
            states = hidden_states(base_of(learner.model), each)
            for row, example in enumerate(rows):
                tokens = tokens_of(learner, example)
                want = native_states(learner, example.chat, tokens)
                got = states[row, ends[row] - len(tokens) - 1 : ends[row] - 1]
                assert torch.allclose(got, want, atol=2e-5)
    assert kept.hits == len(batch.grids)


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (16, 80), (112, 80)])
def test_a_tower_sees_pictures_of_any_shape_as_its_own_forward_does(
    folder: Path, family: str, size: tuple[int, int]
) -> None:
    """Windows at the borders are smaller, and positions lie between those that were learned."""
    from trainer.model.towers import all_features

    model = tiny_qwen.make_model(family)
    h, w = size[0] // 8, size[1] // 8
    pixels = torch.randn(3 * h * w + 16, 3 * 2 * 64, generator=torch.Generator().manual_seed(1))
    grids = torch.tensor([[1, h, w], [1, 4, 4], [2, h, w]])
    with torch.no_grad():
        got, _ = all_features(model.model.visual, pixels, grids.tolist())
        out = model.model.visual(pixels, grid_thw=grids)
    want = torch.cat([out.pooler_output, *getattr(out, "deepstack_features", ())], -1)
    assert got.shape == want.shape and torch.allclose(got, want, atol=2e-5)


@pytest.mark.parametrize("how", ["naive", "packed", "cached"])
def test_answers_behind_a_shared_prompt_have_the_native_states(learner: Learner, how: Any) -> None:
    rows = examples(learner)
    prompts, responses = split(learner.batch(rows), learner.merge)
    owner = [0, 1, 1, 2, 3, 3]
    asked = [responses[0], responses[1], responses[2], responses[2], responses[3], responses[0]]
    with torch.no_grad():
        got = response_states(learner.model, prompts, asked, owner, how).split([len(a) for a in asked])
        for states, tokens, row in zip(got, asked, owner, strict=True):
            assert torch.allclose(states, native_states(learner, rows[row].chat, tokens), atol=2e-5)


# --- what it learns ---


def phases(config: Config) -> dict[str, Any]:
    kto = replace(
        config.phases[1], kind="kto", eta0=Eta0Config("pairs"), micro_batch=3, kto=KTOConfig(lambda_sft=0.1)
    )
    rkto = replace(
        config.phases[1],
        micro_batch=2,
        eta0=Eta0Config("pairs"),
        rkto=RKTOConfig(reinforce="all", lambda_ref=0.2, lambda_u=0.3),
        rewards=RewardConfig(samples=2, temperature=1.2, max_new_tokens=12),
    )
    group = replace(
        config.phases[1],
        kind="group",
        micro_batch=3,
        group=GroupConfig(
            accept=0.0, alpha=1.0, lambda_accepted=0.3, lambda_sft=0.2, lambda_kl=0.1, mend=0.5
        ),
        rewards=RewardConfig(samples=3, temperature=1.2, max_new_tokens=8, similarity="slots"),
    )
    dpo = replace(config.phases[1], kind="dpo", micro_batch=1, dpo=DPOConfig(0.2, "sum", 0.1, 0.3))
    return {
        "sft": replace(config.phases[0], micro_batch=3),
        "kto": kto,
        "rkto": rkto,
        "dpo": dpo,
        "group": group,
    }


def pairs(rows: list[Example]) -> list[Example]:
    """A desired and an undesired answer to the questions of all rows, one after the other."""
    other = [rows[-1], *rows[:-1]]
    return [
        example
        for row, wrong in zip(rows, other, strict=True)
        for example in (
            replace(row, desired=True, weight=0.8),
            replace(row, answer=wrong.answer, desired=False),
        )
    ]


def native_gradient(
    learner: Learner, rows: list[Example], kind: str, phase: Any, monkeypatch: Any
) -> torch.Tensor:
    chats, tokens = [e.chat for e in rows], [tokens_of(learner, e) for e in rows]

    def scores(pairs: list[tuple[int, int]]) -> torch.Tensor:
        return torch.stack([native_logps(learner, chats[i], tokens[j]).double().sum() for i, j in pairs])

    if kind == "sft":
        loss = -sum(native_logps(learner, c, t).sum() for c, t in zip(chats, tokens, strict=True))
        (loss / sum(map(len, tokens))).backward()
        return gradient(learner)
    own, others = [(i, i) for i in range(len(rows))], pair_indices(len(rows))
    if kind == "dpo":
        with torch.no_grad(), using(learner.model, "reference"):
            theirs = scores(own)
        weights = torch.tensor([each.weight for each in rows]).view(-1, 2).prod(1)
        lengths = torch.tensor([len(t) for t in tokens]).view(-1, 2)
        loss, _ = dpo_loss(scores(own).view(-1, 2), theirs.view(-1, 2), lengths, phase.dpo, weights)
        loss.backward()
        return gradient(learner)
    if kind == "kto":
        with torch.no_grad():
            mismatched = scores(others)
            with using(learner.model, "reference"):
                reference, theirs = scores(own), scores(others)
        loss, _ = kto_loss(
            scores(own),
            reference,
            torch.tensor([len(t) for t in tokens]),
            torch.tensor([e.desired for e in rows]),
            eta0(mismatched - theirs),
            phase.kto,
        )
        loss.backward()
        return gradient(learner)
    # RKTO's own step, every state and score of which comes from the native forward.
    rows = sorted(rows, key=lambda e: not e.desired)

    asked = [(e.chat, learner.collate([e.chat], [""]).input_ids[0, :-1].tolist()) for e in rows]

    def states(model: Any, prompts: Any, responses: Any, owner: Any, how: Any = "") -> torch.Tensor:
        found = []
        for response, row in zip(responses, owner, strict=True):
            shown = prompts.batch.input_ids[row][prompts.batch.attention_mask[row]].tolist()
            (chat,) = (chat for chat, tokens in asked if tokens == shown)
            found.append(native_states(learner, chat, response))
        return torch.cat(found)

    def logps(model: Any, prompts: Any, responses: Any, owner: Any, *_: Any) -> torch.Tensor:
        flat = token_logps(
            states(model, prompts, responses, owner), torch.cat(list(responses)), base_of(model).lm_head
        )
        return torch.stack([each.double().sum() for each in flat.split([len(r) for r in responses])])

    from trainer.estimators import eta0 as eta0_module
    from trainer.model import reference as reference_module

    for module in (rkto_steps, eta0_module, reference_module):
        monkeypatch.setattr(module, "sequence_logps", logps)
    monkeypatch.setattr(rkto_steps, "response_states", states)
    monkeypatch.setattr(group_steps, "response_states", states)
    if kind == "group":
        group_step(
            learner, ReferencePolicy(learner.model), rows, phase, words(learner, rows, phase), 0, no_draws()
        )
        return gradient(learner)
    rkto_step(learner, ReferencePolicy(learner.model), rows, phase, 7, 0)
    return gradient(learner)


def words(learner: Learner, rows: list[Example], phase: Any) -> int:
    """A step whose samples spell no placeholder of a picture, which the native forward would want one for."""
    config = base_of(learner.model).config
    pictures = torch.tensor([config.image_token_id, config.video_token_id])
    some = [replace(row, desired=True) for row in rows]
    steps = (at for at in range(7, 60) if not pictured(learner, some, phase, at, pictures))
    return next(steps)


def pictured(learner: Learner, rows: list[Example], phase: Any, at: int, pictures: torch.Tensor) -> bool:
    samples = draw(learner, rows, phase.rewards, at, 0).samples
    return bool(torch.isin(torch.cat(samples), pictures).any())


def no_draws() -> Draws:
    return Draws(Path("nowhere"), Ranks())


KINDS = [*((kind, False) for kind in ("sft", "kto", "rkto", "dpo", "group")), ("sft", True)]


def cases() -> Iterator[Any]:
    """In float64 every objective on every family. In float32 the costly ones on the last family alone: what
    rounds there is the objective's, and the family's own rounding is in sft and kto."""
    for family, dtype, (kind, vision) in product(tiny_qwen.FAMILIES, ("float32", "float64"), KINDS):
        again = dtype == "float32" and kind in ("rkto", "dpo", "group") and family != tiny_qwen.FAMILIES[-1]
        yield pytest.param(family, dtype, kind, vision, marks=pytest.mark.slow if again else ())


@pytest.mark.parametrize(("family", "dtype", "kind", "vision"), cases(), indirect=["family"], scope="module")
def test_the_gradient_of_every_objective_is_that_of_the_native_forward(
    folder: Path, kind: str, vision: bool, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = learner_of(folder, f"lora.vision={str(vision).lower()}")
    if dtype == "float64":
        learner.model.double()
    rows, phase = examples(learner), phases(config_of(folder))[kind]
    # What random weights write is never right, and silent groups have no gradient.
    monkeypatch.setattr(group_steps, "likeness", lambda text, *_: len(text) % 5 / 4)
    if kind == "dpo":
        rows = pairs(rows)
        dpo_step(learner, ReferencePolicy(learner.model), rows, phase)
    elif kind == "group":
        at = words(learner, rows, phase)
        numbers = group_step(learner, ReferencePolicy(learner.model), rows, phase, at, 0, no_draws())
        assert {f"loss_{name}" for name in ("policy", "accepted", "sft", "kl")} <= set(numbers)
    elif kind == "sft":
        sft_step(learner, rows, phase)
    elif kind == "kto":
        kto_step(learner, ReferencePolicy(learner.model), rows, phase, 7)
    else:
        rkto_step(learner, ReferencePolicy(learner.model), rows, phase, 7, 0)
    got = gradient(learner)
    want = native_gradient(learner, rows, kind, phase, monkeypatch)
    difference = off(got, want)
    print(f"{folder.parent.name} {kind} {dtype} vision={vision}: {difference:.2g}")
    # Log-ratios are differences of sums of about -1,400 nats, summed in float64; what is left in float32 is
    # what it rounds of each token's.
    bars = {
        ("sft", "float32"): 1e-5,
        ("kto", "float32"): 5e-6,
        ("rkto", "float32"): 1e-5,
        ("dpo", "float32"): 5e-6,
        ("group", "float32"): 1e-5,
    }
    assert difference <= bars.get((kind, dtype), 1e-6)


def test_gradient_checkpointing_changes_no_gradient(folder: Path) -> None:
    taken = []
    for setting in ("false", "true"):
        learner = learner_of(folder, f"model.checkpointing={setting}")
        learner.model.train()
        sft_step(learner, examples(learner), phases(config_of(folder))["sft"])
        taken.append(gradient(learner))
    assert off(taken[1], taken[0]) <= 1e-5


def test_samples_draw_and_weights_have_a_spread(learner: Learner, folder: Path) -> None:
    """Samples that are all alike, or weights of nothing, would make the gradient above say little."""
    rows = sorted(examples(learner), key=lambda e: not e.desired)
    phase = phases(config_of(folder))["rkto"]
    batch = draw(learner, rows, phase.rewards, 7, 0)
    weights, _, _ = judge(learner, ReferencePolicy(learner.model), batch, rows, phase, 7)
    assert len({tuple(s.tolist()) for s in batch.samples}) > 2
    assert float(weights.reward.std()) > 0 and float(weights.c.min()) > 0


def test_greedy_answers_are_the_engines(learner: Learner, folder: Path) -> None:
    """Of the base: the adapter is off."""
    reasoner = Reasoner.load(folder, dtype="fp32", device="cpu")
    with learner.model.disable_adapter():
        texts = answers(learner, [learner.chat(each) for each in requests()], SampleConfig(0.0, 24))
    assert texts == [
        reasoner.generate(each, Sampling(max_new_tokens=24, guided="never")).text for each in requests()
    ]
