"""Credit for samples on a real model: against the same numbers taken one sample at a time; draws that are
used again; prompts that are passed over; pairs and weights of rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evlm.errors import ConfigError, RecordError, TrainingError
from evlm.reason.messages import tuned_on
from trainer.config.recipe import Source, load_config
from trainer.estimators.rewards import RewardConfig, iou_of, plan_in, right, slots
from trainer.learner import learner as learner_module
from trainer.learner.learner import Learner, load_learner
from trainer.learner.pairs import pairs_of
from trainer.model.logprobs import base_of, response_states, token_logps
from trainer.model.ranks import Ranks
from trainer.objectives.group import GroupConfig
from trainer.steps import group as group_module
from trainer.steps.draws import Drawn, Draws
from trainer.steps.group import group_step
from trainer.steps.rkto import draw, number_of

SETTINGS = ["model.device=cpu", "lora.rank=4", "data.0.rows=60"]
GROUP = "phases.1={kind: group, steps: 1, batch: 3, rewards: {similarity: slots}}"
K = 3


@pytest.fixture(scope="module")
def learner() -> Learner:
    """With an adapter that does something: some of its answers are wrong."""
    learner = load_learner(load_config("tiny", [*SETTINGS, GROUP]))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in learner.model.named_parameters():
            if "lora_B.default" in name:
                value.copy_(0.02 * torch.randn(value.shape, generator=generator))
    return learner


def setting(learner: Learner, **group: Any) -> tuple[Any, list[Any]]:
    config = load_config("tiny", [*SETTINGS, GROUP])
    given = {"alpha": 0.6, "mend": 0.2, "against": "truth", **group}
    phase = replace(
        config.phases[1],
        group=GroupConfig(**given),
        rewards=RewardConfig(samples=K, temperature=1.2, similarity="slots", max_new_tokens=160),
    )
    return phase, learner.rows(config, phase).batch(1)


def taken(learner: Learner) -> torch.Tensor:
    grads = torch.cat([p.grad.flatten() for p in learner.trainable() if p.grad is not None])
    learner.model.zero_grad()
    return grads


def test_the_gradient_is_that_of_one_sample_at_a_time(learner: Learner, tmp_path: Path) -> None:
    phase, examples = setting(learner, lambda_accepted=0.3)
    numbers = group_step(learner, None, examples, phase, 5, 0, Draws(tmp_path, Ranks()))
    got = taken(learner)

    batch = draw(learner, [replace(e, desired=True) for e in examples], phase.rewards, 5, 0)
    head, rewards, tokens, accepted = base_of(learner.model).lm_head, [], [], []
    for n, row in enumerate(batch.owner):
        truth, text = examples[row].truth, batch.drawn[n].text
        assert truth is not None
        plan, mask = plan_in(text), examples[row].mask
        alike = slots(plan, truth)
        value = alike if mask is None else 0.6 * alike + 0.4 * iou_of(plan, mask)
        said = text.partition("<intermediate>\n")[2].partition("\n</intermediate>")[0]
        if said:
            value += 0.2 * (int(right(plan, truth)) - int(said == truth.instruction))
        rewards.append(value)
        accepted.append(alike >= 1)
        tokens.append(len(batch.samples[n]))
    means = [sum(rewards[K * row : K * row + K]) / K for row in range(len(examples))]
    apart = [max(abs(r - means[row]) for r in rewards[K * row : K * row + K]) > 1e-9 for row in range(3)]
    assert any(apart), "groups that are all silent would test nothing"
    spoken = sum(tokens[n] for n, row in enumerate(batch.owner) if apart[row])
    right_tokens = sum(t for t, yes in zip(tokens, accepted, strict=True) if yes)
    for n, row in enumerate(batch.owner):
        states = response_states(learner.model, batch.prompts, [batch.samples[n]], [row], "naive")
        plain = token_logps(states, batch.samples[n], head).sum()
        drawn_at = (head(states) / 1.2).log_softmax(-1)[range(tokens[n]), batch.samples[n]].sum()
        loss = -(rewards[n] - means[row]) * drawn_at / spoken
        loss = loss - 0.3 * accepted[n] * plain / max(1, right_tokens)
        loss.backward()
    want = taken(learner)
    assert float((got - want).norm()) <= 1e-4 * float(want.norm())
    assert numbers["reward"] == pytest.approx(sum(rewards) / len(rewards), abs=1e-6)
    assert numbers["silent"] == pytest.approx(1 - sum(apart) / 3)
    assert numbers["accepted"] == pytest.approx(sum(accepted) / len(accepted))
    assert numbers["skipped"] == 0 and numbers["generated"] == pytest.approx(sum(tokens) / len(tokens))


def test_by_part_each_token_is_paid_for_what_it_writes(learner: Learner, tmp_path: Path) -> None:
    phase, examples = setting(learner, mend=0.5, by_part=True)
    group_step(learner, None, examples, phase, 5, 0, Draws(tmp_path, Ranks()))
    got = taken(learner)

    batch = draw(learner, [replace(e, desired=True) for e in examples], phase.rewards, 5, 0)
    head, rewards, firsts = base_of(learner.model).lm_head, [], []
    for n, row in enumerate(batch.owner):
        truth, text = examples[row].truth, batch.drawn[n].text
        assert truth is not None
        plan, mask = plan_in(text), examples[row].mask
        alike = slots(plan, truth)
        rewards.append(alike if mask is None else 0.6 * alike + 0.4 * iou_of(plan, mask))
        said = text.partition("<intermediate>\n")[2].partition("\n</intermediate>")[0]
        firsts.append(float(said == truth.instruction if said else right(plan, truth)))
    heads, tails = [], []
    for n, row in enumerate(batch.owner):
        group = range(K * row, K * row + K)
        heads.append(rewards[n] + 0.5 * firsts[n] - sum(rewards[m] + 0.5 * firsts[m] for m in group) / K)
        mine = [m for m in group if firsts[m] == firsts[n]]
        tails.append(rewards[n] - sum(rewards[m] for m in mine) / len(mine))
    speaks = [any(abs(heads[m]) + abs(tails[m]) > 1e-9 for m in range(K * r, K * r + K)) for r in range(3)]
    assert any(abs(each) > 1e-9 for each in tails), "tails that are all silent would test nothing"
    spoken = sum(len(batch.samples[n]) for n, row in enumerate(batch.owner) if speaks[row])
    for n, row in enumerate(batch.owner):
        states = response_states(learner.model, batch.prompts, [batch.samples[n]], [row], "naive")
        logps = (head(states) / 1.2).log_softmax(-1)[range(len(states)), batch.samples[n]]
        begins = batch.drawn[n].intermediate[-1] + 1 if batch.drawn[n].intermediate else len(logps)
        (-(heads[n] * logps[:begins].sum() + tails[n] * logps[begins:].sum()) / spoken).backward()
    want = taken(learner)
    assert float((got - want).norm()) <= 1e-4 * float(want.norm())


def test_a_second_step_on_a_draw_learns_from_the_same_samples_at_their_own_ratio(
    learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase, examples = setting(learner, reuse=2)
    draws = Draws(tmp_path, Ranks())
    group_step(learner, None, examples, phase, 5, 0, draws, 0)
    first = taken(learner)
    monkeypatch.setattr(group_module, "draw", lambda *_: pytest.fail("it drew again"))
    numbers = group_step(learner, None, examples, phase, 6, 0, draws, 1)
    again = taken(learner)
    assert torch.equal(first, again) and numbers["kl_drawn"] == 0 and numbers["clipped"] == 0
    # Another process finds it on the disk, bit by bit.
    group_step(learner, None, examples, phase, 6, 0, Draws(tmp_path, Ranks()), 1)
    assert torch.equal(first, taken(learner))
    with torch.no_grad():
        moved = next(p for n, p in learner.model.named_parameters() if "lora_B.default" in n)
        moved += 0.3
    numbers = group_step(learner, None, examples, phase, 6, 0, draws, 1)
    taken(learner)
    with torch.no_grad():
        moved -= 0.3
    assert numbers["kl_drawn"] != 0 and numbers["clipped"] > 0
    next(tmp_path.glob("*.safetensors")).write_bytes(b"nonsense")
    with pytest.raises(TrainingError, match="drawn anew"):
        group_step(learner, None, examples, phase, 6, 0, Draws(tmp_path, Ranks()), 1)


def test_prompts_whose_samples_are_all_alike_are_passed_over_and_come_again(
    learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase, examples = setting(learner, skip=0.4)
    draws, asked = Draws(tmp_path, Ranks()), []
    whole = group_module.draw
    monkeypatch.setattr(
        group_module, "draw", lambda *args: asked.append([e.name for e in args[1]]) or whole(*args)
    )
    known = str(number_of(examples[1].name) & ((1 << 48) - 1))
    draws.seen = {known: [12.0, 12.0]}  # always right
    numbers = group_step(learner, None, examples, phase, 5, 0, draws)
    learner.model.zero_grad()
    assert asked == [[examples[0].name, examples[2].name]]
    assert numbers["skipped"] == pytest.approx(1 / 3)
    draws.commit([])
    assert draws.seen[known] == [6.0, 6.0], "what is known of it fades"
    assert sum(of for _, of in draws.seen.values()) == 6 + 2 * K
    everything = {str(number_of(e.name) & ((1 << 48) - 1)): [99.0, 99.0] for e in examples}
    draws.seen = everything
    numbers = group_step(learner, None, examples, phase, 6, 0, draws)
    assert numbers["skipped"] == 1 and numbers["loss"] == 0, "a batch of nothing is no error"
    assert all(p.grad is None or not p.grad.any() for p in learner.trainable())


def test_foreign_rows_are_told_apart_and_iou_is_of_rows_with_a_mask(
    learner: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phase, examples = setting(learner, skip=0.4)
    examples = [replace(each, name="") for each in examples]
    masks = iter([None, torch.ones(4, 4), torch.ones(4, 4)])
    monkeypatch.setattr(group_module, "truth_of", lambda *_: next(masks))
    monkeypatch.setattr(group_module, "iou_of", lambda _, mask: float(mask is not None))
    draws = Draws(tmp_path, Ranks())
    numbers = group_step(learner, None, examples, phase, 5, 0, draws)
    learner.model.zero_grad()
    draws.commit([])
    assert [of for _, of in draws.seen.values()] == [K] * 3, "each question has a count of its own"
    assert numbers["iou"] == 1


def test_draws_that_no_state_goes_on_from_are_deleted(tmp_path: Path) -> None:
    draws = Draws(tmp_path, Ranks())
    one = Drawn(
        [0], [torch.tensor([1, 2])], torch.ones(1), torch.ones(1, dtype=torch.bool), [1.0], [], [], {}
    )
    # An old state, the best one, keeps its own draw and not all that came since.
    for states, left in (([2], [1, 9]), ([4, 8], [1, 5, 9]), ([5, 8], [5, 9]), ([10], [9])):
        for step in (1, 5, 9):
            draws.keep(step, one, True)
        draws.commit(states)
        assert sorted(int(path.name[5:13]) for path in tmp_path.iterdir()) == left
    fresh = Draws(tmp_path, Ranks())
    found = fresh.find(9)
    assert found is not None and torch.equal(found.samples[0], one.samples[0]) and fresh.find(1) is None
    assert found.behind is None and found.begins is None
    parted = replace(one, behind=torch.tensor([-2.0]), begins=torch.tensor([1]))
    fresh.keep(9, parted, True)
    again = Draws(tmp_path, Ranks()).find(9)
    assert again is not None and again.paid([0]).tolist() == [1.0, -2.0] and again.paid([]).tolist() == []
    assert again.earns(0) and not replace(parted, advantage=torch.zeros(1), behind=torch.zeros(1)).earns(0)
    assert Draws(tmp_path, Ranks(0, 2)).find(9) is None, "another number of processes draws anew"
    theirs = Draws(tmp_path, Ranks(11, 12))
    for step in (1, 5):
        theirs.keep(step, one, True)
    Draws(tmp_path, Ranks(1, 12)).commit([10])
    assert len([*tmp_path.glob("*-11-of-12.safetensors")]) == 2, "another rank's, whose name ends likewise"


# --- rows ---


def test_prompts_against_the_truth_are_questions_with_their_right_plan(learner: Learner) -> None:
    config = load_config("tiny", [*SETTINGS, GROUP])
    phase, _ = setting(learner)
    rows = learner.rows(config, phase)
    assert rows.count == 36, "60 rows are of 36 questions"
    for example in rows.batch(0):
        assert example.truth is not None and example.name.endswith("-0")
        assert example.truth.instruction in example.answer
    other = learner.rows(config, replace(phase, group=GroupConfig()))
    assert other.count != 36 and all(each.truth is None and each.desired for each in other.batch(0))


def test_pairs_are_a_desired_and_an_undesired_answer_to_one_question(learner: Learner) -> None:
    assert pairs_of([(0, "a", True), (1, "a", False), (2, "b", True), (3, "a", False), (4, "c", False)]) == [
        (0, 1),
        (0, 3),
    ]
    config = load_config("tiny", [*SETTINGS, "phases.1={kind: dpo, steps: 1, batch: 2}"])
    rows = learner.rows(config, config.phases[1])
    assert rows.count and rows.count >= 2
    seen = []
    for step in range(rows.count):
        batch = rows.batch(step)
        assert [each.desired for each in batch] == [True, False] * 2
        assert all(a.name[:-2] == b.name[:-2] for a, b in zip(batch[::2], batch[1::2], strict=True))
        seen += [(a.name, b.name) for a, b in zip(batch[::2], batch[1::2], strict=True)]
    assert len(set(seen)) == rows.count and len(set(seen[: rows.count])) == rows.count, "each once an epoch"
    half = [rows.batch(1, Ranks(rank, 2)) for rank in (0, 1)]
    assert [e.name for part in half for e in part] == [e.name for e in rows.batch(1)]
    with pytest.raises(RecordError, match="no end"):
        learner.rows(replace(config, data=(Source(world=True),)), config.phases[1])


def test_the_raters_trust_is_in_the_rows(learner: Learner) -> None:
    kto = "phases.1={kind: kto, steps: 1, batch: 60}"
    config = load_config("tiny", [*SETTINGS, "data.0.trust=raters", kto])
    rows = learner.rows(config, config.phases[1]).batch(0)
    weights = {example.weight for example in rows}
    assert 1 < len(weights) <= 16 and all(0 <= weight <= 1 for weight in weights)
    plain = load_config("tiny", [*SETTINGS, kto])
    assert {e.weight for e in learner.rows(plain, plain.phases[1]).batch(0)} == {1.0}
    with pytest.raises(ConfigError, match="votes"):
        Source(world=True, trust="raters")


def test_a_base_that_was_tuned_on_some_parts_alone_has_no_group_phase(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(learner_module, "style_of", lambda _, own: tuned_on(own, "two_step"))
    with pytest.raises(ConfigError, match=r"parts 'own' of bundled, .*: a group phase reads"):
        load_learner(load_config("tiny", [*SETTINGS, GROUP]))
